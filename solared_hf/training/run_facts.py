"""Facts of a training run for `metrics.json` and the card: arguments, hardware and software."""

import os
import platform
from importlib.metadata import version

import torch
from accelerate.utils import gather_object
from transformers import TrainerState, TrainingArguments

# Folders, devices and logging say nothing about the model, and arguments of the Hub may hold a secret.
_NOT_HYPERPARAMETERS = {
    *("output_dir", "run_name", "report_to", "resume_from_checkpoint", "disable_tqdm", "use_cpu", "label_names"),
    *("logging_steps", "save_total_limit", "dataloader_pin_memory", "greater_is_better", "project", "push_to_hub"),
    *("do_train", "do_eval", "ddp_find_unused_parameters"),
}
_NOT_HYPERPARAMETERS_BEGIN = ("hub_", "trackio_")

_PACKAGES = ("solared-hf", "torch", "transformers", "accelerate")


def changed_arguments(training: TrainingArguments) -> dict:
    """Return the training arguments that differ from the defaults of transformers, ready for JSON."""
    # Defaults that follow from the machine are the same here. Without `use_configured_state`, building the arguments
    # would reset the processes that accelerate knows.
    defaults = TrainingArguments(
        output_dir=training.output_dir,
        use_cpu=training.use_cpu,
        accelerator_config={"use_configured_state": True},
    ).to_dict()
    return {
        name: value
        for name, value in sorted(training.to_dict().items())
        if name not in _NOT_HYPERPARAMETERS
        and not name.startswith(_NOT_HYPERPARAMETERS_BEGIN)
        and value is not None
        and value != defaults.get(name)
    }


def batch_size_found(training: TrainingArguments, state: TrainerState) -> dict[str, int]:
    """Return the batch size that `auto_find_batch_size` found, which may be smaller than the argument."""
    if not training.auto_find_batch_size or state.train_batch_size is None:
        return {}
    return {"per_device_train_batch_size": state.train_batch_size // max(1, training.n_gpu)}


def hardware(training: TrainingArguments) -> dict:
    """Return the names of all `devices`, the number of `processes`, and the `cpus` of this machine.

    Every process of a distributed run must call this function.
    """
    return {
        "devices": gather_object(_device_names(training)),
        "processes": training.world_size,
        "cpus": os.cpu_count(),
    }


def software() -> dict[str, str]:
    """Return the versions of Python and of the packages that trained the model."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _device_names(training: TrainingArguments) -> list[str]:
    """Return the names of the devices of this process."""
    if training.device.type != "cuda":
        return [f"{training.device.type} ({platform.machine()})"]
    # A single process may drive several devices. Each of many processes drives one device.
    devices = range(training.n_gpu) if training.n_gpu > 1 else [training.device]
    return [torch.cuda.get_device_name(device) for device in devices]
