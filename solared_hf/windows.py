"""Gap-aware sliding windows over timelines: what a model sees, and what it is asked.

The values of a region are stored once, as one contiguous array; a window is a view into it.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch.utils.data import Dataset as TorchDataset

from solared_hf.errors import SolaredError
from solared_hf.processing_solared import NAN_POLICIES, SolaredProcessor, interpolate_in_time
from solared_hf.schema import CHANNELS, NUM_TILES, TARGET_CHANNEL
from solared_hf.timelines import Timeline, timelines_from_dataset

DEFAULT_INPUT_STEPS = 120
DEFAULT_HORIZON = timedelta(hours=12)

# Why a window is not given, in the order in which the reasons are looked for.
SPANS_GAP = "spans a gap"
TARGET_NOT_OBSERVED = "target not observed"
INPUT_NOT_OBSERVED = "input never observed"
INPUT_HAS_NAN = "input has NaN"
TOO_SHORT = "region too short"


@dataclass(frozen=True)
class RegionWindows:
    """What one region gave: how many windows, and how many it did not and why."""

    ar_number: int
    steps: int
    windows: int
    dropped: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        dropped = f", {sum(self.dropped.values())} dropped ({reasons})" if reasons else ""
        return f"AR{self.ar_number}: {self.windows} windows from {self.steps} steps{dropped}"


@dataclass(frozen=True)
class Region:
    """One region as the windows cut it; all tensors run over the steps of its timeline, gaps and all."""

    timeline: Timeline
    values: torch.Tensor  # (T, C, 63) float32, 0 DN in the place of NaN, then normalised
    observed: torch.Tensor  # (T, C, 63) bool
    target: torch.Tensor  # (T, 63) float32, normalised, NaN kept
    gap_after: list[int]  # (T,) first step that a gap parts from each step, T where there is none
    nan_steps_before: list[int]  # (T+1,) steps with NaN among the first n
    starts: np.ndarray  # (windows,) first step of each window
    target_steps: np.ndarray  # (windows,) step of its target, -1 where there is none
    report: RegionWindows


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

    Tensors are views of the region's values, which overlapping windows share: clone one before changing it in place.

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

    Raises:
        SolaredError: there is nothing to cut a window from, or an argument is none of the above.
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
        self._check_arguments()

        self.regions = [self._prepare(timeline) for timeline in _timelines(data)]
        if not sum(region.report.windows for region in self.regions):
            given = "; ".join(str(region.report) for region in self.regions) or "no region at all"
            # What a model was trained with cannot be changed.
            cure = "fewer input steps, a shorter horizon, another NaN policy or longer timelines"
            cure = cure if self.processor is None else "longer timelines, without gaps"
            raise SolaredError(
                f"No window of {self.input_steps} input steps and a target {self.horizon} later could be cut: "
                f"{given}. Use {cure}."
            )
        self._index = self._list_windows()

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict:
        region, start, target_step, target_time = self._index[index]
        stop = start + self.input_steps
        past_values, observed = region.values[start:stop], region.observed[start:stop]
        if self.nan_policy == "interpolate" and region.nan_steps_before[stop] > region.nan_steps_before[start]:
            past_values = torch.from_numpy(interpolate_in_time(past_values.numpy(), observed.numpy()))
        item = {
            "past_values": past_values,
            "past_observed_mask": observed,
            "future_values": region.target[target_step] if target_step >= 0 else torch.full((NUM_TILES,), torch.nan),
            "ar_number": region.timeline.ar_number,
            "target_time": target_time,
        }
        if self.trajectory_steps is not None:
            known = region.target[stop : min(stop + self.trajectory_steps, region.gap_after[stop - 1])]
            item["future_trajectory"] = torch.full((self.trajectory_steps, NUM_TILES), torch.nan)
            item["future_trajectory"][: len(known)] = known
        return item

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
        seen.regions = [
            replace(region, starts=region.starts + skipped, **seen._arrays(region.timeline)) for region in self.regions
        ]
        if seen.nan_policy == "drop":
            for region in seen.regions:
                before = np.array(region.nan_steps_before)
                if (before[region.starts + seen.input_steps] > before[region.starts]).any():
                    raise SolaredError(
                        f"Windows of AR{region.timeline.ar_number} have NaN, which this model's processor drops; give "
                        'it windows with `nan_policy="drop"`, or leave the region out.'
                    )
        seen._index = seen._list_windows()
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
        return self._steps_ahead(self.cadence, self.ar_numbers[0])

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
        return np.concatenate([np.full(len(r.starts), r.timeline.ar_number) for r in self.regions])

    @property
    def last_input_times(self) -> np.ndarray:
        """(N,) datetime64[ms]: time of each window's last input step, naive TAI.

        It is the middle of an 8 h window of observations, so a forecast can be issued 4 h later at the earliest.
        """
        return np.concatenate([r.timeline.times[r.starts + self.input_steps - 1] for r in self.regions])

    @property
    def target_times(self) -> np.ndarray:
        """(N,) datetime64[ms]: the time that each window's forecast speaks about, naive TAI."""
        return np.concatenate([self._target_times(region.timeline, region.starts) for region in self.regions])

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
        if self.input_steps < 1 or self.horizon <= timedelta(0):
            raise SolaredError(
                f"A window needs at least one input step and a horizon after it, but got "
                f"input_steps={self.input_steps} and horizon={self.horizon}."
            )

    def _list_windows(self) -> list[tuple[Region, int, int, int]]:
        # Plain tuples of Python ints: indexing numpy scalars would cost more than slicing the window itself.
        return [
            (region, start, target_step, target_time)
            for region in self.regions
            for start, target_step, target_time in zip(
                region.starts.tolist(),
                region.target_steps.tolist(),
                self._target_times(region.timeline, region.starts).astype(np.int64).tolist(),
                strict=True,
            )
        ]

    def _prepare(self, timeline: Timeline) -> Region:
        """The region's arrays and its windows."""
        observed = ~np.isnan(timeline.values[:, [CHANNELS.index(channel) for channel in self.input_channels]])
        has_nan = _count_before(~observed.all(axis=(1, 2)))
        target_observed = ~np.isnan(timeline.intensity).any(axis=1)
        starts, target_steps, dropped = self._cut(timeline, observed, has_nan, target_observed)
        gaps = np.append(np.flatnonzero(timeline.breaks) + 1 if len(timeline) > 1 else [], len(timeline)).astype(int)
        return Region(
            timeline=timeline,
            **self._arrays(timeline),
            gap_after=gaps[np.searchsorted(gaps, np.arange(len(timeline)), side="right")].tolist(),
            starts=starts,
            target_steps=target_steps,
            report=RegionWindows(timeline.ar_number, len(timeline), len(starts), dropped),
        )

    def _arrays(self, timeline: Timeline) -> dict:
        """What a window of the region is a view of: values, observed, target and the count of steps with NaN."""
        expected = None if self.processor is None else self.processor.cadence_minutes
        if expected is not None and len(timeline) > 1 and timeline.cadence != timedelta(minutes=expected):
            raise SolaredError(
                f"AR{timeline.ar_number} has a step every {timeline.cadence}, and the processor was fitted on one "
                f"every {timedelta(minutes=expected)}; use data of that cadence, or train on this one."
            )
        channels = [CHANNELS.index(channel) for channel in self.input_channels]
        raw = timeline.values[:, channels]
        observed = ~np.isnan(raw)
        target = timeline.values[:, [CHANNELS.index(TARGET_CHANNEL)]]
        values = np.where(observed, raw, np.float32(0))
        if self.processor is not None:
            values = self.processor.normalise(values, self.input_channels)
            target = self.processor.normalise(target, [TARGET_CHANNEL])
        return {
            "values": torch.from_numpy(np.ascontiguousarray(values)),
            "observed": torch.from_numpy(observed),
            "target": torch.from_numpy(np.ascontiguousarray(target[:, 0])),
            "nan_steps_before": _count_before(~observed.all(axis=(1, 2))).tolist(),
        }

    def _cut(self, timeline: Timeline, observed: np.ndarray, has_nan: np.ndarray, target_observed: np.ndarray):
        """Starts and target steps of the windows that can be given, and the number of the others by reason."""
        # A single step has no cadence, so no window of it has a known target.
        steps_ahead = self._steps_ahead(timeline.cadence, timeline.ar_number) if len(timeline) > 1 else 1
        span = self.input_steps + (steps_ahead if self.require_target else 0)
        starts = np.arange(max(len(timeline) - span + 1, 0))
        if not len(starts) or len(timeline) == 1:
            return starts[:0], starts[:0], {TOO_SHORT: 1}
        last_input = starts + self.input_steps - 1
        target_times = self._target_times(timeline, starts)
        target_steps = np.searchsorted(timeline.times, target_times)
        target_steps[~np.isin(target_times, timeline.times)] = -1

        breaks = _count_before(timeline.breaks)
        has_value = _count_before(observed.any(axis=(1, 2)))
        reasons = {SPANS_GAP: breaks[starts + span - 1] > breaks[starts]}
        if self.require_target:
            reasons[TARGET_NOT_OBSERVED] = ~target_observed[target_steps]
        reasons[INPUT_NOT_OBSERVED] = has_value[last_input + 1] == has_value[starts]
        if self.nan_policy == "drop":
            reasons[INPUT_HAS_NAN] = has_nan[last_input + 1] > has_nan[starts]
        reason = np.select(list(reasons.values()), list(reasons), default="")
        kept = reason == ""
        return starts[kept], target_steps[kept], dict(Counter(reason[~kept].tolist()))

    def _target_times(self, timeline: Timeline, starts: np.ndarray) -> np.ndarray:
        return timeline.times[starts + self.input_steps - 1] + np.timedelta64(self.horizon, "ms")

    def _steps_ahead(self, cadence: timedelta, ar_number: int) -> int:
        steps, remainder = divmod(self.horizon, cadence)
        if remainder:
            raise SolaredError(
                f"The horizon {self.horizon} is no multiple of the cadence {cadence} of AR{ar_number}; choose a "
                "horizon that is."
            )
        return steps


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


def _count_before(flags: np.ndarray) -> np.ndarray:
    """(n+1,) number of true flags before each position, so that a range is counted by one subtraction."""
    return np.concatenate([[0], np.cumsum(flags)])
