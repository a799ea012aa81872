"""One region as a forecaster sees it, with the alarms that it would have issued: as figures, and as a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from matplotlib.figure import Figure

from solared_hf.baselines import Persistence
from solared_hf.evaluation.alarms import forecast_trajectories, issue_alarms, score_alarms
from solared_hf.evaluation.emergence import observed_onsets
from solared_hf.evaluation.published_protocol import PROTOCOL_TILES
from solared_hf.evaluation.quantiles import interval_of_80_percent
from solared_hf.forecasting import Forecaster
from solared_hf.plotting.forecasts import ALARM, NOAA, ONSET, plot_forecast, strongest_row
from solared_hf.schema import AVAILABILITY_DELAY, NUM_TILES
from solared_hf.timelines import Timeline
from solared_hf.windows import SolaredWindows


@dataclass(frozen=True)
class Alarms:
    """What a forecaster would have warned of in one region.

    Args:
        issued: (63,) datetime64[ms], naive TAI, when each tile's alarm was available; NaT where there was none, or
            where the tile had emerged before the first issue, as in the scores.
        lead_hours: by tile, how much earlier than the observed onset; not above 0 for a late detection. Alarms that
            were false, or came too early to count, have none.
    """

    issued: np.ndarray
    lead_hours: Mapping[int, float]


@dataclass(frozen=True)
class RegionForecast:
    """Forecasts of one region by a forecaster and by persistence.

    Args:
        timeline: the region.
        horizon: time from the last input step to the target.
        target_times: (N,) datetime64[ms], naive TAI, that the forecasts are for.
        forecasts: (N, 63) in DN by name, the forecaster's first; only one where that is persistence itself.
        band: lower and upper end of the forecaster's 80 % interval, each (N, 63) in DN; None where it gives none.
        onsets: (63,) datetime64[ms], when each tile was observed to emerge, NaT where it was not.
        first_issue: when the first of the forecasts was available; nothing that emerged before could be warned of.
        alarms: by name, as `forecasts`; empty where there is no scale for them.
    """

    timeline: Timeline
    horizon: timedelta
    target_times: np.ndarray
    forecasts: Mapping[str, np.ndarray]
    band: tuple[np.ndarray, np.ndarray] | None
    onsets: np.ndarray
    first_issue: np.datetime64
    alarms: Mapping[str, Alarms]

    @property
    def name(self) -> str:
        """The forecaster's."""
        return next(iter(self.forecasts))


def forecast_region(forecaster: Forecaster, windows: SolaredWindows, alarm_scale_dn: float | None) -> RegionForecast:
    """What a forecaster and persistence, on the same windows, say of one region and would have warned of.

    Args:
        forecaster: where it gives the quantiles 0.1 and 0.9, these are the interval.
        windows: of one region, cut with `require_target=False`.
        alarm_scale_dn: DN of one unit of the alarms' threshold, `evaluation.alarms.alarm_scale`; None for no alarms.

    Raises:
        SolaredError: the forecaster cannot forecast the windows.
    """
    (timeline,) = (region.timeline for region in windows.regions)
    onsets = observed_onsets(timeline)
    first_issue = windows.last_input_times[0] + np.timedelta64(AVAILABILITY_DELAY)
    forecasts, alarms = {}, {}
    for name, one in {forecaster.name: forecaster, Persistence.name: Persistence()}.items():
        if alarm_scale_dn is None:
            forecasts[name] = one.forecast(windows)
        else:
            trajectories = forecast_trajectories(one, windows)
            issued = issue_alarms(windows, trajectories, alarm_scale_dn)
            score = score_alarms(windows, issued)[timeline.ar_number]
            alarms[name] = Alarms(
                np.where(onsets <= first_issue, np.datetime64("NaT"), issued[timeline.ar_number]),
                {lead.tile: lead.hours for lead in score.leads},
            )
            at_horizon = trajectories[:, windows.horizon_steps - 1 : windows.horizon_steps]
            # The model has said it already, except where its horizon is beyond what alarms look at.
            forecasts[name] = at_horizon[:, 0].copy() if at_horizon.size else one.forecast(windows)
    return RegionForecast(
        timeline=timeline,
        horizon=windows.horizon,
        target_times=windows.target_times,
        forecasts=forecasts,
        band=_interval(forecaster, windows),
        onsets=onsets,
        first_issue=first_issue,
        alarms=alarms,
    )


def plot_region_forecast(
    forecaster: Forecaster, timeline: Timeline, alarm_scale_dn: float, noaa_emergence_time: datetime | None = None
) -> Figure:
    """A forecaster and persistence against what was observed of a region, with its alarms and the observed onsets.

    Shown are seven tiles: those of the published figures for the published test regions, else the inner ones of the
    row in which the intensity varies most.

    Args:
        forecaster: where it gives the quantiles 0.1 and 0.9, the interval between them is shown.
        timeline: the region.
        alarm_scale_dn: DN of one unit of the alarms' threshold, `evaluation.alarms.alarm_scale`.
        noaa_emergence_time: when NOAA first reported the region, UTC; None where that is not known.

    Raises:
        SolaredError: no window can be cut from the region.
    """
    forecast = forecast_region(forecaster, forecaster.windows([timeline], require_target=False), alarm_scale_dn)
    return plot_forecast(
        timeline,
        forecast.target_times,
        forecast.forecasts,
        PROTOCOL_TILES.get(timeline.ar_number) or strongest_row(timeline.intensity),
        title=f"AR{timeline.ar_number}: {horizon_in_words(forecast.horizon)}",
        band=forecast.band,
        marks={ONSET: forecast.onsets, ALARM: forecast.alarms[forecast.name].issued, **noaa_mark(noaa_emergence_time)},
    )


def noaa_mark(noaa_emergence_time: datetime | None) -> dict[str, np.ndarray]:
    """The mark of the time, UTC, at which NOAA first reported a region; none where that is not known."""
    if noaa_emergence_time is None:
        return {}
    # UTC is 34 to 37 s behind TAI, less than the width of a line.
    return {NOAA: np.full(NUM_TILES, np.datetime64(noaa_emergence_time, "ms"))}


def horizon_in_words(horizon: timedelta) -> str:
    """How far ahead a forecast is, counted from what it uses and from when it can be issued.

    >>> horizon_in_words(timedelta(hours=12))
    'forecast 12 h after the last input step, 8 h after it could be issued'
    """
    hours, lead = (duration / timedelta(hours=1) for duration in (horizon, horizon - AVAILABILITY_DELAY))
    ahead = f"forecast {hours:g} h after the last input step"
    return f"{ahead}, {lead:g} h after it could be issued" if lead > 0 else ahead


def _interval(forecaster: Forecaster, windows: SolaredWindows) -> tuple[np.ndarray, np.ndarray] | None:
    levels = getattr(forecaster, "quantile_levels", ())
    if not levels:
        return None
    # A copy, so that the quantiles of the steps before are not kept with it.
    at_horizon = forecaster.quantiles(windows, windows.horizon_steps)[:, -1].copy()
    return interval_of_80_percent(at_horizon, levels)
