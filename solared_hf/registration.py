"""Register the model families and the pipeline with transformers when they are first needed.

The model code of transformers takes seconds to import, so `import solared_hf` only installs hooks. The families are
registered at the first call of an Auto class, and the pipeline when a task is first looked up.
"""

from collections.abc import Callable
from functools import cache

import wrapt

# The calls that need the families. The methods are wrapped when their module is imported, and the package is not
# imported at that moment, because that would break the circular imports of transformers.
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

# `transformers.pipeline` calls these methods. The function itself is not wrapped, because user code may have imported
# the function before this package.
_TASKS = {"transformers.pipelines.base": ("PipelineRegistry.check_task", "PipelineRegistry.get_supported_tasks")}


def register_when_asked() -> None:
    """Install the hooks that register the families and the pipeline when they are first needed."""
    for hooks, register in ((_AUTO_CLASSES, _register_families), (_TASKS, _register_pipeline)):
        for module, methods in hooks.items():
            _register_before(module, methods, register)


def _register_before(module: str, methods: tuple[str, ...], register: Callable[[], None]) -> None:
    def register_and_call(wrapped, instance, arguments, keywords):
        register()
        return wrapped(*arguments, **keywords)

    def wrap(imported):
        for method in methods:
            wrapt.wrap_function_wrapper(imported, method, register_and_call)

    wrapt.register_post_import_hook(wrap, module)


# Each registration runs once. If it raises, the cache stays empty and the registration runs again at the next call.
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

    # Not with `register_pipeline`, because a folder saved by the pipeline would then hold a copy of the code of the
    # pipeline, and loading the folder would need `trust_remote_code=True`.
    PIPELINE_REGISTRY.supported_tasks[TASK] = {
        "impl": SolarActiveRegionForecastingPipeline,
        "pt": (AutoModelForTimeSeriesPrediction,),
        "default": {},
    }
