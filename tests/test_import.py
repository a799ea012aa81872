"""`import solared_hf` is quick, light, and makes the Auto classes know the families, whatever is imported first."""

import subprocess
import sys

import pytest


def run(*codes: str) -> list[str]:
    """What each code prints in a fresh process of its own; they run side by side, for imports take seconds."""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for code in codes
    ]
    outputs = []
    for code, process in zip(codes, processes, strict=True):
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, f"{code}\n{errors[-2000:]}"
        outputs.append(output.strip())
    return outputs


def test_imports_stay_light_and_one_way():
    code = """
import sys, solared_hf
print([name for name in ("torch", "transformers", "datasets", "sunpy", "dask", "matplotlib") if name in sys.modules])
import solared_hf.training, solared_hf.plotting, solared_hf.evaluation.split_scores
print([name for name in ("dataset_builder", "sunpy", "dask") if name in sys.modules])
"""
    assert run(code) == ["[]\n[]"]


AUTO_CLASSES = """
import transformers
config = transformers.AutoConfig.for_model("spatio_temporal_attention", hidden_size=16, num_attention_heads=2)
for auto in (transformers.AutoModel, transformers.AutoModelForTimeSeriesPrediction):
    print(type(auto.from_config(config)).__name__, end=" ")
print(type(transformers.AutoConfig.for_model("spatio_temporal_resnet")).__name__)
"""


def test_auto_classes_know_the_families_whatever_comes_first():
    first = (
        "import solared_hf",
        "from transformers import AutoModel; import solared_hf",
        "from solared_hf import SpatioTemporalResnetForPrediction",
    )
    expected = "SpatioTemporalAttentionForPrediction SpatioTemporalAttentionForPrediction SpatioTemporalResnetConfig"
    assert run(*(line + AUTO_CLASSES for line in first)) == [expected] * 3


def test_transformers_imports_as_it_does_alone():
    """Its modules import each other in circles, which anything imported at the wrong moment breaks."""
    names = ("AutoTokenizer", "AutoImageProcessor", "pipeline", "TimeSeriesTransformerForPrediction")
    run(*(f"import solared_hf; from transformers import {name}" for name in names))


def test_an_unknown_name_is_an_attribute_error():
    import solared_hf

    assert "SolaredWindows" in dir(solared_hf)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = solared_hf.Nonsense
