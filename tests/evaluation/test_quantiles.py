"""Quantiles by hand, and quantiles of a distribution that is known."""

import numpy as np
import pytest
from scipy.stats import norm

from solared_hf import SolaredError
from solared_hf.evaluation import coverage, interval_of_80_percent, mean_absolute_error, reliability
from solared_hf.evaluation.quantiles import pinball_loss

LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture
def normal() -> tuple[np.ndarray, np.ndarray]:
    """True quantiles (N, S, levels, 63) of normal distributions, and what was drawn from them (N, S, 63)."""
    generator = np.random.default_rng(3)
    centre = generator.normal(0, 500, (40, 24, 63))
    quantiles = np.stack([norm.ppf(level, centre, 100) for level in LEVELS], axis=-2)
    return quantiles.astype(np.float32), generator.normal(centre, 100).astype(np.float32)


def test_by_hand():
    quantiles = np.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    observed = np.array([[4.0, 1.0]])
    # Above by 3, 1, -1 and -1, -3, -5: losses a times what is above, 1 - a times what is below.
    expected = [(0.3 + 0.9) / 2, (0.5 + 1.5) / 2, (0.1 + 0.5) / 2]
    assert pinball_loss(quantiles, LEVELS, observed) == pytest.approx(expected)
    assert reliability(quantiles, LEVELS, observed).tolist() == [0.5, 0.5, 1]
    assert coverage(quantiles[:, 0], quantiles[:, 2], observed) == 0.5
    assert coverage(observed, observed, observed) == 1


def test_what_was_not_observed_does_not_count(normal):
    quantiles, observed = normal
    kept = observed.copy()
    kept[20:] = np.nan
    for measure in (pinball_loss, reliability):
        np.testing.assert_allclose(
            measure(quantiles, LEVELS, kept), measure(quantiles[:20], LEVELS, observed[:20]), rtol=1e-6
        )
        assert np.isnan(measure(quantiles, LEVELS, np.full_like(observed, np.nan))).tolist() == [True] * 3
    lower, upper = quantiles[..., 0, :], quantiles[..., 2, :]
    assert coverage(lower, upper, kept) == coverage(lower[:20], upper[:20], observed[:20])
    assert np.isnan(coverage(lower, upper, np.full_like(observed, np.nan)))


def test_true_quantiles_are_reliable_and_best(normal):
    quantiles, observed = normal
    assert reliability(quantiles, LEVELS, observed) == pytest.approx(LEVELS, abs=0.005)
    assert coverage(*interval_of_80_percent(quantiles, LEVELS), observed) == pytest.approx(0.8, abs=0.01)
    loss = pinball_loss(quantiles, LEVELS, observed)
    # Of a normal distribution the least loss is its standard deviation times the density at the quantile.
    assert loss == pytest.approx(100 * norm.pdf(norm.ppf(LEVELS)), rel=0.01)
    assert loss[1] == pytest.approx(mean_absolute_error(quantiles[..., 1, :], observed) / 2)
    for error in (-30, 30):
        assert (pinball_loss(quantiles + error, LEVELS, observed) > loss).all()


def test_without_both_ends_there_is_no_interval(normal):
    quantiles, _ = normal
    lower, upper = interval_of_80_percent(quantiles[..., [2, 0], :], (0.9, 0.1))
    np.testing.assert_array_equal(lower, quantiles[..., 0, :])
    np.testing.assert_array_equal(upper, quantiles[..., 2, :])
    assert interval_of_80_percent(quantiles[..., :2, :], LEVELS[:2]) is None


def test_each_quantile_has_a_level(normal):
    quantiles, observed = normal
    for measure in (pinball_loss, reliability):
        with pytest.raises(SolaredError, match="3 quantiles and 2 levels"):
            measure(quantiles, (0.1, 0.9), observed)
