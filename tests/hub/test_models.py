"""Models on the Hub through transformers alone: pushed, loaded with the package and without, private, and trained."""

import os
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForTimeSeriesPrediction,
    AutoProcessor,
    Trainer,
    TrainingArguments,
)

from solared_hf import (
    QuantileTrajectoryConfig,
    QuantileTrajectoryForPrediction,
    SolaredLstmConfig,
    SolaredLstmForPrediction,
    SolaredProcessor,
    SolaredWindows,
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
    SpatioTemporalResnetConfig,
    SpatioTemporalResnetForPrediction,
)
from solared_hf.schema import CHANNELS
from tests.hub.loopback import TOKEN
from tests.hub.stranger import WITHOUT_OUR_PACKAGES
from tests.processes import run

STEPS = 6
FAMILIES = ("quantile_trajectory", "solared_lstm", "spatio_temporal_attention", "spatio_temporal_resnet")

# Runs where the package may be installed, so its import is forbidden. Without trust nothing of a repository's code may
# so much as arrive on the machine; with it, models and processors give what they gave where they were pushed, and so
# do the folders that are saved there.
STRANGER = """
import sys
from pathlib import Path

import torch
import transformers
from huggingface_hub.constants import HF_HOME

AUTO_MODELS = (transformers.AutoModel, transformers.AutoModelForTimeSeriesPrediction)
AUTO_PROCESSORS = (transformers.AutoFeatureExtractor, transformers.AutoProcessor)

def is_refused(auto, repository):
    try:
        auto.from_pretrained(repository)
    except ValueError as error:
        return f"{repository} contains custom code which must be executed" in str(error)

saved = torch.load(sys.argv[1])
for repository in sys.argv[2:]:
    for auto in (*AUTO_MODELS, *AUTO_PROCESSORS):
        assert is_refused(auto, repository), auto
assert not list(Path(HF_HOME).rglob("*solared*.py")) + list(Path(HF_HOME).rglob("*spatio*.py"))
print("refused")

def check(place, repository):
    for auto in AUTO_PROCESSORS:
        processor = auto.from_pretrained(place, trust_remote_code=True)
        assert type(processor).__module__.startswith("transformers_modules."), type(processor).__module__
        inputs = processor(saved["observed"].numpy(), return_tensors="pt")
    for auto in AUTO_MODELS:
        model = auto.from_pretrained(place, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
        with torch.no_grad():
            forecast = processor.inverse(model(**inputs).prediction_outputs)
        torch.testing.assert_close(forecast, saved[repository], rtol=1e-5, atol=1e-2, msg=f"{place}, {auto}")
    return model, processor

for repository in sys.argv[2:]:
    for part in check(repository, repository):
        part.save_pretrained(f"again/{repository}")
    check(f"again/{repository}", repository)
assert "solared_hf" not in sys.modules
print("same")
"""


@pytest.fixture(scope="module")
def observed() -> np.ndarray:
    """Two windows in physical units, of which each channel has its own, with some NaN, which the processor fills."""
    scale = np.array([5e6, 3e7, 1e7, 4e6, 20, 800], np.float32)[:, None]
    values = np.random.default_rng(0).standard_normal((2, STEPS, len(CHANNELS), 63), np.float32) * scale
    values[0, 2:4, :, 5] = np.nan
    return values


@pytest.fixture(scope="module")
def processor(observed) -> SolaredProcessor:
    return SolaredProcessor.fit(observed, CHANNELS, input_steps=STEPS, nan_policy="interpolate")


@pytest.fixture(scope="module")
def pushed(processor, observed) -> dict[str, tuple]:
    """By family: its repository, the model that was pushed there with its processor, and its forecast in DN."""
    small = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32}
    attention = SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionConfig(**small, input_steps=STEPS))
    resnet = SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig(input_steps=STEPS, spatial_layout="grid"))
    made = {}
    trajectory = QuantileTrajectoryForPrediction(QuantileTrajectoryConfig(num_members=1, input_steps=STEPS))
    lstm = SolaredLstmForPrediction(SolaredLstmConfig(hidden_size=16, input_steps=STEPS))
    for family, model in zip(FAMILIES, (trajectory, lstm, attention, resnet), strict=True):
        repository = f"solared-team/{family.replace('_', '-')}"
        model.eval().push_to_hub(repository, token=TOKEN)
        processor.push_to_hub(repository, token=TOKEN)
        made[family] = repository, model, forecast(model, processor, observed)
    return made


