"""Makes the families known to transformers' Auto classes, without importing them before they are needed.

Importing transformers' model code takes seconds, so `import solared_hf` only waits: the families are registered the
first time that one of the Auto classes is asked for something.
"""

import wrapt

# Where a user can first ask for one of our families. The methods are wrapped when their module is imported; to import
# anything of ours at that moment would break transformers' own circular imports.
_FIRST_QUESTIONS = {
    "transformers.models.auto.configuration_auto": ("AutoConfig.for_model", "AutoConfig.from_pretrained"),
    "transformers.models.auto.modeling_auto": (
        "AutoModel.from_config",
        "AutoModel.from_pretrained",
        "AutoModelForTimeSeriesPrediction.from_config",
        "AutoModelForTimeSeriesPrediction.from_pretrained",
    ),
    "transformers.models.auto.feature_extraction_auto": ("AutoFeatureExtractor.from_pretrained",),
    "transformers.models.auto.processing_auto": ("AutoProcessor.from_pretrained",),
}

_registered = False


def register_when_asked() -> None:
    """Register the families at the first question to an Auto class, now or later."""
    for module, methods in _FIRST_QUESTIONS.items():
        wrapt.register_post_import_hook(lambda imported, methods=methods: _wrap(imported, methods), module)


def _wrap(module, methods: tuple[str, ...]) -> None:
    for method in methods:
        wrapt.wrap_function_wrapper(module, method, _answer)


def _answer(wrapped, instance, arguments, keywords):
    global _registered
    if not _registered:
        _register()
        _registered = True
    return wrapped(*arguments, **keywords)


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
        # A registration that was cut short by an error is simply done again.
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForTimeSeriesPrediction.register(config, model, exist_ok=True)
        AutoFeatureExtractor.register(config, SolaredProcessor, exist_ok=True)
        AutoProcessor.register(config, SolaredProcessor, exist_ok=True)
