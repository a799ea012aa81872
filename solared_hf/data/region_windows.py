"""Cut the windows of one region: find the first step of each window, and count the dropped windows by reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np

from solared_hf.data.step_times import MOST_JITTER, nearest_steps
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError

# Reasons to drop a window, in the order of the checks.
SPANS_GAP = "spans a gap"
TARGET_NOT_OBSERVED = "target not observed"
INPUT_NOT_OBSERVED = "input never observed"
INPUT_HAS_NAN = "input has NaN"
TOO_SHORT = "region too short"


@dataclass(frozen=True)
class RegionWindows:
    """The number of windows of one region, and of the dropped windows by reason."""

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
    """One region with its windows; steps count the rows of the timeline."""

    timeline: Timeline
    starts: np.ndarray  # (windows,) int, first step of each window
    target_steps: np.ndarray  # (windows,) int, step of each target, -1 if the target has no step
    report: RegionWindows


def cut_region(
    timeline: Timeline,
    observed: np.ndarray,
    input_steps: int,
    horizon: timedelta,
    require_target: bool,
    drop_nan: bool,
) -> Region:
    """Return the windows of a region that can be used, and the number of the others by reason.

    Args:
        timeline: The region.
        observed: (T, C, 63) bool, True where an input channel was observed.
        input_steps: Steps of input.
        horizon: Time from the last input step to the target.
        require_target: Keep only windows with an observed target, and without a gap before the target.
        drop_nan: Keep only windows without NaN in the input.

    Raises:
        SolaredError: If the horizon is not a multiple of the cadence of the region.
    """
    # A single step has no cadence, so its target time has no step.
    ahead = steps_ahead(horizon, timeline.cadence, timeline.ar_number) if len(timeline) > 1 else 1
    span = input_steps + (ahead if require_target else 0)
    starts = np.arange(max(len(timeline) - span + 1, 0))
    if not len(starts) or len(timeline) == 1:
        return _region(timeline, starts[:0], starts[:0], {TOO_SHORT: 1})
    stops = starts + input_steps
    target_times = timeline.times[stops - 1] + np.timedelta64(horizon, "ms")
    target_steps = nearest_steps(timeline.times, target_times, np.timedelta64(timeline.cadence))

    breaks = count_before(timeline.breaks)
    has_value = count_before(np.any(observed, axis=(1, 2)))
    reasons = {SPANS_GAP: breaks[starts + span - 1] > breaks[starts]}
    if require_target:
        reasons[TARGET_NOT_OBSERVED] = (target_steps < 0) | np.isnan(timeline.intensity).any(axis=1)[target_steps]
    reasons[INPUT_NOT_OBSERVED] = has_value[stops] == has_value[starts]
    if drop_nan:
        has_nan = count_before(np.any(~observed, axis=(1, 2)))
        reasons[INPUT_HAS_NAN] = has_nan[stops] > has_nan[starts]
    reason = np.select(list(reasons.values()), list(reasons), default="")
    kept = reason == ""
    return _region(timeline, starts[kept], target_steps[kept], Counter(reason[~kept].tolist()))


def steps_ahead(horizon: timedelta, cadence: timedelta, ar_number: int) -> int:
    """Return a horizon in steps, with a tolerance of `MOST_JITTER` of a cadence.

    Raises:
        SolaredError: If the horizon lies between two steps.
    """
    steps = round(horizon / cadence)
    if abs(horizon - steps * cadence) > MOST_JITTER * cadence or steps < 1:
        nearest = max(steps, 1) * cadence
        raise SolaredError(
            f"The horizon {horizon} is not a multiple of the cadence {cadence} of AR{ar_number}. Choose a multiple, "
            f"such as {nearest}."
        )
    return steps


def count_before(flags: np.ndarray) -> np.ndarray:
    """Return the (n+1,) number of true flags before each position; a difference of two counts a range."""
    return np.concatenate([[0], np.cumsum(flags)])


def _region(timeline: Timeline, starts: np.ndarray, target_steps: np.ndarray, dropped: Mapping[str, int]) -> Region:
    report = RegionWindows(timeline.ar_number, len(timeline), len(starts), dict(dropped))
    return Region(timeline, starts, target_steps, report)
