"""The windows of one region: which steps of its timeline they start at, and why the others give none."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np

from solared_hf.data.step_times import MOST_JITTER, nearest_steps
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError

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
    """One region as the windows cut it; steps are those of its timeline, gaps and all."""

    timeline: Timeline
    starts: np.ndarray  # (windows,) int, first step of each window
    target_steps: np.ndarray  # (windows,) int, step of its target, -1 where there is none
    report: RegionWindows


def cut_region(
    timeline: Timeline,
    observed: np.ndarray,
    input_steps: int,
    horizon: timedelta,
    require_target: bool,
    drop_nan: bool,
) -> Region:
    """Every window of a region that can be given, and the number of the others by reason.

    Args:
        timeline: the region.
        observed: (T, C, 63) bool, what of the input channels was observed.
        input_steps: steps of input.
        horizon: time from the last input step to the target.
        require_target: keep only windows whose target was observed, and that no gap parts from it.
        drop_nan: keep only windows without NaN in their input.

    Raises:
        SolaredError: the horizon is no multiple of the region's cadence.
    """
    # A single step has no cadence, so no window of it has a known target.
    ahead = steps_ahead(horizon, timeline.cadence, timeline.ar_number) if len(timeline) > 1 else 1
    span = input_steps + (ahead if require_target else 0)
    starts = np.arange(max(len(timeline) - span + 1, 0))
    if not len(starts) or len(timeline) == 1:
        return _region(timeline, starts[:0], starts[:0], {TOO_SHORT: 1})
    stops = starts + input_steps
    target_times = timeline.times[stops - 1] + np.timedelta64(horizon, "ms")
    target_steps = nearest_steps(timeline.times, target_times, np.timedelta64(timeline.cadence))

    breaks = count_before(timeline.breaks)
    has_value = count_before(observed.any(axis=(1, 2)))
    reasons = {SPANS_GAP: breaks[starts + span - 1] > breaks[starts]}
    if require_target:
        reasons[TARGET_NOT_OBSERVED] = (target_steps < 0) | np.isnan(timeline.intensity).any(axis=1)[target_steps]
    reasons[INPUT_NOT_OBSERVED] = has_value[stops] == has_value[starts]
    if drop_nan:
        has_nan = count_before(~observed.all(axis=(1, 2)))
        reasons[INPUT_HAS_NAN] = has_nan[stops] > has_nan[starts]
    reason = np.select(list(reasons.values()), list(reasons), default="")
    kept = reason == ""
    return _region(timeline, starts[kept], target_steps[kept], Counter(reason[~kept].tolist()))


def steps_ahead(horizon: timedelta, cadence: timedelta, ar_number: int) -> int:
    """A horizon in steps, which the times of steps may miss by `MOST_JITTER` of a cadence.

    Raises:
        SolaredError: it lies between two steps.
    """
    steps = round(horizon / cadence)
    if abs(horizon - steps * cadence) > MOST_JITTER * cadence or steps < 1:
        nearest = max(steps, 1) * cadence
        raise SolaredError(
            f"The horizon {horizon} is no multiple of the cadence {cadence} of AR{ar_number}; choose a horizon that "
            f"is, such as {nearest}."
        )
    return steps


def count_before(flags: np.ndarray) -> np.ndarray:
    """(n+1,) number of true flags before each position, so that a range is counted by one subtraction."""
    return np.concatenate([[0], np.cumsum(flags)])


def _region(timeline: Timeline, starts: np.ndarray, target_steps: np.ndarray, dropped: Mapping[str, int]) -> Region:
    report = RegionWindows(timeline.ar_number, len(timeline), len(starts), dict(dropped))
    return Region(timeline, starts, target_steps, report)
