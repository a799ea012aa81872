"""Errors and skill of forecasts, as pure functions of arrays. What was not observed does not count."""

import numpy as np


def mean_squared_error(forecast: np.ndarray, observed: np.ndarray, axis: int | tuple[int, ...] | None = None):
    """Mean squared error over everything observed, in the squared unit of the arguments, which share one shape.

    Args:
        forecast, observed: one shape; NaN where not observed.
        axis: the axes that the mean runs over; all by default.

    Returns:
        A float, or float64 of the shape of the axes that are left; NaN where nothing was observed.
    """
    squared = np.square(np.asarray(forecast, np.float64) - observed)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(squared, axis) / np.count_nonzero(~np.isnan(squared), axis)
    return float(mean) if axis is None else mean


def root_mean_squared_error(forecast: np.ndarray, observed: np.ndarray, axis: int | tuple[int, ...] | None = None):
    """Root mean squared error, in the unit of the arguments.

    Args:
        forecast, observed, axis: as of `mean_squared_error`, and so is the shape of what is returned.

    >>> root_mean_squared_error(np.array([1.0, 2.0, 5.0]), np.array([4.0, 5.0, np.nan]))
    3.0
    """
    return mean_squared_error(forecast, observed, axis) ** 0.5


def mean_absolute_error(forecast: np.ndarray, observed: np.ndarray) -> float:
    """Mean absolute error over everything observed, in the unit of the arguments.

    Args:
        forecast, observed: one shape; NaN where not observed.

    >>> mean_absolute_error(np.array([1.0, 2.0, 5.0]), np.array([1.0, 5.0, np.nan]))
    1.5
    """
    return float(np.nanmean(np.abs(forecast.astype(np.float64) - observed)))


def skill_score(forecast: np.ndarray, reference: np.ndarray, observed: np.ndarray) -> float:
    """Share of the reference's mean squared error that the forecast removes.

    1 is perfect, 0 no better than the reference, below 0 worse (Murphy 1988, Monthly Weather Review 116, 2417). NaN
    where the reference makes no error.

    Args:
        forecast, reference, observed: one shape and unit; NaN where not observed.

    >>> skill_score(np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    0.75
    """
    reference_error = mean_squared_error(reference, observed)
    return 1 - mean_squared_error(forecast, observed) / reference_error if reference_error else float("nan")
