"""Errors and skill of forecasts, as pure functions of arrays. Values that were not observed are ignored."""

from typing import overload

import numpy as np


@overload
def mean_squared_error(forecast: np.ndarray, observed: np.ndarray, axis: None = None) -> float: ...
@overload
def mean_squared_error(forecast: np.ndarray, observed: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray: ...
def mean_squared_error(forecast: np.ndarray, observed: np.ndarray, axis: int | tuple[int, ...] | None = None):
    """Return the mean squared error over all observed values, in the squared unit of the arguments.

    Args:
        forecast, observed: Arrays of one shape, NaN where not observed.
        axis: The axes of the mean; all axes by default.

    Returns:
        A float, or a float64 array over the remaining axes; NaN where nothing was observed.
    """
    squared = np.square(np.asarray(forecast, np.float64) - observed)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(squared, axis) / np.count_nonzero(~np.isnan(squared), axis)
    return float(mean) if axis is None else mean


@overload
def root_mean_squared_error(forecast: np.ndarray, observed: np.ndarray, axis: None = None) -> float: ...
@overload
def root_mean_squared_error(forecast: np.ndarray, observed: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray: ...
def root_mean_squared_error(forecast: np.ndarray, observed: np.ndarray, axis: int | tuple[int, ...] | None = None):
    """Return the root mean squared error, in the unit of the arguments.

    Args and shape of the result are the same as in `mean_squared_error`.

    >>> root_mean_squared_error(np.array([1.0, 2.0, 5.0]), np.array([4.0, 5.0, np.nan]))
    3.0
    """
    return mean_squared_error(forecast, observed, axis) ** 0.5


def mean_absolute_error(forecast: np.ndarray, observed: np.ndarray) -> float:
    """Return the mean absolute error over all observed values, in the unit of the arguments.

    Args:
        forecast, observed: Arrays of one shape, NaN where not observed.

    >>> mean_absolute_error(np.array([1.0, 2.0, 5.0]), np.array([1.0, 5.0, np.nan]))
    1.5
    """
    return float(np.nanmean(np.abs(forecast.astype(np.float64) - observed)))


def skill_score(forecast: np.ndarray, reference: np.ndarray, observed: np.ndarray) -> float:
    """Return the share of the reference's mean squared error that the forecast removes.

    1 is a perfect forecast, 0 is as good as the reference, and below 0 is worse (Murphy 1988, Monthly Weather Review
    116, 2417). NaN if the reference has no error.

    Args:
        forecast, reference, observed: Arrays of one shape and unit, NaN where not observed.

    >>> skill_score(np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    0.75
    """
    reference_error = mean_squared_error(reference, observed)
    return 1 - mean_squared_error(forecast, observed) / reference_error if reference_error else float("nan")
