"""Band power against the published formula written out pixel by pixel in float64."""

import numpy as np
import pytest

from dataset_builder.acoustic_power import FRAMES, SlidingBandPower, band_power

CADENCE = 45.0


def reference(cube: np.ndarray) -> np.ndarray:
    """One pixel after the other: difference, Fourier sum, power, trapezoids."""
    time = FRAMES * CADENCE
    result = np.empty((4, *cube.shape[1:]))
    for row, column in np.ndindex(*cube.shape[1:]):
        velocity = cube[:, row, column].astype(np.float64)
        difference = velocity[1:] - velocity[:-1]
        power = CADENCE**2 / time * np.abs(np.fft.fft(difference)) ** 2
        for band, (first, last) in enumerate([(58, 86), (87, 115), (116, 144), (144, 172)]):
            bins = power[first : last + 1]
            result[band, row, column] = ((bins[1:] + bins[:-1]) / 2).sum()
    return result


def observations(frames: int, rows: int = 3, columns: int = 4, seed: int = 0) -> np.ndarray:
    """Five-minute waves and granulation on top of rotation and the satellite's motion, m/s, float32."""
    random = np.random.default_rng(seed)
    time = np.arange(frames)[:, None, None] * CADENCE
    waves = sum(
        random.uniform(20, 120, (rows, columns))
        * np.sin(2 * np.pi * (frequency * time + random.uniform(size=(rows, columns))))
        for frequency in random.uniform(2e-3, 6e-3, 30)
    )
    steady = 2000 + 300 * np.arange(columns) + 3000 * np.sin(2 * np.pi * time / 86164)
    return (waves + steady + random.normal(0, 150, (frames, rows, columns))).astype(np.float32)


def assert_equal_power(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_one_window_equals_the_reference():
    cube = observations(FRAMES)
    power = band_power(cube)
    assert power.shape == (4, 3, 4)
    assert power.dtype == np.float32
    assert_equal_power(power, reference(cube))


def test_more_pixels_than_are_worked_on_at_once():
    cube = np.tile(observations(FRAMES), (1, 60, 100))
    power = band_power(cube)
    np.testing.assert_allclose(power, np.tile(band_power(cube[:, :3, :4]), (1, 60, 100)), rtol=1e-5)


def test_a_wave_is_found_in_its_band_with_its_power():
    """|F|^2 of the difference of A sin(2 pi f t) is (639 A sin(pi f dt))^2 at its own frequency."""
    frequency, amplitude = 100 / (639 * CADENCE), 50.0
    wave = amplitude * np.sin(2 * np.pi * frequency * CADENCE * np.arange(FRAMES))
    power = band_power(wave[:, None, None] + 2000)[:, 0, 0]
    expected = CADENCE / FRAMES * (639 * amplitude * np.sin(np.pi * frequency * CADENCE)) ** 2
    assert power[1] == pytest.approx(expected, rel=1e-3)
    assert power[[0, 2, 3]].max() < 1e-4 * expected


def test_rotation_and_a_moving_satellite_leak_less_than_a_ten_thousandth():
    time = np.arange(FRAMES)[:, None, None] * CADENCE
    phases = np.linspace(0, 2 * np.pi, 12).reshape(1, 3, 4)
    motion = 2000 + 3000 * np.sin(2 * np.pi * time / 86164 + phases)
    assert (band_power(motion) < 9e-5 * band_power(observations(FRAMES))).all()


@pytest.mark.parametrize("step", [1, 16, 80, 640, 700])
def test_a_sliding_window_equals_every_window_alone(step):
    steps = max(4, 45 * 16 // step) if step < 640 else 3
    stream = observations(FRAMES + steps * step, rows=2, columns=2)
    sliding = SlidingBandPower()
    assert_equal_power(sliding.push(stream[:FRAMES]), band_power(stream[:FRAMES]))
    for start in range(step, steps * step + 1, step):
        power = sliding.push(stream[start + FRAMES - step : start + FRAMES])
        assert_equal_power(power, reference(stream[start : start + FRAMES]))


def test_a_stream_of_uneven_pushes_says_nothing_before_its_first_window():
    stream = observations(900, rows=1, columns=2)
    sliding, seen = SlidingBandPower(), 0
    for count in (1, 200, 438, 1, 7, 80, 173):
        power = sliding.push(stream[seen : seen + count])
        seen += count
        if seen < FRAMES:
            assert power is None
        else:
            assert_equal_power(power, reference(stream[seen - FRAMES : seen]))
    assert seen == len(stream)


def test_nan_stays_in_its_pixel_and_leaves_with_its_frame():
    stream = observations(FRAMES + 8 * 100)
    stream[650, 1, 2] = np.nan
    assert np.isnan(band_power(stream[100:740])[:, 1, 2]).all()
    sliding = SlidingBandPower()
    for start in range(0, len(stream) - FRAMES + 1, 100):
        power = sliding.push(stream[:FRAMES] if not start else stream[start + FRAMES - 100 : start + FRAMES])
        poisoned = start <= 650 < start + FRAMES
        assert np.isnan(power[:, 1, 2]).all() == poisoned
        assert np.isfinite(power).sum() == power.size - 4 * poisoned
        if not poisoned:
            assert_equal_power(power, reference(stream[start : start + FRAMES]))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(640, rows, columns\), but got \(639, 2, 2\)"):
        band_power(np.zeros((639, 2, 2)))
    with pytest.raises(ValueError, match=r"got \(640,\)"):
        band_power(np.zeros(640))
    sliding = SlidingBandPower()
    sliding.push(np.zeros((5, 2, 2)))
    with pytest.raises(ValueError, match=r"do not continue a stream of shape \(2, 2\)"):
        sliding.push(np.zeros((5, 3, 2)))
    with pytest.raises(ValueError, match="one or more frames"):
        sliding.push(np.zeros((0, 2, 2)))
