"""Saved folders carry their code: they load with `trust_remote_code=True` where the package is not installed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention import (
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
)
from solared_hf.models.spatio_temporal_resnet.modeling_spatio_temporal_resnet import (
    SpatioTemporalResnetConfig,
    SpatioTemporalResnetForPrediction,
)
from solared_hf.processing_solared import SolaredProcessor
from solared_hf.schema import CHANNELS

AUTO_MODELS = ("AutoModel", "AutoModelForTimeSeriesPrediction")
AUTO_PROCESSORS = ("AutoFeatureExtractor", "AutoProcessor")

# Runs in the folder of the saved models. The package may be installed in the environment, so its import is forbidden.
STRANGER = """
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("solared_hf", "dataset_builder"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Forbid())

import torch
import transformers

def check(folder, name, auto):
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    saved = torch.load(f"{name}.pt")
    with torch.no_grad():
        assert torch.equal(model(past_values=saved["past"]).prediction_outputs, saved["prediction"]), (folder, auto)
    return model

def check_processor(folder, name, auto):
    processor = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    assert type(processor).__module__.startswith("transformers_modules."), type(processor).__module__
    saved = torch.load(f"{name}.pt")
    inputs = processor(saved["observed"].numpy(), return_tensors="pt")
    assert torch.equal(inputs["past_values"], saved["past"]), (folder, auto)
    assert torch.equal(inputs["past_observed_mask"], saved["mask"]), (folder, auto)
    assert torch.equal(processor.inverse(saved["prediction"]), saved["forecast"]), (folder, auto)
    return processor

for name in sys.argv[1:]:
    for auto in ("AutoModel", "AutoModelForTimeSeriesPrediction"):
        model = check(name, name, auto)
    model.save_pretrained(f"again/{name}")
    check(f"again/{name}", name, "AutoModel")
    for auto in ("AutoFeatureExtractor", "AutoProcessor"):
        processor = check_processor(name, name, auto)
    processor.save_pretrained(f"again/{name}")
    for auto in ("AutoFeatureExtractor", "AutoProcessor"):
        check_processor(f"again/{name}", name, auto)
assert "solared_hf" not in sys.modules
print("done")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    attention = SpatioTemporalAttentionConfig(hidden_size=16, num_attention_heads=4, intermediate_size=32)
    models = {
        "spatio_temporal_attention": SpatioTemporalAttentionForPrediction(attention),
        "spatio_temporal_resnet": SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig()),
    }
    # Physical units of which each channel has its own, and some NaN, which the processor fills.
    scale = np.array([5e6, 3e7, 1e7, 4e6, 20, 800], np.float32)[:, None]
    observed = np.random.default_rng(0).standard_normal((2, 6, len(CHANNELS), 63), np.float32) * scale
    observed[0, 2:4, :, 5] = np.nan
    processor = SolaredProcessor.fit(observed, CHANNELS, input_steps=6, nan_policy="interpolate")
    inputs = processor(observed, return_tensors="pt")
    for name, model in models.items():
        model.eval().save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        with torch.no_grad():
            prediction = model(inputs["past_values"]).prediction_outputs
        saved = {"observed": torch.from_numpy(observed), "past": inputs["past_values"], "prediction": prediction}
        saved |= {"mask": inputs["past_observed_mask"], "forecast": processor.inverse(prediction)}
        torch.save(saved, folder / f"{name}.pt")
    return folder


@pytest.mark.parametrize("name", ["spatio_temporal_attention", "spatio_temporal_resnet"])
def test_folder_names_its_code_for_every_auto_class(folder, name):
    auto_map = json.loads((folder / name / "config.json").read_text())["auto_map"]
    class_name = "".join(part.title() for part in name.split("_"))
    expected = dict.fromkeys(AUTO_MODELS, f"modeling_{name}.{class_name}ForPrediction")
    assert auto_map == {**expected, "AutoConfig": f"configuration_{name}.{class_name}Config"}
    processor = json.loads((folder / name / "preprocessor_config.json").read_text())
    assert processor["auto_map"] == dict.fromkeys(AUTO_PROCESSORS, "processing_solared.SolaredProcessor")
    code = {path.name for path in (folder / name).glob("*.py")}
    assert code == {f"modeling_{name}.py", f"configuration_{name}.py", "processing_solared.py"}


def test_folders_load_without_the_package(folder, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    finished = subprocess.run(
        [sys.executable, "-c", STRANGER, "spatio_temporal_attention", "spatio_temporal_resnet"],
        cwd=folder,
        env={**environment, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "done\n"
