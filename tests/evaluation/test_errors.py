"""Errors and skill computed by hand."""

import numpy as np
import pytest

from solared_hf.evaluation import mean_absolute_error, mean_squared_error, root_mean_squared_error, skill_score


def test_errors_by_hand():
    forecast, observed = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 5.0], [7.0, np.nan]])
    assert root_mean_squared_error(forecast, observed) == pytest.approx((25 / 3) ** 0.5)
    assert mean_absolute_error(forecast, observed) == pytest.approx(7 / 3)
    assert skill_score(forecast, observed - 5, observed) == pytest.approx(1 - (25 / 3) / 25)
    assert skill_score(observed, forecast, observed) == 1
    assert np.isnan(skill_score(forecast, observed, observed))


def test_errors_along_axes_by_hand():
    forecast, observed = np.zeros((2, 3)), np.array([[3.0, 1.0, np.nan], [4.0, np.nan, np.nan]])
    np.testing.assert_allclose(mean_squared_error(forecast, observed, axis=0), [12.5, 1, np.nan])
    np.testing.assert_allclose(root_mean_squared_error(forecast, observed, axis=1), [5**0.5, 4])
    assert root_mean_squared_error(forecast, observed, axis=(0, 1)) == root_mean_squared_error(forecast, observed)


def test_float32_sums_do_not_drift():
    forecast = np.full(3_000_000, 1e4, np.float32)
    assert root_mean_squared_error(forecast, forecast + 1) == pytest.approx(1, abs=1e-9)
