"""Baselines on series whose best forecast is known."""

from datetime import timedelta

import numpy as np
import pytest

from solared_hf import SolaredError, SolaredWindows, Timeline
from solared_hf.forecasters import Average, Climatology, DampedPersistence, Persistence


@pytest.fixture
def with_intensity(make_timeline):
    """Return a function that makes a timeline with the same given intensities in all tiles."""

    def make(ar_number: int, intensity, **options) -> Timeline:
        timeline = make_timeline(ar_number, steps=len(intensity) + len(options.get("missing", ())), **options)
        timeline.values[:, 5] = np.asarray(intensity, np.float32)[:, None]
        return timeline

    return make


def test_persistence_and_average_are_constant(with_intensity):
    windows = SolaredWindows(with_intensity(90001, range(30)), input_steps=10)
    for baseline, expected in ((Persistence(), [9, 10, 11]), (Average(), [4.5, 5.5, 6.5])):
        trajectory = baseline.trajectory(windows, 5)
        assert trajectory.shape == (len(windows), 5, 63)
        np.testing.assert_array_equal(trajectory[:3, :, 0], np.repeat(expected, 5).reshape(3, 5))


def test_climatology_is_the_mean_of_all_observed_steps(with_intensity):
    short, long = with_intensity(90001, [10.0, 20.0]), with_intensity(90002, [30.0] * 4)
    short.values[0, 5, 7] = np.nan
    long.values[:, 5, 8] = short.values[:, 5, 8].mean()
    long.values[:, 5, 9] = short.values[:, 5, 9] = np.nan
    climatology = Climatology.fit([short, long])
    assert climatology.mean_intensity[[6, 7, 8, 9]].tolist() == [25, 28, 15, 0]
    windows = SolaredWindows(with_intensity(90003, range(30)), input_steps=10)
    np.testing.assert_array_equal(climatology.forecast(windows), np.tile(climatology.mean_intensity, (9, 1)))
    np.testing.assert_allclose(climatology.trajectory(windows, 2)[:, 1], climatology.forecast(windows), rtol=1e-6)


def test_factors_of_a_decay_are_its_own(with_intensity):
    decay = 1000 * 0.9 ** np.arange(100)
    # Two regions of opposite sign, so that the climatology is zero.
    damped = DampedPersistence.fit([with_intensity(90001, decay), with_intensity(90002, -decay)])
    assert damped.longest_trajectory == 48
    np.testing.assert_allclose(damped.factors, 0.9 ** np.arange(1, 49), rtol=1e-4)
    windows = SolaredWindows(with_intensity(90003, 5 * decay), input_steps=10)
    np.testing.assert_allclose(damped.forecast(windows), windows.observed_targets, rtol=1e-4)
    np.testing.assert_allclose(damped.trajectory(windows, 12)[:, -1], damped.forecast(windows))


def test_factors_of_an_autoregressive_series_are_its_autocorrelation(make_timeline):
    """For x' = 0.9 x + noise about a mean of 200, the best factor of k steps is 0.9 to the k."""
    timeline = make_timeline(90001, steps=4000)
    noise = np.random.default_rng(1).standard_normal((4000, 63))
    departure = np.zeros(63)
    for step in range(4000):
        departure = 0.9 * departure + noise[step]
        timeline.values[step, 5] = 200 + departure
    damped = DampedPersistence.fit([timeline])
    np.testing.assert_allclose(damped.factors, 0.9 ** np.arange(1, 49), atol=0.03)
    np.testing.assert_allclose(damped.climatology.mean_intensity, 200, atol=1)
    windows = SolaredWindows(timeline)
    errors = {
        forecaster: np.mean((forecaster.forecast(windows) - windows.observed_targets) ** 2)
        for forecaster in (damped, damped.climatology, Persistence())
    }
    assert min(errors, key=errors.get) is damped


def test_forecast_approaches_the_climatology(with_intensity):
    climatology = Climatology(np.full(63, 100.0))
    damped = DampedPersistence(climatology, np.array([0.5, 0.25, *[0.0] * 10]), timedelta(hours=1))
    windows = SolaredWindows(with_intensity(90001, [300.0] * 30), input_steps=10)
    assert damped.trajectory(windows, 3)[0, :, 0].tolist() == [200, 150, 100]
    assert (damped.forecast(windows) == 100).all()


def test_pairs_do_not_cross_gaps_or_missing_values(with_intensity):
    # The only pairs are 1 and 3, one step apart, and 100 and 50, two steps apart; 3 and 100 have a gap between them.
    series = [1.0, 3.0, 100.0, np.nan, 50.0]
    timelines = [
        with_intensity(90001, series, missing=(2, 3)),
        with_intensity(90002, np.negative(series), missing=(2, 3)),
    ]
    damped = DampedPersistence.fit(timelines)
    np.testing.assert_allclose(damped.factors, [3, 0.5])


def test_errors_of_fitted_baselines(with_intensity, make_timeline):
    wave = np.sin(np.arange(40.0))
    damped = DampedPersistence.fit([with_intensity(90001, wave)])
    assert damped.longest_trajectory == 39
    windows = SolaredWindows(with_intensity(90002, range(70)), input_steps=10)
    with pytest.raises(SolaredError, match="damped persistence reaches 39 steps ahead, not 40"):
        damped.trajectory(windows, 40)
    other_cadence = SolaredWindows(make_timeline(90003, 60, cadence=timedelta(minutes=30)), input_steps=10)
    with pytest.raises(SolaredError, match="every 1:00:00, but the windows have a step every 0:30:00"):
        damped.forecast(other_cadence)
    with pytest.raises(SolaredError, match="Give the train split"):
        Climatology.fit([])
    with pytest.raises(SolaredError, match=r"0:30:00 and 1:00:00\. Give regions of one cadence"):
        DampedPersistence.fit([make_timeline(90001, 9), make_timeline(90002, 9, cadence=timedelta(minutes=30))])
    with pytest.raises(SolaredError, match="Give longer timelines"):
        DampedPersistence.fit([with_intensity(90001, [5.0] * 9)])
