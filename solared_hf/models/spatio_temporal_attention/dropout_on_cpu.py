"""Dropout on a CPU for a random byte an element, in pieces that stay in the cache.

torch draws a number of its generator for every element, one after the other, which costs more than the arithmetic.
The file imports nothing of the package, because it travels with saved weights.
"""

import math

import numpy as np
import torch
from torch.autograd.function import once_differentiable

# Two megabytes of float32.
_PIECE = 1 << 19
# Random bytes are drawn in allocations that the allocator keeps; larger ones would be mapped anew each time.
_DRAW = 1 << 18


class KeepMasks:
    """Random masks that keep each element with probability `1 - probability`, independently, and can be had again.

    A random byte decides in steps of 1/256. The rest of the probability comes from a Poisson process of points over
    the elements: any point keeps its element, and the elements' numbers of points are independent of each other. The
    generator is seeded by torch's, so that seeds, and the states that checkpointing restores, mean what they always
    do.

    Args:
        probability: of an element to be dropped, between 0 and 1.
    """

    def __init__(self, probability: float):
        keep = 1 - probability
        self.scale = 1 / keep
        self._random = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
        self._below = int(256 * keep)
        by_bytes = self._below / 256
        self._points = -math.log1p(-(keep - by_bytes) / (1 - by_bytes))
        self._bits: list[np.ndarray] = []

    def draw(self, out: torch.Tensor) -> torch.Tensor:
        """Fill contiguous `out` with the next mask, 1 where an element is kept and 0 where not; returns `out`."""
        keep = np.empty(out.numel(), bool)
        for piece in (keep[start : start + _DRAW] for start in range(0, len(keep), _DRAW)):
            words = self._random.integers(2**64, size=-(-len(piece) // 8), dtype=np.uint64)
            np.less(words.view(np.uint8)[: len(piece)], self._below, out=piece)
            points = self._random.poisson(self._points * len(piece))
            piece[self._random.integers(len(piece), size=points)] = True
        self._bits.append(np.packbits(keep))
        return _fill(out, keep)

    def recall(self, index: int, out: torch.Tensor) -> torch.Tensor:
        """Fill `out` with the mask of the `index`-th `draw`; returns `out`."""
        return _fill(out, np.unpackbits(self._bits[index], count=out.numel()))


def _fill(out: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    # Bytes rather than booleans, whose conversion torch does one by one.
    out.view(-1).copy_(torch.from_numpy(mask.view(np.uint8)))
    return out


def is_for_cpu(values: torch.Tensor) -> bool:
    """Whether values are such as the functions here and of the neighbours take, and nothing else is asked for."""
    return (
        values.device.type == "cpu"
        and values.dtype == torch.float32
        and values.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _pieces(*tensors: torch.Tensor):
    return enumerate(zip(*(tensor.view(-1).split(_PIECE) for tensor in tensors), strict=True))


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, residual, probability):
        masks, buffer = KeepMasks(probability), values.new_empty(_PIECE)
        for _, (piece, residual_piece) in _pieces(values, residual):
            mask = masks.draw(buffer[: len(piece)])
            torch.addcmul(residual_piece, piece, mask, value=masks.scale, out=piece)
        ctx.masks = masks
        ctx.mark_dirty(values)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dropped, buffer = torch.empty_like(gradient), gradient.new_empty(_PIECE)
        for index, (piece, dropped_piece) in _pieces(gradient, dropped):
            mask = ctx.masks.recall(index, buffer[: len(piece)])
            torch.mul(piece, mask.mul_(ctx.masks.scale), out=dropped_piece)
        return dropped, gradient, None


class _DroppedRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, probability):
        masks, buffer = KeepMasks(probability), values.new_empty(_PIECE)
        for _, (piece,) in _pieces(values):
            piece.clamp_min_(0).mul_(masks.draw(buffer[: len(piece)]).mul_(masks.scale))
        ctx.scale = masks.scale
        ctx.mark_dirty(values)
        ctx.save_for_backward(values)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        gradient = gradient.contiguous()
        passed = torch.empty_like(gradient)
        for _, (piece, value_piece, passed_piece) in _pieces(gradient, values, passed):
            # What was dropped is 0, as what was negative is, so the values are their own mask.
            torch.ops.aten.threshold_backward(piece, value_piece, 0, grad_input=passed_piece).mul_(ctx.scale)
        return passed, None


def add_dropped(values: torch.Tensor, residual: torch.Tensor, probability: float) -> torch.Tensor:
    """`residual + dropout(values)`, written over `values`.

    Args:
        values, residual: tensors of one shape for which `is_for_cpu` is true.
        probability: of an element of `values` to be dropped, between 0 and 1.
    """
    return _AddDropped.apply(values, residual, probability)


def dropped_relu(values: torch.Tensor, probability: float) -> torch.Tensor:
    """`dropout(relu(values))`, written over `values`; the arguments are those of `add_dropped`."""
    return _DroppedRelu.apply(values, probability)
