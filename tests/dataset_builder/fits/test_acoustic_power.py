"""Band power against the published formula written out pixel by pixel in float64."""

import numpy as np
import pytest
import torch

from dataset_builder.fits import WINDOW_FRAMES, SlidingBandPower, band_power

CADENCE = 45.0
# First and last bin of 2-3, 3-4, 4-5 and 5-6 mHz; k/28800 s as published, k/28755 s exactly.
PUBLISHED_BINS = [(58, 86), (87, 115), (116, 144), (144, 172)]
EXACT_BINS = [(58, 86), (87, 115), (116, 143), (144, 172)]
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def reference(cube: np.ndarray) -> np.ndarray:
    """Return the band power of a cube, computed pixel by pixel: difference, Fourier sum, power, trapezoids."""
    result = np.empty((4, *cube.shape[1:]))
    for row, column in np.ndindex(*cube.shape[1:]):
        power = power_of_bins(cube[:, row, column])
        for band, (first, last) in enumerate(PUBLISHED_BINS):
            bins = power[first : last + 1]
            result[band, row, column] = ((bins[1:] + bins[:-1]) / 2).sum()
    return result


def power_of_bins(velocity: np.ndarray, cadence: float = CADENCE) -> np.ndarray:
    velocity = velocity.astype(np.float64)
    difference = velocity[1:] - velocity[:-1]
    return cadence**2 / (WINDOW_FRAMES * cadence) * np.abs(np.fft.fft(difference)) ** 2


def references(stream: np.ndarray, step: int) -> np.ndarray:
    """Return the power of every window of the stream, each computed alone, (windows, 4, rows, columns)."""
    starts = range(0, len(stream) - WINDOW_FRAMES + 1, step)
    return np.array([reference(stream[start : start + WINDOW_FRAMES]) for start in starts])


def observations(frames: int, rows: int = 3, columns: int = 4, seed: int = 0) -> np.ndarray:
    """Return five-minute waves and granulation on top of rotation and the satellite's motion, m/s, float32."""
    random = np.random.default_rng(seed)
    time = np.arange(frames)[:, None, None] * CADENCE
    waves = sum(
        random.uniform(20, 120, (rows, columns))
        * np.sin(2 * np.pi * (frequency * time + random.uniform(size=(rows, columns))))
        for frequency in random.uniform(2e-3, 6e-3, 30)
    )
    steady = 2000 + 300 * np.arange(columns) + 3000 * np.sin(2 * np.pi * time / 86164)
    return (waves + steady + random.normal(0, 150, (frames, rows, columns))).astype(np.float32)


def push_in_parts(sliding: SlidingBandPower, stream: np.ndarray, counts: list[int]) -> np.ndarray:
    parts = np.split(stream, np.cumsum(counts)[:-1])
    assert [len(part) for part in parts] == counts
    return np.concatenate([sliding.push(part) for part in parts])


def assert_equal_power(actual, expected, rtol=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=rtol)


@pytest.mark.parametrize("device", DEVICES)
def test_one_window_equals_the_reference(device):
    cube = observations(WINDOW_FRAMES)
    power = band_power(cube, device=device)
    assert power.shape == (4, 3, 4)
    assert power.dtype == np.float32
    assert_equal_power(power, reference(cube))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [1, 16, 80, 640, 700])
