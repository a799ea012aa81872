"""Onsets of series computed by hand, and compared with the definition written out step by step."""

from datetime import timedelta

import numpy as np
import pytest

from dataset_builder.published import read_timeline
from solared_hf import SolaredWindows
from solared_hf.evaluation import emergence_onsets, observed_onsets
from solared_hf.evaluation.emergence import emerging_tiles, intensity_range


def onset(series, hours, **options) -> float:
    return emergence_onsets(np.asarray(series, dtype=float)[:, None], hours, **options)[0]


def decline(hours, slope: float = 0.06):
    """Return a series that is flat until hour 20 and then falls."""
    return -slope * np.maximum(hours - 20, 0)


def step_by_step(series: np.ndarray, hours: np.ndarray, threshold: float = -0.01) -> float:
    """Return the onset of one complete hourly series by the definition, with the ends held constant."""
    held = np.pad(series, 3, mode="edge")
    gradient = np.gradient(np.convolve(held, np.full(5, 0.2), mode="valid"))[1:-1]
    for start in range(len(series) - 3):
        if (gradient[start : start + 4] <= threshold).all():
            return hours[start]
    return np.nan


def test_onset_of_a_steady_decline():
    hours = np.arange(60.0)
    # Around the bend the gradient is -0.1, -0.3, -0.5, -0.7, -0.9 and then -1 slope, from hour 18 on.
    assert onset(decline(hours, 0.11), hours) == 18
    assert onset(decline(hours, 0.06), hours) == 19
    assert onset(decline(hours, 0.03), hours) == 20
    assert onset(decline(hours, 0.0101), hours) == 23
    assert np.isnan(onset(decline(hours, 0.0099), hours))
    assert onset(decline(hours, 0.0099), hours, threshold=-0.005) == 21
    assert np.isnan(onset(-decline(hours), hours))
    assert onset(decline(hours), hours + 1000) == 1019


def test_gradient_must_stay_below_the_threshold():
    hours = np.arange(40.0)
    # A single drop of d gives a gradient of -0.2 d per hour for four steps, and -0.1 d in one step on either side.
    drop = np.where(hours < 20, 0.0, -1.0)
    assert onset(0.06 * drop, hours) == 18
    assert np.isnan(onset(0.06 * drop, hours, duration_hours=5))
    assert onset(0.12 * drop, hours, duration_hours=5) == 17
    assert np.isnan(onset(0.04 * drop, hours))


def test_ends_are_held_constant():
    hours = np.arange(30.0)
    # Hours 19 to 22 are steep, whatever comes after them; three hours are shorter than the duration of four.
    assert onset(decline(hours[:23]), hours[:23]) == onset(decline(np.minimum(hours, 22)), hours) == 19
    assert np.isnan(onset(decline(hours[:22]), hours[:22]))
    assert onset(-0.06 * hours, hours) == 0


@pytest.mark.parametrize("seed", range(4))
def test_random_series_agree_with_the_definition(seed):
    hours = np.arange(80.0)
    series = np.cumsum(np.random.default_rng(seed).normal(0, 0.02, (80, 63)), axis=0)
    expected = [step_by_step(series[:, tile], hours) for tile in range(63)]
    assert 5 < np.isnan(expected).sum() < 60
    np.testing.assert_array_equal(emergence_onsets(series, hours), expected)


def test_mean_and_duration_do_not_cross_a_missing_step():
    hours = np.arange(40.0)
    kept = np.delete(hours, 21)
    # The remaining part begins at hour 22 with the full slope: -0.06 times 0.5 in its first step.
    assert onset(decline(kept), kept) == 22
    # The steps before and after this drop are never adjacent.
    drop = np.where(hours < 20, 0.0, -0.06)
    assert onset(drop, hours) == 18
    assert np.isnan(onset(np.delete(drop, 20), np.delete(hours, 20)))
    # Every step is steep, but there are never four steps in a row.
    parted = np.delete(hours, np.arange(3, 40, 4))
    assert np.isnan(onset(-0.06 * parted, parted))
    assert onset(-0.06 * parted, parted, duration_hours=3) == 0


def test_nan_is_a_missing_step_of_the_tile():
    hours, generator = np.arange(80.0), np.random.default_rng(5)
    series = np.cumsum(generator.normal(0, 0.03, (80, 63)), axis=0)
    series[generator.random(series.shape) < 0.05] = np.nan
    alone = [onset(tile[~np.isnan(tile)], hours[~np.isnan(tile)]) for tile in series.T]
    assert np.isfinite(alone).any()
    np.testing.assert_allclose(emergence_onsets(series, hours), alone)
    assert np.isnan(onset(np.full(80, np.nan), hours))


