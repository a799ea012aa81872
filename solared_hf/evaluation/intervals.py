"""How far a score could be off: intervals by the bootstrap over regions."""

from collections.abc import Callable

import numpy as np
from scipy.stats import bootstrap

_RESAMPLES = 2_000
_CONFIDENCE = 0.9
# How many regions are drawn at a time, in all resamples together; more take memory and no less time.
_DRAWS = 1_000_000


def region_interval(statistic: Callable, *per_region: np.ndarray) -> tuple[float, float] | None:
    """90 % percentile interval of a statistic of regions, which are drawn with all that belongs to each.

    Steps and tiles of one region are not independent, regions nearly are. With few regions the interval is too narrow
    (Efron and Tibshirani 1993, An Introduction to the Bootstrap), so say how many there are.

    Args:
        statistic: takes the arrays, drawn anew, and `axis`, the one that runs over the regions.
        per_region: one value a region, such as sums of squared errors and their counts.

    Returns:
        The ends of the interval; None for a single region, which has none, and where draws have no value.

    >>> low, high = region_interval(np.mean, np.array([1.0, 2.0, 3.0, 4.0]))
    >>> 1 < low < 2.5 < high < 4
    True
    """
    if len(per_region[0]) < 2:
        return None
    # Regions in which the reference makes no error leave draws without a value.
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
