"""Gap-aware sliding windows over timelines: what a model sees, and what it is asked.

The values of all regions are stored once, as one contiguous array; a window is a view into it, and a batch of windows
is one gather from it.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch.utils.data import Dataset as TorchDataset

from solared_hf.data.processing_solared import NAN_POLICIES, SolaredProcessor, interpolate_in_time
from solared_hf.data.region_windows import RegionWindows, count_before, cut_region, steps_ahead
from solared_hf.data.shared_windows import for_another_process
from solared_hf.data.timelines import Timeline, timelines_from_dataset
from solared_hf.errors import SolaredError, whole_number
from solared_hf.schema import CHANNELS, NUM_TILES, TARGET_CHANNEL

DEFAULT_INPUT_STEPS = 120
DEFAULT_HORIZON = timedelta(hours=12)

# What `_read` makes of the timelines, once any of it is asked for.
_READ = ("values", "observed", "target", "_nan_steps_before")
# Steps of the regions of one part, see `SolaredWindows.parts`: 4 MB of tensors, and several batches of windows.
_PART_STEPS = 2_000
# Regions that an error names.
_MOST_NAMED = 5


class SolaredWindows(TorchDataset):
    """Every window of some regions, as a map-style torch dataset.

    Item `i` is a dictionary of

    - `past_values`: (input_steps, C, 63) float32, what the model sees;
    - `past_observed_mask`: the same shape, bool, False where the value was NaN and has been filled;
    - `future_values`: (63,) float32, continuum intensity at the target time;
    - `ar_number`: int;
    - `target_time`: int, milliseconds since 1970-01-01 TAI (`numpy.datetime64(value, "ms")`);
    - `future_trajectory`, if `trajectory_steps` is given: (trajectory_steps, 63) float32, continuum intensity at the
      steps that follow the last input step, NaN where it was not observed, beyond a gap or after the last step.

    Values are in physical units, or normalised when a processor is given. A window never spans a gap: all its steps,
    from the first input step to the target, are one cadence apart, the cadence being taken from the region's own
    timestamps. A target is never invented: where any of its tiles is NaN the window is dropped.

    Tensors are views of `values`, `observed` and `target`, which overlapping windows share: clone one before changing
    it in place. They are float32 and on the CPU, whatever torch's default dtype and device are. `batch` gathers many
    windows at once; a loader of batches is `DataLoader(range(len(windows)), batch_size=64, collate_fn=windows.batch)`.
    Leave its `num_workers` at 0: the windows are in memory, and gathering a batch takes less time than receiving it
    from a worker does, so that workers make a loader about ten times slower. They do no other harm, because they share
    the memory.

    Args:
        data: a split of the dataset, map-style or streaming, or timelines.
        input_steps: steps of input; 120 by default.
        horizon: time from the last input step to the target, a multiple of every region's cadence; 12 h by default.
        input_channels: names out of `schema.CHANNELS`, in the order the model expects; all six by default.
        nan_policy: what becomes of NaN in the input. `"zero"` puts 0 in the place of NaN in physical units, as
            published; `"interpolate"` draws a line in time between the observed steps of the same window, channel and
            tile, holds the ends, and puts 0 where nothing was observed, so nothing after the last input step is seen;
            `"drop"` drops the window.
        processor: a fitted `SolaredProcessor`; it normalises, and its own window settings are then the defaults.
        require_target: keep only windows whose target was observed. Otherwise a window needs its input alone, and
            `future_values` is NaN where it is not known: what a forecast in real time looks like.
        trajectory_steps: how many steps after the last input step `future_trajectory` holds; none by default.
        read: copy the values of the timelines into `values`, `observed` and `target` now. Otherwise this is done once
            they are needed, which forecasters that look at the timelines themselves never do.

    Attributes:
        values: (T, C, 63) float32 tensor, all steps of all regions, one region after the other: 0 DN in the place of
            NaN, then normalised. This is the only copy of the timelines' values.
        observed: (T, C, 63) bool tensor.
        target: (T, 63) float32 tensor, continuum intensity, normalised, NaN kept.
        regions: what was cut of each region, in the order of the data.
        shared_values: (T, 6, 63) float32 tensor that the timelines' values are views of, once another process reads
            them; None before.

    Raises:
        SolaredError: there is nothing to cut a window from, or an argument is none of the above.

    Example:
        >>> times = np.datetime64("2013-04-15T00:00") + np.delete(np.arange(40), 20) * np.timedelta64(1, "h")
        >>> windows = SolaredWindows(
        ...     Timeline(11726, times, np.zeros((39, 6, 63))), input_steps=4, horizon=timedelta(hours=2)
        ... )
        >>> print(*windows.report())
        AR11726: 29 windows from 39 steps, 5 dropped (5 spans a gap)
        >>> tuple(windows[0]["past_values"].shape), tuple(windows.batch([0, 1])["future_values"].shape)
        ((4, 6, 63), (2, 63))
    """

    def __init__(
        self,
        data: Dataset | IterableDataset | Timeline | Iterable[Timeline],
        input_steps: int | None = None,
        horizon: timedelta | None = None,
        input_channels: Sequence[str] | None = None,
        nan_policy: str | None = None,
        processor: SolaredProcessor | None = None,
        require_target: bool = True,
        trajectory_steps: int | None = None,
        read: bool = True,
    ):
        if processor is not None:
            input_steps = processor.input_steps if input_steps is None else input_steps
            horizon = timedelta(hours=processor.horizon_hours) if horizon is None else horizon
            input_channels = processor.input_channels if input_channels is None else input_channels
            nan_policy = processor.nan_policy if nan_policy is None else nan_policy
        self.input_steps = DEFAULT_INPUT_STEPS if input_steps is None else input_steps
        self.horizon = DEFAULT_HORIZON if horizon is None else horizon
        self.input_channels = CHANNELS if input_channels is None else input_channels
        self.nan_policy = "zero" if nan_policy is None else nan_policy
        self.processor = processor
        self.require_target = require_target
        self.trajectory_steps = trajectory_steps
        self.shared_values: torch.Tensor | None = None
        self._check_arguments()

        timelines = _timelines(data)
        for timeline in timelines:
            self._check_cadence(timeline)
        if read:
            # Before a loader starts its workers, because each would make a copy of its own.
            self._read(timelines)
        channels = [CHANNELS.index(channel) for channel in self.input_channels]
        self.regions = []
        for timeline in timelines:
            observed = ~np.isnan(timeline.values)[:, channels]
            cut = self.input_steps, self.horizon, self.require_target, self.nan_policy == "drop"
            self.regions.append(cut_region(timeline, observed, *cut))
        if not sum(region.report.windows for region in self.regions):
            given = "; ".join(str(region.report) for region in self.regions[:_MOST_NAMED]) or "no region at all"
            more = len(self.regions) - _MOST_NAMED
            given += f"; and {more} more regions" if more > 0 else ""
            # What a model was trained with cannot be changed.
            cure = "fewer input steps, a shorter horizon, another NaN policy or longer timelines"
            cure = cure if self.processor is None else "longer timelines, without gaps"
            raise SolaredError(
                f"No window of {self.input_steps} input steps and a target {self.horizon} later could be cut: "
                f"{given}. Use {cure}."
            )
        self._locate()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict:
        if type(index) is not int:
            cure = "`windows.batch([0, 1])` gathers several"
            index = whole_number(index, "The index of a window", cure, least=-len(self))
        # Plain ints: numpy's would cost more than slicing the window itself.
        start, target_step = self._starts.item(index), self._target_steps.item(index)
        stop = start + self.input_steps
        past_values, observed = self.values[start:stop], self.observed[start:stop]
        if self.nan_policy == "interpolate" and self._nan_steps_before[stop] > self._nan_steps_before[start]:
            past_values = torch.from_numpy(interpolate_in_time(past_values.numpy(), observed.numpy()))
        item = {
            "past_values": past_values,
            "past_observed_mask": observed,
            "future_values": self.target[target_step] if target_step >= 0 else _unknown(NUM_TILES),
            "ar_number": self._ar_numbers.item(index),
            "target_time": self._target_times.item(index),
        }
        if self.trajectory_steps is not None:
            known = self.target[stop : min(stop + self.trajectory_steps, self._gap_after[stop - 1])]
            item["future_trajectory"] = _unknown(self.trajectory_steps, NUM_TILES)
            item["future_trajectory"][: len(known)] = known
        return item

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """What a model takes of some windows, gathered at once: a copy, bit for bit the windows' items stacked.

        Args:
            indices: B windows, in any order, also repeatedly.

        Returns:
            `past_values` (B, input_steps, C, 63) float32, `past_observed_mask`, bool, of the same shape,
            `future_values` (B, 63) float32, and `future_trajectory` (B, trajectory_steps, 63) float32 if
            `trajectory_steps` is given.

        Raises:
            IndexError: there is no such window.
            SolaredError: the indices are no list of whole numbers.
        """
        indices = _indices(indices)
        starts, target_steps = self._starts[indices], self._target_steps[indices]
        stops = starts + self.input_steps
        past = starts[:, None] + np.arange(self.input_steps)
        past_values, past_observed_mask = _take(self.values, past), _take(self.observed, past)
        if self.nan_policy == "interpolate":
            has_nan = self._nan_steps_before[stops] > self._nan_steps_before[starts]
            for i in np.flatnonzero(has_nan):
                filled = interpolate_in_time(past_values[i].numpy(), past_observed_mask[i].numpy())
                past_values[i] = torch.from_numpy(filled)
        batch = {
            "past_values": past_values,
            "past_observed_mask": past_observed_mask,
            "future_values": _take(self.target, target_steps, known=target_steps >= 0),
        }
        if self.trajectory_steps is not None:
            following = stops[:, None] + np.arange(self.trajectory_steps)
            known = following < self._gap_after[stops - 1, None]
            batch["future_trajectory"] = _take(self.target, following, known)
        return batch

    def references(self) -> "WindowReferences":
        """`(self, index)` of each window: a dataset for a `Trainer`, whose collator is `batch_of`."""
        return WindowReferences(self)

    def parts(self) -> Iterator["SolaredWindows"]:
        """The windows of some regions at a time, in their order, so that not all have to be read at once.

        Every part has about as many steps, and what has been read of these windows is shared with their parts.
        """
        steps = np.cumsum([0, *(len(region.timeline) for region in self.regions)])
        _, firsts = np.unique(steps[1:] // _PART_STEPS, return_index=True)
        for first, stop in pairwise([*firsts.tolist(), len(self.regions)]):
            part = copy.copy(self)
            part.regions, part.shared_values = self.regions[first:stop], None
            if not sum(len(region.starts) for region in part.regions):
                continue
            for name in _READ:
                if name in vars(self):
                    # Of each step there is one count before it, and one more after the last.
                    after = steps[stop] + (name == "_nan_steps_before")
                    setattr(part, name, getattr(self, name)[steps[first] : after])
            part._locate()
            yield part

    def as_seen_by(self, processor: SolaredProcessor, horizon: timedelta | None = None) -> "SolaredWindows":
        """The same windows with the same targets, as a model with this processor sees them.

        So that models of other input lengths, channels and horizons are compared on what they are all asked. A model
        gets its own channels, normalisation and NaN policy, and the latest steps of each window: as many as it was
        trained with, or all that there are.

        Args:
            processor: the model's processor.
            horizon: the only horizon that the model can forecast. Where it is longer than that of these windows, the
                newest steps are kept from the model, so that its forecast speaks about the target.

        Raises:
            SolaredError: the model's horizon is shorter, leaves no step, or is between two steps; its NaN policy is
                to drop windows that are here; the cadences differ.
        """
        seen = copy.copy(self)
        seen.horizon = self.horizon if horizon is None else horizon
        newest = self.input_steps - (seen.horizon_steps - self.horizon_steps)
        if newest < 1 or seen.horizon < self.horizon:
            raise SolaredError(
                f"A model that forecasts {seen.horizon} ahead cannot forecast these windows, {self.horizon} ahead; "
                "its horizon may be as long, or longer by less than the input."
            )
        seen.processor, seen.nan_policy = processor, processor.nan_policy
        seen.input_channels = processor.input_channels
        seen.input_steps = min(processor.input_steps, newest)
        seen._check_arguments()
        skipped = newest - seen.input_steps
        seen.regions = [replace(region, starts=region.starts + skipped) for region in self.regions]
        channels = [CHANNELS.index(channel) for channel in seen.input_channels]
        for region in seen.regions:
            seen._check_cadence(region.timeline)
            if seen.nan_policy == "drop":
                has_nan = count_before(np.isnan(region.timeline.values[:, channels]).any(axis=(1, 2)))
                if (has_nan[region.starts + seen.input_steps] > has_nan[region.starts]).any():
                    raise SolaredError(
                        f"Windows of AR{region.timeline.ar_number} have NaN, which this model's processor drops; give "
                        'it windows with `nan_policy="drop"`, or leave the region out.'
                    )
        # Windows that were cut for this model have its values already.
        if processor is not self.processor or list(processor.input_channels) != list(self.input_channels):
            for name in _READ:
                vars(seen).pop(name, None)
        seen._locate()
        return seen

    def report(self) -> list[RegionWindows]:
        """How many windows each region gave and dropped, and why."""
        return [region.report for region in self.regions]

    @property
    def cadence(self) -> timedelta:
        """Time of one step of the regions that gave windows.

        Raises:
            SolaredError: their cadences differ.
        """
        cadences = {region.timeline.cadence for region in self.regions if len(region.starts)}
        if len(cadences) != 1:
            raise SolaredError("The regions have different cadences; forecast each of them by itself.")
        return cadences.pop()

    @property
    def horizon_steps(self) -> int:
        """The horizon in steps; a SolaredError where `cadence` raises one, or where it is between two steps."""
        return steps_ahead(self.horizon, self.cadence, self.ar_numbers[0])

    def by_region(self, values: np.ndarray) -> list[np.ndarray]:
        """The part of each of `regions` in values of all windows, (N, ...): a view, empty for a region without any.

        Raises:
            SolaredError: there is not one value for each window.
        """
        if len(values) != len(self):
            raise SolaredError(
                f"There are {len(self)} windows, but forecasts of {len(values)}; give the windows they were made for."
            )
        return np.split(values, np.cumsum([len(region.starts) for region in self.regions])[:-1])

    @property
    def ar_numbers(self) -> np.ndarray:
        """(N,) int: region of each window."""
        return self._ar_numbers

    @property
    def last_input_times(self) -> np.ndarray:
        """(N,) datetime64[ms]: time of each window's last input step, naive TAI.

        It is the middle of an 8 h window of observations, so a forecast can be issued 4 h later at the earliest.
        """
        return np.concatenate([r.timeline.times[r.starts + self.input_steps - 1] for r in self.regions])

    @property
    def target_times(self) -> np.ndarray:
        """(N,) datetime64[ms]: the time that each window's forecast speaks about, naive TAI."""
        return self.last_input_times + np.timedelta64(self.horizon, "ms")

    @property
    def observed_targets(self) -> np.ndarray:
        """(N, 63) float32: continuum intensity at the target time in DN, NaN where it was not observed."""
        targets = []
        for region in self.regions:
            intensity = region.timeline.intensity[region.target_steps]
            targets.append(np.where(region.target_steps[:, None] >= 0, intensity, np.float32(np.nan)))
        return np.concatenate(targets)

    def past_intensities(self) -> Iterator[np.ndarray]:
        """Continuum intensity of each window's input: (input_steps, 63) float32 views in DN, with NaN."""
        for region in self.regions:
            for start in region.starts:
                yield region.timeline.intensity[start : start + self.input_steps]

    def _check_arguments(self) -> None:
        if isinstance(self.input_channels, str) or len(set(self.input_channels)) != len(self.input_channels):
            raise SolaredError(f"input_channels is a list of different names, but got {self.input_channels!r}.")
        if not isinstance(self.horizon, timedelta):
            raise SolaredError(f"The horizon is a timedelta, but got {self.horizon!r}; try timedelta(hours=12).")
        unknown = [channel for channel in self.input_channels if channel not in CHANNELS]
        if unknown:
            raise SolaredError(f"Unknown input channels {unknown}; choose one or more of {', '.join(CHANNELS)}.")
        if not self.input_channels:
            raise SolaredError(f"At least one input channel is needed; choose from {', '.join(CHANNELS)}.")
        if self.nan_policy not in NAN_POLICIES:
            raise SolaredError(f"Unknown NaN policy {self.nan_policy!r}; choose one of {', '.join(NAN_POLICIES)}.")
        self.input_steps = whole_number(self.input_steps, "input_steps", "a window needs at least one input step")
        if self.trajectory_steps is not None:
            self.trajectory_steps = whole_number(self.trajectory_steps, "trajectory_steps", "or leave it out for none")
        if self.horizon <= timedelta(0):
            raise SolaredError(f"A window needs a horizon after its last input step, but got {self.horizon}.")

    def __getattr__(self, name: str):
        # Of what is not there yet, the tensors are read, and anything else does not exist.
        if name not in _READ:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        self._read([region.timeline for region in self.regions])
        return vars(self)[name]

    def _check_cadence(self, timeline: Timeline) -> None:
        expected = None if self.processor is None else self.processor.cadence_minutes
        if expected is not None and len(timeline) > 1 and timeline.cadence != timedelta(minutes=expected):
            raise SolaredError(
                f"AR{timeline.ar_number} has a step every {timeline.cadence}, and the processor was fitted on one "
                f"every {timedelta(minutes=expected)}; use data of that cadence, or train on this one."
            )

    def _read(self, timelines: Sequence[Timeline]) -> None:
        """Fill `values`, `observed` and `target` with all steps of the timelines, one after the other."""
        channels = [CHANNELS.index(channel) for channel in self.input_channels]
        steps = sum(len(timeline) for timeline in timelines)
        # numpy's, because torch's own default dtype and device may have been set to others.
        self.values = torch.from_numpy(np.empty((steps, len(channels), NUM_TILES), np.float32))
        self.observed = torch.from_numpy(np.empty(self.values.shape, bool))
        self.target = torch.from_numpy(np.empty((steps, NUM_TILES), np.float32))
        first = 0
        for timeline in timelines:
            raw, target = timeline.values[:, channels], timeline.values[:, [CHANNELS.index(TARGET_CHANNEL)]]
            observed = ~np.isnan(raw)
            values = np.where(observed, raw, np.float32(0))
            if self.processor is not None:
                values = self.processor.normalise(values, self.input_channels)
                target = self.processor.normalise(target, [TARGET_CHANNEL])
            its = slice(first, first + len(timeline))
            for tensor, array in ((self.values, values), (self.observed, observed), (self.target, target[:, 0])):
                tensor[its] = torch.from_numpy(array)
            first += len(timeline)
        self._nan_steps_before = count_before(~self.observed.numpy().all(axis=(1, 2)))

    def _locate(self) -> None:
        """Where each window and each gap lies among the steps of all regions."""
        lengths = [len(region.timeline) for region in self.regions]
        firsts = np.cumsum([0, *lengths[:-1]])
        gaps = [region.timeline.gap_after + first for region, first in zip(self.regions, firsts, strict=True)]
        self._gap_after = np.concatenate(gaps)
        its_first = np.repeat(firsts, [len(region.starts) for region in self.regions])
        self._starts = np.concatenate([region.starts for region in self.regions]) + its_first
        targets = np.concatenate([region.target_steps for region in self.regions])
        self._target_steps = np.where(targets < 0, -1, targets + its_first)
        self._ar_numbers = np.repeat(
            [region.timeline.ar_number for region in self.regions], [len(region.starts) for region in self.regions]
        )
        self._target_times = self.target_times.astype(np.int64)


