"""Scores of several forecasters on the same windows, in normalised and physical units, with intervals."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.evaluation.breakdowns import rmse_by_region, rmse_by_tile
from solared_hf.evaluation.errors import mean_absolute_error, root_mean_squared_error, skill_score
from solared_hf.evaluation.intervals import region_interval
from solared_hf.forecasters.baselines import Climatology
from solared_hf.schema import TARGET_CHANNEL


@dataclass(frozen=True)
class Score:
    """Errors and skill of one forecaster. Normalised errors are in units of the processor's intensity range.

    `skill` is the share of persistence's squared error that the forecaster removes; `skill_climatology` is the same
    for the climatology, or None without a climatology. Intervals are 90 % percentile intervals over regions, or None
    with a single region.
    """

    name: str
    rmse_normalised: float
    mae_normalised: float
    rmse_dn: float
    mae_dn: float
    skill: float
    skill_climatology: float | None
    rmse_dn_interval: tuple[float, float] | None
    skill_interval: tuple[float, float] | None
    rmse_dn_by_region: dict[int, float]
    rmse_dn_by_tile: list[float]


def forecast_errors(
    forecast: np.ndarray, reference: np.ndarray, observed: np.ndarray, target_range: float
) -> dict[str, float]:
    """Return the errors of a forecast and its skill against a reference forecast.

    Args:
        forecast, reference, observed: Arrays of one shape in DN, NaN where not observed.
        target_range: DN of one normalised unit, `SolaredProcessor.target_range`.

    >>> observed, persistence, forecast = np.array([0.0, -800.0]), np.array([0.0, 0.0]), np.array([0.0, -400.0])
    >>> errors = forecast_errors(forecast, persistence, observed, target_range=10_000)
    >>> round(errors["rmse_dn"]), errors["mae_normalised"], errors["skill"]
    (283, 0.02, 0.75)
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
    """Return the score of each forecast of `windows`.

    Args:
        forecasts: (N, 63) arrays in DN by name of the forecaster. The entry `climatology`, if given, is the reference
            of `skill_climatology`.
        reference: Name of the forecast that is the reference of `skill`.
        windows: The N windows, with their observed targets.
        processor: Processor whose intensity range is the normalised unit.
    """
    observed, ar_numbers = windows.observed_targets, windows.ar_numbers
    climatology = forecasts.get(Climatology.name)
    scores = []
    for name, forecast in forecasts.items():
        score = Score(
            name=name,
            **forecast_errors(forecast, forecasts[reference], observed, processor.target_range),
            skill_climatology=None if climatology is None else skill_score(forecast, climatology, observed),
            rmse_dn_interval=_rmse_interval(forecast, observed, ar_numbers),
            skill_interval=skill_interval(forecast, forecasts[reference], observed, ar_numbers),
            rmse_dn_by_region=rmse_by_region(forecast, observed, ar_numbers),
            rmse_dn_by_tile=rmse_by_tile(forecast, observed).tolist(),
        )
        scores.append(score)
    return scores


def skill_interval(
    forecast: np.ndarray, reference: np.ndarray, observed: np.ndarray, ar_numbers: np.ndarray
) -> tuple[float, float] | None:
    """Return the 90 % interval over regions of the skill against a reference; None with one region.

    Args:
        forecast, reference, observed: (N, 63) arrays in DN, NaN where not observed.
        ar_numbers: (N,) AR numbers of the windows, `SolaredWindows.ar_numbers`.
    """

    def skill(squared, reference_squared, axis):
        return 1 - squared.sum(axis) / reference_squared.sum(axis)

    squared, reference_squared = (
        _sums_by_region(np.square(values.astype(np.float64) - observed), ar_numbers)
        for values in (forecast, reference)
    )
    return region_interval(skill, squared, reference_squared)


def intensity_processor(timelines: Iterable[Timeline]) -> SolaredProcessor:
    """Return a processor fitted on the intensity alone, whose range is the normalised unit of baselines.

    Raises:
        ValueError: If there is no region, or the intensity is never observed or never varies.
    """
    return SolaredProcessor.fit((timeline.intensity[:, None] for timeline in timelines), [TARGET_CHANNEL])


def _rmse_interval(forecast: np.ndarray, observed: np.ndarray, ar_numbers: np.ndarray) -> tuple[float, float] | None:
    def rmse(squared, counts, axis):
        return np.sqrt(squared.sum(axis) / counts.sum(axis))

    squared, counts = np.square(forecast.astype(np.float64) - observed), (~np.isnan(observed)).astype(np.float64)
    return region_interval(rmse, _sums_by_region(squared, ar_numbers), _sums_by_region(counts, ar_numbers))


def _sums_by_region(values: np.ndarray, ar_numbers: np.ndarray) -> np.ndarray:
    _, region = np.unique(ar_numbers, return_inverse=True)
    return np.bincount(region, weights=np.nansum(values, axis=1))
