"""Scores of several forecasters on the same windows, in normalised and physical units, with intervals."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from solared_hf.evaluation.errors import mean_absolute_error, root_mean_squared_error, skill_score
from solared_hf.processing_solared import SolaredProcessor
from solared_hf.windows import SolaredWindows

_RESAMPLES = 2_000
_CONFIDENCE = 0.9


@dataclass(frozen=True)
class Score:
    """How one forecaster did. Normalised errors are in units of the processor's intensity range, the others in DN.

    Intervals are 90 % percentile intervals over regions (`None` with a single region, which has none): steps and tiles
    of one region are not independent, regions nearly are.
    """

    name: str
    rmse_normalised: float
    mae_normalised: float
    rmse_dn: float
    mae_dn: float
    skill: float
    rmse_dn_interval: tuple[float, float] | None
    skill_interval: tuple[float, float] | None
    rmse_dn_by_region: dict[int, float]


def forecast_errors(
    forecast: np.ndarray, reference: np.ndarray, observed: np.ndarray, target_range: float
) -> dict[str, float]:
    """Errors of one forecast and its skill against a reference forecast.

    Args:
        forecast, reference, observed: one shape, in DN; NaN where not observed.
        target_range: DN of one normalised unit, `SolaredProcessor.target_range`.
    """
    rmse, mae = root_mean_squared_error(forecast, observed), mean_absolute_error(forecast, observed)
    return {
        "rmse_normalised": rmse / target_range,
        "mae_normalised": mae / target_range,
        "rmse_dn": rmse,
        "mae_dn": mae,
        "skill": skill_score(forecast, reference, observed),
    }


def score_forecasts(
    forecasts: dict[str, np.ndarray], reference: str, windows: SolaredWindows, processor: SolaredProcessor
) -> list[Score]:
    """Score each forecast of `windows`.

    Args:
        forecasts: (N, 63) in DN by name of the forecaster.
        reference: name of the forecast that skill is measured against.
        windows: the N windows, with their observed targets.
        processor: its intensity range turns DN into normalised units.
    """
    observed = windows.observed_targets
    regions = windows.ar_numbers
    return [
        _score(name, forecast, forecasts[reference], observed, processor.target_range, regions)
        for name, forecast in forecasts.items()
    ]


def _score(
    name: str,
    forecast: np.ndarray,
    reference: np.ndarray,
    observed: np.ndarray,
    target_range: float,
    regions: np.ndarray,
) -> Score:
    rmse_interval, skill_interval = _intervals(forecast, reference, observed, regions)
    return Score(
        name=name,
        **forecast_errors(forecast, reference, observed, target_range),
        rmse_dn_interval=rmse_interval,
        skill_interval=skill_interval,
        rmse_dn_by_region={
            int(region): root_mean_squared_error(forecast[regions == region], observed[regions == region])
            for region in np.unique(regions)
        },
    )


def _intervals(forecast, reference, observed, regions: np.ndarray) -> tuple:
    """Bootstrap intervals of RMSE and skill; the regions are drawn, with all that belongs to each."""
    numbers = np.unique(regions)
    if len(numbers) < 2:
        return None, None

    def sums_by_region(values: np.ndarray) -> np.ndarray:
        return np.array([np.nansum(values[regions == number], dtype=np.float64) for number in numbers])

    squared = sums_by_region(np.square(forecast.astype(np.float64) - observed))
    reference_squared = sums_by_region(np.square(reference.astype(np.float64) - observed))
    counts = sums_by_region((~np.isnan(observed)).astype(np.float64))

    def rmse(squared, counts, axis):
        return np.sqrt(squared.sum(axis) / counts.sum(axis))

    def skill(squared, reference_squared, axis):
        return 1 - squared.sum(axis) / reference_squared.sum(axis)

    def interval(statistic, *samples: np.ndarray) -> tuple[float, float]:
        drawn = bootstrap(
            samples,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=_RESAMPLES,
            confidence_level=_CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        return float(drawn.low), float(drawn.high)

    return interval(rmse, squared, counts), interval(skill, squared, reference_squared)
