"""The functions of the pipeline find in the frames what was put into the simulated Sun.

A region is written as FITS and read with astropy. A tile's power scatters for two reasons: the granulation adds to the
modes with any phase, and rows 0 and 8, which are subtracted, scatter alike. With 28 bins and 9 pixels a tile that is
1 % of the power of the lower bands and 2.5 % of the highest, 3e6 to 5e6.
"""

import numpy as np
import pytest
from astropy.io import fits
from scipy.fft import rfft, rfftfreq
from scipy.signal import welch

from dataset_builder.fits import band_power, keep_tiles, remove_latitude_background, tile_means
from dataset_builder.simulation import (
    emergence,
    expected_timeline,
    simulate_observations,
    simulate_region,
    write_observations,
)
from dataset_builder.simulation.observations import ECLIPSE_FRAMES, SHORT_RUN_FRAMES, SHORT_RUN_REGION, band_mode_power
from dataset_builder.simulation.timelines import (
    FIRST_SIMULATED,
    GAP_REGION,
    NAN_FIELD_STEPS,
    NAN_POWER_STEPS,
    NAN_REGION,
    POWER_LEAD_HOURS,
    disk_longitude,
    flux_density,
    power_response,
    start_time,
)
from solared_hf import SolaredError

REGION = FIRST_SIMULATED
STEPS = 240
POWER, FLUX, INTENSITY = slice(4), 4, 5
MIDDLE_BAND = 1
# Noise of a tile's power after the correction, and of the tile's flux and intensity.
NOISE = np.array([3e6, 5e6, 3.7e6, 2.7e6, 1.0, 110.0])


@pytest.fixture(scope="module")
def read_back(tmp_path_factory):
    """Return velocity, magnetograms and continuum images of one region, read from files."""
    folder = tmp_path_factory.mktemp("raw")
    write_observations(folder, [REGION])

    def read(observable):
        return np.concatenate([fits.getdata(path) for path in sorted((folder / f"AR{REGION}" / observable).iterdir())])

    return [read(observable) for observable in ("dopplergram", "magnetogram", "continuum")]


@pytest.fixture(scope="module")
def windows(read_back):
    """Return steps without a missing frame, and the power maps of some of them, (steps, 4, 27, 27)."""
    velocity = read_back[0]
    whole = np.isfinite(velocity).all(axis=(1, 2))
    steps = [step for step in range(0, STEPS, 2) if whole[80 * step : 80 * step + 640].all()]
    assert len(steps) > 60
    return np.array(steps), np.stack([band_power(velocity[80 * step : 80 * step + 640]) for step in steps])


@pytest.fixture(scope="module")
def quiet_velocity(read_back, windows):
    """Return the first window, (640, 27, 27), without a missing frame, long before anything emerges."""
    first = 80 * windows[0][0]
    assert first < 80 * 40
    return read_back[0][first : first + 640].astype(np.float64)


@pytest.fixture(scope="module")
def measured(read_back, windows):
    """Return timelines after the correction, (steps, 6, 63), at the steps of `windows`."""
    steps, power = windows
    maps = np.concatenate([power, np.abs(read_back[1][steps, None]), read_back[2][steps, None]], axis=1)
    return keep_tiles(remove_latitude_background(tile_means(maps)))


def test_the_measured_timeline_is_the_expected_timeline(windows, measured):
    expected = expected_timeline(REGION)[windows[0]]
    errors = measured - expected
    scatter = np.sqrt((errors**2).mean(axis=(0, 2)))
    assert (scatter < 1.2 * NOISE).all(), scatter
    assert (scatter > 0.5 * NOISE).all(), scatter
    # Windows overlap, so noise averages out slowly: the mean of all tiles is known to a tenth of the noise.
    assert (np.abs(errors.mean(axis=(0, 2))) < 0.1 * NOISE).all()
    # A strong signal has the full amplitude in every channel.
    tile = emergence(REGION).tile
    for channel in range(6):
        truth, found = expected[:, channel, tile], measured[:, channel, tile]
        tolerance = 4 * NOISE[channel] / np.ptp(truth) / np.sqrt(len(truth) / 8)
        assert tolerance < (0.25 if channel == 3 else 0.08)
        assert np.polyfit(truth, found, 1)[0] == pytest.approx(1, abs=tolerance)


