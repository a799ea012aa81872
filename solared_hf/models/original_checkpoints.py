"""Read checkpoints of the original SuryaBench baselines (arXiv 2508.14107) safely, and save them as our models."""

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from solared_hf.errors import SolaredError
from solared_hf.schema import CHANNELS

_WRAPPER_KEYS = ("model_state_dict", "state_dict")
_DDP_PREFIX = "module."

Config = TypeVar("Config", bound=PreTrainedConfig)


def read_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint without running code from the file.

    Args:
        path: A file written by `torch.save`: a state dict, or a dict that holds a state dict under
            `model_state_dict` or `state_dict`. The prefix that `DistributedDataParallel` adds to names is removed.

    Returns:
        Tensors by name, on the CPU, with the shapes and dtypes of the file.

    Raises:
        SolaredError: If the file is missing, is not a checkpoint or holds more than tensors, or if a tensor is
            sparse, quantized or complex, or has values that are not finite in float32.
    """
    if not Path(path).is_file():
        raise SolaredError(f"There is no checkpoint file {path}. Check the path.")
    try:
        with warnings.catch_warnings(action="ignore"):  # A sparse tensor gives a warning, and is refused below.
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds of errors, depending on the damage.
        raise SolaredError(
            f"{path} cannot be read as a checkpoint of plain tensors. Save it again with "
            "torch.save(model.state_dict(), ...)."
        ) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _WRAPPER_KEYS if key in content), content)
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in content.items())
    ):
        raise SolaredError(
            f"{path} holds no state dict. Save names and tensors, at the top or under {' or '.join(_WRAPPER_KEYS)}."
        )
    if all(name.startswith(_DDP_PREFIX) for name in content):
        content = {name.removeprefix(_DDP_PREFIX): tensor for name, tensor in content.items()}
    for name, tensor in content.items():
        if not _is_plain(tensor):
            raise SolaredError(
                f"{name!r} in {path} is not a dense tensor of real numbers. Save the checkpoint with dense weights."
            )
        # The check is in float32, because larger numbers would become infinite in the model.
        if not tensor.float().isfinite().all():
            raise SolaredError(
                f"{name!r} in {path} holds NaN or numbers beyond float32, as after a failed training. Use an earlier "
                "checkpoint."
            )
    return dict(content)


def _is_plain(tensor: torch.Tensor) -> bool:
    unusual = tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_complex()
    # A tensor that repeats one number can have any size in a few bytes.
    return not unusual and tensor.device.type == "cpu" and tensor.nbytes <= tensor.untyped_storage().nbytes()


def sizes(state_dict: Mapping[str, torch.Tensor], name: str, ndim: int) -> tuple[int, ...]:
    """Return the shape of the tensor `name`, which gives sizes of the network.

    Raises:
        SolaredError: If the tensor is missing, is empty, or does not have `ndim` axes.
    """
    if name not in state_dict or state_dict[name].ndim != ndim or not state_dict[name].numel():
        raise SolaredError(
            f"The checkpoint has no {name!r} with {ndim} axes and numbers in it. Pass a checkpoint of this network."
        )
    return tuple(state_dict[name].shape)


def name_channels(num_channels: int, names: Sequence[str] | None) -> list[str]:
    """Return the names of the input channels of a checkpoint that reads `num_channels` channels.

    Without `names`, six channels are all channels, and five channels are the four powers and the flux, as in the
    original baselines.

    Raises:
        SolaredError: If the number of names is wrong, a name is unknown, or the names cannot be guessed.
    """
    if names is None and num_channels in (len(CHANNELS) - 1, len(CHANNELS)):
        names = CHANNELS[:num_channels]
    if names is None or len(names) != num_channels:
        raise SolaredError(
            f"The checkpoint reads {num_channels} channels. Name each channel, in order, with --input_channels."
        )
    unknown = [name for name in names if name not in CHANNELS]
    if unknown:
        raise SolaredError(f"There is no channel {', '.join(unknown)}. The channels are {', '.join(CHANNELS)}.")
    return list(names)


def load_weights(
    model: PreTrainedModel, state_dict: Mapping[str, torch.Tensor], original_name: Callable[[str], str]
) -> None:
    """Copy every tensor of `state_dict` into `model`, so that every tensor of the model is replaced.

    Args:
        model: Changed in place.
        state_dict: Tensors by their original names.
        original_name: Returns the original name for the name of a tensor in the model.

    Raises:
        SolaredError: If a tensor is missing, unknown or of another shape.
    """
    own = {original_name(name): (name, tensor) for name, tensor in model.state_dict().items()}
    for names, problem in ((own.keys() - state_dict.keys(), "lacks"), (state_dict.keys() - own.keys(), "also holds")):
        if names:
            listed = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise SolaredError(f"The checkpoint {problem} {listed}. Pass a checkpoint of this network and version.")
    for name, (_, tensor) in own.items():
        if state_dict[name].shape != tensor.shape:
            raise SolaredError(
                f"{name!r} has shape {tuple(state_dict[name].shape)}, but the other tensors imply "
                f"{tuple(tensor.shape)}. The checkpoint is damaged or belongs to another network."
            )
    model.load_state_dict({own_name: state_dict[name] for name, (own_name, _) in own.items()})


def save_whole(model: PreTrainedModel, output: str | os.PathLike) -> Path:
    """Write `model.save_pretrained` to a hidden folder beside `output`, then rename it into place.

    Raises:
        SolaredError: If `output` exists or cannot be written.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise SolaredError(f"{output} exists already. Remove it or choose another folder.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
            staging = Path(scratch) / "model"
            model.save_pretrained(staging)
            staging.replace(output)
    except OSError as error:
        raise SolaredError(f"Could not write {output} ({error.strerror or error}). Choose another folder.") from error
    return output


def make_config(config_class: type[Config], **fields: Any) -> Config:
    """Return a configuration with these fields.

    Raises:
        SolaredError: If the fields contradict each other.
    """
    try:
        return config_class(**fields)
    except StrictDataclassError as error:
        raise SolaredError(str(error.__cause__)) from error


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of both converters: the two paths, and facts that the tensors do not hold."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", type=Path, help="file written by torch.save in the original repository")
    parser.add_argument("output", type=Path, help="folder to create, ready for from_pretrained")
    parser.add_argument("--input_channels", nargs="+", metavar="NAME", help="names of the input channels, in order")
    parser.add_argument("--horizon_hours", type=float, default=12.0, help="hours from the last step to the target")
    return parser


def run(convert: Callable[..., Path], arguments: argparse.Namespace) -> int:
    """Call `convert` with the parsed arguments, and return the exit code: 2 after a SolaredError."""
    try:
        output = convert(**vars(arguments))
    except SolaredError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output}")
    return 0
