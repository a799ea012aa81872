"""Training through the real entry points: arguments, checkpoints, metrics, resuming, and two processes."""

import json
import math
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForTimeSeriesPrediction, AutoProcessor

from solared_hf import SolaredError, SolaredProcessor, SolaredWindows, load_forecaster, load_timelines
from solared_hf.forecasters import Persistence
from solared_hf.models import FAMILIES
from solared_hf.schema import CHANNELS
from solared_hf.training import parse_arguments, recipe_names, train

SECRET = "hf_secretSECRETsecret"

TINY = {
    "model_type": "spatio_temporal_attention",
    "model_config": json.dumps(
        {
            "hidden_size": 8,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "num_temporal_layers": 1,
            "num_spatial_layers": 1,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        }
    ),
    "input_steps": "6",
    "max_steps": "6",
    "per_device_train_batch_size": "4",
    "per_device_eval_batch_size": "256",
    "learning_rate": "1e-3",
    "lr_scheduler_type": "constant",
    "eval_strategy": "steps",
    "eval_steps": "3",
    "save_strategy": "steps",
    "save_steps": "3",
    "logging_steps": "1",
    "report_to": "none",
    "use_cpu": "true",
}


def command_line(**options) -> list[str]:
    return [part for name, value in {**TINY, **options}.items() for part in (f"--{name}", str(value))]


def run(dataset: Path, output: Path, **options) -> dict:
    return train(parse_arguments(command_line(dataset=dataset, output_dir=output, **options)))


@pytest.fixture(scope="module")
def trained(simulated_dataset, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "tiny"
    run(simulated_dataset, output, hub_token=SECRET, hub_model_id="solared-team/tiny")
    return output


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_yaml_sets_defaults_and_the_command_line_wins(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "model_type: spatio_temporal_resnet\ndataset: somewhere\noutput_dir: out\nlearning_rate: 5e-5\n"
        "model_config: {spatial_layout: grid}\ninput_channels: [power_2_3mhz]\nreport_to: [tensorboard]\n"
    )
    data, model, training = parse_arguments(["--config", str(config), "--output_dir", "elsewhere"])
    assert training.learning_rate == 5e-5
    assert isinstance(training.learning_rate, float)
    assert training.output_dir == "elsewhere"
    assert training.label_names == ["future_values"]
    assert training.report_to == ["tensorboard"]
    assert data.input_channels == ["power_2_3mhz"]
    assert data.nan_policy == "zero"
    assert model.model_config == {"spatial_layout": "grid"}


def test_every_family_has_a_recipe_of_its_name():
    assert recipe_names() == sorted(FAMILIES)


def test_a_file_wins_over_a_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("solared_lstm").write_text("model_type: solared_lstm\ndataset: mine\noutput_dir: out\n")
    assert parse_arguments(["--config", "solared_lstm"])[0].dataset == "mine"


@pytest.mark.parametrize("name", ["solared_lstm", "spatio_temporal_attention", "spatio_temporal_resnet"])
def test_published_recipes_are_those_of_the_publication(name):
    data, model, training = parse_arguments(["--config", name])
    assert data.input_channels == list(CHANNELS[:5])
    assert data.horizon_hours == 12
    assert training.load_best_model_at_end
    assert training.early_stopping_patience == 8
    assert model.model_type == name


def test_fields_that_follow_from_the_data_are_in_the_configuration(simulated_dataset, tmp_path):
    """Zeros, typical magnitudes and the cadence come from the train split."""
    short = {"max_steps": "2", "input_steps": "24", "per_device_train_batch_size": "8", "report_to": "none"}
    small = {"num_members": 1, "hidden_size": 8}
    options = {**short, "dataset": simulated_dataset, "output_dir": tmp_path, "use_cpu": "true"}
    rest = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    metrics = train(parse_arguments(["--config", "quantile_trajectory", *rest, "--model_config", json.dumps(small)]))
    assert metrics["best_step"] is None
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["step_hours"] == 1
    regions = load_timelines(str(simulated_dataset), "train")
    for index, channel in enumerate(CHANNELS):
        values = [timeline.values[:, index] for timeline in regions]
        lowest, highest = min(map(np.nanmin, values)), max(map(np.nanmax, values))
        typical = np.median([np.nanmedian(np.abs(region[region != 0])) for region in values])
        assert config["input_zero"][index] == pytest.approx(-lowest / (highest - lowest), abs=1e-5), channel
        assert config["input_scale"][index] == pytest.approx(typical / (highest - lowest), rel=1e-3, abs=1e-6), channel
    forecaster = load_forecaster(tmp_path)
    windows = forecaster.windows(load_timelines(str(simulated_dataset), "validation"))
    quantiles = forecaster.quantiles(windows, 24)
    assert quantiles.shape == (len(windows), 24, 5, 63)
    np.testing.assert_allclose(forecaster.forecast(windows), forecaster.trajectory(windows, 12)[:, 11], rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: 1\n", "unknown keys: learning_rat"),
        ("a: [1\n", "could not be read as YAML"),
        ("1: 2\n", "unknown keys: 1"),
        ("help: 1\n", "unknown keys: help"),
        ("learning_rate: [1, 2]\n", "Unknown arguments: 2"),
        ("input_steps: 12.5\n", "invalid int value: '12.5'"),
        ("load_best_model_at_end: perhaps\n", "load_best_model_at_end"),
        ("- just\n- a list\n", "no `key: value` lines"),
        (None, "is neither a file nor a recipe"),
    ],
)
def test_unusable_configurations_are_refused(tmp_path, content, message):
    config = tmp_path / "config.yaml"
    if content is not None:
        config.write_text(content)
    with pytest.raises(SolaredError, match=message):
        parse_arguments(["--config", str(config), *command_line(dataset="d", output_dir="o")])