def forecast(model, processor, observed) -> torch.Tensor:
    with torch.no_grad():
        return processor.inverse(model(**processor(observed, return_tensors="pt")).prediction_outputs)


def assert_same_forecast(actual, expected) -> None:
    """Compares forecasts in DN; weights that were loaded lie elsewhere in memory, and rounding depends on where."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pushed_model_is_weights_configuration_processor_code_and_card(hub, pushed, family):
    assert set(hub.files(pushed[family][0])) == {
        *(".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"),
        *(f"configuration_{family}.py", f"modeling_{family}.py", "processing_solared.py"),
        *(
            f"{name}_on_cpu.py"
            for name in ("attention", "dropout", "encoder_layer", "feed_forward")
            if family == "spatio_temporal_attention"
        ),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_classes_load_what_was_pushed(pushed, observed, family):
    repository, model, expected = pushed[family]
    for auto_model, auto_processor in (
        (AutoModel, AutoFeatureExtractor),
        (AutoModelForTimeSeriesPrediction, AutoProcessor),
    ):
        loaded = auto_model.from_pretrained(repository), auto_processor.from_pretrained(repository)
        assert [type(one) for one in loaded] == [type(model), SolaredProcessor]
        assert_same_forecast(forecast(*loaded, observed), expected)


def test_a_model_is_downloaded_once(hub, pushed):
    repository, *_ = pushed["spatio_temporal_attention"]
    for _ in range(2):
        hub.requests.clear()
        AutoModel.from_pretrained(repository)
        AutoProcessor.from_pretrained(repository)
    assert {(method, path) for method, path, _ in hub.requests} == {("GET", f"/api/models/{repository}")}


def test_a_process_without_the_package_needs_trust_and_gets_the_same(pushed, observed, tmp_path):
    expected = {repository: expected for repository, _, expected in pushed.values()}
    torch.save({"observed": torch.from_numpy(observed), **expected}, tmp_path / "expected.pt")
    finished = run(
        [sys.executable, "-c", WITHOUT_OUR_PACKAGES + STRANGER, tmp_path / "expected.pt", *expected],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.endswith("refused\nsame\n")


def test_a_private_model_is_for_those_who_may_see_it(repo_id, token, processor, tmp_path, monkeypatch):
    small = SpatioTemporalAttentionConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8)
    SpatioTemporalAttentionForPrediction(small).push_to_hub(repo_id, private=True)
    processor.push_to_hub(repo_id)
    AutoModel.from_pretrained(repo_id)
    AutoProcessor.from_pretrained(repo_id)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="If this is a private repository"):
        AutoModel.from_pretrained(repo_id, cache_dir=tmp_path)


def test_a_large_model_is_pushed_and_loaded_in_shards(hub, repo_id, token):
    model = SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionConfig(input_steps=STEPS)).eval()
    model.push_to_hub(repo_id, max_shard_size="500KB")
    assert "model-00001-of-00002.safetensors" in hub.files(repo_id)
    loaded = AutoModel.from_pretrained(repo_id).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_a_trainer_leaves_weights_card_and_processor_on_the_hub(hub, repo_id, token, make_timeline, tmp_path):
    timeline = make_timeline(90001, steps=24)
    processor = SolaredProcessor.fit([timeline.values], CHANNELS, input_steps=STEPS)
    small = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    trainer = Trainer(
        SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionConfig(**small, input_steps=STEPS)),
        TrainingArguments(
            str(tmp_path), max_steps=2, push_to_hub=True, hub_model_id=repo_id, use_cpu=True, report_to="none"
        ),
        train_dataset=SolaredWindows([timeline], processor=processor),
        processing_class=processor,
    )
    trainer.train()
    trainer.push_to_hub()
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "processing_solared.py",
    } <= set(hub.files(repo_id))
    loaded = AutoModelForTimeSeriesPrediction.from_pretrained(repo_id), AutoProcessor.from_pretrained(repo_id)
    windows = timeline.values[None, 4 : 4 + STEPS]
    assert_same_forecast(forecast(*loaded, windows), forecast(trainer.model.eval(), processor, windows))
