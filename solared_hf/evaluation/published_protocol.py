"""The protocol of the published scores, so that a forecaster can be compared with the published networks.

The protocol scores seven tiles of each test region, in the row in which the region emerges. Windows are cut by index
and ignore the timestamps; missing values are 0 DN. The target is 11 steps after the last input step. The root mean
squared error of each tile is in units of the region's intensity range (over all tiles and the whole timeline),
averaged over tiles, then over regions. The forecaster never sees this range.
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
"""The scored tiles of each region, out of 0..62."""

_CADENCE = timedelta(hours=1)
_HORIZON_STEPS = 11
_INPUT_STEPS = 96
_INPUT_STEPS_OF = {11726: 72}


@dataclass(frozen=True)
class PublishedScore:
    """A score that a publication reports, with recalibration."""

    name: str
    rmse_recalibrated: float
    source: str


PUBLISHED_SCORES = (
    # The network of arXiv 2409.17421, with the score of the later paper.
    PublishedScore("LSTM", 0.133, "arXiv 2601.13144"),
    PublishedScore("Transformer", 0.1189, "arXiv 2601.13144"),
)


@dataclass(frozen=True)
class ProtocolScore:
    """Score of one forecaster by the published protocol, in units of each region's intensity range.

    The recalibrated errors use `recalibrate`, which looks into the future. They do not measure a forecast and serve
    only for comparison with the published scores. `rmse_interval` is the 90 % interval of `rmse` over five regions.
    """

    name: str
    rmse: float
    rmse_recalibrated: float
    rmse_by_region: dict[int, float]
    recalibrated_by_region: dict[int, float]
    rmse_interval: tuple[float, float] | None


def published_windows(timeline: Timeline) -> SolaredWindows:
    """Return the windows of the protocol for one region, in physical units.

    Gaps are ignored and NaN is 0, in input and target. The input has 96 steps (72 for AR11726), and the target is 11
    steps after the last input step: the targets are the steps input + 10 .. T - 1.

    Raises:
        SolaredError: If the steps are not hourly, or too few for a window.
    """
    if timeline.cadence != _CADENCE:
        raise SolaredError(
            f"AR{timeline.ar_number} has a step every {timeline.cadence}, but the published protocol needs hourly "
            "steps. Use a dataset with a cadence of one hour."
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

    A model that forecasts only 12 h ahead gets the windows without their newest step.

    Args:
        forecaster: The forecaster; a model normalises the windows with its own processor.
        timelines: The five regions of `PROTOCOL_TILES`; other regions are ignored.

    Raises:
        SolaredError: If one of the five regions is missing, not hourly or too short.
    """
    regions = {timeline.ar_number: timeline for timeline in timelines}
    missing = [f"AR{number}" for number in PROTOCOL_TILES if number not in regions]
    if missing:
        raise SolaredError(
            f"The dataset lacks {', '.join(missing)} of the five test regions of the published protocol. Use a "
            "dataset built from all published files."
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
    """Return the forecasts of a region shifted as in the publications: each tile begins at an observed value.

    The value is observed one step before the first target, 10 steps after the last step that the first forecast may
    use, so the shift looks into the future. Never use it in a forecast.

    Args:
        forecast: (N, tiles) array, in order of time.
        observed_before: (tiles,) intensities observed one step before the first target.

    >>> recalibrate(np.array([[5.0], [7.0]]), np.array([1.0])).ravel()
    array([1., 3.])
    """
    return forecast + (observed_before - forecast[0])


def _mean(by_region: dict[int, float]) -> float:
    return float(np.mean(list(by_region.values())))
