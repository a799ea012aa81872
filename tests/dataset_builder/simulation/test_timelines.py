"""The simulated timelines behave as documented, and like the real Sun."""

import numpy as np
import pytest

from dataset_builder.published import read_timeline
from dataset_builder.simulation import SIMULATED_REGIONS, emergence, simulate_region
from dataset_builder.simulation.timelines import (
    FIRST_SIMULATED,
    GAP_REGION,
    GAP_STEPS,
    NAN_POWER_STEPS,
    NAN_REGION,
    flux_density,
    split_of,
)
from dataset_builder.sources import find_regions
from solared_hf import SolaredError
from solared_hf.schema import CHANNELS
from solared_hf.splits import SPLITS

POWER, FLUX, INTENSITY = CHANNELS.index("power_3_4mhz"), 4, 5
HORIZON_STEPS = 12
QUIET_STEPS = 70


@pytest.fixture(scope="module")
def sun():
    return [simulate_region(ar_number) for ar_number in SIMULATED_REGIONS]


def hours_of(timeline) -> np.ndarray:
    return (timeline.times - timeline.times[0]) / np.timedelta64(1, "h")


def first_hour(hours: np.ndarray, holds: np.ndarray) -> float:
    """Return the hour from which a condition holds for three steps."""
    lasting = holds[:-2] & holds[1:-1] & holds[2:]
    assert lasting.any()
    return hours[lasting.argmax()]


def test_every_split_has_regions():
    assert {split_of(number) for number in SIMULATED_REGIONS} == set(SPLITS)
    with pytest.raises(SolaredError, match="AR11130 is not a simulated region"):
        simulate_region(11130)


def test_the_same_seed_gives_the_same_bytes():
    again = simulate_region(FIRST_SIMULATED, seed=3)
    assert simulate_region(FIRST_SIMULATED, seed=3).values.tobytes() == again.values.tobytes()
    assert (simulate_region(FIRST_SIMULATED, seed=4).values != again.values).any()
    assert emergence(FIRST_SIMULATED, seed=3) != emergence(FIRST_SIMULATED + 1, seed=3)


def test_flux_grows_at_the_simulated_time_and_place(sun):
    for timeline in sun:
        truth, hours = emergence(timeline.ar_number), hours_of(timeline)
        flux = timeline.values[:, FLUX, truth.tile]
        assert np.abs(flux[hours < truth.onset_hours]).max() < 8
        # A smooth step reaches a tenth of its height after a fifth of its time.
        seen = first_hour(hours, flux > 0.1 * flux.max())
        assert truth.onset_hours < seen < truth.onset_hours + 0.5 * truth.rise_hours
        assert flux.max() > 0.5 * truth.peak_field
        strongest = timeline.values[-60:, FLUX].mean(axis=0).argmax()
        assert strongest == truth.tile


def test_power_falls_hours_before_the_intensity_does(sun):
    for timeline in sun:
        tile, hours = emergence(timeline.ar_number).tile, hours_of(timeline)
        power, intensity = timeline.values[:, POWER, tile], timeline.values[:, INTENSITY, tile]
        quiet = hours < QUIET_STEPS
        power_falls = first_hour(hours, power < power[quiet].mean() - 5 * power[quiet].std())
        intensity_falls = first_hour(hours, intensity < intensity[quiet].mean() - 5 * intensity[quiet].std())
        assert 3 <= intensity_falls - power_falls <= 48


def test_flux_follows_the_formula():
    bipole = emergence(FIRST_SIMULATED)
    place = np.array([bipole.row]), np.array([bipole.column])
    hours = np.array([bipole.onset_hours - 1, bipole.onset_hours, bipole.onset_hours + 1e-3])
    assert (flux_density(bipole, hours, *place)[:, 0] > 0).tolist() == [False, False, True]
    # At a polarity's centre the flux reaches the peak value, and 1/e of it one decay time later.
    end = bipole.onset_hours + bipole.rise_hours
    polarity = np.array([bipole.row]), np.array([bipole.column + bipole.separation / 2])
    late = flux_density(bipole, np.array([end, end + bipole.decay_hours]), *polarity)[:, 0]
    np.testing.assert_allclose(late, [bipole.peak_field, bipole.peak_field / np.e])


