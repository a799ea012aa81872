"""Tensors of all steps of some timelines, and how a batch of windows is gathered from them."""

from collections.abc import Sequence

import numpy as np
import torch

from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError
from solared_hf.schema import CHANNELS, NUM_TILES, TARGET_CHANNEL


def read_steps(
    timelines: Sequence[Timeline], input_channels: Sequence[str], processor: SolaredProcessor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Copy the steps of timelines, one timeline after the other.

    Args:
        timelines: T steps in total.
        input_channels: C names of channels.
        processor: Normalises the values; None keeps physical units.

    Returns:
        (T, C, 63) float32 values with 0 DN in place of NaN, (T, C, 63) bool True where observed, and (T, 63) float32
        continuum intensity with NaN.
    """
    channels = [CHANNELS.index(channel) for channel in input_channels]
    steps = sum(len(timeline) for timeline in timelines)
    # From numpy, because the default dtype and device of torch may have been changed.
    values = torch.from_numpy(np.empty((steps, len(channels), NUM_TILES), np.float32))
    observed = torch.from_numpy(np.empty(values.shape, bool))
    target = torch.from_numpy(np.empty((steps, NUM_TILES), np.float32))
    first = 0
    for timeline in timelines:
        raw, intensity = timeline.values[:, channels], timeline.values[:, [CHANNELS.index(TARGET_CHANNEL)]]
        known = ~np.isnan(raw)
        filled = np.where(known, raw, np.float32(0))
        if processor is not None:
            filled = processor.normalise(filled, input_channels)
            intensity = processor.normalise(intensity, [TARGET_CHANNEL])
        rows = slice(first, first + len(timeline))
        for tensor, array in ((values, filled), (observed, known), (target, intensity[:, 0])):
            tensor[rows] = torch.from_numpy(array)
        first += len(timeline)
    return values, observed, target


def take_steps(steps: torch.Tensor, indices: np.ndarray, known: np.ndarray | None = None) -> torch.Tensor:
    """Return a copy of the steps at some indices of any shape, with NaN where `known` is False."""
    chosen = torch.from_numpy(indices)
    taken = steps.index_select(0, chosen.flatten().clamp(0, len(steps) - 1)).unflatten(0, chosen.shape)
    if known is not None:
        taken[torch.from_numpy(~known)] = torch.nan
    return taken


def unknown_target(*shape: int) -> torch.Tensor:
    """Return a float32 tensor of NaN on the CPU."""
    return torch.full(shape, torch.nan, dtype=torch.float32, device="cpu")


def whole_indices(indices: Sequence[int]) -> np.ndarray:
    """Return indices as (B,) int64.

    Raises:
        SolaredError: If `indices` is not a list of whole numbers; numpy would truncate other numbers.
    """
    try:
        array = np.asarray(indices)
    except ValueError:
        array = np.array(None)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise SolaredError(f"A batch is a list of whole numbers, but got {indices!r:.60}. Try batch(range(8)).")
    return array.astype(np.int64)
