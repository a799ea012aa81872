"""Makes the families known to transformers' Auto classes, without importing them before they are needed.

Importing transformers' model code takes seconds, so `import solared_hf` only leaves a note: as soon as a module with
Auto classes has been imported, by whoever, the families are registered.
"""

import sys

import wrapt

# Registration needs these names. Each module is watched, and nothing happens while one of them is half imported.
_NEEDED = {
    "transformers.feature_extraction_utils": "FeatureExtractionMixin",
    "transformers.modeling_utils": "PreTrainedModel",
    "transformers.models.auto.configuration_auto": "AutoConfig",
    "transformers.models.auto.feature_extraction_auto": "AutoFeatureExtractor",
    "transformers.models.auto.modeling_auto": "AutoModelForTimeSeriesPrediction",
    "transformers.models.auto.processing_auto": "AutoProcessor",
    "transformers.processing_utils": "ProcessorMixin",
    "solared_hf.processing_solared": "SolaredProcessor",
    "solared_hf.models.spatio_temporal_attention.configuration_spatio_temporal_attention": (
        "SpatioTemporalAttentionConfig"
    ),
    "solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention": (
        "SpatioTemporalAttentionForPrediction"
    ),
    "solared_hf.models.spatio_temporal_resnet.configuration_spatio_temporal_resnet": "SpatioTemporalResnetConfig",
    "solared_hf.models.spatio_temporal_resnet.modeling_spatio_temporal_resnet": "SpatioTemporalResnetForPrediction",
}

_registered = False


def register_when_ready() -> None:
    """Register now if transformers is there already, else as soon as it is."""
    for module in _NEEDED:
        wrapt.register_post_import_hook(_on_import, module)


def _on_import(module) -> None:
    global _registered
    imported = [name for name in _NEEDED if name in sys.modules]
    half_imported = any(not hasattr(sys.modules[name], _NEEDED[name]) for name in imported)
    wanted = any(name.startswith("transformers.models.auto.") for name in imported)
    if wanted and not half_imported and not _registered:
        _registered = True
        _register()


def _register() -> None:
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForTimeSeriesPrediction,
        AutoProcessor,
    )

    from solared_hf.models.spatio_temporal_attention.configuration_spatio_temporal_attention import (
        SpatioTemporalAttentionConfig,
    )
    from solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention import (
        SpatioTemporalAttentionForPrediction,
    )
    from solared_hf.models.spatio_temporal_resnet.configuration_spatio_temporal_resnet import (
        SpatioTemporalResnetConfig,
    )
    from solared_hf.models.spatio_temporal_resnet.modeling_spatio_temporal_resnet import (
        SpatioTemporalResnetForPrediction,
    )
    from solared_hf.processing_solared import SolaredProcessor

    for config, model in (
        (SpatioTemporalAttentionConfig, SpatioTemporalAttentionForPrediction),
        (SpatioTemporalResnetConfig, SpatioTemporalResnetForPrediction),
    ):
        AutoConfig.register(config.model_type, config)
        AutoModel.register(config, model)
        AutoModelForTimeSeriesPrediction.register(config, model)
        AutoFeatureExtractor.register(config, SolaredProcessor)
        AutoProcessor.register(config, SolaredProcessor)
    # Saved beside a model, its code makes `trust_remote_code=True` work where the package is not installed. The models
    # say so in their own files; importing the processor shall not import the Auto classes.
    SolaredProcessor.register_for_auto_class("AutoFeatureExtractor")
