"""The picture of one region as a forecaster sees it, with the alarms that it would have issued."""

from datetime import datetime, timedelta

import numpy as np
from matplotlib.figure import Figure

from solared_hf.baselines import Persistence
from solared_hf.evaluation.alarms import forecast_trajectories, issue_alarms
from solared_hf.evaluation.emergence import observed_onsets
from solared_hf.evaluation.published_protocol import PROTOCOL_TILES
from solared_hf.evaluation.quantiles import interval_of_80_percent
from solared_hf.forecasting import Forecaster
from solared_hf.plotting.forecasts import ALARM, NOAA, ONSET, plot_forecast, strongest_row
from solared_hf.schema import AVAILABILITY_DELAY, NUM_TILES
from solared_hf.timelines import Timeline
from solared_hf.windows import SolaredWindows


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
    windows = forecaster.windows([timeline], require_target=False)
    onsets = observed_onsets(timeline)
    trajectories = forecast_trajectories(forecaster, windows)
    alarms = issue_alarms(windows, trajectories, alarm_scale_dn)[timeline.ar_number]
    # As in the scores, there is nothing to warn of in a tile that had emerged before the first issue.
    first_issue = windows.last_input_times[0] + np.timedelta64(AVAILABILITY_DELAY)
    marks = {ONSET: onsets, ALARM: np.where(onsets <= first_issue, np.datetime64("NaT"), alarms)}
    if noaa_emergence_time is not None:
        # UTC is 34 to 37 s behind TAI, less than the width of a line.
        marks[NOAA] = np.full(NUM_TILES, np.datetime64(noaa_emergence_time, "ms"))
    return plot_forecast(
        timeline,
        windows.target_times,
        {forecaster.name: forecaster.forecast(windows), Persistence.name: Persistence().forecast(windows)},
        PROTOCOL_TILES.get(timeline.ar_number) or strongest_row(timeline.intensity),
        title=f"AR{timeline.ar_number}: {_horizon(windows.horizon)}",
        band=_interval(forecaster, windows),
        marks=marks,
    )


def _interval(forecaster: Forecaster, windows: SolaredWindows) -> tuple[np.ndarray, np.ndarray] | None:
    levels = getattr(forecaster, "quantile_levels", ())
    if not levels:
        return None
    return interval_of_80_percent(forecaster.quantiles(windows, windows.horizon_steps)[:, -1], levels)


def _horizon(horizon: timedelta) -> str:
    hours, lead = (duration / timedelta(hours=1) for duration in (horizon, horizon - AVAILABILITY_DELAY))
    ahead = f"forecast {hours:g} h after the last input step"
    return f"{ahead}, {lead:g} h after it could be issued" if lead > 0 else ahead
