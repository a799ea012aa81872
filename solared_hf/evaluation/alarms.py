"""Alarms of emergence that a forecaster would have issued, and their lead times.

A forecast is issued after each window, when its last input step is available: `schema.AVAILABILITY_DELAY` after the
time of that step. The path of a tile at an issue is the observed intensity up to the last input step, followed by the
forecast. The alarm of a tile is the first issue whose path has an onset later than the last input step of the region's
first window. The onset is then either in the forecast (a warning) or in the steps observed since (a late detection).

Cut the windows with `require_target=False`. Otherwise later observations decide whether a forecast is issued.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
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

# How long an alarm is valid; only this much of a path is searched for an onset.
WARNING_PERIOD = timedelta(hours=24)

_NEVER = np.datetime64("NaT", "ms")


@dataclass(frozen=True)
class AlarmLead:
    """Hours from the alarm to the onset of one tile; zero or negative for a late detection."""

    ar_number: int
    tile: int
    hours: float


@dataclass(frozen=True)
class EmergenceScore:
    """Numbers of hits, misses and false alarms in one or several regions; only the first alarm of a tile counts.

    A tile with an onset is counted in `hits`, `late` or `missed`; a tile without onset in `quiet`, `undecided` or
    `false_alarms`. A premature alarm counts as a false alarm, and its tile as missed.
    """

    hits: int = 0  # the onset came within WARNING_PERIOD after the alarm was available
    late: int = 0  # the alarm was available at the onset or after it
    missed: int = 0  # no alarm, or a premature alarm
    premature: int = 0  # the onset came, but later than WARNING_PERIOD after the alarm
    false_alarms: int = 0  # no onset before the alarm or within WARNING_PERIOD after it
    undecided: int = 0  # no onset came, but the timeline ends before WARNING_PERIOD is over
    quiet: int = 0  # no onset and no alarm
    already_emerged: int = 0  # not scored, because the onset came before the first issue
    leads: tuple[AlarmLead, ...] = ()  # of hits and of late detections

    @property
    def onsets(self) -> int:
        """Number of onsets that the forecaster could have warned of."""
        return self.hits + self.late + self.missed

    @property
    def alarms(self) -> int:
        """Number of alarms that are known to be right or false."""
        return self.hits + self.late + self.false_alarms

    @property
    def alarms_without_onset(self) -> int:
        """Number of false alarms in tiles that never had an onset."""
        return self.false_alarms - self.premature

    @property
    def tiles_without_onset(self) -> int:
        """Number of tiles that never had an onset, without the undecided tiles."""
        return self.alarms_without_onset + self.quiet

    @property
    def lead_hours(self) -> list[float]:
        """Hours between alarm and onset of each hit, ascending."""
        return sorted(lead.hours for lead in self.leads if lead.hours > 0)

    @property
    def hit_rate(self) -> float:
        """Share of the onsets that were hits; NaN without onsets."""
        return _share(self.hits, self.onsets)

    @property
    def false_alarm_ratio(self) -> float:
        """Share of the alarms that were false; NaN without alarms."""
        return _share(self.false_alarms, self.alarms)

    @property
    def false_alarm_rate(self) -> float:
        """Share of the tiles without onset that had an alarm; NaN without any tile without onset."""
        return _share(self.alarms_without_onset, self.tiles_without_onset)


def forecast_trajectories(forecaster: Forecaster, windows: SolaredWindows) -> np.ndarray:
    """Return the forecast of the S steps after the last input step of each window, (N, S, 63) float32 in DN.

    If the forecaster gives trajectories, the part of the trajectory within `WARNING_PERIOD`; otherwise the
    `lagged_trajectories` of its forecasts.

    Raises:
        SolaredError: If the cadences of the regions differ, or the forecaster cannot forecast the windows.
    """
    if forecaster.longest_trajectory:
        steps = WARNING_PERIOD // windows.cadence
        return forecaster.trajectory(windows, int(min(steps, forecaster.longest_trajectory)))
    return lagged_trajectories(windows, forecaster.forecast(windows))


def lagged_trajectories(windows: SolaredWindows, forecasts: np.ndarray) -> np.ndarray:
    """Return trajectories made of forecasts for a single horizon.

    The steps before the target of a window take the forecasts of earlier windows.

    Args:
        windows: N windows.
        forecasts: (N, 63) array of forecasts for the target times of the windows, in DN.

    Returns:
        (N, horizon steps, 63) array in the unit of the forecasts, NaN at steps that no window has forecast.

    Raises:
        SolaredError: If the numbers of forecasts and windows differ, or the cadences of the regions differ.
    """
    steps, cadence = windows.horizon_steps, np.timedelta64(windows.cadence, "ms")
    parts = windows.by_region(windows.last_input_times), windows.by_region(forecasts)
    trajectories = []
    for last, region_forecasts in zip(*parts, strict=True):
        if not len(last):
            trajectories.append(np.empty((0, steps, *region_forecasts.shape[1:]), np.float32))
            continue
        ahead = last[:, None] + cadence * np.arange(1, steps + 1)
        # The latest of these issues is the window's own, because the window's target is the last step.
        issue = nearest_steps(last + cadence * steps, ahead, cadence)
        trajectories.append(np.where((issue >= 0)[..., None], region_forecasts[issue], np.float32(np.nan)))
    return np.concatenate(trajectories)


def alarm_scale(train: Iterable[Timeline]) -> float:
    """Return the median of the intensity ranges of the train regions, in DN: one unit of the alarm threshold.

    Onsets are defined by the range of their own region, which is not known before the region has emerged.
    """
    return float(np.nanmedian([intensity_range(timeline) for timeline in train]))


def issue_alarms(
    windows: SolaredWindows, trajectories: np.ndarray, scale_dn: float, threshold: float = ONSET_GRADIENT
) -> dict[int, np.ndarray]:
    """Return when the alarm of each tile was available.

    Args:
        windows: N windows, in order of time in each region.
        trajectories: (N, S, 63) array in DN, the forecast of the S steps after the last input step of each window,
            NaN where no forecast is given: `forecast_trajectories`, or one quantile of `ModelForecaster.quantiles`.
        scale_dn: DN of one unit of the threshold, from `alarm_scale`.
        threshold: Change per hour at which a decline is an onset. Closer to 0 it gives more hits and false alarms.

    Returns:
        (63,) datetime64[ms] arrays, naive TAI, by AR number; NaT for tiles without alarm.

    Raises:
        SolaredError: If the numbers of trajectories and windows differ, or the cadences of the regions differ.
    """
    hours = windows.cadence / timedelta(hours=1) * np.arange(1 - windows.input_steps, trajectories.shape[1] + 1)
    alarms = {}
    parts = windows.by_region(windows.last_input_times), windows.by_region(trajectories)
    for region, last, region_trajectories in zip(windows.regions, *parts, strict=True):
        if not len(region.starts):
            continue
        past = region.timeline.intensity[region.starts[:, None] + np.arange(windows.input_steps)]
        path = np.concatenate([past, region_trajectories], axis=1) / np.float32(scale_dn)
        # A decline at the start of a later window may have begun before the window; an earlier path then shows it.
        after = np.maximum(_hours(last[0] - last), hours[0] + SMOOTHED_HOURS)
        onsets = emergence_onsets(path, hours, threshold, after=after)
        raised = ~np.isnan(onsets)
        available = last[raised.argmax(axis=0)] + np.timedelta64(AVAILABILITY_DELAY, "ms")
        alarms[region.timeline.ar_number] = np.where(raised.any(axis=0), available, _NEVER)
    return alarms


def score_alarms(windows: SolaredWindows, alarms: dict[int, np.ndarray]) -> dict[int, EmergenceScore]:
    """Return the score of the alarms of each region against `observed_onsets`, by AR number.

    Args:
        windows: The windows that the alarms were issued for.
        alarms: (63,) datetime64[ms] arrays by AR number, from `issue_alarms`.
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
    """Return the score of several regions together.

    >>> add_up([EmergenceScore(hits=2, false_alarms=1), EmergenceScore(hits=1)])  # doctest: +ELLIPSIS
    EmergenceScore(hits=3, late=0, missed=0, premature=0, false_alarms=1, ...)
    """
    scores = list(scores)
    counts = [field.name for field in fields(EmergenceScore) if field.name != "leads"]
    total = EmergenceScore(*(sum(getattr(score, name) for score in scores) for name in counts))
    return replace(total, leads=tuple(lead for score in scores for lead in score.leads))


