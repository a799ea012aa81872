"""The protocol by which the published networks were scored, so that a forecaster can be placed beside them.

Per test region the seven tiles of the row in which it emerges; windows cut by index, whatever the timestamps say, with
0 DN for what was not observed; the target 11 steps after the last input step; the root mean squared error per tile in
units of the region's intensity range over all tiles and its whole timeline, averaged over tiles, then over regions.
Only the error is expressed in that range: a forecaster never sees it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError
from solared_hf.evaluation.breakdowns import rmse_by_tile
from solared_hf.evaluation.intervals import region_interval
from solared_hf.forecasters.base import Forecaster

PROTOCOL_TILES = {
    11698: range(37, 44),
    11726: range(28, 35),
    13165: range(19, 26),
    13179: range(28, 35),
    13183: range(28, 35),
}
"""The tiles of each region that count, out of 0..62."""

_CADENCE = timedelta(hours=1)
_HORIZON_STEPS = 11
_INPUT_STEPS = 96
_INPUT_STEPS_OF = {11726: 72}


@dataclass(frozen=True)
class PublishedScore:
    """What a publication reports by its protocol, with its recalibration."""

    name: str
    rmse_recalibrated: float
    source: str


PUBLISHED_SCORES = (
    # The network of arXiv 2409.17421, as the later paper scores it.
    PublishedScore("LSTM", 0.133, "arXiv 2601.13144"),
    PublishedScore("Transformer", 0.1189, "arXiv 2601.13144"),
)


@dataclass(frozen=True)
class ProtocolScore:
    """How one forecaster did by the published protocol, in units of each region's intensity range.

    The recalibrated errors are those of `recalibrate`, which looks into the future: they are no measure of a forecast
    and are given only because the published scores are such. The interval is that of `rmse`, 90 % over five regions.
    """

    name: str
    rmse: float
    rmse_recalibrated: float
    rmse_by_region: dict[int, float]
    recalibrated_by_region: dict[int, float]
    rmse_interval: tuple[float, float]


def published_windows(timeline: Timeline) -> SolaredWindows:
    """The protocol's windows of one region, in physical units.

    Gaps are closed as if there were none and NaN is 0, in the input as in the target. 96 steps of input, 72 for
    AR11726, and the target 11 steps after the last of them: the targets are the steps input + 10 .. T - 1.

    Raises:
        SolaredError: the steps are not hourly, or too few for a window.
    """
    if timeline.cadence != _CADENCE:
        raise SolaredError(
            f"AR{timeline.ar_number} has a step every {timeline.cadence}, and the published protocol counts hourly "
            "steps; use a dataset with a step every hour."
        )
    times = timeline.times[0] + np.arange(len(timeline)) * np.timedelta64(_CADENCE)
    values = np.where(np.isnan(timeline.values), np.float32(0), timeline.values)
    return SolaredWindows(
        Timeline(timeline.ar_number, times, values),
        input_steps=_INPUT_STEPS_OF.get(timeline.ar_number, _INPUT_STEPS),
        horizon=_HORIZON_STEPS * _CADENCE,
    )


def protocol_score(forecaster: Forecaster, timelines: Iterable[Timeline]) -> ProtocolScore:
    """Score a forecaster by the published protocol.

    A model that forecasts 12 h ahead and nothing else gets the windows without their newest step.

    Args:
        forecaster: it gets each region's windows in physical units, and normalises them as it always does.
        timelines: the five regions of `PROTOCOL_TILES`; others are passed over.

    Raises:
        SolaredError: one of the five regions is missing, or `published_windows` refuses it.
    """
    regions = {timeline.ar_number: timeline for timeline in timelines}
    missing = [f"AR{number}" for number in PROTOCOL_TILES if number not in regions]
    if missing:
        raise SolaredError(
            f"The published protocol is about five test regions, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; use a dataset built from all published files."
        )
    rmse, recalibrated = {}, {}
    for number, tiles in PROTOCOL_TILES.items():
        windows = published_windows(regions[number])
        (region,) = windows.regions
        intensity = region.timeline.intensity.astype(np.float64)
        forecast, targets = forecaster.forecast(windows)[:, tiles], intensity[region.target_steps][:, tiles]
        before = intensity[region.target_steps[0] - 1, tiles]
        unit = np.ptp(intensity)
        rmse[number] = float(rmse_by_tile(forecast, targets).mean() / unit)
        recalibrated[number] = float(rmse_by_tile(recalibrate(forecast, before), targets).mean() / unit)
    return ProtocolScore(
        name=forecaster.name,
        rmse=_mean(rmse),
        rmse_recalibrated=_mean(recalibrated),
        rmse_by_region=rmse,
        recalibrated_by_region=recalibrated,
        rmse_interval=region_interval(np.mean, np.array(list(rmse.values()))),
    )


def recalibrate(forecast: np.ndarray, observed_before: np.ndarray) -> np.ndarray:
    """A region's forecasts as the publications score them: each tile's series shifted to begin at an observation.

    The observation is that of the step just before the first target, 10 steps after the last one that the first
    forecast may know, so the shift looks into the future. Never use it in a forecast.

    Args:
        forecast: (N, tiles), in order of time.
        observed_before: (tiles,) observed at the step before the first target.

    >>> recalibrate(np.array([[5.0], [7.0]]), np.array([1.0])).ravel()
    array([1., 3.])
    """
    return forecast + (observed_before - forecast[0])


def _mean(by_region: dict[int, float]) -> float:
    return float(np.mean(list(by_region.values())))
