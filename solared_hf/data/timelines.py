"""The timeline of a region, and its conversion to and from the rows of the dataset."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from itertools import permutations

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from solared_hf.data.step_times import MOST_JITTER, cadence_of, check_years, is_spaced_by, most_jitter, step_times
from solared_hf.errors import SolaredError, whole_number
from solared_hf.schema import (
    CHANNELS,
    COLUMNS,
    KEPT_TILES,
    NUM_PATCH_TILES,
    NUM_TILES,
    TARGET_CHANNEL,
    timeline_features,
)

# Rows that are converted at a time: about four regions, and 1.5 MB.
_BATCH_ROWS = 1_000


@dataclass(frozen=True)
class Timeline:
    """All observations of one emerging region, in order of time.

    Args:
        ar_number: NOAA active region number.
        times: (T,) `datetime64[ms]`, strictly increasing; naive TAI, the middle of the 8 h window of each step. Other
            types are converted by `step_times.step_times`, and rounded to a millisecond.
        values: (T, 6, 63) float32, channels in the order of `schema.CHANNELS`, physical units of `schema.UNITS`.
            Values that were not observed are NaN, or masked.

    Raises:
        SolaredError: If the arrays have other shapes or no steps, the times do not increase or are in years without
            observations, or a value is infinite or too large for float32.

    Example:
        >>> times = np.datetime64("2013-04-15T00:00") + np.array([0, 1, 2, 5]) * np.timedelta64(1, "h")
        >>> timeline = Timeline(11726, times, np.zeros((4, 6, 63)))
        >>> str(timeline.cadence), timeline.breaks, timeline.missing_steps
        ('1:00:00', array([False, False,  True]), 2)
    """

    ar_number: int
    times: np.ndarray
    values: np.ndarray

    def __post_init__(self):
        ar_number = whole_number(self.ar_number, "An AR number", "give the NOAA number, such as 11726")
        object.__setattr__(self, "ar_number", ar_number)
        owner = f"AR{self.ar_number}"
        times, values = step_times(self.times, owner), _array(self.values, owner)
        if not len(times) or values.shape != (len(times), len(CHANNELS), NUM_TILES):
            raise SolaredError(
                f"{owner}: values of shape {values.shape} do not fit {len(times)} times. A timeline has at least one "
                f"step and values of shape (steps, {len(CHANNELS)}, {NUM_TILES}){_cure(values.shape, len(times))}."
            )
        backwards = np.flatnonzero(np.diff(times) <= np.timedelta64(0))
        if len(backwards):
            first = int(backwards[0])
            raise SolaredError(
                f"{owner}: time does not increase from step {first} ({times[first]}) to step {first + 1} "
                f"({times[first + 1]}). Sort the steps and remove duplicates."
            )
        check_years(times, owner)
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "values", _single_precision(values, owner))

    def __len__(self) -> int:
        return len(self.times)

    @property
    def intensity(self) -> np.ndarray:
        """(T, 63) float32 view of `values`: continuum intensity in DN, NaN where it was not observed."""
        return self.values[:, CHANNELS.index(TARGET_CHANNEL)]

    @cached_property
    def cadence(self) -> timedelta:
        """Most frequent spacing of the steps, see `step_times.cadence_of`.

        Raises:
            SolaredError: If there is a single step, or most spacings are not multiples of the most frequent one.
        """
        if len(self) < 2:
            raise SolaredError(f"AR{self.ar_number} has a single step, so the cadence is unknown. Add more steps.")
        cadence, spacings = cadence_of(self.times), np.diff(self.times)
        multiples = np.maximum(np.rint(spacings / cadence).astype(int), 1) * cadence
        off_beat = int((np.abs(spacings - multiples) > most_jitter(cadence)).sum())
        gaps = int((~is_spaced_by(spacings, cadence)).sum())
        counted = f"AR{self.ar_number}: of {len(spacings)} spacings between steps"
        most_frequent = timedelta(milliseconds=int(cadence.astype(int)))
        if 2 * off_beat > len(spacings):
            raise SolaredError(
                f"{counted}, {off_beat} are not a multiple of the most frequent spacing {most_frequent}, within "
                f"{MOST_JITTER:.0%}. Give steps at a regular cadence."
            )
        if 2 * gaps > len(spacings):
            warnings.warn(
                f"{counted}, {gaps} are gaps and only {len(spacings) - gaps} are one cadence, {most_frequent}. Check "
                "whether steps are missing.",
                stacklevel=2,
            )
        return most_frequent

    @cached_property
    def breaks(self) -> np.ndarray:
        """(T-1,) bool: True if the next step is not one cadence later, within `step_times.MOST_JITTER`."""
        return ~is_spaced_by(np.diff(self.times), np.timedelta64(self.cadence))

    @property
    def gap_after(self) -> np.ndarray:
        """(T,) int: the first step after the next gap, or T if there is no later gap."""
        gaps = np.append(np.flatnonzero(self.breaks) + 1 if len(self) > 1 else [], len(self)).astype(int)
        return gaps[np.searchsorted(gaps, np.arange(len(self)), side="right")]

    @property
    def missing_between(self) -> np.ndarray:
        """(T-1,) int: number of missing steps between each step and the next; half a cadence is rounded up."""
        spacings = np.diff(self.times) / np.timedelta64(self.cadence)
        return np.maximum(np.floor(spacings + 0.5).astype(int) - 1, 0)

    @property
    def missing_steps(self) -> int:
        """Number of steps that are missing in the gaps."""
        return int(self.missing_between.sum())

    @property
    def nan_steps(self) -> int:
        """Number of steps with NaN in any channel or tile."""
        return int(np.isnan(self.values).any(axis=(1, 2)).sum())

    def to_table(self) -> pa.Table:
        """Return the rows of the `timelines` config, with the schema of `schema.timeline_features`; NaN stays NaN."""
        schema = timeline_features().arrow_schema
        lists = [
            pa.FixedSizeListArray.from_arrays(pa.array(self.values[:, channel].ravel()), NUM_TILES)
            for channel in range(len(CHANNELS))
        ]
        keys = [
            pa.array(np.full(len(self), self.ar_number, np.int32)),
            pa.array(np.arange(len(self), dtype=np.int32)),
            pa.array(self.times),
        ]
        arrays = [array.cast(field.type) for array, field in zip(keys + lists, schema, strict=True)]
        return pa.Table.from_arrays(arrays, schema=schema)


def timelines_from_table(table: pa.Table) -> list[Timeline]:
    """Return the regions in rows of the `timelines` config, sorted by AR number; the rows may have any order.

    Columns may have another type than in `schema.timeline_features`, such as lists of any length or wider numbers, if
    every value fits the expected type without a change. Column `step` counts the rows of a region, also across gaps,
    so a missing number means that a row was removed. A removed row would look like a gap or another cadence, and is
    an error. Rows may be missing at the beginning, which gives a warning, or at the end.

    Raises:
        SolaredError: If a column is missing or its values do not fit the type, a step occurs twice, or rows between
            two steps were removed.
    """
    return _collected([table])


def timelines_from_dataset(dataset: Dataset | IterableDataset) -> list[Timeline]:
    """Return the regions of one split of a map-style or streaming `datasets` object.

    The rows are read once, in Arrow batches, so that memory holds little more than the values of the regions. The
    whole published dataset takes about 20 MB.

    Raises:
        SolaredError: If `dataset` is a dictionary of splits, or is not a SOLARED timelines dataset.
    """
    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        raise SolaredError(f"Choose one split of the dataset, such as dataset['train']. It has {', '.join(dataset)}.")
    return _collected(_batches(dataset))


def timelines_of(data: Dataset | IterableDataset | Timeline | Iterable[Timeline]) -> list[Timeline]:
    """Return timelines as a list, from a split of a dataset, a timeline or several timelines.

    Raises:
        SolaredError: If `data` is something else.
    """
    if isinstance(data, Timeline):
        return [data]
    # `timelines_from_dataset` refuses dictionaries of splits and names the splits.
    if isinstance(data, Dataset | IterableDataset | DatasetDict | IterableDatasetDict):
        return timelines_from_dataset(data)
    timelines = list(data) if isinstance(data, Iterable) and not isinstance(data, str) else [data]
    if not all(isinstance(timeline, Timeline) for timeline in timelines):
        raise SolaredError(
            f"Windows are cut from a split of a dataset or from timelines, not from {data!r:.60}. Load timelines with "
            "`load_dataset` or `load_timelines`."
        )
    return timelines


def _batches(dataset: Dataset | IterableDataset) -> Iterator[pa.Table]:
    try:
        yield from dataset.with_format("arrow").iter(batch_size=_BATCH_ROWS)
    except (OSError, pa.ArrowException) as error:
        raise SolaredError(
            f"The rows of the dataset could not be read ({error}). Build the dataset again, or download it again."
        ) from error


def _collected(tables: Iterable[pa.Table]) -> list[Timeline]:
    """Return the regions of all rows, see `timelines_from_table`. Each value is copied once, and no table is kept."""
    parts: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for table in tables:
        missing = [column for column in COLUMNS if column not in table.column_names]
        if missing:
            raise SolaredError(
                f"The dataset has no column {', '.join(missing)}, so it is not a SOLARED timelines dataset. Load the "
                "config 'timelines' of a folder written by `solared build`, with all its columns."
            )
        for first in range(0, len(table), _BATCH_ROWS):
            for ar_number, rows in _regions_in(_cast(table.slice(first, _BATCH_ROWS))):
                parts.setdefault(ar_number, []).append(rows)
    starts_later = sorted(
        (number, first) for number, rows in parts.items() if (first := min(r[0].min() for r in rows))
    )
    timelines = [_timeline(ar_number, parts.pop(ar_number)) for ar_number in sorted(parts)]
    if starts_later:
        places = ", ".join(f"step {step} of AR{number}" for number, step in starts_later)
        warnings.warn(
            f"The rows before {places} were removed. Steps of these regions are counted from the first row that is "
            "left.",
            stacklevel=3,
        )
    return timelines


def _regions_in(table: pa.Table) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Yield each AR number in a table, with copies of steps (rows,), times (rows,) and values (rows, 6, 63)."""
    numbers, steps, times = (table.column(name).to_numpy() for name in ("ar_number", "step", "time_tai"))
    channels = [_tile_values(table, channel) for channel in CHANNELS]
    order = np.argsort(numbers, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        values = np.stack([channel[rows] for channel in channels], axis=1)
        yield int(numbers[rows[0]]), (steps[rows], times[rows], values)


def _timeline(ar_number: int, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Timeline:
    """Return the timeline of a region from parts of its rows, in any order."""
    steps, times, values = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
    if (np.diff(steps) <= 0).any():
        order = np.argsort(steps, kind="stable")
        steps, times, values = steps[order], times[order], values[order]
    _check_steps(ar_number, steps)
    return Timeline(ar_number, times, values)


def _check_steps(ar_number: int, steps: np.ndarray) -> None:
    """Refuse a region with removed rows; `steps` are sorted."""
    if (np.diff(steps) == 0).any():
        raise SolaredError(f"AR{ar_number} has a step twice. Build the dataset folder again.")
    holes = np.flatnonzero(np.diff(steps) != 1)
    if len(holes):
        missing = steps[-1] - steps[0] + 1 - len(steps)
        raise SolaredError(
            f"AR{ar_number} has step {steps[holes[0]]} and then step {steps[holes[0] + 1]}: in all, {missing} of its "
            "rows were removed, so the cadence and the gaps would be wrong. Give whole regions: filter by ar_number, "
            "and give each process different regions instead of every second row."
        )


def _cast(table: pa.Table) -> pa.Table:
    """Return the columns of the `timelines` config with the types of `schema.timeline_features`.

    Raises:
        SolaredError: If a value is missing or would change.
    """
    schema = timeline_features().arrow_schema
    columns = []
    for field in schema:
        column = table.column(field.name)
        value_type = getattr(column.type, "value_type", column.type)
        try:
            if not pa.types.is_primitive(value_type):
                raise pa.ArrowInvalid("the values are not numbers")
            if pa.types.is_timestamp(value_type):
                column = _milliseconds(column)
            cast = column.cast(field.type)
            if cast.null_count:
                raise pa.ArrowInvalid("there are nulls")
            # Arrow checks all other narrowing casts.
            narrowed = pa.types.is_float64(value_type) and field.name in CHANNELS
            if narrowed and not np.array_equal(_flat(cast), _flat(column), equal_nan=True):
                raise pa.ArrowInvalid("some values have more digits than float32")
        except pa.ArrowException as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise SolaredError(
                f"Column {field.name} holds {column.type}, which does not fit {field.type} ({reason}). Load the "
                "config 'timelines' of a folder written by `solared build`."
            ) from error
        columns.append(cast)
    return pa.Table.from_arrays(columns, schema=schema)


def _array(values, owner: str) -> np.ndarray:
    """Return values as an array of numbers, NaN where they are masked; an array without a mask is not copied."""
    try:
        masked: np.ma.MaskedArray = np.ma.asarray(values)
        array, mask = np.ma.getdata(masked), np.ma.getmask(masked)
        array = array.astype(np.float64) if array.dtype.kind == "O" else array
    except (TypeError, ValueError) as error:
        raise SolaredError(f"{owner}: the values are not an array of numbers ({error}). Give floats.") from error
    if array.dtype.kind not in "fiu":
        raise SolaredError(f"{owner}: the values have type {array.dtype}, not numbers. Give floats.")
    return np.where(mask, np.nan, array) if np.any(mask) else array


def _single_precision(values: np.ndarray, owner: str) -> np.ndarray:
    """Return values as float32; raise a SolaredError if a value is or becomes infinite."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32, copy=False)
    infinite = np.argwhere(np.isinf(single))
    if len(infinite):
        step, channel, tile = infinite[0]
        value = values[step, channel, tile]
        problem = "infinite values" if np.isinf(value) else f"values too large for float32, such as {value:g}"
        raise SolaredError(
            f"{owner} has {problem}, first in {CHANNELS[channel]} at step {step}, tile {tile}. Replace values that "
            "were not observed with NaN."
        )
    return single


def _cure(shape: tuple[int, ...], steps: int) -> str:
    """Return how to convert values of another shape, as the end of a sentence; empty if there is no advice."""
    expected = (steps, len(CHANNELS), NUM_TILES)
    for axes in permutations(range(3)) if len(shape) == 3 else ():
        if tuple(shape[axis] for axis in axes) == expected:
            return f": put the axes in this order with `values.transpose{axes}`"
    if shape == (*expected[:2], NUM_PATCH_TILES):
        return f": drop the tiles of the latitude background with `values[..., {KEPT_TILES.start}:{KEPT_TILES.stop}]`"
    if len(shape) == 3 and shape[::2] == expected[::2]:
        return f": the channels {', '.join(CHANNELS)}, NaN for a channel that was not observed"
    return ""


def _milliseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of timestamps, rounded to the nearest millisecond if it is more precise.

    Raises:
        pa.ArrowInvalid: If the times have a time zone, or are in years without observations.
    """
    if column.type.tz is not None:
        raise pa.ArrowInvalid(f"the times have the zone {column.type.tz} instead of naive TAI")
    if column.null_count or column.type.unit not in ("us", "ns"):
        return column
    times = step_times(column.to_numpy())
    try:
        check_years(times, "The column")
    except SolaredError as error:
        raise pa.ArrowInvalid(str(error)) from error
    return pa.chunked_array([pa.array(times)])


def _tile_values(table: pa.Table, channel: str) -> np.ndarray:
    """Return one channel as (rows, 63) float32."""
    return _flat(table.column(channel)).reshape(-1, NUM_TILES)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """Return all items of a column of lists as one array."""
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(flat) if flat else np.empty(0, np.float32)