def test_a_run_leaves_model_processor_metrics_and_card(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["train"]["world_size"] == 1
    for name in ("eval_loss", "eval_rmse_normalised", "eval_rmse_dn", "eval_mae_dn", "eval_skill"):
        assert math.isfinite(metrics["validation"][name]), name
    assert metrics["validation"]["eval_loss"] == pytest.approx(
        metrics["validation"]["eval_rmse_normalised"] ** 2, rel=1e-4
    )
    assert metrics["validation_baselines"]["persistence"]["skill"] == 0
    losses = [entry["eval_loss"] for entry in metrics["log"] if "eval_loss" in entry]
    assert metrics["validation"]["eval_loss"] == pytest.approx(min(losses), rel=1e-5)
    for folder in (trained, *trained.glob("checkpoint-*")):
        assert SolaredProcessor.from_pretrained(folder).fitted_on["split"] == "train"
        assert (folder / "model.safetensors").is_file()
    assert "| persistence |" in (trained / "README.md").read_text()
    assert imread(trained / "training_curve.png").std() > 0.05


def test_metrics_hold_the_facts_of_the_run(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["hyperparameters"] == {
        "eval_steps": 3,
        "eval_strategy": "steps",
        "learning_rate": 1e-3,
        "load_best_model_at_end": True,
        "lr_scheduler_type": "constant",
        "max_steps": 6,
        "metric_for_best_model": "loss",
        "per_device_eval_batch_size": 256,
        "per_device_train_batch_size": 4,
        "save_steps": 3,
    }
    assert metrics["model_config"] == json.loads(TINY["model_config"])
    assert metrics["hardware"]["processes"] == 1
    (device,) = metrics["hardware"]["devices"]
    assert device.startswith("cpu")
    assert metrics["hardware"]["cpus"] == os.cpu_count()
    assert metrics["software"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "transformers", "solared-hf"} < metrics["software"].keys()
    losses = {entry["eval_loss"]: entry["step"] for entry in metrics["log"] if "eval_loss" in entry}
    assert metrics["best_step"] == losses[min(losses)]
    assert metrics["train"]["resumed"] is False


def test_no_file_holds_the_token(trained):
    """The Trainer pickles its arguments beside the weights and in each checkpoint."""
    assert (trained / "training_args.bin").is_file()
    assert not files_with(SECRET, trained)


def test_the_processor_is_fitted_on_the_train_split(trained, simulated_dataset):
    processor = AutoProcessor.from_pretrained(trained)
    train_split = load_timelines(simulated_dataset, "train")
    assert processor.fitted_on["regions"] == [timeline.ar_number for timeline in train_split]
    expected = SolaredProcessor.fit([timeline.values for timeline in train_split], CHANNELS)
    assert processor.minimum == expected.minimum
    assert processor.maximum == expected.maximum


def test_auto_classes_forecast_as_the_trainer_did(trained, simulated_dataset):
    model = AutoModelForTimeSeriesPrediction.from_pretrained(trained)
    processor = AutoProcessor.from_pretrained(trained)
    timeline = load_timelines(simulated_dataset, "validation")[0]
    windows = SolaredWindows(timeline, processor=processor)
    with torch.no_grad():
        inputs = processor(timeline.values[4:10], return_tensors="pt")
        by_hand = processor.inverse(model(**inputs).prediction_outputs).numpy()
    forecast = load_forecaster(trained).forecast(windows)
    assert by_hand.shape == (1, 63)
    assert abs(by_hand[0] - forecast[4]).max() < 0.1


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(trained, simulated_dataset, tmp_path, capsys):
    output = tmp_path / "resumed"
    shutil.copytree(trained / "checkpoint-3", output / "checkpoint-3")
    with pytest.raises(SolaredError, match=r"checkpoints of another run\. Add --resume_from_checkpoint last"):
        run(simulated_dataset, output)
    half_written = output / "checkpoint-5"
    shutil.copytree(trained / "checkpoint-3", half_written)
    (half_written / "trainer_state.json").unlink()
    metrics = run(simulated_dataset, output, resume_from_checkpoint="last")
    assert metrics["train"]["resumed"] is True
    assert "checkpoint-5 is only half written" in capsys.readouterr().err
    assert [entry["step"] for entry in metrics["log"] if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    resumed, whole = (load_file(folder / "checkpoint-6" / "model.safetensors") for folder in (output, trained))
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_finished_run_is_not_trained_further(trained, simulated_dataset):
    before = (trained / "metrics.json").read_bytes()
    metrics = run(simulated_dataset, trained, resume_from_checkpoint="last")
    assert metrics == json.loads(before)
    assert (trained / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"input_channels": "power_2_3mhz"}, "input_channels"),
        ({"horizon_hours": "6"}, "horizon_hours 12.0, and this run has 6.0"),
        ({"nan_policy": "interpolate"}, "nan_policy zero, and this run has interpolate"),
        ({"model_config": "{}"}, "attention_dropout 0.0, and this run has 0.1"),
        ({"model_type": "spatio_temporal_resnet", "model_config": "{}"}, "model_type spatio_temporal_attention"),
    ],
)
def test_another_run_is_not_resumed(trained, simulated_dataset, tmp_path, options, difference):
    with pytest.raises(SolaredError, match=f"was trained with {difference}"):
        run(simulated_dataset, tmp_path, resume_from_checkpoint=trained / "checkpoint-3", **options)


