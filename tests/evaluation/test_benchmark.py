"""The benchmark: the same windows for every forecaster, complete JSON, and readable tables."""

import json
import math
import re
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource, write_published
from dataset_builder.simulation import simulate_region
from solared_hf import SolaredError, SolaredProcessor, SolaredWindows, load_timelines
from solared_hf.evaluation import add_up, alarm_scale, benchmark, forecast_trajectories, issue_alarms, score_alarms
from solared_hf.evaluation.benchmark import trained_models
from solared_hf.evaluation.breakdowns import observed_trajectories
from solared_hf.evaluation.published_protocol import PROTOCOL_TILES, protocol_score
from solared_hf.forecasters import (
    Climatology,
    DampedPersistence,
    GradientBoostedTrees,
    ModelForecaster,
    Persistence,
    RidgeRegression,
)
from solared_hf.forecasters.baselines import Baseline
from solared_hf.models import SpatioTemporalAttentionConfig, SpatioTemporalAttentionForPrediction
from solared_hf.schema import CHANNELS

BASELINES = ["persistence", "climatology", "damped persistence", "ridge regression", "gradient-boosted trees"]
TRAIN_NUMBERS = (11130, 11149)


class Oracle(Baseline):
    """Forecasts the observation, or persistence where nothing is observed; quantiles are 100 DN away."""

    name = "oracle"
    quantile_levels = (0.1, 0.5, 0.9)

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        return self.trajectory(windows, windows.horizon_steps)[:, -1]

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        observed = observed_trajectories(windows, steps)
        return np.where(np.isnan(observed), Persistence().trajectory(windows, steps), observed)

    def quantiles(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        return self.trajectory(windows, steps)[:, :, None] + np.array([-100, 0, 100])[:, None]


@pytest.fixture(scope="module")
def protocol_dataset(tmp_path_factory):
    """Return simulated regions with the numbers of two train regions and the five regions of the protocol."""
    sun, folder = tmp_path_factory.mktemp("sun"), tmp_path_factory.mktemp("protocol_dataset")
    for simulated, number in enumerate((*TRAIN_NUMBERS, *PROTOCOL_TILES), start=90011):
        steps = 145 if number in TRAIN_NUMBERS else 160
        write_published(sun, replace(simulate_region(simulated, steps=steps), ar_number=number))
    build_dataset(PublishedSource(sun), folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny_model(protocol_dataset):
    """Return a function that makes an untrained model of 24 input steps for a given cadence."""

    def make(cadence_minutes: float) -> ModelForecaster:
        config = SpatioTemporalAttentionConfig(
            input_channels=list(CHANNELS), hidden_size=8, num_attention_heads=2, intermediate_size=8,
            num_temporal_layers=1, num_spatial_layers=1, input_steps=24,
        )  # fmt: skip
        values = [timeline.values for timeline in load_timelines(protocol_dataset, "train")]
        processor = SolaredProcessor.fit(values, CHANNELS, input_steps=24, cadence_minutes=cadence_minutes)
        return ModelForecaster(SpatioTemporalAttentionForPrediction(config), processor, f"every {cadence_minutes}")

    return make


@pytest.fixture(scope="module")
def result(protocol_dataset, tiny_model):
    forecasters = [Oracle(), tiny_model(60), tiny_model(12)]
    return benchmark(protocol_dataset, "test", forecasters, left_out={"heavy": "it has no weights"})


@pytest.fixture(scope="module")
def by_name(result):
    return {scored.name: scored for scored in result.results}


@pytest.fixture(scope="module")
def windows(protocol_dataset):
    return SolaredWindows(load_timelines(protocol_dataset, "test"), input_steps=120, horizon=timedelta(hours=12))


def test_all_forecasters_are_listed_the_most_skilful_first(result, windows):
    assert {scored.name for scored in result.results} == {*BASELINES, "oracle", "every 60"}
    skills = [scored.score.skill for scored in result.results]
    assert skills == sorted(skills, reverse=True)
    assert result.results[0].name == "oracle"
    assert result.regions == sorted(PROTOCOL_TILES)
    assert (result.windows, result.input_steps, result.horizon_hours) == (len(windows), 120, 12)


def test_skipped_forecasters_are_listed_with_the_reason(result):
    assert result.left_out["heavy"] == "it has no weights"
    assert "the processor was fitted on a step every 0:12:00" in result.left_out["every 12"]
    assert "heavy: it has no weights" in result.as_text()


def test_all_forecasters_are_scored_on_the_same_windows(protocol_dataset, tiny_model, by_name, windows):
    """Recompute each score from the forecast of the windows and their targets."""
    train = load_timelines(protocol_dataset, "train")
    observed = windows.observed_targets
    target_range = np.ptp(np.concatenate([timeline.values[:, 5] for timeline in train]))
    forecasts = {
        forecaster.name: forecaster.forecast(windows)
        for forecaster in (
            *(Persistence(), Climatology.fit(train), DampedPersistence.fit(train)),
            *(RidgeRegression.fit(train), GradientBoostedTrees(train)),
        )
    }
    errors = {name: np.mean((forecast.astype(np.float64) - observed) ** 2) for name, forecast in forecasts.items()}
    for name, error in errors.items():
        score = by_name[name].score
        assert score.rmse_dn == pytest.approx(error**0.5)
        assert score.rmse_normalised == pytest.approx(error**0.5 / target_range)
        assert score.mae_dn == pytest.approx(np.abs(forecasts[name].astype(np.float64) - observed).mean())
        assert score.skill == pytest.approx(1 - error / errors["persistence"])
        assert score.skill_climatology == pytest.approx(1 - error / errors["climatology"])
        if name == GradientBoostedTrees.name:
            assert by_name[name].rmse_dn_by_lead_hours is None
            continue
        assert by_name[name].rmse_dn_by_lead_hours[12.0] == pytest.approx(error**0.5)
        assert list(by_name[name].rmse_dn_by_lead_hours) == list(range(1, 25))
    low, high = by_name["damped persistence"].skill_climatology_interval
    assert low < by_name["damped persistence"].score.skill_climatology < high


def test_oracle_is_perfect(by_name):
    oracle = by_name["oracle"]
    assert (oracle.score.skill, oracle.score.rmse_dn) == (1, 0)
    assert oracle.rmse_dn_by_emergence == {"emerging": 0, "quiet": 0}
    assert set(oracle.rmse_dn_by_lead_hours.values()) == {0}
    assert oracle.coverage_of_80_percent_interval == 1
    assert oracle.reliability == {0.1: 0, 0.5: 1, 0.9: 1}
    assert by_name["persistence"].coverage_of_80_percent_interval is None
    assert by_name["persistence"].reliability is None


def test_forecasters_of_one_lead_have_no_error_by_lead(by_name):
    assert by_name["gradient-boosted trees"].rmse_dn_by_lead_hours is None
    assert by_name["every 60"].rmse_dn_by_lead_hours is None
    assert by_name["ridge regression"].rmse_dn_by_lead_hours[24.0] > 0


def test_warnings_use_every_window_with_a_complete_input(protocol_dataset, by_name):
    train, timelines = (load_timelines(protocol_dataset, split) for split in ("train", "test"))
    issues = SolaredWindows(timelines, require_target=False)
    assert len(issues) == 5 * (160 - 119)
    for forecaster in (Persistence(), Oracle()):
        alarms = issue_alarms(issues, forecast_trajectories(forecaster, issues), alarm_scale(train))
        by_region = score_alarms(issues, alarms)
        warnings = by_name[forecaster.name].warnings
        assert warnings.by_region == by_region
        assert warnings.total == add_up(by_region.values())
    assert by_name["oracle"].warnings.total.hits > by_name["persistence"].warnings.total.hits
    assert by_name["oracle"].warnings.median_lead_hours > 0


def test_published_protocol_is_applied_to_the_test_split(protocol_dataset, by_name):
    timelines = load_timelines(protocol_dataset, "test")
    assert by_name["persistence"].protocol == protocol_score(Persistence(), timelines)
    assert by_name["oracle"].protocol.rmse == 0
    assert all(scored.protocol.rmse > 0 for name, scored in by_name.items() if name != "oracle")


def test_json_is_complete_and_strict(result, by_name):
    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    written = json.loads(result.as_json(), parse_constant=refuse)
    assert {"dataset", "dataset_revision", "split", "regions", "windows", "left_out", "results"} <= written.keys()
    assert [scored["name"] for scored in written["results"]] == [scored.name for scored in result.results]
    for scored in written["results"]:
        expected = by_name[scored["name"]]
        assert scored["score"]["rmse_dn"] == expected.score.rmse_dn
        assert scored["score"]["rmse_dn_by_region"].keys() == {str(number) for number in PROTOCOL_TILES}
        assert scored["score"]["skill_interval"] == list(expected.score.skill_interval)
        assert scored["protocol"]["rmse_recalibrated"] == expected.protocol.rmse_recalibrated
        assert scored["warnings"]["total"]["hits"] == expected.warnings.total.hits


def test_nan_is_null_in_json(result):
    assert json.loads(replace(result, normalised_unit_dn=math.nan).as_json())["normalised_unit_dn"] is None


def test_tables_are_readable_at_100_columns(result):
    text = result.as_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for word in ("test: 5 regions", "skill c.", "emerging", "+24 h", "Warnings of", "false alarm", "AR11698"):
        assert word in text
    for scored in result.results:
        # Long names are broken between words.
        assert all(word in text for word in re.split("[ -]", scored.name))
        assert f"{scored.score.rmse_dn:.1f}" in text
        assert f"{scored.protocol.rmse:.4f}" in text


def test_two_forecasters_with_the_same_name_are_refused(protocol_dataset):
    with pytest.raises(SolaredError, match="Two forecasters are called persistence"):
        benchmark(protocol_dataset, "test", [Persistence()])


def test_command_prints_tables_and_writes_json(solared, tiny_model, protocol_dataset, tmp_path):
    report, model = tmp_path / "benchmark.json", tmp_path / "mine"
    forecaster = tiny_model(60)
    forecaster.model.save_pretrained(model)
    forecaster.processor.save_pretrained(model)
    code, out, _ = solared(
        "benchmark", "--dataset", protocol_dataset, "--split", "train", "--model", model, "--json", report
    )
    assert code == 0
    written = json.loads(report.read_text())
    committed, without_weights = trained_models()
    names = {scored["name"] for scored in written["results"]}
    assert names >= {*BASELINES, "mine", *(forecaster.name for forecaster in committed)}
    assert written["left_out"].keys() >= without_weights.keys()
    assert written["regions"] == list(TRAIN_NUMBERS)
    assert all(scored["protocol"] is None for scored in written["results"])
    assert "Published protocol" not in out
    assert "train: 2 regions" in out
    assert "…" not in out


def test_command_errors_say_what_to_do(solared, simulated_dataset, tmp_path):
    for arguments, message in (
        (("--split", "best"), "Choose one of"),
        (("--model", "nonsense"), "There is no model nonsense"),
        (("--model", "persistence"), "Two forecasters are called persistence"),
    ):
        code, _, err = solared("benchmark", "--dataset", simulated_dataset, *arguments)
        assert code == 2
        assert message in err.strip().splitlines()[-1]