def test_gap_and_nan_steps_are_in_their_regions(sun):
    for timeline in sun:
        assert timeline.missing_steps == (GAP_STEPS if timeline.ar_number == GAP_REGION else 0)
        assert timeline.nan_steps == (NAN_POWER_STEPS if timeline.ar_number == NAN_REGION else 0)
        if timeline.ar_number == NAN_REGION:
            assert sorted({tile % 9 for tile in np.argwhere(np.isnan(timeline.values))[:, 2]}) == [0]


def test_power_noise_is_correlated_over_the_window_of_eight_hours(sun):
    """The structure function of the lowest band grows with the part that windows `lag` hours apart do not share."""
    power = np.concatenate([t.values[:QUIET_STEPS, 0] for t in sun if t.ar_number != NAN_REGION], axis=1)
    lags = np.array([1, 4, 8, 12])
    changes = np.array([(power[lag:] - power[:-lag]).var() for lag in lags])
    expected = 0.76 * np.minimum(lags / 8, 1) + 0.24 * (1 - np.exp(-lags / 24))
    np.testing.assert_allclose(changes / changes[-1], expected / expected[-1], rtol=0.1)


def test_amplitudes_are_those_of_the_published_files(sun, published_dir):
    """Quiet level, noise and extremes agree with the observations to a factor of two."""
    real = [read_timeline(folder) for folder in find_regions(published_dir)[::3]]
    for channel, name in enumerate(CHANNELS):
        measures = []
        for regions in (real, sun):
            values = np.stack([timeline.values[:200, channel] for timeline in regions])
            noise = np.nanmedian(np.nanstd(np.diff(values[:, :QUIET_STEPS], axis=1), axis=1))
            spread = np.nanmedian(np.nanstd(values[:, :QUIET_STEPS], axis=1))
            largest = np.nanmedian(np.nanmax(np.abs(values), axis=(1, 2)))
            measures.append((noise, spread, largest))
        ratios = np.divide(*measures)
        assert ((ratios > 0.5) & (ratios < 2)).all(), (name, ratios)


def features_and_changes(timeline):
    """Return lagged channels of each tile, scaled, and the change of intensity over the horizon in DN."""
    values = timeline.values / np.array([1e7, 5e7, 2e7, 1e7, 100, 1000])[:, None]
    lags = (0, 3, 6, 12)
    rows, changes = [], []
    for step in range(max(lags), len(values) - HORIZON_STEPS):
        span = timeline.times[step + HORIZON_STEPS] - timeline.times[step - max(lags)]
        past = np.concatenate([values[step - lag] for lag in lags])
        if span == np.timedelta64(max(lags) + HORIZON_STEPS, "h") and not np.isnan(past).any():
            rows.append(past.T)
            changes.append(timeline.values[step + HORIZON_STEPS, INTENSITY] - timeline.values[step, INTENSITY])
    return np.concatenate(rows), np.concatenate(changes)


def test_persistence_loses_to_a_regression_that_sees_power_and_flux(sun):
    """Fit on the train regions, score on the test regions; the intensity alone helps much less."""
    parts = {split: [features_and_changes(t) for t in sun if split_of(t.ar_number) == split] for split in SPLITS}
    (x, y), (x_test, y_test) = (tuple(map(np.concatenate, zip(*parts[s], strict=True))) for s in ("train", "test"))
    persistence = np.sqrt((y_test**2).mean())

    def error(columns):
        fit = np.linalg.lstsq(np.c_[x[:, columns], np.ones(len(x))], y, rcond=None)[0]
        return np.sqrt(((np.c_[x_test[:, columns], np.ones(len(x_test))] @ fit - y_test) ** 2).mean())

    everything = np.arange(x.shape[1])
    assert error(everything) < 0.8 * persistence
    assert error(everything) < 0.9 * error(everything[INTENSITY :: len(CHANNELS)])
    # The forecast is not trivial: noise leaves an error.
    assert error(everything) > 100
