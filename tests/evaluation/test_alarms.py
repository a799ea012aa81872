"""Alarms and their leads on hand-made declines, for forecasters that see a known part of the future."""

import math
from datetime import timedelta

import numpy as np
import pytest

from dataset_builder.published import read_timeline
from solared_hf import SolaredError, SolaredWindows
from solared_hf.evaluation import (
    add_up,
    alarm_scale,
    forecast_trajectories,
    issue_alarms,
    observed_onsets,
    score_alarms,
)
from solared_hf.evaluation.alarms import AlarmLead, EmergenceScore, lagged_trajectories, rate_intervals
from solared_hf.evaluation.breakdowns import observed_trajectories
from solared_hf.forecasters import Persistence

SCALE_DN = 1600
HOUR = np.timedelta64(1, "h")


class Perfect:
    """A perfect forecaster for a number of steps; with 0 steps, only for the horizon of the windows."""

    name = "perfect"

    def __init__(self, longest_trajectory: float):
        self.longest_trajectory = longest_trajectory

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        return windows.observed_targets

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        assert steps <= self.longest_trajectory
        return observed_trajectories(windows, steps)


@pytest.fixture
def emerging(make_timeline):
    """Return a function that makes a flat region of 150 hours in which some tiles decline by 100 DN/h for 16 hours.

    The decline is the range of the region, so the gradient is -0.0625 per hour. The smoothed gradient is 0.1, 0.3 and
    0.5 times this value two hours before the bend, one hour before, and at the bend: the onset is one hour before.
    """

    def make(bends: dict[int, int], ar_number: int = 90001, **options):
        timeline = make_timeline(ar_number, steps=150, **options)
        hours = (timeline.times - timeline.times[0]) / HOUR
        timeline.values[:, 5] = 0
        for tile, bend in bends.items():
            timeline.values[:, 5, tile] = -100 * np.clip(hours - bend, 0, 16)
        return timeline

    return make


def cut(timelines, **options) -> SolaredWindows:
    return SolaredWindows(timelines, input_steps=24, require_target=False, **options)


def leads_of(forecaster, windows, **options) -> dict[int, float]:
    """Return the lead in hours of each tile with onset and alarm; check that no other tile has an alarm."""
    alarms = issue_alarms(windows, forecast_trajectories(forecaster, windows), SCALE_DN, **options)
    score = add_up(score_alarms(windows, alarms).values())
    assert score.false_alarms == score.undecided == 0
    return {lead.tile: lead.hours for lead in score.leads}


def test_persistence_detects_late_by_its_margin(emerging):
    timeline = emerging({5: 70, 6: 90, 7: 10})
    assert observed_onsets(timeline)[[5, 6, 7]].tolist() == timeline.times[[69, 89, 9]].tolist()
    # One step after the bend is enough: held constant, its 100 DN are -0.2 times 0.0625 per hour for 4 h. The step is
    # two hours after the onset, and available four hours later.
    windows = cut(timeline)
    alarms = issue_alarms(windows, forecast_trajectories(Persistence(), windows), SCALE_DN)[90001]
    assert alarms.dtype == "datetime64[ms]"
    assert alarms[[5, 6]].tolist() == (timeline.times[[71, 91]] + 4 * HOUR).tolist()
    assert np.isnat(np.delete(alarms, [5, 6])).all()
    score = score_alarms(windows, {90001: alarms})[90001]
    leads = (AlarmLead(90001, 5, -6.0), AlarmLead(90001, 6, -6.0))
    assert score == EmergenceScore(late=2, quiet=60, already_emerged=1, leads=leads)


@pytest.mark.parametrize(("steps", "lead"), [(24, 17), (12, 5), (8, 1), (7, 0), (1, -6)])
def test_lead_of_a_perfect_trajectory_is_its_reach(emerging, steps, lead):
    # All four steps from the onset on must be forecast, so the last step is three hours after the onset. A path is
    # available after four hours. Persistence is always six hours late.
    windows = cut(emerging({5: 70, 6: 90, 7: 10}))
    assert leads_of(Perfect(steps), windows) == {5: lead, 6: lead}


def test_lead_of_a_single_horizon_is_its_reach(emerging):
    windows = cut(emerging({5: 70, 6: 90, 7: 10}))
    assert leads_of(Perfect(0), windows) == leads_of(Perfect(12), windows) == {5: 5, 6: 5}
    assert leads_of(Perfect(0), cut(emerging({5: 70}), horizon=timedelta(hours=24))) == {5: 17}
    # Only WARNING_PERIOD is searched, even if a forecaster reaches further.
    assert leads_of(Perfect(math.inf), windows) == {5: 17, 6: 17}