def test_every_window_of_a_stream_equals_the_reference(step, device):
    windows = max(5, 720 // step) if step < 640 else 4
    stream = observations(WINDOW_FRAMES + (windows - 1) * step + step // 2, rows=2, columns=2)
    power = SlidingBandPower(step, device=device).push(stream)
    assert power.shape == (windows, 4, 2, 2)
    assert power.dtype == np.float32
    assert_equal_power(power, references(stream, step))


@pytest.mark.parametrize("step", [1, 16, 80, 250, 640, 700])
def test_how_a_stream_is_split_does_not_change_the_power(step):
    stream = observations(2400, rows=1, columns=3)
    whole = SlidingBandPower(step).push(stream)
    for counts in ([1, 638, 1, 1, 7, 80, 1672], [640] + 22 * [80], [16] * 150, [2399, 1]):
        assert_equal_power(push_in_parts(SlidingBandPower(step), stream, counts), whole)


def test_a_push_returns_the_windows_that_it_completes():
    stream = observations(900, rows=1, columns=2)
    sliding = SlidingBandPower(50)
    parts = np.split(stream, np.cumsum([1, 638, 1, 49, 1, 170]))
    completed = [sliding.push(part) for part in parts]
    assert [part.shape for part in completed] == [(count, 4, 1, 2) for count in (0, 0, 1, 0, 1, 3, 1)]
    assert_equal_power(np.concatenate(completed), references(stream, 50))


def test_the_same_pushes_give_the_same_power_on_any_number_of_threads():
    stream = observations(WINDOW_FRAMES + 100, rows=40, columns=60)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 1, 3):
            torch.set_num_threads(threads)
            results.append(
                (
                    band_power(stream[:WINDOW_FRAMES]),
                    push_in_parts(SlidingBandPower(16), stream, [WINDOW_FRAMES, 40, 1, 59]),
                )
            )
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for window, windows in results[1:]:
        assert_equal_power(window, results[0][0])
        assert_equal_power(windows, results[0][1])


def test_more_pixels_than_one_chunk_holds():
    cube = observations(WINDOW_FRAMES + 160)
    wide = np.tile(cube, (1, 7, 100))[:, :20]
    expected = np.tile(references(cube, 80), (1, 1, 7, 100))[:, :, :20]
    assert_equal_power(band_power(wide[:WINDOW_FRAMES]), expected[0])
    assert_equal_power(push_in_parts(SlidingBandPower(80), wide, [WINDOW_FRAMES, 80, 80]), expected)


def test_many_steps_do_not_drift_when_the_oscillations_fade():
    step, windows = 16, 130
    stream = observations(WINDOW_FRAMES + (windows - 1) * step, rows=1, columns=3)
    fading = np.geomspace(1, 0.1, len(stream))[:, None, None]
    stream = ((stream - 2000) * fading + 2000).astype(np.float32)
    power = push_in_parts(SlidingBandPower(step), stream, [WINDOW_FRAMES] + [step] * (windows - 1))
    assert_equal_power(power, references(stream, step))


def test_the_power_of_a_wave_lies_in_the_band_of_its_frequency():
    """|F|^2 of the difference of A sin(2 pi f t) is (639 A sin(pi f dt))^2 at the frequency f."""
    power = band_power(wave_at_bin(100, amplitude=50.0) + 2000)[:, 0, 0]
    expected = CADENCE / WINDOW_FRAMES * (639 * 50.0 * np.sin(np.pi * 100 / 639)) ** 2
    assert power[1] == pytest.approx(expected, rel=1e-3)
    assert power[[0, 2, 3]].max() < 1e-4 * expected


def wave_at_bin(number: int, amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * number / 639 * np.arange(WINDOW_FRAMES)))[:, None, None]


def test_rotation_and_satellite_motion_leak_less_than_a_ten_thousandth():
    time = np.arange(WINDOW_FRAMES)[:, None, None] * CADENCE
    phases = np.linspace(0, 2 * np.pi, 12).reshape(1, 3, 4)
    motion = 2000 + 3000 * np.sin(2 * np.pi * time / 86164 + phases)
    assert (band_power(motion) < 9e-5 * band_power(observations(WINDOW_FRAMES))).all()


def test_exact_frequencies_count_each_bin_in_exactly_one_band():
    cube = observations(WINDOW_FRAMES, rows=1, columns=1)
    power = power_of_bins(cube[:, 0, 0])
    exact = band_power(cube, exact_frequencies=True)[:, 0, 0]
    for band, (first, last) in enumerate(EXACT_BINS):
        frequencies = np.arange(first - 1, last + 2) / (639 * CADENCE)
        inside = (frequencies >= (2 + band) * 1e-3) & (frequencies < (3 + band) * 1e-3)
        assert inside.tolist() == [False] + [True] * (last - first + 1) + [False]
        assert exact[band] == pytest.approx(power[first : last + 1].sum(), rel=1e-5)
    assert exact.sum() == pytest.approx(power[58:173].sum(), rel=1e-5)


