"""Peak memory of a training step by batch size, with and without activation checkpointing.

The memory of the process, its libraries and the weights is not counted. On a CPU, each measurement runs in its own
process, because an allocator keeps the memory that it once had.
"""

import multiprocessing
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForTimeSeriesPrediction

import solared_hf  # noqa: F401 - makes the Auto classes know the families

STEPS, CHANNELS, TILES = 120, 6, 63
MEGABYTE = 1 << 20


def peak_of_step(make_model: Callable[[], nn.Module], batch_size: int) -> float:
    """Return the megabytes of forward and backward at their peak; `make_model` returns a model."""
    if torch.accelerator.is_available():
        return _accelerator_peak(make_model, batch_size)
    # Fork, because a fresh start takes longer than the step. torch must not have computed anything in this process.
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_cpu_peak, (make_model, batch_size))


def _step(model: nn.Module, past_values: torch.Tensor) -> None:
    output = model(past_values)
    predictions = output if isinstance(output, torch.Tensor) else output.prediction_outputs
    predictions.square().mean().backward()


def _cpu_peak(make_model: Callable[[], nn.Module], batch_size: int) -> float:
    model = make_model().train()
    past_values = torch.randn(batch_size, STEPS, CHANNELS, TILES)
    # The first step allocates the gradients and the buffers of libraries.
    _step(model, past_values[:1])
    return peak_memory(partial(_step, model, past_values))


def peak_memory(work: Callable[[], object]) -> float:
    """Return the megabytes that a call takes at its peak, beyond those that this process already has (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """Return a figure of this process in kilobytes, from Linux's /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _accelerator_peak(make_model: Callable[[], nn.Module], batch_size: int) -> float:
    device = torch.accelerator.current_accelerator()
    model = make_model().train().to(device)
    past_values = torch.randn(batch_size, STEPS, CHANNELS, TILES, device=device)
    _step(model, past_values[:1])
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    before = torch.accelerator.memory_allocated()
    _step(model, past_values)
    return (torch.accelerator.max_memory_allocated() - before) / MEGABYTE


def make_model(family: str, checkpointing: bool) -> nn.Module:
    model = AutoModelForTimeSeriesPrediction.from_config(AutoConfig.for_model(family))
    if checkpointing:
        model.gradient_checkpointing_enable()
    return model


def main() -> None:
    if sys.platform != "linux" and not torch.accelerator.is_available():
        sys.exit("Peak memory is read from Linux's /proc; run this on Linux, or on a machine with an accelerator.")
    sizes = (1, 4, 16, 64) if torch.accelerator.is_available() else (1, 2, 4, 8, 16)
    print(f"{'MB at the peak of a step, by batch size':48}" + "".join(f"{size:>8}" for size in sizes))
    for family in ("spatio_temporal_attention", "spatio_temporal_resnet"):
        for checkpointing in (False, True):
            peaks = [peak_of_step(partial(make_model, family, checkpointing), size) for size in sizes]
            name = f"{family}{', checkpointing' if checkpointing else ''}"
            print(f"{name:48}" + "".join(f"{peak:>8,.0f}" for peak in peaks), flush=True)


if __name__ == "__main__":
    main()
