"""Scores of forecast quantiles, as pure functions of arrays. Values that were not observed are ignored."""

from collections.abc import Sequence

import numpy as np

from solared_hf.errors import SolaredError


def interval_of_80_percent(quantiles: np.ndarray, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return both ends of the 80 % interval, the quantiles 0.1 and 0.9, each (..., 63); None if one is not given.

    Args:
        quantiles: (..., levels, 63) array, such as from `ModelForecaster.quantiles`.
        levels: Levels of the quantiles, between 0 and 1.

    >>> interval_of_80_percent(np.array([[[1.0], [2.0], [3.0]]]), [0.1, 0.5, 0.9])
    (array([[1.]]), array([[3.]]))
    """
    ends = 0.1, 0.9
    if not set(ends) <= set(levels):
        return None
    lower, upper = (quantiles[..., levels.index(level), :] for level in ends)
    return lower, upper


def coverage(lower: np.ndarray, upper: np.ndarray, observed: np.ndarray) -> float:
    """Return the share of the observed values between two quantiles, ends included; NaN if nothing was observed.

    Args:
        lower, upper, observed: Arrays of one shape, NaN where not observed.

    >>> coverage(np.array([0.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0]), np.array([0.5, 2.0, np.nan]))
    0.5
    """
    inside = (lower <= observed) & (observed <= upper)
    return _share(inside, ~np.isnan(observed), axis=None)


def reliability(quantiles: np.ndarray, levels: Sequence[float], observed: np.ndarray) -> np.ndarray:
    """Return how often the observation was at or below the quantile of each level, a (levels,) array.

    The forecast is reliable if the frequency equals the level. NaN if nothing was observed.

    Args:
        quantiles: (..., levels, 63) array, such as from `ModelForecaster.quantiles`.
        levels: Levels of the quantiles, between 0 and 1.
        observed: (..., 63) array, NaN where not observed.

    Raises:
        SolaredError: If the numbers of quantiles and levels differ.

    >>> quantiles = np.array([[[-10.0, -10.0], [10.0, 10.0]]])  # one window, two levels, two tiles
    >>> reliability(quantiles, [0.1, 0.9], np.array([[0.0, 20.0]]))
    array([0. , 0.5])
    """
    _check_levels(quantiles, levels)
    observed = np.expand_dims(observed, -2)
    every_axis_but_levels = (*range(quantiles.ndim - 2), quantiles.ndim - 1)
    return _share(observed <= quantiles, ~np.isnan(observed), axis=every_axis_but_levels)


def _share(part: np.ndarray, whole: np.ndarray, axis: int | tuple[int, ...] | None):
    with np.errstate(invalid="ignore"):
        share = part.sum(axis) / whole.sum(axis)
    return float(share) if axis is None else share


def _check_levels(quantiles: np.ndarray, levels: Sequence[float]) -> None:
    if quantiles.shape[-2] != len(levels):
        raise SolaredError(
            f"{quantiles.shape[-2]} quantiles but {len(levels)} levels are given. Give one level for each quantile."
        )