def rate_intervals(scores: Iterable[EmergenceScore]) -> dict[str, tuple[float, float] | None]:
    """Return 90 % intervals over regions of `hit_rate`, `false_alarm_ratio` and `false_alarm_rate`.

    Args:
        scores: Scores of single regions. Regions in which the denominator of a rate is zero are not used for the
            rate; with fewer than two other regions the interval is None.
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
    scored = ~(onsets <= first_issue)
    emerged, warned = scored & ~np.isnat(onsets), scored & ~np.isnat(alarms)
    # Comparisons with NaT are false, so a tile without a lead is neither late nor premature nor a hit.
    lead, zero = onsets - alarms, np.timedelta64(0)
    late = scored & (lead <= zero)
    premature = scored & (lead > np.timedelta64(WARNING_PERIOD, "ms"))
    hits = scored & (lead > zero) & ~premature
    undecided = warned & ~emerged & (alarms + np.timedelta64(WARNING_PERIOD, "ms") > timeline.times[-1])
    return EmergenceScore(
        hits=int(hits.sum()),
        late=int(late.sum()),
        missed=int((emerged & ~hits & ~late).sum()),
        premature=int(premature.sum()),
        false_alarms=int((premature | (warned & ~emerged & ~undecided)).sum()),
        undecided=int(undecided.sum()),
        quiet=int((scored & ~emerged & ~warned).sum()),
        already_emerged=int(NUM_TILES - scored.sum()),
        leads=tuple(
            AlarmLead(timeline.ar_number, int(tile), float(_hours(lead[tile]))) for tile in np.flatnonzero(hits | late)
        ),
    )


def _hours(duration: np.ndarray) -> np.ndarray:
    return duration / np.timedelta64(1, "h")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