def test_a_wave_at_a_band_edge_has_its_full_power_only_with_exact_frequencies():
    """At 3 and 4 mHz the published bands count half the power of their end bins; at 5 mHz two bands share a bin."""
    for number, published in ((86, [0.5, 0, 0, 0]), (87, [0, 0.5, 0, 0]), (144, [0, 0, 0.5, 0.5])):
        wave = wave_at_bin(number, amplitude=50.0)
        peak = power_of_bins(wave[:, 0, 0])[number]
        band = [0, 1, 3][[86, 87, 144].index(number)]
        np.testing.assert_allclose(band_power(wave)[:, 0, 0] / peak, published, atol=1e-4)
        exact = band_power(wave, exact_frequencies=True)[:, 0, 0]
        np.testing.assert_allclose(exact / peak, np.eye(4)[band], atol=1e-4)


@pytest.mark.parametrize(("exact", "spacing_hz"), [(False, 1 / 28800), (True, 1 / 28755)])
def test_density_is_integrated_over_frequency(exact, spacing_hz):
    stream = observations(WINDOW_FRAMES + 80)
    per_hz = SlidingBandPower(80, exact_frequencies=exact).push(stream)
    integrated = SlidingBandPower(80, exact_frequencies=exact, density=True).push(stream)
    assert_equal_power(integrated, per_hz * spacing_hz, rtol=1e-6)
    alone = band_power(stream[80:], exact_frequencies=exact, density=True)
    assert_equal_power(alone, integrated[1])


def test_bands_follow_the_cadence():
    """At 60 s the bins are 1/38400 s apart: 2-3 mHz are bins 77 to 115."""
    cube = observations(WINDOW_FRAMES, rows=1, columns=1)
    power = power_of_bins(cube[:, 0, 0], cadence=60.0)
    expected = [
        np.trapezoid(power[first : last + 1]) for first, last in [(77, 115), (116, 153), (154, 192), (192, 230)]
    ]
    assert_equal_power(band_power(cube, cadence_s=60.0)[:, 0, 0], expected)
    for cadence in (90.0, 1.0):
        with pytest.raises(ValueError, match="do not resolve the bands from 2 to 6 mHz"):
            band_power(cube, cadence_s=cadence)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("frame", [0, 638, 639, 640, 700, 799])
def test_a_bad_pixel_is_nan_in_exactly_the_windows_that_contain_its_frame(frame, bad):
    stream = observations(WINDOW_FRAMES + 8 * 100, rows=2)
    expected = references(stream, 100)
    stream[frame, 1, 2] = bad
    for counts in (
        [len(stream)],
        [WINDOW_FRAMES, 100, 60, 640],
        [frame, len(stream) - frame][frame == 0 :],
        [360] * 4,
    ):
        power = push_in_parts(SlidingBandPower(100), stream, counts)
        for window, start in enumerate(range(0, 801, 100)):
            held = start <= frame < start + WINDOW_FRAMES
            assert np.isnan(power[window, :, 1, 2]).all() == held
            assert np.isnan(power[window]).sum() == 4 * held
            good = ~np.isnan(power[window])
            assert_equal_power(power[window][good], expected[window][good])
    assert np.isnan(band_power(stream[:WINDOW_FRAMES])[:, 1, 2]).all() == (frame < WINDOW_FRAMES)


@pytest.mark.parametrize("step", [16, 80, 300])
@pytest.mark.parametrize("size", [7, 80, 1000])
def test_missing_frames_at_an_end_of_a_window_count_as_the_repeated_last_value(step, size):
    """One pixel is missing from frame 700 to 900, in windows that begin or end there."""
    stream = 200 * np.random.default_rng(5).standard_normal((1700, 3, 3), dtype=np.float32)
    gone, back = stream.copy(), stream.copy()
    gone[700:, 1, 2], back[:900, 1, 2] = stream[699, 1, 2], stream[900, 1, 2]
    stream[700:900, 1, 2] = np.nan
    stream[:, 0, 0] = np.nan
    sliding = SlidingBandPower(step, repeat_missing=True)
    power = np.concatenate([sliding.push(stream[first : first + size]) for first in range(0, len(stream), size)])
    for window, maps in enumerate(power):
        frames = slice(window * step, window * step + WINDOW_FRAMES)
        if 900 - WINDOW_FRAMES <= frames.start < 700:  # missing in the middle: the result is not defined
            continue
        expected = band_power((gone if frames.start < 700 else back)[frames])
        expected[:, 0, 0] = 0
        np.testing.assert_allclose(maps, expected, rtol=1e-4)
        np.testing.assert_allclose(band_power(stream[frames], repeat_missing=True), expected, rtol=1e-4)


