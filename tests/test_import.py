"""`import solared_hf` is fast, and the Auto classes know the families, whatever is imported first."""

import sys

from tests.processes import run


def test_imports_are_light_and_run_one_way():
    code = """
import sys, solared_hf
print([name for name in ("torch", "transformers", "datasets", "sunpy", "dask", "matplotlib") if name in sys.modules])
import solared_hf.hub.push, solared_hf.hub.model_folder
print([name for name in ("torch", "transformers") if name in sys.modules])
import solared_hf.training.run, solared_hf.plotting.forecasts, solared_hf.evaluation.split_scores
print([name for name in ("dataset_builder", "sunpy", "dask") if name in sys.modules])
"""
    finished = run([sys.executable, "-c", code])
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "[]\n[]\n[]\n"


AUTO_CLASSES = """
import transformers
config = transformers.AutoConfig.for_model("spatio_temporal_attention", hidden_size=16, num_attention_heads=2)
for auto in (transformers.AutoModel, transformers.AutoModelForTimeSeriesPrediction):
    print(type(auto.from_config(config)).__name__, end=" ")
print(type(transformers.AutoConfig.for_model("spatio_temporal_resnet")).__name__)
"""


def test_auto_classes_know_the_families_whatever_is_imported_first(in_processes):
    first = (
        "import solared_hf",
        "from transformers import AutoModel; import solared_hf",
        "from solared_hf import SpatioTemporalResnetForPrediction",
    )
    expected = "SpatioTemporalAttentionForPrediction SpatioTemporalAttentionForPrediction SpatioTemporalResnetConfig"
    for code, output, errors in in_processes(*((line + AUTO_CLASSES,) for line in first)):
        assert code == 0, errors
        assert output.strip() == expected


def test_transformers_can_still_be_imported(in_processes):
    """The modules of transformers import each other in circles, and an import at the wrong moment breaks them."""
    names = ("AutoTokenizer", "AutoImageProcessor", "pipeline", "TimeSeriesTransformerForPrediction")
    for code, _, errors in in_processes(*((f"import solared_hf; from transformers import {name}",) for name in names)):
        assert code == 0, errors
