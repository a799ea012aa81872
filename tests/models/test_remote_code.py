"""Saved folders carry their code: they load with `trust_remote_code=True` where the package is not installed."""

import json
import os
import subprocess
import sys

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

AUTO_MODELS = ("AutoModel", "AutoModelForTimeSeriesPrediction")

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

for name in sys.argv[1:]:
    for auto in ("AutoModel", "AutoModelForTimeSeriesPrediction"):
        model = check(name, name, auto)
    model.save_pretrained(f"again/{name}")
    check(f"again/{name}", name, "AutoModel")
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
    for name, model in models.items():
        model.eval().save_pretrained(folder / name)
        past = torch.randn(2, 6, 6, 63, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.save({"past": past, "prediction": model(past).prediction_outputs}, folder / f"{name}.pt")
    return folder


@pytest.mark.parametrize("name", ["spatio_temporal_attention", "spatio_temporal_resnet"])
def test_folder_names_its_code_for_every_auto_class(folder, name):
    auto_map = json.loads((folder / name / "config.json").read_text())["auto_map"]
    class_name = "".join(part.title() for part in name.split("_"))
    expected = dict.fromkeys(AUTO_MODELS, f"modeling_{name}.{class_name}ForPrediction")
    assert auto_map == {**expected, "AutoConfig": f"configuration_{name}.{class_name}Config"}
    code = {path.name for path in (folder / name).glob("*.py")}
    assert code == {f"modeling_{name}.py", f"configuration_{name}.py"}


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
