"""Errors, skill and intervals on series whose answers are known by hand."""

import numpy as np
import pytest

from solared_hf.evaluation.errors import mean_absolute_error, root_mean_squared_error, skill_score
from solared_hf.evaluation.scores import score_forecasts
from solared_hf.forecasting import Average, Persistence
from solared_hf.processing_solared import SolaredProcessor
from solared_hf.schema import CHANNELS
from solared_hf.windows import SolaredWindows


def test_errors_by_hand():
    forecast, observed = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 5.0], [7.0, np.nan]])
    assert root_mean_squared_error(forecast, observed) == pytest.approx((25 / 3) ** 0.5)
    assert mean_absolute_error(forecast, observed) == pytest.approx(7 / 3)
    assert skill_score(forecast, observed - 5, observed) == pytest.approx(1 - (25 / 3) / 25)
    assert skill_score(observed, forecast, observed) == 1
    assert np.isnan(skill_score(forecast, observed, observed))


def test_float32_sums_do_not_drift():
    forecast = np.full(3_000_000, 1e4, np.float32)
    assert root_mean_squared_error(forecast, forecast + 1) == pytest.approx(1, abs=1e-9)


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
    # 12 steps ahead of a line of slope n, persistence is off by 12 n: for n = 1..4 the mean square is 144 * 7.5.
    assert first.rmse_dn == pytest.approx(12 * 7.5**0.5)
    assert first.mae_dn == pytest.approx(30)
    assert first.rmse_normalised == pytest.approx(first.rmse_dn / 156)
    assert first.skill == 0
    assert first.skill_interval == (0, 0)
    assert first.rmse_dn_by_region == pytest.approx({90001: 12, 90002: 24, 90003: 36, 90004: 48})
    assert second.skill == pytest.approx(0.75)
    assert second.skill_interval == pytest.approx((0.75, 0.75))
    low, high = first.rmse_dn_interval
    assert 12 < low < first.rmse_dn < high < 48


def test_one_region_has_no_interval(make_timeline):
    timeline = make_timeline(90001, steps=40)
    windows = SolaredWindows(timeline, input_steps=10)
    processor = SolaredProcessor.fit([timeline.values], CHANNELS)
    (score,) = score_forecasts({"persistence": Persistence().forecast(windows)}, "persistence", windows, processor)
    assert score.rmse_dn_interval is None
    assert score.skill_interval is None