def test_other_cadences(emerging):
    windows = cut(emerging({5: 45}, cadence=timedelta(minutes=30)))
    assert forecast_trajectories(Persistence(), windows).shape == (len(windows), 48, 63)
    # A mean over 9 steps reaches 2 h, and its neighbours 2.5 h. The onset is 1.5 h before the bend, where the gradient
    # is -0.0625 (1 + 0.5) / 9; half an hour earlier, -0.0625 (0.5 + 0) / 9 is not steep. The last of the 8 steps is
    # 3.5 h later.
    timeline = windows.regions[0].timeline
    assert observed_onsets(timeline)[5] == timeline.times[87]
    assert leads_of(Perfect(48), windows) == {5: 24 - 3.5 - 4}


def test_lagged_trajectories_use_earlier_forecasts(make_timeline):
    windows = SolaredWindows(make_timeline(90001, steps=40, missing=[20]), input_steps=4, require_target=False)
    last = ((windows.last_input_times - windows.regions[0].timeline.times[0]) / HOUR).astype(int)
    assert last.tolist() == [*range(3, 20), *range(24, 40)]
    # The value of each forecast is the hour of its issue.
    known = lagged_trajectories(windows, np.repeat(last[:, None], 63, axis=1).astype(np.float32))
    assert known.shape == (33, 12, 63)
    for issued, path in zip(last, known[..., 17], strict=True):
        expected = [hour if hour in last else np.nan for hour in range(issued - 11, issued + 1)]
        np.testing.assert_array_equal(path, expected)


def test_alarms_do_not_depend_on_later_steps(emerging):
    timeline = emerging({5: 60, 6: 100})
    changed = emerging({5: 60, 6: 100})
    changed.values[71:, 5] = np.random.default_rng(1).normal(0, 500, (79, 63))
    before = timeline.times[70] + 4 * HOUR
    for horizon in (6, 12):
        alarms, others = (
            issue_alarms(windows, forecast_trajectories(Persistence(), windows), SCALE_DN)[90001]
            for windows in (cut(region, horizon=timedelta(hours=horizon)) for region in (timeline, changed))
        )
        assert alarms[5] == others[5] < before
        assert np.isnat(alarms).sum() == 61
        assert (others[others <= before] == others[5]).all()


def test_onset_before_the_first_issue_gives_no_alarm(emerging):
    timeline = emerging({5: 80})
    # Steep from before the first issue until hour 70: 1200 DN at 20 DN an hour, -0.0125.
    timeline.values[:, 5, 8] = -20 * np.clip(np.arange(150) - 10, 0, 60)
    windows = cut(timeline)
    alarms = issue_alarms(windows, forecast_trajectories(Perfect(24), windows), SCALE_DN)[90001]
    assert np.flatnonzero(~np.isnat(alarms)).tolist() == [5]
    # The first window ends at hour 23; later onsets count, even if no issue comes before them.
    timeline = emerging({5: 24, 6: 25, 7: 28, 8: 29})
    windows = cut(timeline)
    alarms = issue_alarms(windows, forecast_trajectories(Perfect(24), windows), SCALE_DN)[90001]
    assert np.isnat(alarms[5])
    assert (alarms[6:9] == timeline.times[27]).all()
    score = score_alarms(windows, {90001: alarms})[90001]
    assert (score.already_emerged, score.hits, score.lead_hours) == (3, 1, [1])


def test_threshold_and_scale(emerging):
    windows = cut(emerging({5: 70}))
    assert leads_of(Persistence(), windows) == {5: -6}
    alarms = {
        factor: issue_alarms(windows, forecast_trajectories(Perfect(24), windows), SCALE_DN, threshold=-0.01 * factor)
        for factor in (0.01, 1, 7)
    }
    # A more sensitive threshold finds the onset two hours before the bend instead of one; -0.0625 never reaches -0.07.
    assert alarms[0.01][90001][5] == alarms[1][90001][5] - HOUR
    assert np.isnat(alarms[7][90001]).all()
    larger = issue_alarms(windows, forecast_trajectories(Perfect(24), windows), 7 * SCALE_DN)[90001]
    assert np.isnat(larger).all()


def test_scale_is_the_median_range_of_the_train_regions(make_timeline):
    timelines = [make_timeline(90000 + number, steps=5) for number in range(5)]
    for timeline, extent in zip(timelines, (100, 700, 300, 5000, np.nan), strict=True):
        timeline.values[:, 5] = 0
        timeline.values[2, 5, 7] = extent
        timeline.values[3, 5, 8] = np.nan
    timelines[4].values[:, 5] = np.nan
    assert alarm_scale(timelines) == 500


