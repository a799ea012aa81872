"""Saved folders carry their code, for `trust_remote_code=True`; tests/hub/test_models.py loads such folders."""

import json

import numpy as np
import pytest

from solared_hf import SolaredProcessor
from solared_hf.models import (
    QuantileTrajectoryForPrediction,
    SolaredLstmForPrediction,
    SpatioTemporalAttentionForPrediction,
    SpatioTemporalResnetForPrediction,
)
from solared_hf.models.quantile_trajectory.modeling_quantile_trajectory import QuantileTrajectoryConfig
from solared_hf.models.solared_lstm.modeling_solared_lstm import SolaredLstmConfig
from solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention import (
    SpatioTemporalAttentionConfig,
)
from solared_hf.models.spatio_temporal_resnet.modeling_spatio_temporal_resnet import SpatioTemporalResnetConfig
from solared_hf.schema import CHANNELS

AUTO_MODELS = ("AutoModel", "AutoModelForTimeSeriesPrediction")
AUTO_PROCESSORS = ("AutoFeatureExtractor", "AutoProcessor")


@pytest.mark.parametrize(
    ("name", "model_class", "config"),
    [
        (
            "spatio_temporal_attention",
            SpatioTemporalAttentionForPrediction,
            SpatioTemporalAttentionConfig(hidden_size=16, num_attention_heads=4, intermediate_size=32),
        ),
        (
            "quantile_trajectory",
            QuantileTrajectoryForPrediction,
            QuantileTrajectoryConfig(num_members=1),
        ),
        ("solared_lstm", SolaredLstmForPrediction, SolaredLstmConfig(hidden_size=16)),
        ("spatio_temporal_resnet", SpatioTemporalResnetForPrediction, SpatioTemporalResnetConfig()),
    ],
)
def test_folder_names_its_code_for_every_auto_class(tmp_path, name, model_class, config):
    values = np.random.default_rng(0).standard_normal((2, 6, len(CHANNELS), 63), np.float32)
    model_class(config).save_pretrained(tmp_path)
    SolaredProcessor.fit(values, CHANNELS).save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    class_name = "".join(part.title() for part in name.split("_"))
    expected = dict.fromkeys(AUTO_MODELS, f"modeling_{name}.{class_name}ForPrediction")
    assert auto_map == {**expected, "AutoConfig": f"configuration_{name}.{class_name}Config"}
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["auto_map"] == dict.fromkeys(AUTO_PROCESSORS, "processing_solared.SolaredProcessor")
    code = {path.name for path in tmp_path.glob("*.py")}
    neighbours = (
        {"attention_on_cpu.py", "dropout_on_cpu.py", "encoder_layer_on_cpu.py", "feed_forward_on_cpu.py"}
        if name == "spatio_temporal_attention"
        else set()
    )
    assert code == {f"modeling_{name}.py", f"configuration_{name}.py", "processing_solared.py", *neighbours}
