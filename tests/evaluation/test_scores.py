"""Scores and intervals of series computed by hand."""

import numpy as np
import pytest

from solared_hf import SolaredProcessor, SolaredWindows
from solared_hf.evaluation import score_forecasts
from solared_hf.evaluation.intervals import region_interval
from solared_hf.forecasters import Average, Climatology, Persistence
from solared_hf.schema import CHANNELS


def test_baselines_by_hand(make_timeline):
    timeline = make_timeline(90001, steps=30)
    timeline.values[:, 5] = np.arange(30, dtype=np.float32)[:, None]
    timeline.values[9, 5, 8] = np.nan
    timeline.values[:10, 5, 9] = np.nan
    windows = SolaredWindows(timeline, input_steps=10)
    persistence, average = Persistence().forecast(windows)[0], Average().forecast(windows)[0]
    assert persistence[:10].tolist() == [9, 9, 9, 9, 9, 9, 9, 9, 8, 0]
    assert average[:10].tolist() == [4.5, 4.5, 4.5, 4.5, 4.5, 4.5, 4.5, 4.5, 4, 0]
    assert windows.observed_targets[0].tolist() == [21] * 63


def test_scores_of_known_forecasts(make_timeline):
    timelines = [make_timeline(90000 + number, steps=40, seed=number) for number in range(1, 5)]
    for timeline in timelines:
        timeline.values[:, 5] = (timeline.ar_number - 90000) * np.arange(40, dtype=np.float32)[:, None]
    processor = SolaredProcessor.fit([timeline.values for timeline in timelines], CHANNELS)
    assert processor.target_range == 4 * 39
    windows = SolaredWindows(timelines, input_steps=10)
    persistence = Persistence().forecast(windows)
    perfect = windows.observed_targets
    first, second = score_forecasts(
        {"persistence": persistence, "half": (persistence + perfect) / 2}, "persistence", windows, processor
    )
    # On a line of slope n the error of persistence 12 steps ahead is 12 n; the mean square for n = 1..4 is 144 * 7.5.
    assert first.rmse_dn == pytest.approx(12 * 7.5**0.5)
    assert first.mae_dn == pytest.approx(30)
    assert first.rmse_normalised == pytest.approx(first.rmse_dn / 156)
    assert first.skill == 0
    assert first.skill_interval == (0, 0)
    assert first.rmse_dn_by_region == pytest.approx({90001: 12, 90002: 24, 90003: 36, 90004: 48})
    assert first.rmse_dn_by_tile == pytest.approx([first.rmse_dn] * 63)
    assert first.skill_climatology is None
    assert second.skill == pytest.approx(0.75)
    assert second.skill_interval == pytest.approx((0.75, 0.75))
    low, high = first.rmse_dn_interval
    assert 12 < low < first.rmse_dn < high < 48


def test_skill_against_climatology(make_timeline):
    timelines = [make_timeline(90001, steps=40), make_timeline(90002, steps=40)]
    for timeline, level in zip(timelines, (100, 300), strict=True):
        timeline.values[:, 5] = level
        timeline.values[30:, 5] = level + 40
    climatology = Climatology.fit(timelines)
    assert climatology.mean_intensity.tolist() == [210] * 63
    windows = SolaredWindows(timelines, input_steps=10)
    processor = SolaredProcessor.fit([timeline.values for timeline in timelines], CHANNELS)
    forecasters = (Persistence(), climatology)
    persistence, own = score_forecasts(
        {forecaster.name: forecaster.forecast(windows) for forecaster in forecasters},
        "persistence",
        windows,
        processor,
    )
    # Each region has 19 targets, 9 of them before the jump of 40 DN; persistence misses the other 10 by 40 DN each.
    missed = 10 * 40**2 * 2
    climatology_errors = 9 * (110**2 + 90**2) + 10 * (70**2 + 130**2)
    assert persistence.skill_climatology == pytest.approx(1 - missed / climatology_errors)
    assert (persistence.skill, own.skill_climatology) == (0, 0)
    assert own.skill == pytest.approx(1 - climatology_errors / missed)


def test_one_region_has_no_interval(make_timeline):
    timeline = make_timeline(90001, steps=40)
    windows = SolaredWindows(timeline, input_steps=10)
    processor = SolaredProcessor.fit([timeline.values], CHANNELS)
    (score,) = score_forecasts({"persistence": Persistence().forecast(windows)}, "persistence", windows, processor)
    assert score.rmse_dn_interval is None
    assert score.skill_interval is None


def test_interval_comes_from_resampled_regions():
    # A resample of five regions contains the fifth region at most three times with a probability of 0.993, at most
    # twice with 0.942, and never with 0.328.
    assert region_interval(np.mean, np.array([0.0, 0, 0, 0, 1])) == (0, 0.6)