class WindowReferences(TorchDataset):
    """What `SolaredWindows.references` gives: no list, because there may be millions of windows."""

    def __init__(self, windows: SolaredWindows):
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[SolaredWindows, int]:
        return self._windows, range(len(self))[index]


# What other processes are sent. Not `__reduce__`, because pickles in files have no memory to share.
ForkingPickler.register(SolaredWindows, for_another_process)


def batch_of(references: Sequence[tuple[SolaredWindows, int]]) -> dict[str, torch.Tensor]:
    """The batch of some `references`, all of the same windows: one collator for all sets of a `Trainer`."""
    return references[0][0].batch([index for _, index in references])


def _take(rows: torch.Tensor, indices: np.ndarray, known: np.ndarray | None = None) -> torch.Tensor:
    """The rows of the given indices, whatever their shape, as a copy; NaN in the place of those not known."""
    indices = torch.from_numpy(indices)
    taken = rows.index_select(0, indices.flatten().clamp(0, len(rows) - 1)).unflatten(0, indices.shape)
    if known is not None:
        taken[torch.from_numpy(~known)] = torch.nan
    return taken


def _indices(given: Sequence[int]) -> np.ndarray:
    """(B,) int64; a SolaredError for anything but a list of whole numbers, which numpy would cut to some."""
    try:
        indices = np.asarray(given)
    except ValueError:
        indices = np.array(None)
    if indices.ndim != 1 or (indices.dtype.kind not in "iu" and len(indices)):
        raise SolaredError(f"A batch is a list of whole numbers, but got {given!r:.60}; try batch(range(8)).")
    return indices.astype(np.int64)


def _unknown(*shape: int) -> torch.Tensor:
    return torch.full(shape, torch.nan, dtype=torch.float32, device="cpu")


def _timelines(data: Dataset | IterableDataset | Timeline | Iterable[Timeline]) -> list[Timeline]:
    if isinstance(data, Timeline):
        return [data]
    # Dictionaries of splits are refused there too, with the names of their splits.
    if isinstance(data, Dataset | IterableDataset | DatasetDict | IterableDatasetDict):
        return timelines_from_dataset(data)
    timelines = list(data) if isinstance(data, Iterable) and not isinstance(data, str) else [data]
    if not all(isinstance(timeline, Timeline) for timeline in timelines):
        raise SolaredError(
            "Windows are cut from a split of a dataset or from timelines; load one with `load_dataset` or "
            f"`load_timelines`, instead of {data!r:.60}."
        )
    return timelines