@pytest.mark.parametrize("step", [16, 80])
@pytest.mark.parametrize("size", [7, 80, 300, 3000])
def test_a_window_does_not_depend_on_values_pushed_before_it(step, size):
    """The rounding of an absurdly large value would stay in the sums for up to 40 windows."""
    stream = observations(1600, rows=2)
    spoilt = stream.copy()
    spoilt[100, 0, 0], spoilt[101:103, 0, 1], spoilt[130, 1, 1], spoilt[140, 1, 0] = 1e20, -1e30, -2e9, np.nan
    spoilt[300, 1, 2] = 1e12
    sliding, after = SlidingBandPower(step), push_in_parts(SlidingBandPower(step), stream, [len(stream)])
    parts = [sliding.push(spoilt[first : first + size]) for first in range(0, len(spoilt), size)]
    power = np.concatenate(parts)
    assert len(power) == len(after)
    for window, start in enumerate(range(0, len(stream) - WINDOW_FRAMES + 1, step)):
        clean = np.abs(spoilt[start : start + WINDOW_FRAMES]).max(axis=0) < 1e4
        assert clean.sum() >= 1
        assert_equal_power(power[window][:, clean], after[window][:, clean])
    assert clean.all()


def test_pixels_without_data_stay_nan_and_leave_other_pixels_alone():
    stream = observations(WINDOW_FRAMES + 300)
    expected = references(stream, 50)
    stream[:, 0, 0] = np.nan
    power = push_in_parts(SlidingBandPower(50), stream, [300, 340, 50, 250])
    assert np.isnan(power[..., 0, 0]).all()
    assert_equal_power(power[..., 1:, 1:], expected[..., 1:, 1:])


def test_frames_of_other_types_and_layouts_are_accepted(recwarn):
    cube = observations(WINDOW_FRAMES + 1).round()
    read_only = cube.copy()
    read_only.flags.writeable = False
    expected = SlidingBandPower(1).push(cube)
    for other in (cube.astype(">f4"), cube.astype(np.int16), cube.astype(float), np.asfortranarray(cube), read_only):
        before = other.copy()
        assert_equal_power(SlidingBandPower(1).push(other), expected)
        assert_equal_power(band_power(other[:WINDOW_FRAMES]), band_power(cube[:WINDOW_FRAMES]))
        np.testing.assert_array_equal(other, before)
    assert not recwarn.list


def test_frames_may_be_overwritten_after_a_push():
    stream = observations(WINDOW_FRAMES + 80)
    sliding, buffer, results = SlidingBandPower(80), np.empty((80, 3, 4), dtype=np.float32), []
    for start in range(0, len(stream), 80):
        buffer[:] = stream[start : start + 80]
        results.append(sliding.push(buffer))
        buffer[:] = np.nan
    assert_equal_power(np.concatenate(results), references(stream, 80))


def test_wrong_shapes_and_steps_raise():
    with pytest.raises(ValueError, match=r"shape \(640, rows, columns\), but got \(639, 2, 2\)"):
        band_power(np.zeros((639, 2, 2)))
    with pytest.raises(ValueError, match=r"got \(640,\)"):
        band_power(np.zeros(640))
    sliding = SlidingBandPower(80)
    sliding.push(np.zeros((5, 2, 2)))
    with pytest.raises(ValueError, match=r"do not continue a stream of shape \(2, 2\)"):
        sliding.push(np.zeros((5, 3, 2)))
    with pytest.raises(ValueError, match="one or more frames"):
        sliding.push(np.zeros((0, 2, 2)))
    with pytest.raises(ValueError, match="step=0 must be at least 1 frame"):
        SlidingBandPower(0)
