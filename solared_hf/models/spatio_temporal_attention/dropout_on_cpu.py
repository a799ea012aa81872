"""Dropout on a CPU with a few random bits for each element, kept as one bit for each element.

torch draws one number from its generator for each element, one after the other, and that takes longer than the
arithmetic of this family. The file imports nothing of the package, because it travels with saved weights.
"""

import numpy as np
import torch

# A bit of the mask becomes the sign of an int32.
_WORD = 32
# torch's default device may be another one.
_SHIFTS = torch.arange(_WORD, dtype=torch.int32, device="cpu")[:, None]
# Binary digits of the probability.
_DIGITS = 10


def rounded_probability(probability: float) -> float:
    """Return the probability that `draw_dropped` works with: the nearest multiple of 1/1024, and below 1."""
    return min(round(probability * 2**_DIGITS), 2**_DIGITS - 1) / 2**_DIGITS


def draw_dropped(random: np.random.Generator, size: int, probability: float) -> torch.Tensor | None:
    """Draw one bit for each element, set if the element is dropped.

    Args:
        random: source of the random bits.
        size: number of elements.
        probability: probability that an element is dropped, a result of `rounded_probability`.

    Returns:
        (words,) int32 with at least `size` bits, or None if nothing is dropped.
    """
    threshold = round(probability * 2**_DIGITS)
    dropped = None
    # Random numbers, one for each element, are compared with the threshold, one binary digit of all of them at a time,
    # from the last digit on. A number is below the threshold if it has a 0 where the threshold has a 1, or if it has
    # the same digit and is below in the later digits.
    for digit in range(_DIGITS):
        is_set = threshold >> digit & 1
        if dropped is not None or is_set:
            bits = random.integers(2**64 - 1, size=-(-size // 64), dtype=np.uint64, endpoint=True)
            if dropped is None:
                dropped = bits
            else:
                (np.bitwise_or if is_set else np.bitwise_and)(dropped, bits, out=dropped)
    return None if dropped is None else torch.from_numpy(dropped.view(np.int32))


def mask_of(dropped: torch.Tensor | None, shape: torch.Size) -> torch.Tensor | None:
    """Return an int32 mask of a shape, negative where an element is dropped, from the bits of `draw_dropped`."""
    if dropped is None:
        return None
    return torch.bitwise_left_shift(dropped, _SHIFTS).view(-1)[: shape.numel()].view(shape)


def drop(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the values with 0 in the place of those that are dropped.

    Args:
        values: contiguous float32. If gradients are off, they are changed in place.
        mask: result of `mask_of` for the shape of the values.
    """
    if mask is None:
        return values
    if torch.is_grad_enabled():
        return values.masked_fill(mask < 0, 0.0)
    bits = values.view(torch.int32)
    # With a threshold of -1 this writes 0 where the mask is negative and the bits of the value elsewhere, in one pass.
    torch.ops.aten.threshold_backward.grad_input(bits, mask, -1, grad_input=bits)
    return values