def test_the_expected_timeline_agrees_with_the_simulated_timeline(windows):
    """The mean over a tile's pixels differs little from the value at the tile's centre."""
    expected, timeline = expected_timeline(REGION), simulate_region(REGION)
    tile = emergence(REGION).tile
    for channel in range(6):
        truth = expected[:, channel, tile]
        difference = np.abs(timeline.values[:, channel, tile] - truth)
        assert np.median(difference[150:]) < 0.2 * np.ptp(truth)
    strongest = expected[150:, FLUX].mean(axis=0).argmax()
    assert strongest == tile


def test_every_band_keeps_some_power_and_the_quiet_sun_has_the_power_of_the_modes(windows):
    steps, power = windows
    assert power.min() > 0
    # In any field, and although the modes fade towards the limb.
    quiet = power[steps < 70].mean(axis=(0, 2, 3))
    assert (quiet < 1.03 * band_mode_power()).all()
    assert (quiet > 0.85 * band_mode_power()).all()
    np.testing.assert_allclose(
        quiet / quiet[MIDDLE_BAND], band_mode_power() / band_mode_power()[MIDDLE_BAND], rtol=0.05
    )
    deepest = -power_response(np.array([480.0]))[:, 0]
    assert (band_mode_power() > 1.35 * deepest).all()


def test_the_spectrum_peaks_at_five_minutes_over_a_background_that_falls(quiet_velocity):
    velocity = (quiet_velocity - quiet_velocity.mean(axis=0)).reshape(640, -1)
    density = 2 * 45 / 640 * (np.abs(rfft(velocity * np.hanning(640)[:, None], axis=0)) ** 2).mean(axis=1) / 0.375
    frequency = rfftfreq(640, 45.0)
    smooth = np.convolve(density, np.ones(9) / 9, mode="same")
    searched = (frequency > 1e-3) & (frequency < 8e-3)
    assert frequency[searched][smooth[searched].argmax()] == pytest.approx(3.3e-3, abs=0.2e-3)
    oscillation = np.sqrt(density[searched].sum() * frequency[1])
    assert 200 < oscillation < 350
    # Outside the modes there is only granulation.
    low, high = (density[(frequency > a) & (frequency < b)].mean() for a, b in ((0.9e-3, 1.3e-3), (8e-3, 10e-3)))
    assert low > 20 * high > 0
    # No line is missing between bands; the line in two bands does not fade near the limb, where the region is now.
    lines = (np.abs(rfft(np.diff(quiet_velocity, axis=0), axis=0)) ** 2).mean(axis=(1, 2))[43:202]
    np.testing.assert_allclose(2 * lines[1:-1] / (lines[:-2] + lines[2:]), 1, atol=0.2)


def test_granulation_follows_harveys_law():
    """The lines repeat every 639 frames and granulation does not, so the difference of repetitions is granulation."""
    knee, rms = 0.6e-3, 105.0
    observations = simulate_observations(REGION, steps=40)
    velocity = (observations.velocity - observations.orbital_velocity[:, None, None]).reshape(-1, 27 * 27)
    there = ~observations.missing
    basis = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, len(velocity)), 5)
    velocity -= basis @ np.linalg.lstsq(basis[there], velocity[there], rcond=None)[0]
    assert np.nanstd(velocity[639:] - velocity[:-639]) / np.sqrt(2) == pytest.approx(rms, rel=0.05)
    # One frame in 2000 is missing and counts as 0, which adds next to nothing to the spectrum.
    frequency, density = welch(np.nan_to_num(velocity), 1 / 45.0, nperseg=640, axis=0)
    law = rms**2 / (np.pi / 2 * knee) / (1 + (0.3e-3 / knee) ** 2)
    assert density.mean(axis=1)[np.abs(frequency - 0.3e-3) < 0.05e-3].mean() == pytest.approx(law, rel=0.3)


