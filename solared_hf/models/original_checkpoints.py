"""Checkpoints of the original SuryaBench baselines (arXiv 2508.14107): read safely, copied whole, saved whole."""

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from solared_hf.errors import SolaredError
from solared_hf.schema import CHANNELS

_WRAPPER_KEYS = ("model_state_dict", "state_dict")
_DDP_PREFIX = "module."


def read_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint without running any code it may carry.

    Args:
        path: A file written by `torch.save`: a state dict, or a dict holding one under `model_state_dict` or
            `state_dict`. The prefix that `DistributedDataParallel` puts before every name is removed.

    Returns:
        Name to tensor, of any shape and the dtype it was saved with, on the CPU.

    Raises:
        SolaredError: the file is missing, is no checkpoint, or needs more than tensors to be read; or a tensor is
            sparse, quantized or complex, or holds what is no float32 number.
    """
    if not Path(path).is_file():
        raise SolaredError(f"There is no checkpoint file {path}; check the path.")
    try:
        with warnings.catch_warnings(action="ignore"):  # Sparse tensors come with one, and are refused below.
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # What torch.load raises depends on which byte of a damaged file it meets first.
        raise SolaredError(
            f"{path} cannot be read as a checkpoint of plain tensors; save it again with "
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
            f"{path} holds no state dict; expected names and tensors, bare or under {' or '.join(_WRAPPER_KEYS)}."
        )
    if all(name.startswith(_DDP_PREFIX) for name in content):
        content = {name.removeprefix(_DDP_PREFIX): tensor for name, tensor in content.items()}
    for name, tensor in content.items():
        if not _is_plain(tensor):
            raise SolaredError(
                f"{name!r} in {path} is no dense tensor of real numbers; save the checkpoint again with dense weights."
            )
        # As float32, because a larger number would become infinite in the model.
        if not tensor.float().isfinite().all():
            raise SolaredError(
                f"{name!r} in {path} holds NaN or numbers beyond float32, as after a failed training; use an earlier "
                "checkpoint."
            )
    return dict(content)


def _is_plain(tensor: torch.Tensor) -> bool:
    unusual = tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_complex()
    # A few bytes can pass for a tensor of any size, every number of which is the same.
    return not unusual and tensor.device.type == "cpu" and tensor.nbytes <= tensor.untyped_storage().nbytes()


def sizes(state_dict: Mapping[str, torch.Tensor], name: str, ndim: int) -> tuple[int, ...]:
    """Shape of the tensor `name`, from which a size of the network is read.

    Raises:
        SolaredError: it is missing, is empty, or has not `ndim` axes.
    """
    if name not in state_dict or state_dict[name].ndim != ndim or not state_dict[name].numel():
        raise SolaredError(
            f"The checkpoint has no {name!r} with {ndim} axes and numbers in it; it belongs to another network."
        )
    return tuple(state_dict[name].shape)


def name_channels(num_channels: int, names: Sequence[str] | None) -> list[str]:
    """Names of the input channels of a checkpoint that reads `num_channels` of them.

    Without `names`: all channels if it reads six, the four powers and the flux if it reads five, which is what the
    original baselines do.

    Raises:
        SolaredError: the names are not as many as the channels, cannot be guessed, or are none of the vocabulary.
    """
    if names is None and num_channels in (len(CHANNELS) - 1, len(CHANNELS)):
        names = CHANNELS[:num_channels]
    if names is None or len(names) != num_channels:
        raise SolaredError(
            f"The checkpoint reads {num_channels} channels; name each of them, in order, with --input_channels."
        )
    unknown = [name for name in names if name not in CHANNELS]
    if unknown:
        raise SolaredError(f"There is no channel {', '.join(unknown)}; the channels are {', '.join(CHANNELS)}.")
    return list(names)


def load_weights(
    model: PreTrainedModel, state_dict: Mapping[str, torch.Tensor], original_name: Callable[[str], str]
) -> None:
    """Copy every tensor of `state_dict` into `model`, leaving nothing out on either side.

    Args:
        model: Changed in place.
        state_dict: Tensors under their original names.
        original_name: Gives the original name of each of the model's own.

    Raises:
        SolaredError: a tensor is missing, unknown or of another shape.
    """
    own = {original_name(name): (name, tensor) for name, tensor in model.state_dict().items()}
    for names, problem in ((own.keys() - state_dict.keys(), "lacks"), (state_dict.keys() - own.keys(), "also holds")):
        if names:
            listed = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise SolaredError(f"The checkpoint {problem} {listed}; it belongs to another network or version.")
    for name, (_, tensor) in own.items():
        if state_dict[name].shape != tensor.shape:
            raise SolaredError(
                f"{name!r} has shape {tuple(state_dict[name].shape)} where the other tensors imply "
                f"{tuple(tensor.shape)}; the checkpoint is damaged or belongs to another network."
            )
    model.load_state_dict({own_name: state_dict[name] for name, (own_name, _) in own.items()})


def save_whole(model: PreTrainedModel, output: str | os.PathLike) -> Path:
    """Write `model.save_pretrained` to a hidden folder beside `output`, then rename it into place.

    Raises:
        SolaredError: `output` exists, or cannot be written.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise SolaredError(f"{output} exists already; remove it or choose another folder.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
            staging = Path(scratch) / "model"
            model.save_pretrained(staging)
            staging.replace(output)
    except OSError as error:
        raise SolaredError(f"Could not write {output} ({error.strerror or error}); choose another folder.") from error
    return output


def make_config(config_class: type[PreTrainedConfig], **fields: Any) -> PreTrainedConfig:
    """Build a config, turning a contradiction between its fields into a sentence for the user.

    Raises:
        SolaredError: the fields contradict each other.
    """
    try:
        return config_class(**fields)
    except StrictDataclassError as error:
        raise SolaredError(str(error.__cause__)) from error


def make_parser(description: str) -> argparse.ArgumentParser:
    """Parser with what both converters take: the two paths, and the facts about the task no tensor tells."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", type=Path, help="file written by torch.save in the original repository")
    parser.add_argument("output", type=Path, help="folder to create, ready for from_pretrained")
    parser.add_argument("--input_channels", nargs="+", metavar="NAME", help="names of the input channels, in order")
    parser.add_argument("--horizon_hours", type=float, default=12.0, help="hours from the last step to the target")
    return parser


def run(convert: Callable[..., Path], arguments: argparse.Namespace) -> int:
    """Call `convert` with the parsed arguments; return the exit code, 2 for what the user can mend."""
    try:
        output = convert(**vars(arguments))
    except SolaredError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output}")
    return 0