def test_scores_of_hand_made_alarms(emerging):
    timeline = emerging(dict.fromkeys(range(6), 101) | {6: 20, 7: 20})
    windows = cut(timeline)
    alarms = np.full(63, np.datetime64("NaT", "ms"))
    onset, end = timeline.times[100], timeline.times[-1]
    assert (observed_onsets(timeline)[:6] == onset).all()
    alarms[:5] = onset - HOUR * np.array([24, 25, 1, 0, -30])
    alarms[7] = timeline.times[30]
    alarms[10:13] = timeline.times[30], end - 24 * HOUR, end - 23 * HOUR
    score = score_alarms(windows, {90001: alarms})[90001]
    assert score == EmergenceScore(
        hits=2,
        late=2,
        missed=2,
        premature=1,
        false_alarms=3,
        undecided=1,
        quiet=52,
        already_emerged=2,
        leads=tuple(AlarmLead(90001, tile, lead) for tile, lead in ((0, 24.0), (2, 1.0), (3, 0.0), (4, -30.0))),
    )
    assert score.lead_hours == [1, 24]
    assert score.hit_rate == 2 / 6
    assert score.false_alarm_ratio == 3 / 7
    assert score.false_alarm_rate == 2 / 54


def test_scores_of_regions_add_up(emerging):
    timelines = [emerging({5: 70}, 90001), emerging({5: 70, 6: 80}, 90002), emerging({}, 90003)]
    timelines[2].values[60:, 5, 3] = -300  # an onset by the scale, but not by the range of the region
    timelines[2].values[0, 5, 4] = 12_000  # which emerged at once
    windows = cut(timelines)
    alarms = issue_alarms(windows, forecast_trajectories(Perfect(24), windows), SCALE_DN)
    scores = score_alarms(windows, alarms)
    assert list(alarms) == list(scores) == [90001, 90002, 90003]
    assert [score.hits for score in scores.values()] == [1, 2, 0]
    assert [score.false_alarms for score in scores.values()] == [0, 0, 1]
    total = add_up(scores.values())
    assert (total.hits, total.false_alarms, total.quiet) == (3, 1, 62 + 61 + 61)
    assert [(lead.ar_number, lead.tile) for lead in total.leads] == [(90001, 5), (90002, 5), (90002, 6)]
    assert total.false_alarm_ratio == 1 / 4
    assert add_up([]) == EmergenceScore()


def test_rates_without_cases_are_nan():
    score = EmergenceScore()
    assert np.isnan([score.hit_rate, score.false_alarm_ratio, score.false_alarm_rate]).all()
    assert rate_intervals([score, score]) == dict.fromkeys(("hit_rate", "false_alarm_ratio", "false_alarm_rate"))


def test_intervals_over_regions():
    # Regions with one onset each, half of them hits: the interval of the mean of 20 fair coins.
    scores = [EmergenceScore(hits=number % 2, missed=1 - number % 2, quiet=9) for number in range(20)]
    intervals = rate_intervals([*scores, *[EmergenceScore(quiet=63)] * 30])
    assert intervals["hit_rate"] == pytest.approx((0.3, 0.7), abs=0.051)
    assert intervals["false_alarm_ratio"] == (0, 0)
    assert intervals["false_alarm_rate"] == (0, 0)
    assert rate_intervals(scores[:1])["hit_rate"] is None


def test_number_of_trajectories_must_match_the_windows(emerging):
    windows = cut(emerging({5: 70}))
    with pytest.raises(SolaredError, match="127 windows, but forecasts of 126"):
        issue_alarms(windows, np.zeros((126, 24, 63), np.float32), SCALE_DN)


def test_real_regions(published_dir):
    windows = SolaredWindows(
        [read_timeline(published_dir / f"AR{number}") for number in (11521, 12219, 12275, 12571)], require_target=False
    )
    persistence, perfect = (
        add_up(score_alarms(windows, issue_alarms(windows, trajectories, scale_dn=6677)).values())
        for trajectories in (forecast_trajectories(Persistence(), windows), observed_trajectories(windows, 24))
    )
    assert (persistence.hits, persistence.late, persistence.missed) == (0, 9, 11)
    assert max(lead.hours for lead in persistence.leads) <= -6
    assert (perfect.hits, perfect.late, perfect.missed) == (8, 0, 12)
    assert 12 < np.median(perfect.lead_hours) <= 17
    for score in (persistence, perfect):
        tiles = score.onsets + score.tiles_without_onset + score.undecided + score.already_emerged
        assert tiles == 63 * len(windows.regions)
    assert perfect.already_emerged == persistence.already_emerged
