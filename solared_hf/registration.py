"""Makes the families and the pipeline known to transformers, without importing them before they are needed.

Importing transformers' model code takes seconds, so `import solared_hf` only waits: the families are registered the
first time that one of the Auto classes is asked for something, the pipeline the first time that a task is looked up.
"""

from collections.abc import Callable
from functools import cache

import wrapt

# Where a user can first ask for one of our families. The methods are wrapped when their module is imported; to import
# anything of ours at that moment would break transformers' own circular imports.
_AUTO_CLASSES = {
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

# What `transformers.pipeline` asks about its task. Whoever imported that function before us holds it as it was.
_TASKS = {"transformers.pipelines.base": ("PipelineRegistry.check_task", "PipelineRegistry.get_supported_tasks")}


def register_when_asked() -> None:
    """Register the families and the pipeline at the first question about them, now or later."""
    for questions, register in ((_AUTO_CLASSES, _register_families), (_TASKS, _register_pipeline)):
        for module, methods in questions.items():
            _register_before(module, methods, register)


def _register_before(module: str, methods: tuple[str, ...], register: Callable[[], None]) -> None:
    def answer(wrapped, instance, arguments, keywords):
        register()
        return wrapped(*arguments, **keywords)

    def wrap(imported):
        for method in methods:
            wrapt.wrap_function_wrapper(imported, method, answer)

    wrapt.register_post_import_hook(wrap, module)


# Both run once: a cache keeps no errors, so a registration that was cut short by one is simply done again.
@cache
def _register_families() -> None:
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForTimeSeriesPrediction,
        AutoProcessor,
    )

    from solared_hf import models
    from solared_hf.data import SolaredProcessor

    for config_name, model_name in models.FAMILIES.values():
        config, model = getattr(models, config_name), getattr(models, model_name)
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForTimeSeriesPrediction.register(config, model, exist_ok=True)
        AutoFeatureExtractor.register(config, SolaredProcessor, exist_ok=True)
        AutoProcessor.register(config, SolaredProcessor, exist_ok=True)


@cache
def _register_pipeline() -> None:
    from transformers import AutoModelForTimeSeriesPrediction
    from transformers.pipelines import PIPELINE_REGISTRY

    from solared_hf.forecasters.pipeline import TASK, SolarActiveRegionForecastingPipeline

    # Not by `register_pipeline`: with it, a folder that the pipeline saves would hold a copy of its code, and ask for
    # `trust_remote_code=True` to run that in its place.
    PIPELINE_REGISTRY.supported_tasks[TASK] = {
        "impl": SolarActiveRegionForecastingPipeline,
        "pt": (AutoModelForTimeSeriesPrediction,),
        "default": {},
    }
