"""How good forecast quantiles are, as pure functions of arrays. What was not observed does not count."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import mean_pinball_loss

from solared_hf.errors import SolaredError


def pinball_loss(quantiles: np.ndarray, levels: Sequence[float], observed: np.ndarray) -> np.ndarray:
    """(levels,) mean pinball loss of each level in the unit of the arguments; NaN where nothing was observed.

    With y observed and q forecast at level a, the mean of max(a (y - q), (1 - a)(q - y)): least for the true quantile
    (Koenker and Bassett 1978, Econometrica 46, 33). At level 0.5 it is half the mean absolute error.

    Args:
        quantiles: (..., levels, 63), such as `ModelForecaster.quantiles`.
        levels: between 0 and 1.
        observed: (..., 63), NaN where not observed.

    Raises:
        SolaredError: there is not one quantile for each level.

    >>> pinball_loss(np.array([[[1.0, 5.0]]]), [0.9], np.array([[3.0, 4.0]])).round(3)
    array([0.95])
    """
    _check_levels(quantiles, levels)
    known = ~np.isnan(observed)
    if not known.any():
        return np.full(len(levels), np.nan)
    truth = observed[known].astype(np.float64)
    return np.array(
        [mean_pinball_loss(truth, quantiles[..., index, :][known], alpha=level) for index, level in enumerate(levels)]
    )


def interval_of_80_percent(quantiles: np.ndarray, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray] | None:
    """Both ends of the 80 % interval, each (..., 63): the quantiles 0.1 and 0.9; None where these are not given.

    The arguments are those of `pinball_loss`.

    >>> interval_of_80_percent(np.array([[[1.0], [2.0], [3.0]]]), [0.1, 0.5, 0.9])
    (array([[1.]]), array([[3.]]))
    """
    ends = 0.1, 0.9
    if not set(ends) <= set(levels):
        return None
    lower, upper = (quantiles[..., levels.index(level), :] for level in ends)
    return lower, upper


def coverage(lower: np.ndarray, upper: np.ndarray, observed: np.ndarray) -> float:
    """Share of what was observed that lies between two quantiles, ends included; NaN where nothing was observed.

    Args:
        lower, upper, observed: one shape.

    >>> coverage(np.array([0.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0]), np.array([0.5, 2.0, np.nan]))
    0.5
    """
    inside = (lower <= observed) & (observed <= upper)
    return _share(inside, ~np.isnan(observed), axis=None)


def reliability(quantiles: np.ndarray, levels: Sequence[float], observed: np.ndarray) -> np.ndarray:
    """(levels,) how often the observation was at or below the quantile of each level; NaN where nothing was observed.

    The forecast is reliable where this is the level itself. The arguments are those of `pinball_loss`.

    Raises:
        SolaredError: there is not one quantile for each level.

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
            f"There are {quantiles.shape[-2]} quantiles and {len(levels)} levels; name the level of each quantile."
        )
