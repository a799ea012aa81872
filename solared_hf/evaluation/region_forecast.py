"""The forecast of one region, with the alarms that the forecaster would have issued."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.evaluation.alarms import forecast_trajectories, issue_alarms, score_alarms
from solared_hf.evaluation.emergence import observed_onsets
from solared_hf.evaluation.quantiles import interval_of_80_percent
from solared_hf.forecasters.base import Forecaster, QuantileForecaster
from solared_hf.forecasters.baselines import Persistence
from solared_hf.schema import AVAILABILITY_DELAY


@dataclass(frozen=True)
class Alarms:
    """The alarms that one forecaster would have issued in one region.

    Args:
        issued: (63,) datetime64[ms] array, naive TAI: when the alarm of each tile was available. NaT if the tile has
            no alarm, or emerged before the first issue, as in the scores.
        lead_hours: Hours from alarm to observed onset, by tile; zero or negative for a late detection. False and
            premature alarms have no entry.
    """

    issued: np.ndarray
    lead_hours: Mapping[int, float]


@dataclass(frozen=True)
class RegionForecast:
    """Forecasts of one region by a forecaster and by persistence.

    Args:
        timeline: The region.
        horizon: Time from the last input step to the target.
        target_times: (N,) datetime64[ms] array, naive TAI: target times of the forecasts.
        forecasts: (N, 63) arrays in DN by name of the forecaster, the forecaster first, then persistence; a single
            entry if the forecaster is persistence.
        band: Lower and upper end of the forecaster's 80 % interval, each (N, 63) in DN; None without quantiles.
        onsets: (63,) datetime64[ms] array, naive TAI: observed onset of each tile, NaT for tiles without onset.
        first_issue: When the first forecast was available; earlier onsets cannot be warned of.
        alarms: Alarms by name, as in `forecasts`; empty if no alarm scale was given.
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
        """Name of the forecaster."""
        return next(iter(self.forecasts))


def forecast_region(forecaster: Forecaster, windows: SolaredWindows, alarm_scale_dn: float | None) -> RegionForecast:
    """Return the forecasts and alarms of a forecaster and of persistence on the same windows of one region.

    Args:
        forecaster: If it forecasts the quantiles 0.1 and 0.9, they are the ends of the interval.
        windows: Windows of one region, cut with `require_target=False`.
        alarm_scale_dn: DN of one unit of the alarm threshold, from `alarms.alarm_scale`; None for no alarms.

    Raises:
        SolaredError: If the forecaster cannot forecast the windows.
    """
    (timeline,) = (region.timeline for region in windows.regions)
    onsets = observed_onsets(timeline)
    first_issue = windows.last_input_times[0] + np.timedelta64(AVAILABILITY_DELAY)
    forecasts, alarms = {}, {}
    forecasters: dict[str, Forecaster] = {forecaster.name: forecaster, Persistence.name: Persistence()}
    for name, compared in forecasters.items():
        if alarm_scale_dn is None:
            forecasts[name] = compared.forecast(windows)
        else:
            trajectories = forecast_trajectories(compared, windows)
            issued = issue_alarms(windows, trajectories, alarm_scale_dn)
            score = score_alarms(windows, issued)[timeline.ar_number]
            alarms[name] = Alarms(
                np.where(onsets <= first_issue, np.datetime64("NaT"), issued[timeline.ar_number]),
                {lead.tile: lead.hours for lead in score.leads},
            )
            at_horizon = trajectories[:, windows.horizon_steps - 1 : windows.horizon_steps]
            # The trajectory holds the forecast already, unless the horizon is beyond the warning period.
            forecasts[name] = at_horizon[:, 0].copy() if at_horizon.size else compared.forecast(windows)
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
    if not isinstance(forecaster, QuantileForecaster) or not forecaster.quantile_levels:
        return None
    # A copy, so that the quantiles of the earlier steps are not kept in memory.
    at_horizon = forecaster.quantiles(windows, windows.horizon_steps)[:, -1].copy()
    return interval_of_80_percent(at_horizon, forecaster.quantile_levels)
