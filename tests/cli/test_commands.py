"""The `solared` command as users meet it: what it prints and writes, and its one sentence when something is wrong."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from solared_hf import SolaredProcessor, load_timelines, open_dataset
from solared_hf.models import SpatioTemporalAttentionConfig, SpatioTemporalAttentionForPrediction
from solared_hf.schema import CHANNELS
from tests.processes import run

INPUT_STEPS = 12
TRAIN = ("train", "--model_type", "spatio_temporal_attention", "--dataset", "d", "--output_dir", "o")


def save_model(folder: Path, dataset: Path, model_channels=CHANNELS, processor_channels=CHANNELS) -> Path:
    train = load_timelines(dataset, "train")
    config = SpatioTemporalAttentionConfig(
        input_channels=list(model_channels), hidden_size=8, num_attention_heads=2, intermediate_size=8,
        num_temporal_layers=1, num_spatial_layers=1, input_steps=INPUT_STEPS,
    )  # fmt: skip
    SpatioTemporalAttentionForPrediction(config).save_pretrained(folder)
    SolaredProcessor.fit(
        [timeline.values for timeline in train], CHANNELS, input_channels=processor_channels, input_steps=INPUT_STEPS
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(simulated_dataset, tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny", simulated_dataset)


def test_predict_writes_physical_forecasts_up_to_the_future(solared, model, simulated_dataset, tmp_path):
    output = tmp_path / "deep" / "forecast.parquet"
    code, out, _ = solared(
        "predict", "--model", model, "--dataset", simulated_dataset, "--ar", 90010, "--output", output
    )
    assert code == 0
    assert "229 forecasts of AR90010 by tiny" in out
    table = pq.read_table(output)
    assert table.column_names == [
        "ar_number", "last_input_time_tai", "target_time_tai", "tile", "row", "column", "forecast_intensity",
        "observed_intensity",
    ]  # fmt: skip
    assert table.field("forecast_intensity").metadata[b"unit"] == b"HMI DN"
    region = open_dataset(simulated_dataset).region(90010)
    last = table.column("last_input_time_tai").to_numpy()
    target = table.column("target_time_tai").to_numpy()
    assert last.max() == region.times[-1]
    assert set(target - last) == {np.timedelta64(12, "h")}
    row = table.slice(63 * 5 + 20, 1).to_pylist()[0]
    assert (row["tile"], row["row"], row["column"]) == (20, 3, 2)
    assert row["observed_intensity"] == region.values[INPUT_STEPS - 1 + 5 + 12, 5, 20]
    # Twelve steps ahead of the last observation nothing has been observed yet.
    assert table.column("observed_intensity").null_count == 12 * 63


def test_persistence_forecasts_the_last_intensity(solared, simulated_dataset, tmp_path):
    output = tmp_path / "forecast.parquet"
    assert solared(
        "predict", "--model", "persistence", "--dataset", simulated_dataset, "--ar", 90010, "--output", output
    )[0] == 0  # fmt: skip
    forecast = pq.read_table(output).column("forecast_intensity").to_numpy().reshape(-1, 63)
    region = open_dataset(simulated_dataset).region(90010)
    np.testing.assert_array_equal(forecast, region.values[119:, 5])


def test_evaluate_puts_a_model_beside_persistence_and_the_average(solared, model, simulated_dataset, tmp_path):
    report = tmp_path / "scores.json"
    code, out, _ = solared(
        "evaluate", "--model", model, "--dataset", simulated_dataset, "--split", "test", "--json", report
    )
    assert code == 0
    for word in ("tiny", "persistence", "average", "RMSE DN", "skill", "test: 2 regions"):
        assert word in out
    scores = json.loads(report.read_text())
    assert scores["regions"] == [90009, 90010]
    assert scores["horizon_hours"] == 12
    by_name = {score["name"]: score for score in scores["scores"]}
    assert by_name["persistence"]["skill"] == 0
    mse = {name: score["rmse_dn"] ** 2 for name, score in by_name.items()}
    assert by_name["tiny"]["skill"] == pytest.approx(1 - mse["tiny"] / mse["persistence"])
    ratio = by_name["tiny"]["rmse_dn"] / by_name["tiny"]["rmse_normalised"]
    assert ratio == pytest.approx(SolaredProcessor.from_pretrained(model).target_range)


def test_evaluate_baselines_alone(solared, simulated_dataset):
    code, out, _ = solared("evaluate", "--model", "average", "--dataset", simulated_dataset, "--split", "validation")
    assert code == 0
    assert out.count("average") == 1


def test_mistakes_are_one_sentence_and_exit_code_2(solared, model, simulated_dataset, tmp_path):
    there = ("--dataset", simulated_dataset)
    region = ("--ar", 90010, "--output", tmp_path / "forecast.parquet")
    mistakes = {
        ("evaluate", "--model", "nonsense", *there): "There is no model nonsense. Name persistence, average",
        ("evaluate", "--model", tmp_path, *there): "lacks its processor",
        ("evaluate", "--model", model, "--dataset", tmp_path): "There is no SOLARED dataset at",
        ("evaluate", "--model", model, *there, "--split", "best"): "Choose one of",
        ("predict", "--model", model, *there, "--ar", 5, *region[2:]): "has no region AR5. It has 90001",
        ("predict", "--model", model, *there, "--ar", 90010, "--output", tmp_path): "Name a file for --output",
        ("train", "--config", tmp_path / "none.yaml"): "is neither a file nor a recipe",
        ("train", "--config"): "expected one argument",
        ("train", "--nonsense", 3): "the following arguments are required",
        (*TRAIN, "--nonsense", 3): "Unknown arguments: --nonsense 3",
        (*TRAIN, "stray"): "Unknown arguments: stray",
        (*TRAIN, "--eval_strategy", "nope"): "nope",
        (*TRAIN, "--save_strategy", "no"): "do not fit together",
        (*TRAIN, "--input_steps", "12.5"): "invalid int value",
        (*TRAIN, "--lr_scheduler_kwargs", "{bad"): "do not fit together",
        (*TRAIN, "--model_config", "[1]"): "model_config takes names and values",
    }
    for arguments, message in mistakes.items():
        code, _, err = solared(*arguments)
        assert code == 2, arguments
        last_line = err.strip().splitlines()[-1]
        assert last_line.startswith("solared: ")
        assert message in last_line
    assert not (tmp_path / "forecast.parquet").exists()


def test_a_model_that_disagrees_with_its_processor_is_refused(solared, simulated_dataset, tmp_path):
    folder = save_model(tmp_path / "mixed", simulated_dataset, CHANNELS[:5], CHANNELS)
    code, _, err = solared("evaluate", "--model", folder, "--dataset", simulated_dataset)
    assert code == 2
    assert "The model mixed has input_channels ['power_2_3mhz'" in err
    assert "Use the preprocessor_config.json that the model was trained with" in err


@pytest.mark.parametrize("ar_number", [90003, 90005])
def test_a_model_of_some_channels_forecasts_regions_with_gaps_and_nan(solared, simulated_dataset, tmp_path, ar_number):
    channels = ("continuum_intensity", "unsigned_magnetic_flux")
    folder, output = tmp_path / "two", tmp_path / "forecast.parquet"
    save_model(folder, simulated_dataset, channels, channels)
    code, _, _ = solared(
        "predict", "--model", folder, "--dataset", simulated_dataset, "--ar", ar_number, "--output", output
    )
    assert code == 0
    table = pq.read_table(output)
    assert np.isfinite(table.column("forecast_intensity").to_numpy()).all()
    region = open_dataset(simulated_dataset).region(ar_number)
    spacing = np.diff(np.unique(table.column("last_input_time_tai").to_numpy())) / np.timedelta64(1, "h")
    gap = int((np.diff(region.times) / np.timedelta64(1, "h")).max())
    # Behind a gap the first window ends INPUT_STEPS steps later.
    assert spacing.max() == (gap + INPUT_STEPS - 1 if gap > 1 else 1)


def test_a_damaged_model_is_refused(solared, model, simulated_dataset, tmp_path):
    damages = {
        "truncated": lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
        "other_shape": lambda folder: _edit(folder / "config.json", '"hidden_size": 8', '"hidden_size": 16'),
        "wrong_type": lambda folder: _edit(folder / "config.json", '"hidden_size": 8', '"hidden_size": "eight"'),
        "no_statistics": lambda folder: _edit(folder / "preprocessor_config.json", '"minimum"', '"lowest"'),
        "other_horizon": lambda folder: _edit(folder / "config.json", '"horizon_hours": 12.0', '"horizon_hours": 6.0'),
    }
    for name, damage in damages.items():
        folder = tmp_path / name
        shutil.copytree(model, folder)
        damage(folder)
        code, _, err = solared("evaluate", "--model", folder, "--dataset", simulated_dataset)
        assert code == 2, name
        assert name in err.strip().splitlines()[-1]


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_model_of_unknown_channels_is_refused(solared, simulated_dataset, tmp_path):
    folder = save_model(tmp_path / "vector", simulated_dataset)
    for name in ("config.json", "preprocessor_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("unsigned_magnetic_flux", "vector_magnetic_flux"))
    code, _, err = solared("evaluate", "--model", folder, "--dataset", simulated_dataset)
    assert code == 2
    assert "Unknown input channels ['vector_magnetic_flux']" in err


def test_a_newer_schema_is_refused_with_the_cure(solared, simulated_dataset, tmp_path):
    newer = tmp_path / "newer"
    shutil.copytree(simulated_dataset, newer)
    card = newer / "README.md"
    card.write_text(card.read_text().replace("schema_version: 1", "schema_version: 2"))
    code, _, err = solared("evaluate", "--model", "persistence", "--dataset", newer)
    assert code == 2
    assert "has schema version 2, and this package reads up to 1. Upgrade it" in err


def test_a_damaged_shard_is_named(solared, simulated_dataset, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(simulated_dataset, damaged)
    shard = damaged / "data" / "test" / "AR90010.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    code, _, err = solared("evaluate", "--model", "persistence", "--dataset", damaged)
    assert code == 2
    assert "Build the dataset again" in err.strip().splitlines()[-1]


def test_a_full_disk_keeps_the_old_forecast(model, simulated_dataset, tmp_path):
    """A real process that may not write large files."""
    output = tmp_path / "forecast.parquet"
    output.write_text("yesterday's")
    command = (
        f"ulimit -f 8; exec {sys.executable} -m solared_hf predict --model persistence --dataset {simulated_dataset} "
        f"--ar 90010 --output {output}"
    )
    finished = run(["bash", "-c", command])
    assert finished.returncode == 2, finished.stderr
    assert f"solared: Could not write {output}" in finished.stderr
    assert output.read_text() == "yesterday's"
    assert [path.name for path in tmp_path.iterdir()] == ["forecast.parquet"]


def test_weights_are_safetensors(model):
    assert load_file(model / "model.safetensors")
    assert not list(model.glob("*.bin"))


def test_a_command_without_its_extra_says_how_to_get_it(tmp_path):
    # What an environment without the extra answers to the import.
    missing = "import sys; sys.modules['distributed'] = None; from solared_hf.cli import main; main(sys.argv[1:])"
    finished = run(
        [sys.executable, "-c", missing, "quickstart", "--output", str(tmp_path / "made")],
    )
    assert finished.returncode == 2
    assert finished.stderr == "solared: distributed is missing. Run `pip install 'solared-hf[builder]'`.\n"
    assert not (tmp_path / "made").exists()