def test_the_east_approaches_the_west_recedes_and_the_limb_is_dark():
    """In 240 hours the patch goes from 60 degrees east to 60 degrees west."""
    observations = simulate_observations(REGION, pixels=9)
    centre = observations.velocity[:, 4, 4] - observations.orbital_velocity
    first, middle, last = (np.nanmean(centre[80 * step : 80 * step + 640]) for step in (0, 120, 239))
    assert -1990 < first < -1000
    assert abs(middle) < 150
    assert 1000 < last < 1990

    # Rows of tiles in which nothing emerges.
    first, middle, last = (observations.continuum[step, [0, 8]].mean(axis=0) for step in (0, 120, 239))
    for limb in (first, last):
        assert limb.mean() / middle.mean() == pytest.approx(0.75, abs=0.05)
    slopes = [np.polyfit(np.arange(9), profile, 1)[0] for profile in (first, middle, last)]
    assert slopes[0] > 500
    assert abs(slopes[1]) < 150
    assert slopes[2] < -500


def test_rotation_and_orbit_vanish_in_the_differences(quiet_velocity):
    observations = simulate_observations(REGION, steps=40)
    hourly = observations.velocity[: 24 * 80].reshape(24, 80, 27, 27)
    hourly = np.nanmean(hourly, axis=1)
    assert np.ptp(hourly[:, 13, 13]) > 5500
    assert np.ptp(observations.orbital_velocity) > 5900
    gradients = np.nanmean(observations.velocity, axis=0)[:, [0, -1]].mean(axis=0)
    assert gradients[1] - gradients[0] > 300

    window = quiet_velocity
    time = np.linspace(-1, 1, 640)
    basis = np.polynomial.chebyshev.chebvander(time, 5)
    smooth = (basis @ np.linalg.lstsq(basis, window.reshape(640, -1), rcond=None)[0]).reshape(window.shape)
    assert np.ptp(smooth, axis=0).min() > 1000
    np.testing.assert_allclose(tile_means(band_power(window)), tile_means(band_power(window - smooth)), rtol=2e-3)


def test_flux_grows_from_the_known_time_and_power_falls_before_the_intensity(windows, measured):
    truth, steps = emergence(REGION), windows[0]
    flux, power, intensity = (
        measured[:, FLUX, truth.tile],
        measured[:, MIDDLE_BAND, truth.tile],
        measured[:, 5, truth.tile],
    )
    assert np.abs(flux[steps < truth.onset_hours]).max() < 5 * NOISE[FLUX]
    assert truth.onset_hours < steps[flux > 5 * NOISE[FLUX]][0] < truth.onset_hours + 6

    def falls(values):
        """Return when a third of the fall is over."""
        quiet = values[steps < 70].mean()
        return steps[values < quiet + (values.min() - quiet) / 3][0]

    assert truth.onset_hours < falls(power)
    assert 4 <= falls(intensity) - falls(power) <= 48
    # When the fall in power becomes visible, the intensity has not begun to fall.
    seen = falls(power)
    assert intensity[steps <= seen][-1] > intensity[steps < 70].mean() - 3 * NOISE[INTENSITY]


def test_power_follows_the_field_of_three_hours_later(windows, measured):
    """The response at a tile's pixels, over the eight hours of a window, fits best with the simulated lead."""
    truth, steps = emergence(REGION), windows[0]
    inside = np.array([-1, 0, 1]) / 3
    row, column = divmod(truth.tile, 9)
    places = row + np.repeat(inside, 3), column + np.tile(inside, 3)
    seen = np.cos(disk_longitude(steps))[:, None]
    leads = np.arange(0, 6.5, 0.5)
    misfits = []
    for lead in leads:
        hours = [power_response(flux_density(truth, steps + lead + h, *places) * seen) for h in np.arange(-3.5, 4)]
        response = np.mean(hours, axis=(0, 3))
        misfits.append(np.std(measured[:, POWER, truth.tile].T[:3] - response[:3], axis=1) / NOISE[:3])
    misfits = np.square(misfits).sum(axis=1)
    assert leads[misfits.argmin()] == pytest.approx(POWER_LEAD_HOURS, abs=0.5)


