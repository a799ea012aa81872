"""The card of a trained model: made of the files beside it alone, true to them, and its snippets run."""

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard

from solared_hf import SolaredError, load_forecaster
from solared_hf.evaluation import benchmark
from solared_hf.hub import model_card
from solared_hf.hub.cards import card_for
from tests.training.test_run import run

SOURCES = ("config.json", "preprocessor_config.json", "metrics.json")


@pytest.fixture(scope="module")
def trained(simulated_dataset, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "tiny"
    run(simulated_dataset, output, max_steps=2, eval_steps=1, save_steps=1)
    return output


@pytest.fixture
def sources(trained, tmp_path) -> Path:
    """The files that a card is made of, and nothing else, to change."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in (*SOURCES, "training_curve.png"):
        shutil.copy(trained / name, folder)
    # Of the weights it says no more than whether they are there.
    (folder / "model.safetensors").touch()
    return folder


def change(path: Path, *names: str, to) -> None:
    content = part = json.loads(path.read_text())
    for name in names[:-1]:
        part = part[name]
    part[names[-1]] = to
    path.write_text(json.dumps(content))


def test_the_same_facts_give_the_same_bytes(trained, sources):
    card = (trained / "README.md").read_text()
    assert model_card(trained) == model_card(sources) == card
    (sources / "training_curve.png").unlink()
    picture = "![Loss, and error on the validation split, against steps of training](training_curve.png)\n\n"
    assert card.count(picture) == 1
    assert model_card(sources) == card.replace(picture, "")


def test_a_card_in_a_repository_loads_that(trained):
    elsewhere = card_for("solared-team/tiny", model_card(trained).encode()).decode()
    assert elsewhere.count("solared-team/tiny") == 3
    assert "path/to/this/folder" not in elsewhere


def test_yaml_holds_the_scores(trained):
    metrics, processor = (json.loads((trained / name).read_text()) for name in SOURCES[:0:-1])
    card = ModelCard(model_card(trained))
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "time-series-forecasting"
    assert card.data.license == "apache-2.0"
    assert card.data.datasets is None
    names = {
        "rmse_normalised": "RMSE, normalised",
        "mae_normalised": "MAE, normalised",
        "rmse_dn": "RMSE, HMI DN",
        "mae_dn": "MAE, HMI DN",
        "skill": "skill against persistence",
    }
    assert card.data.eval_results == [
        EvalResult(
            task_type="time-series-forecasting",
            dataset_type="solared",
            dataset_name="SOLARED, simulated",
            dataset_config="timelines",
            dataset_split="validation",
            dataset_revision=processor["fitted_on"]["revision"],
            metric_type=metric,
            metric_name=name,
            metric_value=round(metrics["validation"][f"eval_{metric}"], 6),
        )
        for metric, name in names.items()
    ]


def test_a_repository_is_named_as_the_dataset_and_a_folder_is_not(trained, sources):
    assert "path/to/the/dataset" in model_card(trained)
    change(sources / "preprocessor_config.json", "fitted_on", "dataset", to="solared-team/suns")
    card = ModelCard(model_card(sources))
    assert card.data.datasets == ["solared-team/suns"]
    assert {result.dataset_type for result in card.data.eval_results} == {"solared-team/suns"}
    assert 'load_timelines("solared-team/suns", split="validation")' in card.text
    assert "path/to/the/dataset" not in card.text


def test_the_text_says_what_the_run_was(trained):
    metrics, processor = (json.loads((trained / name).read_text()) for name in SOURCES[:0:-1])
    card = model_card(trained)
    for fact in (
        "**simulated Sun**",
        f"({metrics['parameters']:,} parameters)",
        "12 h ahead, from 6 steps, 60 minutes apart",
        "| `learning_rate` | 0.001 |",
        "| `model_config.hidden_size` | 8 |",
        f"| dataset revision | `{processor['fitted_on']['revision']}` |",
        "6 of the train split: AR90001, AR90002, AR90003, AR90004, AR90005, AR90006",
        f"torch {metrics['software']['torch']}",
        f"The weights are those of step {metrics['best_step']}",
        "of 12 h, 8 remain",
    ):
        assert fact in card
    for name in ("persistence", "average"):
        assert f"| {name} | {metrics['validation_baselines'][name]['rmse_normalised']:.5f} |" in card
    assert f"| this model | {metrics['validation']['eval_rmse_normalised']:.5f} |" in card
    assert card.count("\n\n\n") == 0
    assert card.endswith("extrapolates.\n")


@pytest.mark.parametrize(
    ("names", "value", "sentence"),
    [
        (("hardware", "devices"), ["NVIDIA H100 80GB HBM3"] * 4, "| hardware | 4 x NVIDIA H100 80GB HBM3, 1 process,"),
        (("hardware", "processes"), 4, ", 4 processes,"),
        (("train", "train_runtime"), 3723.4, "| 1:02:03 |"),
        (("train", "resumed"), True, ", since it was resumed |"),
        (("validation", "eval_skill"), 0.257, "This model removes 26 % of it."),
        (("validation", "eval_skill"), -0.01, "**This model does not beat persistence.**"),
        (("validation", "eval_skill"), float("nan"), "**The skill of this model is undefined.**"),
        (("best_metric",), "skill", "chosen by the metric `skill` on this split"),
    ],
)
def test_the_text_follows_the_facts(sources, names, value, sentence):
    change(sources / "metrics.json", *names, to=value)
    assert sentence in model_card(sources)


def test_what_is_not_finite_is_no_result(sources):
    change(sources / "metrics.json", "validation", "eval_skill", to=float("nan"))
    metrics = {result.metric_type for result in ModelCard(model_card(sources)).data.eval_results}
    assert metrics == {"rmse_normalised", "mae_normalised", "rmse_dn", "mae_dn"}
    for metric in metrics:
        change(sources / "metrics.json", "validation", f"eval_{metric}", to=float("inf"))
    assert "model-index" not in ModelCard(model_card(sources)).data.to_dict()


@pytest.mark.parametrize(
    ("channels", "horizon", "sentence"),
    [
        (
            ["power_2_3mhz", "continuum_intensity"],
            12.0,
            "is available 4 h after its last step at the\n  earliest: of 12 h, 8",
        ),
        (["power_2_3mhz"], 3.0, "1 h after the time that it is for"),
        (["power_2_3mhz"], 4.0, "at the very time that it is for"),
        (["continuum_intensity"], 3.0, "observations after the last step: of 3 h, 3\n"),
    ],
)
def test_the_text_says_how_much_of_the_horizon_remains(sources, channels, horizon, sentence):
    change(sources / "preprocessor_config.json", "input_channels", to=channels)
    change(sources / "preprocessor_config.json", "horizon_hours", to=horizon)
    assert sentence in model_card(sources)


@pytest.mark.parametrize(
    ("family", "packages"),
    [
        ("solared_lstm", "`transformers` and `torch`"),
        ("spatio_temporal_attention", "`transformers` and `torch`"),
        ("spatio_temporal_resnet", "`transformers`, `torch` and `torchvision`"),
    ],
)
def test_the_text_names_what_the_code_needs(sources, family, packages):
    change(sources / "config.json", "model_type", to=family)
    assert f"Without that package, {packages} are enough:" in model_card(sources)


def test_no_choice_of_a_checkpoint_is_claimed_where_there_was_none(sources):
    change(sources / "metrics.json", "best_step", to=None)
    assert "chosen by the metric" not in model_card(sources)


def test_the_snippets_run_as_written(trained, simulated_dataset, capsys):
    card = model_card(trained).replace("path/to/this/folder", str(trained))
    card = card.replace("path/to/the/dataset", str(simulated_dataset))
    with_package, without = re.findall(r"^```python\n(.*?)^```", card, re.S | re.M)
    exec(compile(with_package, "README.md", "exec"), {})
    assert re.findall(r"^(\d+) 2001-\S+ \S+ DN$", capsys.readouterr().out, re.M) == ["90007", "90008"]
    made = {}
    exec(compile(without, "README.md", "exec"), made)
    assert made["intensity"].shape == (1, 63)


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_no_trained_model_gets_no_card(sources, name):
    path = sources / name
    path.write_text("{}")
    with pytest.raises(SolaredError, match=r"lacks facts for a model card \(KeyError: .*train"):
        model_card(sources)
    path.unlink()
    with pytest.raises(SolaredError, match=rf"lacks facts for a model card .*{name}"):
        model_card(sources)


def test_a_folder_without_weights_says_so(sources):
    assert "weights are not in this folder" not in model_card(sources)
    (sources / "model.safetensors").unlink()
    assert "weights are not in this folder" in model_card(sources)


def test_trajectories_and_quantiles_are_told(sources):
    change(sources / "config.json", "forecast_steps", to=24)
    assert "It forecasts each of the 24 steps after the input.\n" in model_card(sources)
    change(sources / "config.json", "quantile_levels", to=[0.1, 0.5])
    assert "It forecasts each of the 24 steps after the input, with the quantiles 0.1, 0.5.\n" in model_card(sources)


def test_a_benchmark_beside_it_becomes_tables_and_pictures(trained, sources, simulated_dataset):
    mine = load_forecaster(trained)
    mine.name = "elsewhere"  # as the folder is called
    found = benchmark(str(simulated_dataset), "validation", [mine])
    (sources / "benchmark.json").write_text(found.as_json())
    (sources / "error_by_lead.png").write_bytes(b"a picture")
    (sources / "EXPERIMENTS.md").write_text("what was tried")
    card = model_card(sources)
    for result in found.results:
        name = "**elsewhere**" if result.name == "elsewhere" else result.name
        assert f"| {name} | {result.score.rmse_dn:.1f} | {result.score.skill:+.3f}" in card
    (own,) = (one for one in found.results if one.name == "elsewhere")
    for number in found.regions:
        assert f"\n| AR{number} | {own.score.rmse_dn_by_region[number]:.1f} |" in card
    assert (
        "\n| region | elsewhere (DN) | gradient-boosted trees (DN) | persistence (DN) |\n|---|---|---|---|\n" in card
    )
    assert "](error_by_lead.png)" in card
    assert "](reliability.png)" not in card
    assert "[EXPERIMENTS.md](EXPERIMENTS.md)" in card
    assert "\n\n\n" not in card
