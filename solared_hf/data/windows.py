"""Sliding windows over timelines that never span a gap: the inputs and targets of a model.

The values of all regions are stored once, in one contiguous array. A window is a view of the array, and a batch of
windows is one gather from the array.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from solared_hf.data.processing_solared import NAN_POLICIES, SolaredProcessor, interpolate_in_time
from solared_hf.data.region_windows import Region, RegionWindows, count_before, cut_region, steps_ahead
from solared_hf.data.shared_windows import for_another_process
from solared_hf.data.step_tensors import read_steps, take_steps, unknown_target, whole_indices
from solared_hf.data.timelines import Timeline, timelines_of
from solared_hf.data.window_references import WindowReferences
from solared_hf.errors import SolaredError, whole_number
from solared_hf.schema import CHANNELS, NUM_TILES

DEFAULT_INPUT_STEPS = 120
DEFAULT_HORIZON = timedelta(hours=12)

# The attributes that `_read` fills when one of them is first used.
_READ = ("values", "observed", "target", "_nan_steps_before")
# Steps of one part, see `SolaredWindows.parts`: 4 MB of tensors, and several batches of windows.
_PART_STEPS = 2_000
# The most regions that an error names.
_MOST_NAMED = 5


class SolaredWindows(TorchDataset):
    """All windows of some regions, as a map-style torch dataset.

    Item `i` is a dictionary of

    - `past_values`: (input_steps, C, 63) float32, the input of the model;
    - `past_observed_mask`: the same shape, bool, False where the value was NaN and is filled;
    - `future_values`: (63,) float32, continuum intensity at the target time;
    - `ar_number`: int;
    - `target_time`: int, milliseconds since 1970-01-01 TAI (`numpy.datetime64(value, "ms")`);
    - `future_trajectory`, if `trajectory_steps` is given: (trajectory_steps, 63) float32, continuum intensity at the
      steps after the last input step, NaN if not observed, after a gap or after the last step.

    Values are in physical units, or normalised if a processor is given. A window never spans a gap: all steps from the
    first input step to the target are one cadence apart, and the cadence comes from the times of the region. Targets
    are never filled: a window is dropped if any tile of the target is NaN.

    Tensors are views of `values`, `observed` and `target`, and overlapping windows share memory: clone a tensor before
    changing it in place. Tensors are float32 and on the CPU, independent of the default dtype and device of torch.
    `batch` gathers many windows at once, and
    `DataLoader(range(len(windows)), batch_size=64, collate_fn=windows.batch)` is a loader of batches. Leave
    `num_workers` at 0: the windows are in memory, and a loader with workers is about ten times slower, because
    receiving a batch from a worker takes longer than gathering the batch. Workers share the memory of the windows.

    Args:
        data: A split of the dataset, map-style or streaming, or timelines.
        input_steps: Steps of input; 120 by default.
        horizon: Time from the last input step to the target, a multiple of the cadence of every region; 12 h by
            default.
        input_channels: Names from `schema.CHANNELS`, in the order of the model; all six by default.
        nan_policy: What to do with NaN in the input. `"zero"` replaces NaN by 0 in physical units, as in the
            publication. `"interpolate"` interpolates linearly in time between the observed steps of the same window,
            channel and tile, repeats the first and last observed value at the ends, and uses 0 if nothing was
            observed, so that no step after the last input step is used. `"drop"` drops the window.
        processor: A fitted `SolaredProcessor`, which normalises and gives the defaults of the window settings.
        require_target: Keep only windows with an observed target. If False, a window needs only the input, and
            an unknown `future_values` is NaN, as in a forecast in real time.
        trajectory_steps: Number of steps in `future_trajectory`; none by default.
        read: Copy the values of the timelines into `values`, `observed` and `target` now. If False, they are copied
            when they are first used; forecasters that use the timelines never do.

    Attributes:
        values: (T, C, 63) float32 tensor, all steps of all regions, one region after the other: 0 DN in place of NaN,
            then normalised. This is the only copy of the values of the timelines.
        observed: (T, C, 63) bool tensor.
        target: (T, 63) float32 tensor, continuum intensity, normalised, NaN kept.
        regions: The regions with their windows, in the order of the data.
        shared_values: (T, 6, 63) float32 tensor in shared memory, of which the values of the timelines are views; None
            until the windows are sent to another process.

    Raises:
        SolaredError: If there is no window, or an argument has an invalid value.

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

        timelines = timelines_of(data)
        for timeline in timelines:
            self._check_cadence(timeline)
        if read:
            # Before a loader starts its workers, because every worker would make a copy.
            self._read(timelines)
        channels = [CHANNELS.index(channel) for channel in self.input_channels]
        self.regions: list[Region] = []
        for timeline in timelines:
            observed = ~np.isnan(timeline.values)[:, channels]
            cut = self.input_steps, self.horizon, self.require_target, self.nan_policy == "drop"
            self.regions.append(cut_region(timeline, observed, *cut))
        if not sum(region.report.windows for region in self.regions):
            given = "; ".join(str(region.report) for region in self.regions[:_MOST_NAMED]) or "no region at all"
            more = len(self.regions) - _MOST_NAMED
            given += f"; and {more} more regions" if more > 0 else ""
            # The settings of a trained model cannot be changed.
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
        # Python ints, because numpy ints cost more than slicing the window.
        start, target_step = self._starts.item(index), self._target_steps.item(index)
        stop = start + self.input_steps
        past_values, observed = self.values[start:stop], self.observed[start:stop]
        if self.nan_policy == "interpolate" and self._nan_steps_before[stop] > self._nan_steps_before[start]:
            past_values = torch.from_numpy(interpolate_in_time(past_values.numpy(), observed.numpy()))
        item = {
            "past_values": past_values,
            "past_observed_mask": observed,
            "future_values": self.target[target_step] if target_step >= 0 else unknown_target(NUM_TILES),
            "ar_number": self._ar_numbers.item(index),
            "target_time": self._target_times.item(index),
        }
        if self.trajectory_steps is not None:
            known = self.target[stop : min(stop + self.trajectory_steps, self._gap_after[stop - 1])]
            item["future_trajectory"] = unknown_target(self.trajectory_steps, NUM_TILES)
            item["future_trajectory"][: len(known)] = known
        return item

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return some windows, gathered at once: a copy, equal to the stacked items.

        Args:
            indices: B indices of windows, in any order, possibly repeated.

        Returns:
            `past_values` (B, input_steps, C, 63) float32, `past_observed_mask`, bool, of the same shape,
            `future_values` (B, 63) float32, and `future_trajectory` (B, trajectory_steps, 63) float32 if
            `trajectory_steps` is given.

        Raises:
            IndexError: If a window does not exist.
            SolaredError: If the indices are not a list of whole numbers.
        """
        chosen = whole_indices(indices)
        starts, target_steps = self._starts[chosen], self._target_steps[chosen]
        stops = starts + self.input_steps
        past = starts[:, None] + np.arange(self.input_steps)
        past_values, past_observed_mask = take_steps(self.values, past), take_steps(self.observed, past)
        if self.nan_policy == "interpolate":
            has_nan = self._nan_steps_before[stops] > self._nan_steps_before[starts]
            for i in np.flatnonzero(has_nan):
                filled = interpolate_in_time(past_values[i].numpy(), past_observed_mask[i].numpy())
                past_values[i] = torch.from_numpy(filled)
        batch = {
            "past_values": past_values,
            "past_observed_mask": past_observed_mask,
            "future_values": take_steps(self.target, target_steps, known=target_steps >= 0),
        }
        if self.trajectory_steps is not None:
            following = stops[:, None] + np.arange(self.trajectory_steps)
            known = following < self._gap_after[stops - 1, None]
            batch["future_trajectory"] = take_steps(self.target, following, known)
        return batch

    def references(self) -> "WindowReferences":
        """Return the pairs `(self, index)` as a dataset for a `Trainer` with the collator `batch_of`."""
        return WindowReferences(self)

    def parts(self) -> Iterator["SolaredWindows"]:
        """Yield the windows in parts of some regions, in order, so that only one part has to be in memory.

        All parts have about the same number of steps. Values that were already read are shared with the parts.
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
                    # `_nan_steps_before` has one more entry than there are steps.
                    end = steps[stop] + (name == "_nan_steps_before")
                    setattr(part, name, getattr(self, name)[steps[first] : end])
            part._locate()
            yield part

    def as_seen_by(self, processor: SolaredProcessor, horizon: timedelta | None = None) -> "SolaredWindows":
        """Return the same windows with the same targets, as input for the model of a processor.

        This compares models with different input lengths, channels and horizons on the same targets. A model gets the
        channels, normalisation and NaN policy of the processor, and the last steps of each window: as many as in
        training, or all of them.

        Args:
            processor: The processor of the model.
            horizon: The only horizon of the model. If it is longer than the horizon of these windows, the newest steps
                are withheld from the model, so that the model forecasts the same target time.

        Raises:
            SolaredError: If the horizon of the model is shorter, leaves no input step or lies between two steps, the
                NaN policy would drop windows, or the cadences differ.
        """
        seen = copy.copy(self)
        seen.horizon = self.horizon if horizon is None else horizon
        newest = self.input_steps - (seen.horizon_steps - self.horizon_steps)
        if newest < 1 or seen.horizon < self.horizon:
            raise SolaredError(
                f"A model that forecasts {seen.horizon} ahead cannot forecast these windows, {self.horizon} ahead. "
                "Choose a model with the same horizon, or one that is longer by less than the input."
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
                        f"Windows of AR{region.timeline.ar_number} have NaN, which the processor of this model drops. "
                        'Use windows with `nan_policy="drop"`, or leave the region out.'
                    )
        # Windows that were cut with this processor already have the right values.
        if processor is not self.processor or list(processor.input_channels) != list(self.input_channels):
            for name in _READ:
                vars(seen).pop(name, None)
        seen._locate()
        return seen

    def report(self) -> list[RegionWindows]:
        """Return the number of windows of each region, and of the dropped windows by reason."""
        return [region.report for region in self.regions]

    @property
    def cadence(self) -> timedelta:
        """Spacing of the steps of all regions with windows.

        Raises:
            SolaredError: If the cadences of the regions differ.
        """
        cadences = {region.timeline.cadence for region in self.regions if len(region.starts)}
        if len(cadences) != 1:
            raise SolaredError("The regions have different cadences. Forecast each region separately.")
        return cadences.pop()

    @property
    def horizon_steps(self) -> int:
        """The horizon in steps.

        Raises:
            SolaredError: If the cadences of the regions differ, or the horizon lies between two steps.
        """
        return steps_ahead(self.horizon, self.cadence, self.ar_numbers[0])

    def by_region(self, values: np.ndarray) -> list[np.ndarray]:
        """Split (N, ...) values of all windows by region, as views; a region without windows gets an empty array.

        Raises:
            SolaredError: If the number of values is not the number of windows.
        """
        if len(values) != len(self):
            raise SolaredError(
                f"There are {len(self)} windows, but forecasts of {len(values)}. Give the windows of the forecasts."
            )
        return np.split(values, np.cumsum([len(region.starts) for region in self.regions])[:-1])

    @property
    def ar_numbers(self) -> np.ndarray:
        """(N,) int: AR number of each window."""
        return self._ar_numbers

    @property
    def last_input_times(self) -> np.ndarray:
        """(N,) datetime64[ms]: time of the last input step of each window, naive TAI.

        The time is the middle of 8 h of observations, so a forecast can be issued 4 h later at the earliest.
        """
        return np.concatenate([r.timeline.times[r.starts + self.input_steps - 1] for r in self.regions])

    @property
    def target_times(self) -> np.ndarray:
        """(N,) datetime64[ms]: target time of each window, naive TAI."""
        return self.last_input_times + np.timedelta64(self.horizon, "ms")

    @property
    def observed_targets(self) -> np.ndarray:
        """(N, 63) float32: continuum intensity at the target time in DN, NaN if not observed."""
        targets = []
        for region in self.regions:
            intensity = region.timeline.intensity[region.target_steps]
            targets.append(np.where(region.target_steps[:, None] >= 0, intensity, np.float32(np.nan)))
        return np.concatenate(targets)

    def past_intensities(self) -> Iterator[np.ndarray]:
        """Yield the continuum intensity of each input: (input_steps, 63) float32 views in DN, with NaN."""
        for region in self.regions:
            for start in region.starts:
                yield region.timeline.intensity[start : start + self.input_steps]

    def _check_arguments(self) -> None:
        if isinstance(self.input_channels, str) or len(set(self.input_channels)) != len(self.input_channels):
            raise SolaredError(f"input_channels must be a list of different names, but got {self.input_channels!r}.")
        if not isinstance(self.horizon, timedelta):
            raise SolaredError(f"The horizon must be a timedelta, but got {self.horizon!r}. Try timedelta(hours=12).")
        unknown = [channel for channel in self.input_channels if channel not in CHANNELS]
        if unknown:
            raise SolaredError(f"Unknown input channels {unknown}. Choose one or more of {', '.join(CHANNELS)}.")
        if not self.input_channels:
            raise SolaredError(f"At least one input channel is needed. Choose from {', '.join(CHANNELS)}.")
        if self.nan_policy not in NAN_POLICIES:
            raise SolaredError(f"Unknown NaN policy {self.nan_policy!r}. Choose one of {', '.join(NAN_POLICIES)}.")
        self.input_steps = whole_number(self.input_steps, "input_steps", "a window needs at least one input step")
        if self.trajectory_steps is not None:
            self.trajectory_steps = whole_number(self.trajectory_steps, "trajectory_steps", "or leave it out for none")
        if self.horizon <= timedelta(0):
            raise SolaredError(f"The horizon must be above 0, but got {self.horizon}. Try timedelta(hours=12).")

    def __getattr__(self, name: str):
        # Called for missing attributes only: read the tensors when one of them is first used.
        if name not in _READ:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        self._read([region.timeline for region in self.regions])
        return vars(self)[name]

    def _check_cadence(self, timeline: Timeline) -> None:
        expected = None if self.processor is None else self.processor.cadence_minutes
        if expected is not None and len(timeline) > 1 and timeline.cadence != timedelta(minutes=expected):
            raise SolaredError(
                f"AR{timeline.ar_number} has a step every {timeline.cadence}, but the processor was fitted on a step "
                f"every {timedelta(minutes=expected)}. Use data with that cadence, or train on this one."
            )

    def _read(self, timelines: Sequence[Timeline]) -> None:
        """Fill `values`, `observed` and `target` with all steps of the timelines."""
        self.values, self.observed, self.target = read_steps(timelines, self.input_channels, self.processor)
        self._nan_steps_before = count_before(np.any(~self.observed.numpy(), axis=(1, 2)))

    def _locate(self) -> None:
        """Find the place of each window and each gap among the steps of all regions."""
        lengths = [len(region.timeline) for region in self.regions]
        firsts = np.cumsum([0, *lengths[:-1]])
        gaps = [region.timeline.gap_after + first for region, first in zip(self.regions, firsts, strict=True)]
        self._gap_after = np.concatenate(gaps)
        first_of_window = np.repeat(firsts, [len(region.starts) for region in self.regions])
        self._starts = np.concatenate([region.starts for region in self.regions]) + first_of_window
        targets = np.concatenate([region.target_steps for region in self.regions])
        self._target_steps = np.where(targets < 0, -1, targets + first_of_window)
        self._ar_numbers = np.repeat(
            [region.timeline.ar_number for region in self.regions], [len(region.starts) for region in self.regions]
        )
        self._target_times = self.target_times.astype(np.int64)


# Only for other processes. Not `__reduce__`, because a pickle in a file has no memory to share.
ForkingPickler.register(SolaredWindows, for_another_process)
