"""Scores of quantiles by hand, and of quantiles of a known distribution."""

import numpy as np
import pytest
from scipy.stats import norm

from solared_hf import SolaredError
from solared_hf.evaluation import coverage, interval_of_80_percent, reliability

LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture
def normal() -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles (N, S, levels, 63) of normal distributions, and samples of them (N, S, 63)."""
    generator = np.random.default_rng(3)
    centre = generator.normal(0, 500, (40, 24, 63))
    quantiles = np.stack([norm.ppf(level, centre, 100) for level in LEVELS], axis=-2)
    return quantiles.astype(np.float32), generator.normal(centre, 100).astype(np.float32)


def test_reliability_and_coverage_by_hand():
    quantiles = np.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    observed = np.array([[4.0, 1.0]])
    assert reliability(quantiles, LEVELS, observed).tolist() == [0.5, 0.5, 1]
    assert coverage(quantiles[:, 0], quantiles[:, 2], observed) == 0.5
    assert coverage(observed, observed, observed) == 1


def test_missing_observations_are_ignored(normal):
    quantiles, observed = normal
    kept = observed.copy()
    kept[20:] = np.nan
    np.testing.assert_allclose(
        reliability(quantiles, LEVELS, kept), reliability(quantiles[:20], LEVELS, observed[:20]), rtol=1e-6
    )
    assert np.isnan(reliability(quantiles, LEVELS, np.full_like(observed, np.nan))).tolist() == [True] * 3
    lower, upper = quantiles[..., 0, :], quantiles[..., 2, :]
    assert coverage(lower, upper, kept) == coverage(lower[:20], upper[:20], observed[:20])
    assert np.isnan(coverage(lower, upper, np.full_like(observed, np.nan)))


def test_true_quantiles_are_reliable(normal):
    quantiles, observed = normal
    assert reliability(quantiles, LEVELS, observed) == pytest.approx(LEVELS, abs=0.005)
    assert coverage(*interval_of_80_percent(quantiles, LEVELS), observed) == pytest.approx(0.8, abs=0.01)


def test_interval_needs_both_ends(normal):
    quantiles, _ = normal
    lower, upper = interval_of_80_percent(quantiles[..., [2, 0], :], (0.9, 0.1))
    np.testing.assert_array_equal(lower, quantiles[..., 0, :])
    np.testing.assert_array_equal(upper, quantiles[..., 2, :])
    assert interval_of_80_percent(quantiles[..., :2, :], LEVELS[:2]) is None


def test_number_of_levels_must_match_the_quantiles(normal):
    quantiles, observed = normal
    with pytest.raises(SolaredError, match="3 quantiles but 2 levels"):
        reliability(quantiles, (0.1, 0.9), observed)
