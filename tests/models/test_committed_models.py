"""The trained models in the package are complete and small, and their cards and scores are right."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from dataset_builder.published import read_timeline
from solared_hf import load_forecaster
from solared_hf.evaluation.published_protocol import PROTOCOL_TILES, protocol_score
from solared_hf.forecasters import committed_models
from solared_hf.forecasters.base import folders_without_weights
from solared_hf.hub import model_card, model_to_push

CARDS = Path(__file__).parents[2] / "model_cards"
FOLDERS = sorted(path.parent for path in CARDS.glob("solared-*/config.json"))
OURS = "solared-quantile-trajectory"


def test_the_package_holds_these_models():
    assert set(committed_models()) == {OURS, "solared-lstm", "solared-spatio-temporal-attention"}
    assert folders_without_weights() == ["solared-spatio-temporal-resnet"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_card_agrees_with_the_files(folder):
    assert (folder / "README.md").read_text() == model_card(folder)


@pytest.mark.parametrize("name", committed_models())
def test_each_model_is_small_and_ready_to_be_pushed(name):
    folder = CARDS / name
    assert (folder / "model.safetensors").stat().st_size <= 3_000_000
    files = model_to_push(folder, f"solared-team/{name}").files
    family = json.loads((folder / "config.json").read_text())["model_type"]
    code = {f"configuration_{family}.py", f"modeling_{family}.py", "processing_solared.py"}
    assert {
        "README.md",
        "benchmark.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    } | code <= set(files)


@pytest.mark.parametrize("name", committed_models())
def test_each_model_loads_from_a_clone(name):
    model, processor = (auto.from_pretrained(CARDS / name) for auto in (AutoModel, AutoProcessor))
    past = torch.zeros(processor.input_steps, len(processor.input_channels), 63).numpy()
    with torch.no_grad():
        prediction = model(**processor(past, return_tensors="pt")).prediction_outputs
    assert prediction.shape == (1, 63)
    assert torch.isfinite(prediction).all()


def test_the_committed_weights_give_our_headline_score(published_dir):
    results = json.loads((CARDS / OURS / "benchmark.json").read_text())["results"]
    (protocol,) = (result["protocol"] for result in results if result["name"] == OURS)
    score = protocol_score(load_forecaster(OURS), [read_timeline(published_dir / f"AR{n}") for n in PROTOCOL_TILES])
    assert score.rmse == pytest.approx(protocol["rmse"], abs=1e-5)
    assert score.rmse == pytest.approx(0.0609, abs=5e-5)
    for number, rmse in protocol["rmse_by_region"].items():
        assert score.rmse_by_region[int(number)] == pytest.approx(rmse, abs=1e-5)
