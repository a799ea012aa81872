"""One region as a forecaster sees it, with the alarms that it would have issued."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.evaluation.alarms import forecast_trajectories, issue_alarms, score_alarms
from solared_hf.evaluation.emergence import observed_onsets
from solared_hf.evaluation.quantiles import interval_of_80_percent
from solared_hf.forecasters.base import Forecaster
from solared_hf.forecasters.baselines import Persistence
from solared_hf.schema import AVAILABILITY_DELAY


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


def _interval(forecaster: Forecaster, windows: SolaredWindows) -> tuple[np.ndarray, np.ndarray] | None:
    levels = getattr(forecaster, "quantile_levels", ())
    if not levels:
        return None
    # A copy, so that the quantiles of the steps before are not kept with it.
    at_horizon = forecaster.quantiles(windows, windows.horizon_steps)[:, -1].copy()
    return interval_of_80_percent(at_horizon, levels)