def test_early_stopping_continues_in_a_resumed_run(simulated_dataset, tmp_path):
    options = {
        "learning_rate": "0", "max_steps": 9, "eval_steps": 1, "save_steps": 1, "early_stopping_patience": 2,
        "save_total_limit": 5,
    }  # fmt: skip
    metrics = run(simulated_dataset, tmp_path / "whole", **options)
    assert max(entry["step"] for entry in metrics["log"]) == 3
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    metrics = run(simulated_dataset, tmp_path / "resumed", resume_from_checkpoint="last", **options)
    assert max(entry["step"] for entry in metrics["log"]) == 3


def test_batches_and_accumulation_do_not_change_the_losses(simulated_dataset, tmp_path):
    """Trajectories reach beyond the end of regions, so some targets of a batch are missing."""
    lstm = {"model_type": "solared_lstm", "model_config": json.dumps({"hidden_size": 8, "dropout": 0.0})}
    runs = []
    for name, size, steps, evaluated in (("whole", 64, 1, 256), ("accumulated", 16, 4, 100)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        options |= {"per_device_eval_batch_size": evaluated, "max_steps": 3, "dataloader_drop_last": "true"}
        metrics = run(simulated_dataset, tmp_path / name, **lstm, **options, learning_rate="1e-2")
        log = metrics["log"]
        runs.append([entry[key] for key in ("loss", "eval_loss") for entry in log if key in entry])
        assert metrics["validation"]["eval_loss"] == pytest.approx(runs[-1][-1], rel=1e-5)
    assert len(runs[0]) == 4
    assert runs[1] == pytest.approx(runs[0], rel=1e-4)


def test_one_run_in_tensorboard_and_trackio(simulated_dataset, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    arguments = command_line(
        dataset=simulated_dataset, output_dir=tmp_path / "run", project="solared", hub_token=SECRET
    )
    train(parse_arguments([*arguments, "--report_to", "tensorboard", "trackio"]))
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    series = EventAccumulator(str(events))
    series.Reload()
    assert [event.step for event in series.Scalars("eval/skill")] == [3, 6]
    with sqlite3.connect(tmp_path / "trackio" / "solared.db") as database:
        runs = database.execute("select distinct run_name from metrics").fetchall()
    assert len(runs) == 1
    assert not files_with(SECRET, tmp_path)
    assert SECRET not in "".join(capfd.readouterr())


def test_the_resnet_trains_on_all_channels(simulated_dataset, tmp_path):
    metrics = run(
        simulated_dataset, tmp_path / "run", model_type="spatio_temporal_resnet", model_config="{}", max_steps=1,
        eval_steps=1, save_steps=1, per_device_train_batch_size=2,
    )  # fmt: skip
    assert math.isfinite(metrics["validation"]["eval_skill"])
    forecaster = load_forecaster(tmp_path / "run")
    windows = forecaster.windows(load_timelines(simulated_dataset, "test"))
    assert forecaster.model.config.input_channels == list(CHANNELS)
    assert forecaster.forecast(windows).shape == Persistence().forecast(windows).shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "lstm"}, "lstm"),
        ({"model_config": '{"hidden_length": 8}'}, "has no field hidden_length. The fields are .*hidden_size"),
        ({"model_config": '{"hidden_size": 9, "num_attention_heads": 2}'}, "hidden_size=9 is not divisible"),
        ({"model_config": "{hidden_size"}, "takes JSON such as"),
        ({"input_channels": "flux"}, "flux"),
        ({"input_steps": "300"}, "No window of 300 input steps"),
        ({"resume_from_checkpoint": "nowhere"}, "There is no checkpoint nowhere"),
        ({"nan_policy": "mean"}, "Unknown NaN policy"),
        ({"model_config": '{"input_steps": 7}'}, "input_steps is a separate argument"),
        ({"model_config": '{"step_hours": 0.5}'}, "step_hours is a separate argument, or follows from the data"),
    ],
)
def test_unusable_arguments_are_refused_before_anything_is_written(simulated_dataset, tmp_path, options, message):
    with pytest.raises(SolaredError, match=message):
        run(simulated_dataset, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
