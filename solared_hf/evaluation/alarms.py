"""Warnings of emergence as a forecaster could have issued them, and how early they came.

An issue is made after each window, once its last input step is available: `schema.AVAILABILITY_DELAY` after the time
of that step. What is known then of a tile is its path: the intensity observed up to the last input step, and the
forecast from there on. A tile's alarm is the first issue on whose path it has an onset that is later than the last
input step of the region's first window, so in what is forecast (a warning) or in what has been observed since (a late
detection).

Cut windows with `require_target=False` for this: otherwise what was observed later decides whether an issue is made.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import timedelta

import numpy as np

from solared_hf.data.step_times import nearest_steps
from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.evaluation.emergence import (
    ONSET_GRADIENT,
    SMOOTHED_HOURS,
    emergence_onsets,
    intensity_range,
    observed_onsets,
)
from solared_hf.evaluation.intervals import region_interval
from solared_hf.forecasters.base import Forecaster
from solared_hf.schema import AVAILABILITY_DELAY, NUM_TILES

# How long an alarm is good for, and so how far ahead a path is looked at.
WARNING_PERIOD = timedelta(hours=24)

_NEVER = np.datetime64("NaT", "ms")


@dataclass(frozen=True)
class AlarmLead:
    """How much earlier than the onset an alarm was available, in hours; not above 0 for a late detection."""

    ar_number: int
    tile: int
    hours: float


@dataclass(frozen=True)
class EmergenceScore:
    """What became of the tiles of one region or several; only the first alarm of a tile counts.

    Tiles with an onset are `hits`, `late` or `missed`; tiles without one are `quiet`, `undecided`, or had a false
    alarm. A premature alarm is a false one, and its tile is missed.
    """

    hits: int = 0  # the onset came within WARNING_PERIOD after the alarm was available
    late: int = 0  # the alarm was available at the onset or after it
    missed: int = 0  # no alarm, or a premature one
    premature: int = 0  # the onset came, but later than WARNING_PERIOD after the alarm
    false_alarms: int = 0  # no onset came within WARNING_PERIOD, nor had there been one
    undecided: int = 0  # no onset came, but the timeline ends before WARNING_PERIOD is over
    quiet: int = 0  # neither onset nor alarm
    already_emerged: int = 0  # left out: the onset was over before the first issue
    leads: tuple[AlarmLead, ...] = ()  # of hits and of late detections

    @property
    def onsets(self) -> int:
        """Tiles that could have been warned of."""
        return self.hits + self.late + self.missed

    @property
    def alarms(self) -> int:
        """Alarms of which it is known whether they were right."""
        return self.hits + self.late + self.false_alarms

    @property
    def alarms_without_onset(self) -> int:
        """False alarms of tiles that never had an onset."""
        return self.false_alarms - self.premature

    @property
    def tiles_without_onset(self) -> int:
        """Tiles that never had an onset, less the undecided."""
        return self.alarms_without_onset + self.quiet

    @property
    def lead_hours(self) -> list[float]:
        """Hours between alarm and onset of each hit, ascending."""
        return sorted(lead.hours for lead in self.leads if lead.hours > 0)

    @property
    def hit_rate(self) -> float:
        """Share of the onsets that were warned of in time; NaN where there was none."""
        return _share(self.hits, self.onsets)

    @property
    def false_alarm_ratio(self) -> float:
        """Share of the alarms that were false; NaN where there was none."""
        return _share(self.false_alarms, self.alarms)

    @property
    def false_alarm_rate(self) -> float:
        """Share of the tiles without onset that were warned of; NaN where there was none."""
        return _share(self.alarms_without_onset, self.tiles_without_onset)


def forecast_trajectories(forecaster: Forecaster, windows: SolaredWindows) -> np.ndarray:
    """(N, S, 63) float32: what a forecaster says of the S steps after each window's last input step, in DN.

    The trajectory of a forecaster that gives one, as far as it reaches within `WARNING_PERIOD`; otherwise what its
    forecasts at the windows' horizon say, `lagged_trajectories`.

    Raises:
        SolaredError: the regions' cadences differ, or the forecaster cannot forecast the windows.
    """
    if forecaster.longest_trajectory:
        steps = WARNING_PERIOD // windows.cadence
        return forecaster.trajectory(windows, int(min(steps, forecaster.longest_trajectory)))
    return lagged_trajectories(windows, forecaster.forecast(windows))


def lagged_trajectories(windows: SolaredWindows, forecasts: np.ndarray) -> np.ndarray:
    """What is known at each issue from forecasts that speak of one horizon only.

    Of the steps before its own target, a window knows what the windows before it said.

    Args:
        windows: N windows.
        forecasts: (N, 63) at the windows' target times, DN.

    Returns:
        (N, horizon steps, 63), in the unit of the forecasts, NaN where no window spoke of the step.

    Raises:
        SolaredError: there is not one forecast for each window, or the regions' cadences differ.
    """
    steps, cadence = windows.horizon_steps, np.timedelta64(windows.cadence, "ms")
    parts = windows.by_region(windows.last_input_times), windows.by_region(forecasts)
    trajectories = []
    for last, its_forecasts in zip(*parts, strict=True):
        if not len(last):
            trajectories.append(np.empty((0, steps, *its_forecasts.shape[1:]), np.float32))
            continue
        ahead = last[:, None] + cadence * np.arange(1, steps + 1)
        # Never later than its own, whose target is the last of these steps.
        issue = nearest_steps(last + cadence * steps, ahead, cadence)
        trajectories.append(np.where((issue >= 0)[..., None], its_forecasts[issue], np.float32(np.nan)))
    return np.concatenate(trajectories)


def alarm_scale(train: Iterable[Timeline]) -> float:
    """DN of one unit of the onset's threshold: the median of the train regions' intensity ranges.

    The range of the region itself, by which its onsets are defined, is not known before it has emerged.
    """
    return float(np.nanmedian([intensity_range(timeline) for timeline in train]))


def issue_alarms(
    windows: SolaredWindows, trajectories: np.ndarray, scale_dn: float, threshold: float = ONSET_GRADIENT
) -> dict[int, np.ndarray]:
    """When each tile's alarm was available.

    Args:
        windows: N windows, in order of time in each region.
        trajectories: (N, S, 63) in DN, the forecast of the S steps after each window's last input step, NaN where
            there is none: `forecast_trajectories`, or one quantile of `ModelForecaster.quantiles`.
        scale_dn: DN of one unit of the threshold, `alarm_scale`.
        threshold: change per hour at which a decline is an onset; closer to 0 it warns of more, rightly and wrongly.

    Returns:
        By AR number, (63,) datetime64[ms], naive TAI; NaT where there was no alarm.

    Raises:
        SolaredError: there is not one trajectory for each window, or the regions' cadences differ.
    """
    hours = windows.cadence / timedelta(hours=1) * np.arange(1 - windows.input_steps, trajectories.shape[1] + 1)
    alarms = {}
    parts = windows.by_region(windows.last_input_times), windows.by_region(trajectories)
    for region, last, its_trajectories in zip(windows.regions, *parts, strict=True):
        if not len(region.starts):
            continue
        past = region.timeline.intensity[region.starts[:, None] + np.arange(windows.input_steps)]
        path = np.concatenate([past, its_trajectories], axis=1) / np.float32(scale_dn)
        # What is steep where a later window begins may have begun before it, and then it was on an earlier path.
        after = np.maximum(_hours(last[0] - last), hours[0] + SMOOTHED_HOURS)
        onsets = emergence_onsets(path, hours, threshold, after=after)
        raised = ~np.isnan(onsets)
        available = last[raised.argmax(axis=0)] + np.timedelta64(AVAILABILITY_DELAY, "ms")
        alarms[region.timeline.ar_number] = np.where(raised.any(axis=0), available, _NEVER)
    return alarms


def score_alarms(windows: SolaredWindows, alarms: dict[int, np.ndarray]) -> dict[int, EmergenceScore]:
    """What became of the alarms, by AR number, against the onsets that were observed (`observed_onsets`).

    Args:
        windows: those that the alarms were issued for.
        alarms: `issue_alarms`, by AR number (63,) datetime64[ms].
    """
    return {
        region.timeline.ar_number: _score_region(
            region.timeline,
            alarms[region.timeline.ar_number],
            last[0] + np.timedelta64(AVAILABILITY_DELAY, "ms"),
        )
        for region, last in zip(windows.regions, windows.by_region(windows.last_input_times), strict=True)
        if len(last)
    }


def add_up(scores: Iterable[EmergenceScore]) -> EmergenceScore:
    """The score of several regions together.

    >>> add_up([EmergenceScore(hits=2, false_alarms=1), EmergenceScore(hits=1)])  # doctest: +ELLIPSIS
    EmergenceScore(hits=3, late=0, missed=0, premature=0, false_alarms=1, ...)
    """
    scores = list(scores)
    return EmergenceScore(
        **{
            field.name: sum((getattr(score, field.name) for score in scores), field.default)
            for field in fields(EmergenceScore)
        }
    )


def rate_intervals(scores: Iterable[EmergenceScore]) -> dict[str, tuple[float, float] | None]:
    """90 % intervals of `hit_rate`, `false_alarm_ratio` and `false_alarm_rate` over regions.

    Args:
        scores: one a region. A region without any of what a rate is a share of says nothing about it and is not drawn;
            with fewer than two that do there is no interval.
    """
    scores = list(scores)
    rates = {
        "hit_rate": ("hits", "onsets"),
        "false_alarm_ratio": ("false_alarms", "alarms"),
        "false_alarm_rate": ("alarms_without_onset", "tiles_without_onset"),
    }
    intervals = {}
    for name, shares in rates.items():
        counts = np.array([[getattr(score, share) for share in shares] for score in scores], dtype=np.float64)
        part, whole = counts[counts[:, 1] > 0].T
        intervals[name] = region_interval(lambda part, whole, axis: part.sum(axis) / whole.sum(axis), part, whole)
    return intervals


def _score_region(timeline: Timeline, alarms: np.ndarray, first_issue: np.datetime64) -> EmergenceScore:
    onsets = observed_onsets(timeline)
    left = ~(onsets <= first_issue)
    emerged, warned = left & ~np.isnat(onsets), left & ~np.isnat(alarms)
    # Comparisons with NaT are false, so a lead that does not exist is nothing of the following.
    lead, nothing = onsets - alarms, np.timedelta64(0)
    late = left & (lead <= nothing)
    premature = left & (lead > np.timedelta64(WARNING_PERIOD, "ms"))
    hits = left & (lead > nothing) & ~premature
    undecided = warned & ~emerged & (alarms + np.timedelta64(WARNING_PERIOD, "ms") > timeline.times[-1])
    return EmergenceScore(
        hits=int(hits.sum()),
        late=int(late.sum()),
        missed=int((emerged & ~hits & ~late).sum()),
        premature=int(premature.sum()),
        false_alarms=int((premature | (warned & ~emerged & ~undecided)).sum()),
        undecided=int(undecided.sum()),
        quiet=int((left & ~emerged & ~warned).sum()),
        already_emerged=int(NUM_TILES - left.sum()),
        leads=tuple(
            AlarmLead(timeline.ar_number, int(tile), float(_hours(lead[tile]))) for tile in np.flatnonzero(hits | late)
        ),
    )


def _hours(duration: np.ndarray) -> np.ndarray:
    return duration / np.timedelta64(1, "h")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
