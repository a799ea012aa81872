"""Refuse training arguments that cannot work or have no effect, before the training starts."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, cast

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils import is_torch_xla_available

from solared_hf.errors import SolaredError, reason_of
from solared_hf.training.validation_metrics import GREATER_IS_BETTER

if TYPE_CHECKING:
    from solared_hf.training.arguments import SolaredTrainingArguments

LABEL_NAMES = ["future_values"]

_AT_LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("eval_accumulation_steps", "save_total_limit", "ddp_timeout"), 1),
    "early_stopping_patience": 0,  # 0 switches off the patience of a recipe
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "eval_delay", "seed", "data_seed"), 0),
    "dataloader_num_workers": 0,
}
_MORE_THAN_0 = ("logging_steps", "eval_steps", "save_steps")
# Arguments for other data and models, which transformers would ignore silently, or which end in a traceback.
_WITHOUT_EFFECT = {
    "label_smoothing_factor": "it smooths class labels, and our targets are intensities",
    "neftune_noise_alpha": "it adds noise to token embeddings, which our models do not have",
    "use_cache": "it is for models that generate text",
    "use_liger_kernel": "its kernels are for language models",
    "length_column_name": "all windows have the same length",
    "include_for_metrics": "our metrics need only forecasts and targets",
    "restore_callback_states_from_checkpoint": "a resumed run always continues its counters",
    "do_predict": "`solared predict` and `solared evaluate` do that",
}
_NOT_FOR_SCHEDULES = {
    "lr_scheduler_kwargs": ("constant", "constant_with_warmup"),
    "warmup_steps": ("constant", "reduce_lr_on_plateau", "greedy"),
}
_NEEDS = {"gradient_checkpointing_kwargs": "gradient_checkpointing", "fsdp_config": "fsdp"}


def check_arguments(training: "SolaredTrainingArguments") -> None:
    """Refuse values that no run can have. Call it before `TrainingArguments.__post_init__` fills in derived values.

    Raises:
        SolaredError: If an argument is unusable. The message names the argument, its value and the remedy.
    """
    _check_numbers(training)
    defaults = {field.name: field for field in fields(TrainingArguments)}
    for name, reason in _WITHOUT_EFFECT.items():
        make_default = defaults[name].default_factory
        default = make_default() if callable(make_default) else defaults[name].default
        if getattr(training, name) != default:
            raise SolaredError(f"{name} has no effect here, because {reason}. Leave out {name}.")
    for name, other in _NEEDS.items():
        if getattr(training, name) and not getattr(training, other):
            raise SolaredError(f"{name} has no effect without {other}. Give both or neither.")
    if training.train_sampling_strategy not in ("random", "sequential"):
        raise SolaredError(
            f"train_sampling_strategy {training.train_sampling_strategy} groups samples by length, and all windows "
            "have the same length. Use random or sequential."
        )
    if "tpu_metrics_debug" in (training.debug or ()) and not is_torch_xla_available():
        raise SolaredError("debug tpu_metrics_debug needs a TPU and the package torch_xla. Leave out debug.")
    if training.optim_target_modules and not any(kind in str(training.optim) for kind in ("galore", "apollo")):
        raise SolaredError(f"optim_target_modules has no effect on {training.optim}. Leave out optim_target_modules.")
    for name, schedules in _NOT_FOR_SCHEDULES.items():
        if getattr(training, name) and training.lr_scheduler_type in schedules:
            raise SolaredError(f"{name} has no effect on the schedule {training.lr_scheduler_type}. Leave out {name}.")
    if training.label_names != LABEL_NAMES:
        raise SolaredError(
            f"label_names is {training.label_names}, but the target is {LABEL_NAMES[0]}. Leave out label_names."
        )
    _check_metric(training)


def _check_numbers(training: TrainingArguments) -> None:
    for name, least in _AT_LEAST.items():
        value = getattr(training, name)
        if value is not None and not (value >= least and math.isfinite(value)):
            raise SolaredError(f"{name} is {value}. It must be {least} or more.")
    for name in _MORE_THAN_0:
        value = getattr(training, name)
        if value is not None and not value > 0:
            raise SolaredError(f"{name} is {value}. It must be more than 0.")
    for name in ("seed", "data_seed"):
        if (getattr(training, name) or 0) >= 2**32:
            raise SolaredError(f"{name} is {getattr(training, name)}. It must be less than 2**32.")
    if training.max_steps == 0 or training.max_steps < -1:
        raise SolaredError(f"max_steps is {training.max_steps}. It must be 1 or more, or left out.")
    if training.max_steps < 0 and not 0 < training.num_train_epochs < math.inf:
        raise SolaredError(f"num_train_epochs is {training.num_train_epochs}. It must be more than 0.")


def _check_metric(training: "SolaredTrainingArguments") -> None:
    """Refuse an unknown metric, a wrong direction, and arguments that need a metric if there is no metric."""
    metric = training.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in GREATER_IS_BETTER:
        raise SolaredError(
            f"metric_for_best_model {metric} is unknown. The known metrics are {', '.join(GREATER_IS_BETTER)}."
        )
    name = (metric or "loss").removeprefix("eval_")
    greater_is_better = GREATER_IS_BETTER[name]
    if training.greater_is_better not in (None, greater_is_better):
        raise SolaredError(
            f"greater_is_better is {training.greater_is_better}, but more {name} is "
            f"{'better' if greater_is_better else 'worse'}. Leave out greater_is_better."
        )
    if training.prediction_loss_only and name != "loss":
        raise SolaredError(f"With prediction_loss_only there is no {name}. Leave out one of the two.")
    if metric is not None and training.eval_strategy == "no":
        raise SolaredError(f"metric_for_best_model {metric} has no effect without evaluation. Set eval_strategy.")
    if training.early_stopping_patience:
        if training.eval_strategy == "no":
            raise SolaredError(
                "early_stopping_patience counts evaluations, but eval_strategy is no. Set eval_strategy."
            )
        if metric is None and not training.load_best_model_at_end:
            raise SolaredError("early_stopping_patience needs metric_for_best_model. Name a metric, such as loss.")
    if training.save_strategy == "best" and metric is None and not training.load_best_model_at_end:
        raise SolaredError("save_strategy best needs metric_for_best_model. Name a metric, such as loss.")


def check_model(training: TrainingArguments, model: PreTrainedModel) -> None:
    """Refuse arguments that this machine or this family does not support.

    Raises:
        SolaredError: If an argument is unusable. The message names the argument and the remedy.
    """
    if training.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise SolaredError(
            f"{model.config.model_type} does not support gradient_checkpointing. Leave out gradient_checkpointing."
        )
    if training.gradient_checkpointing and training.gradient_checkpointing_kwargs:
        # transformers uses two of the options itself, and does not pass them on.
        options = dict(cast(dict, training.gradient_checkpointing_kwargs))
        options = {name: value for name, value in options.items() if name not in ("every_n_layers", "offload")}
        with arguments_explained():
            checkpoint(torch.neg, torch.zeros(1, requires_grad=True), **{"use_reentrant": True, **options})
    if training.fp16 and training.device.type == "cpu":
        raise SolaredError("fp16 has no effect on a CPU. Use bf16 or float32.")
    config = cast(AcceleratorConfig, training.accelerator_config)
    if training.world_size > 1 and not config.even_batches:
        raise SolaredError("Without even_batches, processes wait for each other for ever. Set even_batches to true.")
    if training.optim_args:
        without = copy.copy(training)
        without.optim_args = None
        with arguments_explained():
            optimizers = [Trainer.get_optimizer_cls_and_kwargs(given, model) for given in (training, without)]
        if optimizers[0] == optimizers[1]:
            raise SolaredError(
                f"optim_args has no effect on the optimizer {training.to_dict()['optim']}. Leave out optim_args."
            )


@contextmanager
def arguments_explained() -> Iterator[None]:
    """Turn an error in the preparations, such as a missing package, into a SolaredError.

    Raises:
        SolaredError: If the block raises an error.
    """
    try:
        yield
    except SolaredError:
        raise
    except Exception as error:
        raise cannot_start(error) from error


def cannot_start(error: Exception) -> SolaredError:
    """Return the error to raise when the preparations of a training fail."""
    return SolaredError(
        f"The training cannot start with these arguments: {reason_of(error)}. Correct or leave out the argument."
    )