def test_onset_does_not_depend_on_the_cadence():
    every_12_minutes = np.arange(0, 60, 0.2)
    # A mean over 25 steps reaches 2.4 h, its neighbours 2.6 h: at hour 20 - d the gradient is -0.06 (5 - 2 d) / 10.
    assert onset(decline(every_12_minutes), every_12_minutes) == pytest.approx(18.4)
    # 3 steps: at hour 18 the neighbours reach 4 h and 2 h, and -0.07 * 2 / 12 is steep; two steps last 4 h.
    every_2_hours = np.arange(0, 60, 2.0)
    assert onset(decline(every_2_hours, 0.07), every_2_hours) == 18
    assert np.isnan(onset(decline(np.minimum(every_2_hours, 60), 0.05), every_2_hours, threshold=-0.051))


def test_batches_and_onsets_after_a_given_time():
    hours = np.arange(80.0)
    series = np.cumsum(np.random.default_rng(9).normal(-0.002, 0.02, (3, 2, 80, 63)), axis=2)
    onsets = emergence_onsets(series, hours)
    assert onsets.shape == (3, 2, 63)
    np.testing.assert_array_equal(onsets[2, 1], emergence_onsets(series[2, 1], hours))
    later = emergence_onsets(series, hours, after=np.array([[-1.0, 10.0], [20.0, 30.0], [40.0, 80.0]]))
    np.testing.assert_array_equal(later[0, 0], onsets[0, 0])
    np.testing.assert_array_equal(later[2, 0], emergence_onsets(series[2, 0], hours, after=40))
    assert (later[2, 0][np.isfinite(later[2, 0])] > 40).all()
    assert np.isfinite(later[2, 0]).any()
    assert np.isnan(later[2, 1]).all()
    # The rest of an earlier decline is not an onset; the next decline is.
    twice = decline(np.minimum(hours, 30)) + decline(np.clip(hours - 20, 0, 30))
    assert onset(twice, hours) == 19
    assert onset(twice, hours, after=18) == 19
    assert onset(twice, hours, after=19) == 39


def test_observed_onsets_of_a_region(make_timeline):
    timeline = make_timeline(90001, steps=100)
    hours = np.arange(100)
    timeline.values[:, 5] = 50
    timeline.values[:, 5, 3] -= 100 * np.clip(hours - 20, 0, 16)  # the range: 1600 DN, so 0.0625 an hour
    timeline.values[:, 5, 4] -= 14 * np.clip(hours - 40, 0, 16)  # 0.00875 an hour
    timeline.values[:, 5, 5] -= 20 * np.clip(hours - 60, 0, 16)  # 0.0125 an hour: steep from the second step on
    timeline.values[:, 5, 6] = np.nan
    assert intensity_range(timeline) == 1600
    onsets = observed_onsets(timeline)
    assert onsets.dtype == "datetime64[ms]"
    assert np.flatnonzero(~np.isnat(onsets)).tolist() == [3, 5]
    assert onsets[[3, 5]].tolist() == timeline.times[[19, 62]].tolist()

    windows = SolaredWindows([timeline, make_timeline(90002, steps=60, seed=2)], input_steps=24)
    emerging = emerging_tiles(windows)
    assert emerging.shape == (len(windows), 63)
    assert (emerging[windows.ar_numbers == 90001] == ~np.isnat(onsets)).all()
    assert (emerging[windows.ar_numbers == 90002] == ~np.isnat(observed_onsets(windows.regions[1].timeline))).all()


def test_regions_without_onset(make_timeline):
    flat, blank, single = (make_timeline(90001, steps=steps) for steps in (50, 50, 1))
    flat.values[:, 5] = 7
    blank.values[:, 5] = np.nan
    for timeline in (flat, blank, single):
        assert np.isnat(observed_onsets(timeline)).all()


def test_onsets_do_not_depend_on_unit_and_background(make_timeline):
    timeline = make_timeline(90001, steps=80, cadence=timedelta(minutes=30), missing=[40, 41])
    timeline.values[:, 5] = np.cumsum(timeline.values[:, 5], axis=0)
    onsets = observed_onsets(timeline)
    assert 0 < np.isnat(onsets).sum() < 63
    timeline.values[:, 5] = 3 * timeline.values[:, 5] - 1000
    np.testing.assert_array_equal(observed_onsets(timeline), onsets)


def test_real_region_agrees_with_the_definition(published_dir):
    timeline = read_timeline(published_dir / "AR11158")
    intensity = timeline.values[:, 5].astype(np.float64)
    normalised = (intensity - intensity.min()) / (intensity.max() - intensity.min())
    hours = (timeline.times - timeline.times[0]) / np.timedelta64(1, "h")
    expected = np.array([step_by_step(normalised[:, tile], hours) for tile in range(63)])
    assert np.isfinite(expected).any()
    onsets = observed_onsets(timeline)
    np.testing.assert_array_equal((onsets - timeline.times[0]) / np.timedelta64(1, "h"), expected)
