"""Dropout on a CPU for nine random bits an element, remembered as one bit an element.

torch draws a number of its generator for every element, one after the other, which costs more than the arithmetic of
this family. The file imports nothing of the package, because it travels with saved weights.
"""

import math

import numpy as np
import torch

_WORD = 32  # bits, as many as a float32 has
# Said wherever something is made: torch's default device may be another one.
_CPU = torch.device("cpu")
_BITS_OF_A_WORD = torch.arange(_WORD, dtype=torch.int32, device=_CPU)[:, None]
# Binary digits of the probability that random bits are compared with.
_DIGITS = 9
# Generators side by side: half a megabyte of states.
_GENERATORS = 1 << 16
# Of congruential generators modulo 2**64: L'Ecuyer (1999), Mathematics of Computation 68, 249.
_MULTIPLIER = 1181783497276652981


def draw_dropped(num_masks: int, size: int, probability: float) -> torch.Tensor | None:
    """Random masks, in which each bit is set where its element is dropped, independently of all others.

    Nine random bits decide in steps of 1/512. The rest of the probability comes from a Poisson process of points over
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
    words = torch.empty(num_masks, -(-size // _WORD), dtype=torch.int32, device=_CPU)
    size_of_states = (min(words.numel(), _GENERATORS),)
    states = torch.randint(-(2**63), 2**63 - 1, size_of_states, device=_CPU).bitwise_or_(1)
    dropped = torch.empty_like(states)
    random = np.random.default_rng(int(torch.randint(2**62, (), device=_CPU)))
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
    elements = _WORD * words.numel()
    points = random.integers(elements, size=random.poisson(points_an_element * elements))
    bits = np.left_shift(1, points % _WORD).astype(np.uint32).view(np.int32)
    np.bitwise_or.at(words.view(-1).numpy(), points // _WORD, bits)
    return words


def spread(dropped: torch.Tensor | None, index: int, buffer: torch.Tensor) -> torch.Tensor | None:
    """The mask for `drop_`, negative where an element is dropped.

    Args:
        dropped: what `draw_dropped` gives.
        index: of the mask.
        buffer: what `mask_buffer` gives for as many elements; overwritten.

    Returns:
        (32 * words,) int32, a view of the buffer, or None where nothing is dropped.
    """
    if dropped is None:
        return None
    mask = buffer[: _WORD * dropped.shape[1]].view(_WORD, -1)
    # Each element's bit becomes the sign.
    return torch.bitwise_left_shift(dropped[index], _BITS_OF_A_WORD, out=mask).view(-1)


def drop_(values: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Put 0 in the place of the values that are dropped.

    Args:
        values: contiguous float32.
        mask: what `spread` gives, for at least as many elements.
    """
    if mask is not None:
        values = values.view(torch.int32)
        # With a threshold of -1 this writes 0 where the mask is negative and the values' own bits elsewhere, at once.
        torch.ops.aten.threshold_backward.grad_input(
            values, mask[: values.numel()].view(values.shape), -1, grad_input=values
        )


def mask_buffer(size: int) -> torch.Tensor:
    """Room for `spread` to write masks of up to `size` elements to, in whole words."""
    return torch.empty(-(-size // _WORD) * _WORD, dtype=torch.int32, device=_CPU)


def is_for_cpu(values: torch.Tensor) -> bool:
    """Whether values are such as the neighbours of this file take, and nothing else is asked for."""
    return (
        values.device.type == "cpu"
        and values.dtype == torch.float32
        and values.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