def test_two_polarities_of_opposite_sign(read_back):
    field = read_back[1][150:170].mean(axis=0)
    assert field.max() > 150
    assert field.min() < -150
    # The following polarity is in the east.
    assert np.argmin(field.min(axis=0)) < np.argmax(field.max(axis=0))
    assert abs(field.sum()) < 0.2 * np.abs(field).sum()


def test_times_are_those_of_the_simulated_timelines():
    observations = simulate_observations(REGION, steps=3, pixels=9)
    assert len(observations.times) == 2 * 80 + 640
    middle = observations.times[0] + (observations.times[639] - observations.times[0]) / 2
    assert middle == start_time(REGION)
    # The frames nearest the middle, on the hour.
    assert (
        np.abs(observations.field_times - middle - np.arange(3) * np.timedelta64(1, "h")) < np.timedelta64(45, "s")
    ).all()
    assert (observations.field_times == observations.field_times.astype("datetime64[h]")).all()


def test_frames_are_missing_singly_and_in_runs():
    for region, longest in ((REGION, 1), (SHORT_RUN_REGION, SHORT_RUN_FRAMES), (GAP_REGION, ECLIPSE_FRAMES)):
        observations = simulate_observations(region, steps=STEPS, pixels=9)
        missing = observations.missing
        edges = np.flatnonzero(np.diff(np.r_[False, missing, False]))
        runs = edges[1::2] - edges[::2]
        assert runs.max() == longest or longest < runs.max() <= longest + 2
        assert np.median(runs) == 1
        assert 2 <= observations.bad.sum() < len(runs)
        assert (missing >= observations.bad).all()
        assert (np.isnan(observations.velocity).all(axis=(1, 2)) == missing).all()
        assert (np.isnan(observations.velocity).any(axis=(1, 2)) == missing).all()
        lost = np.convolve(missing, np.ones(640), mode="valid")[::80] > 0.2 * 640
        without_field = np.isnan(observations.magnetogram).all(axis=(1, 2))
        assert (np.isnan(observations.continuum).all(axis=(1, 2)) == without_field).all()
        if region == GAP_REGION:
            assert 6 <= lost.sum() <= 9
            assert 2 <= without_field.sum() <= 3
            assert lost[without_field].all()
        else:
            assert not lost.any()
            assert not without_field.any()


def test_eastern_tiles_are_missing_at_first_in_one_region():
    observations = simulate_observations(NAN_REGION, steps=5, pixels=18)
    there = np.isfinite(observations.velocity[~observations.missing])
    first = np.flatnonzero(there.all(axis=(1, 2)))[0]
    assert first == 80 * NAN_POWER_STEPS - observations.missing[: 80 * NAN_POWER_STEPS].sum()
    assert not there[:first, :, :2].any()
    assert there[:, :, 2:].all()
    for images in (observations.magnetogram, observations.continuum):
        assert np.isnan(images[:NAN_FIELD_STEPS, :, :2]).all()
        assert np.isfinite(images[NAN_FIELD_STEPS:]).all()


def test_the_same_seed_gives_the_same_values():
    arrays = ("velocity", "magnetogram", "continuum", "missing", "bad", "orbital_velocity")
    first, again, other = (simulate_observations(REGION, seed=seed, steps=2, pixels=9) for seed in (3, 3, 4))
    for name in arrays:
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert first.trajectory == again.trajectory != other.trajectory
    assert (first.velocity != other.velocity).any()


def test_real_regions_and_wrong_sizes_raise():
    with pytest.raises(SolaredError, match="AR11130 is not a simulated region"):
        simulate_observations(11130)
    with pytest.raises(ValueError, match="pixels=8 must be at least 1 and 9"):
        simulate_observations(REGION, steps=1, pixels=8)
