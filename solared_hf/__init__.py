"""SOLARED: forecast emerging solar active regions, native to the Hugging Face stack.

Names are imported when they are first used, so that `import solared_hf` is quick and does one thing: transformers'
Auto classes get to know the model families, and its `pipeline` the task.
"""

import importlib
from importlib.metadata import version

from solared_hf.registration import register_when_asked

_MODULE_OF = {
    "QuantileTrajectoryConfig": "models.quantile_trajectory.configuration_quantile_trajectory",
    "QuantileTrajectoryForPrediction": "models.quantile_trajectory.modeling_quantile_trajectory",
    "SolaredError": "errors",
    "SolaredLstmConfig": "models.solared_lstm.configuration_solared_lstm",
    "SolaredLstmForPrediction": "models.solared_lstm.modeling_solared_lstm",
    "SolaredProcessor": "processing_solared",
    "SolarActiveRegionForecastingPipeline": "pipeline",
    "SolaredWindows": "windows",
    "SpatioTemporalAttentionConfig": ("models.spatio_temporal_attention.configuration_spatio_temporal_attention"),
    "SpatioTemporalAttentionForPrediction": "models.spatio_temporal_attention.modeling_spatio_temporal_attention",
    "SpatioTemporalResnetConfig": "models.spatio_temporal_resnet.configuration_spatio_temporal_resnet",
    "SpatioTemporalResnetForPrediction": "models.spatio_temporal_resnet.modeling_spatio_temporal_resnet",
    "Timeline": "timelines",
    "load_forecaster": "forecasting",
    "load_timelines": "loading",
}

__all__ = ["__version__", *_MODULE_OF]
__version__ = version("solared-hf")

register_when_asked()


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
