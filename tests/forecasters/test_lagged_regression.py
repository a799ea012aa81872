"""Regressions on lagged features: the features, and learning of known laws."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from solared_hf import SolaredError, SolaredWindows
from solared_hf.evaluation import skill_score
from solared_hf.forecasters import GradientBoostedTrees, Persistence, RidgeRegression
from solared_hf.forecasters.lagged_features import lagged_features

# Indices of some features; the number of features covers the others.
INTENSITY, CHANGE_1H, CHANGE_48H, FLUX = 0, 1, 11, 12
ROW, COLUMN = -2, -1


def features_of(timeline, first: int, last: int, steps_per_hour: int = 1) -> np.ndarray:
    (features,) = lagged_features(timeline.values, np.array([first]), np.array([last]), steps_per_hour)
    return features


def test_features_by_hand(make_timeline):
    timeline = make_timeline(90001, steps=60)
    timeline.values[:, 5] = 1000 * np.arange(60)[:, None] ** 2 + np.arange(63)
    timeline.values[:, 4] = np.arange(60)[:, None]
    features = features_of(timeline, 0, 55)
    # 12 of intensity, 7 of flux, 16 of power, 6 of each of 14 neighbours, and row and column.
    assert features.shape == (63, 12 + 7 + 16 + 84 + 2)
    assert features[20, INTENSITY] == 1000 * 55**2 + 20
    assert features[20, CHANGE_1H] == 1000 * (55**2 - 54**2)
    assert features[20, CHANGE_48H] == 1000 * (55**2 - 7**2)
    assert features[20, FLUX : FLUX + 7].tolist() == [55, 1, 3, 6, 12, 24, 48]
    assert features[20, [ROW, COLUMN]].tolist() == [2, 2]


def test_features_contain_all_neighbours(make_timeline):
    """The features contain the last intensity of every neighbour, and 0 outside the grid."""
    timeline = make_timeline(90001, steps=60)
    timeline.values[:, 4:] = 0
    timeline.values[:, 5] = 1 + np.arange(63)
    features = features_of(timeline, 0, 59)
    own = features[:, 35:-2]
    around = {tile: sorted(own[tile][own[tile] > 0].astype(int) - 1) for tile in (0, 31, 62)}
    assert around[31] == [20, 21, 22, 23, 24, 29, 30, 32, 33, 38, 39, 40, 41, 42]
    assert around[0] == [1, 2, 9, 10, 11]
    assert around[62] == [51, 52, 53, 60, 61]


def test_lags_are_hours_at_any_cadence(make_timeline):
    hourly = make_timeline(90001, steps=60)
    twice = make_timeline(90001, steps=119, cadence=timedelta(minutes=30))
    twice.values[::2] = hourly.values
    np.testing.assert_allclose(features_of(hourly, 0, 58), features_of(twice, 0, 116, steps_per_hour=2), rtol=1e-5)
    with pytest.raises(SolaredError, match="The cadence 0:45:00 does not divide one hour"):
        GradientBoostedTrees([make_timeline(90001, 200, cadence=timedelta(minutes=45))]).forecast(
            SolaredWindows(make_timeline(90002, 200, cadence=timedelta(minutes=45)))
        )


def test_missing_value_takes_the_last_observed_value(make_timeline):
    timeline = make_timeline(90001, steps=60)
    held = replace(timeline, values=timeline.values.copy())
    timeline.values[50:56, :, 30] = np.nan
    held.values[50:56, :, 30] = held.values[49, :, 30]
    np.testing.assert_allclose(features_of(timeline, 0, 55), features_of(held, 0, 55), rtol=1e-5)
    timeline.values[2:50, 5, 30] = np.nan
    assert features_of(timeline, 2, 55)[30, INTENSITY] == 0


def test_changes_in_short_windows_are_over_the_window(make_timeline):
    timeline = make_timeline(90001, steps=60)
    features = features_of(timeline, 50, 55)
    expected = timeline.values[55, 5] - timeline.values[50, 5]
    np.testing.assert_allclose(features[:, CHANGE_48H], expected, rtol=1e-5, atol=1e-3)


def test_features_do_not_depend_on_steps_outside_the_window(make_timeline):
    timeline = make_timeline(90001, steps=60)
    before = features_of(timeline, 5, 50)
    timeline.values[51:] = np.nan
    timeline.values[:5] = 1e9
    np.testing.assert_allclose(features_of(timeline, 5, 50), before, rtol=1e-5)


@pytest.fixture(scope="module")
def law():
    """Return a function that makes a region in which the intensity of each tile follows a straight line."""

    def make(make_timeline, ar_number: int, steps: int = 120):
        timeline = make_timeline(ar_number, steps, seed=ar_number)
        slopes = np.random.default_rng(ar_number).normal(0, 20, 63)
        timeline.values[:, 5] = 100 + slopes * np.arange(steps)[:, None]
        return timeline

    return make


def test_ridge_learns_a_linear_law(make_timeline, law):
    ridge = RidgeRegression.fit([law(make_timeline, number) for number in (90001, 90002, 90003)])
    windows = SolaredWindows(law(make_timeline, 90004), input_steps=60)
    trajectory = ridge.trajectory(windows, 24)
    assert trajectory.shape == (len(windows), 24, 63)
    np.testing.assert_allclose(trajectory[:, 11], ridge.forecast(windows), rtol=1e-5, atol=1e-2)
    assert skill_score(ridge.forecast(windows), Persistence().forecast(windows), windows.observed_targets) > 0.999
    with pytest.raises(SolaredError, match="ridge regression reaches 24 steps ahead, not 25"):
        ridge.trajectory(windows, 25)


def test_ridge_solves_its_normal_equations(make_timeline):
    """With every other window, standardised features, and regions weighted by the inverse square of their range."""
    timelines = [make_timeline(90001, 100, seed=1), make_timeline(90002, 110, seed=2)]
    timelines[0].values[:, 5] *= 4
    timelines[0].values[60, 5, 11] = np.nan
    rows, changes, weights = [], [], []
    for timeline in timelines:
        intensity = timeline.values[:, 5]
        inverse_square = np.ptp(intensity[~np.isnan(intensity)]) ** -2.0
        known = [last for last in range(48, len(timeline) - 24) if not np.isnan(intensity[last + 24]).any()]
        for last in known[::2]:
            features = features_of(timeline, last - 48, last)
            change = (intensity[last + 1 : last + 25] - intensity[last]).T
            for tile in np.flatnonzero(~np.isnan(change).any(axis=1)):
                rows.append(features[tile])
                changes.append(change[tile])
                weights.append(inverse_square)
    x, y, w = (np.array(values, np.float64) for values in (rows, changes, weights))
    w /= w.mean()
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    x = np.c_[np.ones(len(x)), (x - mean) / deviation]
    penalty = np.diag([0.0, *[0.1 * len(x)] * (x.shape[1] - 1)])
    coefficients = np.linalg.solve(x.T @ (w[:, None] * x) + penalty, x.T @ (w[:, None] * y))

    windows = SolaredWindows(make_timeline(90003, 80, seed=3), input_steps=49)
    expected = [
        intensity[-1] + (np.c_[np.ones(63), (features - mean) / deviation] @ coefficients)[:, 11]
        for intensity, features in (
            (intensity, features_of(windows.regions[0].timeline, start, start + 48))
            for start, intensity in enumerate(windows.past_intensities())
        )
    ]
    forecast = RidgeRegression.fit(timelines).forecast(windows)
    np.testing.assert_allclose(forecast, expected, rtol=1e-3, atol=0.5)


@pytest.fixture(scope="module")
def threshold_law():
    """Return a function that makes a region whose tiles darken by 500 DN 12 h after a jump of their flux."""

    def make(make_timeline, ar_number: int):
        timeline = make_timeline(ar_number, steps=160, seed=ar_number)
        since = np.arange(160)[:, None] - np.random.default_rng(ar_number).integers(40, 120, 63)
        timeline.values[:, 4] = 100.0 * (since >= 0)
        timeline.values[:, 5] = -500.0 * (since >= 12)
        return timeline

    return make


def test_trees_learn_a_law_that_persistence_cannot(make_timeline, threshold_law):
    trees = GradientBoostedTrees([threshold_law(make_timeline, number) for number in range(90001, 90004)])
    for horizon in (11, 12):
        windows = SolaredWindows(threshold_law(make_timeline, 90005), input_steps=60, horizon=timedelta(hours=horizon))
        forecast, persistence = trees.forecast(windows), Persistence().forecast(windows)
        assert skill_score(forecast, persistence, windows.observed_targets) > 0.9
    np.testing.assert_allclose(trees.forecast(windows), forecast, rtol=1e-5, atol=1e-2)
    assert trees.longest_trajectory == 0


def test_forecasts_do_not_depend_on_the_future(make_timeline, law):
    train = [law(make_timeline, number) for number in (90001, 90002)]
    timeline = make_timeline(90003, steps=130)
    windows = SolaredWindows(timeline, require_target=False)
    values = timeline.values.copy()
    values[125:] = np.random.default_rng(0).normal(0, 1e6, values[125:].shape)
    changed = SolaredWindows(replace(timeline, values=values), require_target=False)
    for forecaster in (RidgeRegression.fit(train), GradientBoostedTrees(train)):
        before, after = forecaster.forecast(windows), forecaster.forecast(changed)
        # The sixth window is the first window with a changed last input step.
        np.testing.assert_allclose(after[:6], before[:6], rtol=1e-5, atol=1e-2)
        assert (abs(after[6:] - before[6:]) > 1).any(axis=1).all()


def test_regions_are_in_order_and_may_give_no_window(make_timeline, law):
    ridge = RidgeRegression.fit([law(make_timeline, number) for number in (90001, 90002)])
    regions = [make_timeline(90003, 40, seed=3), make_timeline(90004, 10), make_timeline(90005, 50, seed=5)]
    together = ridge.forecast(SolaredWindows(regions, input_steps=20))
    apart = [ridge.forecast(SolaredWindows(region, input_steps=20)) for region in (regions[0], regions[2])]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-5, atol=1e-2)


def test_too_short_train_regions_are_refused(make_timeline):
    with pytest.raises(SolaredError, match="No window of 49 input steps and a target 1 day, 0:00:00 later"):
        RidgeRegression.fit([make_timeline(90001, 60)])


def test_windows_of_another_cadence_are_refused(make_timeline, law):
    train = [law(make_timeline, 90001)]
    windows = SolaredWindows(make_timeline(90002, 90, cadence=timedelta(minutes=30)), input_steps=60)
    for forecaster in (RidgeRegression.fit(train), GradientBoostedTrees(train)):
        with pytest.raises(SolaredError, match=f"{forecaster.name} was fitted on a step every 1:00:00"):
            forecaster.forecast(windows)
