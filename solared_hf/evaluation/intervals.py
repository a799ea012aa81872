"""Uncertainty of scores: intervals by the bootstrap over regions."""

from collections.abc import Callable

import numpy as np
from scipy.stats import bootstrap

_RESAMPLES = 2_000
_CONFIDENCE = 0.9
# Number of regions drawn at a time, in all resamples together; more take memory and are not faster.
_DRAWS = 1_000_000


def region_interval(statistic: Callable, *per_region: np.ndarray) -> tuple[float, float] | None:
    """Return the 90 % percentile interval of a statistic, by resampling whole regions.

    Steps and tiles of one region are not independent, but regions nearly are. With few regions the interval is too
    narrow (Efron and Tibshirani 1993, An Introduction to the Bootstrap), so report the number of regions.

    Args:
        statistic: Function of the resampled arrays and `axis`, the axis of the regions.
        per_region: Arrays with one value per region, such as sums of squared errors and their counts.

    Returns:
        The ends of the interval; None for a single region, or if the statistic of a resample is not finite.

    >>> low, high = region_interval(np.mean, np.array([1.0, 2.0, 3.0, 4.0]))
    >>> 1 < low < 2.5 < high < 4
    True
    """
    if len(per_region[0]) < 2:
        return None
    # If the reference has no error in the resampled regions, the statistic has no value.
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = bootstrap(
            per_region,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=_RESAMPLES,
            batch=max(_DRAWS // len(per_region[0]), 1),
            confidence_level=_CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    ends = float(drawn.low), float(drawn.high)
    return ends if np.isfinite(ends).all() else None
