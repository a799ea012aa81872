"""Dropout on a CPU for ten random bits an element, remembered as one bit an element.

torch draws a number of its generator for every element, one after the other, which costs more than the arithmetic of
this family. The file imports nothing of the package, because it travels with saved weights.
"""

import math

import numpy as np
import torch

_WORD = 32  # bits, as many as a float32 has
_BITS_OF_A_WORD = torch.arange(_WORD, dtype=torch.int32)[:, None]
# Binary digits of the probability that random bits are compared with.
_DIGITS = 10
# Generators side by side: half a megabyte of states.
_GENERATORS = 1 << 16
# Of congruential generators modulo 2**64: L'Ecuyer (1999), Mathematics of Computation 68, 249.
_MULTIPLIER = 1181783497276652981


def draw_kept(num_masks: int, size: int, probability: float) -> torch.Tensor | None:
    """Random masks, in which each bit is set unless its element is dropped, independently of all others.

    Ten random bits decide in steps of 1/1024. The rest of the probability comes from a Poisson process of points over
    the elements: any point drops its element, and the numbers of points of different elements are independent of each
    other. torch's generator gives the seeds, so seeds, and the states that checkpointing restores, mean what they
    always do.

    Args:
        num_masks: how many masks.
        size: elements of each.
        probability: of an element to be dropped, at least 0 and below 1.

    Returns:
        (num_masks, ceil(size / 32)) int32, or None where nothing is dropped.
    """
    if not probability:
        return None
    words = torch.empty(num_masks, -(-size // _WORD), dtype=torch.int32)
    states = torch.randint(-(2**63), 2**63 - 1, (min(words.numel(), _GENERATORS),)).bitwise_or_(1)
    dropped = torch.empty_like(states)
    random = np.random.default_rng(int(torch.randint(2**62, ())))
    threshold = int(2**_DIGITS * probability)
    drawn = threshold / 2**_DIGITS
    points_an_element = -math.log1p(-(probability - drawn) / (1 - drawn))
    for part in words.view(-1).split(_GENERATORS):
        # All elements' random numbers are compared with the threshold at once, digit by digit from the last one on:
        # below it are those that have a 0 where it has a 1, or the same digit and are below it in the digits behind.
        dropped.zero_()
        for digit in range(_DIGITS):
            states.mul_(_MULTIPLIER)
            dropped.bitwise_or_(states) if threshold >> digit & 1 else dropped.bitwise_and_(states)
        # Random are the upper halves of such generators' states.
        part.copy_(dropped.view(torch.int32)[1 : 2 * len(part) : 2])
        points = random.integers(_WORD * len(part), size=random.poisson(points_an_element * _WORD * len(part)))
        bits = np.left_shift(1, points % _WORD).astype(np.uint32).view(np.int32)
        np.bitwise_or.at(part.numpy(), points // _WORD, bits)
    return words.bitwise_not_()


def spread(kept: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """A mask for `drop`: all bits of an element where it is kept, none where it is dropped.

    Args:
        kept: (words,) int32, a row of what `draw_kept` gives.
        buffer: at least 32 * words int32, such as `mask_buffer` gives; overwritten.

    Returns:
        (32 * words,) int32, a view of the buffer.
    """
    mask = buffer[: _WORD * len(kept)].view(_WORD, -1)
    # Each element's bit becomes the sign, which a shift to the right repeats.
    torch.bitwise_left_shift(kept, _BITS_OF_A_WORD, out=mask)
    return mask.bitwise_right_shift_(_WORD - 1).view(-1)


def drop(values: torch.Tensor, mask: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write values to `out`, 0 in the place of those that are dropped; returns `out`.

    Args:
        values, out: contiguous float32 tensors of one shape, maybe the same.
        mask: what `spread` gives, for at least as many elements.
    """
    mask = mask[: values.numel()].view(values.shape)
    torch.bitwise_and(values.view(torch.int32), mask, out=out.view(torch.int32))
    return out


def drop_(values: torch.Tensor, kept: torch.Tensor | None, index: int, buffer: torch.Tensor) -> None:
    """Put 0 in the place of the values that one of the masks of `draw_kept` drops; without masks, do nothing.

    Args:
        values: contiguous float32.
        kept: what `draw_kept` gives.
        index: of the mask.
        buffer: what `mask_buffer` gives for as many elements.
    """
    if kept is not None:
        drop(values, spread(kept[index], buffer), out=values)


def mask_buffer(size: int) -> torch.Tensor:
    """Room for `spread` to write masks of up to `size` elements to, in whole words."""
    return torch.empty(-(-size // _WORD) * _WORD, dtype=torch.int32)


def is_for_cpu(values: torch.Tensor) -> bool:
    """Whether values are such as the neighbours of this file take, and nothing else is asked for."""
    return (
        values.device.type == "cpu"
        and values.dtype == torch.float32
        and values.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
