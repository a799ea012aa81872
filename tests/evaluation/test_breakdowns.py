"""Errors by tile, region, lead and emergence, and observed trajectories, computed by hand."""

from datetime import timedelta

import numpy as np
import pytest

from solared_hf import SolaredWindows
from solared_hf.evaluation.breakdowns import (
    observed_trajectories,
    rmse_by_emergence,
    rmse_by_lead,
    rmse_by_region,
    rmse_by_tile,
    squared_errors_by_lead,
)
from solared_hf.forecasters import Persistence


@pytest.fixture
def rising(make_timeline):
    """Return a function that makes a region whose intensity is `slope` times the hours since its first step."""

    def make(ar_number: int, steps: int, slope: float = 1, **arguments):
        timeline = make_timeline(ar_number, steps, **arguments)
        hours = (timeline.times - timeline.times[0]) / np.timedelta64(1, "h")
        timeline.values[:, 5] = slope * hours[:, None]
        return timeline

    return make


def test_errors_by_tile_ignore_missing_values():
    observed = np.zeros((2, 63), np.float32)
    observed[:, 62] = np.nan
    observed[1, 5] = np.nan
    forecast = np.tile(np.arange(63, dtype=np.float32), (2, 1))
    forecast[1, 4] = 0
    expected = np.arange(63.0)
    expected[4], expected[62] = 8**0.5, np.nan
    np.testing.assert_allclose(rmse_by_tile(forecast, observed), expected)


def test_errors_by_region(rising):
    windows = SolaredWindows([rising(90001, 40), rising(90002, 30, slope=3)], input_steps=10)
    errors = rmse_by_region(Persistence().forecast(windows), windows.observed_targets, windows.ar_numbers)
    assert errors == pytest.approx({90001: 12, 90002: 36})


def test_error_of_persistence_grows_with_the_lead(rising):
    windows = SolaredWindows([rising(90001, 40), rising(90002, 30, slope=7)], input_steps=10)
    trajectories, observed = Persistence().trajectory(windows, 15), observed_trajectories(windows, 15)
    parts = [squared_errors_by_lead(trajectories[part], observed[part]) for part in (slice(5), slice(5, None))]
    errors = rmse_by_lead(sum(parts))
    # 19 windows of slope 1 and 9 of slope 7; from the 13th lead on, the last windows have no observed target.
    assert errors[:12] == pytest.approx(np.arange(1, 13) * ((19 + 9 * 49) / 28) ** 0.5)
    assert errors[12] == pytest.approx(13 * ((18 + 8 * 49) / 26) ** 0.5)


def test_errors_by_emergence():
    forecast, observed = np.zeros((2, 63)), np.full((2, 63), 2.0)
    emerging = np.zeros((2, 63), bool)
    emerging[1, :3] = True
    observed[1, :4] = 6, 8, np.nan, np.nan
    assert rmse_by_emergence(forecast, observed, emerging) == pytest.approx({"emerging": 50**0.5, "quiet": 2})
    quiet_sun = rmse_by_emergence(forecast, observed, np.zeros((2, 63), bool))
    assert np.isnan(quiet_sun["emerging"])


def test_observed_trajectories_end_at_gaps_and_at_the_last_step(rising):
    timeline = rising(90001, 30, missing=[14, 15])
    timeline.values[11, 5, 7] = np.nan
    windows = SolaredWindows([timeline, rising(90002, 14, slope=2)], input_steps=10, horizon=timedelta(hours=2))
    trajectories = observed_trajectories(windows, 5)
    assert trajectories.shape == (len(windows), 5, 63)
    assert trajectories.dtype == np.float32
    last = (windows.last_input_times - timeline.times[0]) / np.timedelta64(1, "h")
    # Windows with an incomplete target and windows across the gap are left out.
    assert last.tolist() == [10, 11, 25, 26, 27, 9, 10, 11]
    nan = np.nan
    np.testing.assert_array_equal(
        trajectories[:, :, 0],
        [
            [11, 12, 13, nan, nan],
            [12, 13, nan, nan, nan],
            [26, 27, 28, 29, nan],
            [27, 28, 29, nan, nan],
            [28, 29, nan, nan, nan],
            [20, 22, 24, 26, nan],
            [22, 24, 26, nan, nan],
            [24, 26, nan, nan, nan],
        ],
    )
    np.testing.assert_array_equal(trajectories[:2, :, 7], [[nan, 12, 13, nan, nan], [12, 13, nan, nan, nan]])


def test_observed_trajectories_equal_the_training_targets(rising):
    timelines = [rising(90001, 40, missing=[20]), rising(90002, 30)]
    timelines[0].values[15:18, 5, 3] = np.nan
    windows = SolaredWindows(timelines, input_steps=6, horizon=timedelta(hours=1), trajectory_steps=9)
    expected = np.stack([windows[index]["future_trajectory"].numpy() for index in range(len(windows))])
    np.testing.assert_array_equal(observed_trajectories(windows, 9), expected)
    assert np.isnan(expected).any()
