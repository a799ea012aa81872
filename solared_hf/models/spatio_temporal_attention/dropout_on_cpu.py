"""Dropout on a CPU that draws a few random bits for each element and keeps one bit for each element.

torch draws one random number for each element, one after the other, and that takes longer than the arithmetic of this
family. This file is saved beside the weights and must load without the package, so it imports nothing of it.
"""

import numpy as np
import torch

# Each bit of the mask becomes the sign of an int32.
_WORD = 32
# The device is named because torch's default device may not be the CPU.
_SHIFTS = torch.arange(_WORD, dtype=torch.int32, device="cpu")[:, None]
# Number of binary digits of the probability.
_DIGITS = 10


def rounded_probability(probability: float) -> float:
    """Return the nearest multiple of 1/1024 below 1, which is the probability that `draw_dropped` uses."""
    return min(round(probability * 2**_DIGITS), 2**_DIGITS - 1) / 2**_DIGITS


def draw_dropped(random: np.random.Generator, size: int, probability: float) -> torch.Tensor | None:
    """Draw one bit for each element, set if the element is dropped.

    Args:
        random: Source of the random bits.
        size: Number of elements.
        probability: Probability that an element is dropped, a result of `rounded_probability`.

    Returns:
        (words,) int32 with at least `size` bits, or None if nothing is dropped.
    """
    threshold = round(probability * 2**_DIGITS)
    dropped = None
    # One random number for each element is compared with the threshold, one binary digit of all numbers at a time,
    # beginning with the last digit. A number is below the threshold if its digit is 0 and the digit of the threshold
    # is 1, or if the two digits are equal and the number is below the threshold in the later digits.
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
    """Return the values with 0 for each dropped value.

    Args:
        values: Contiguous float32. If gradients are off, the values are changed in place.
        mask: Result of `mask_of` for the shape of the values.
    """
    if mask is None:
        return values
    if torch.is_grad_enabled():
        return values.masked_fill(mask < 0, 0.0)
    bits = values.view(torch.int32)
    # With a threshold of -1, one pass writes 0 where the mask is negative, and the bits of the value elsewhere.
    torch.ops.aten.threshold_backward.grad_input(bits, mask, -1, grad_input=bits)
    return values
