"""Self-attention and its gradients on a CPU, for a block of sequences that stays in the cache.

The gradients compute the scores again, one head at a time, because memory costs more than the arithmetic of heads as
narrow as in this family. Queries, keys and values have the shape (width, positions), so that a head is a range of
rows and is not copied.

This file is saved beside the weights and must load without the package, so it imports only its neighbour.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from .dropout_on_cpu import drop, mask_of

_softmax_gradient = torch.ops.aten._softmax_backward_data.out


class Heads(NamedTuple):
    """The heads of an attention module, and the length of its sequences.

    Attributes:
        number: Number of heads.
        length: Number of positions in a sequence.
        scaling: Factor of the scores.
        dropout: Probability that an attention probability is dropped.
    """

    number: int
    length: int
    scaling: float
    dropout: float


def attention(
    rows: torch.Tensor,
    weights: Sequence[torch.Tensor],
    heads: Heads,
    dropped: torch.Tensor | None,
) -> torch.Tensor:
    """Return the values of each sequence, mixed by the attention probabilities, before the output projection.

    Args:
        rows: (positions, width), sequences one after the other.
        weights: Weight (3 * width, width) and bias (3 * width,) of the projection to queries, keys and values.
        heads: The heads, and the length of a sequence.
        dropped: (heads, words), the bits of `draw_dropped` for the probabilities of each head, or None.

    Returns:
        (width, positions), the heads one after the other.
    """
    mixed = []
    for head, (query, key, value) in enumerate(_heads(rows, weights, heads)):
        probabilities = torch.softmax(query.mT @ key, -1)
        kept = drop(probabilities, _mask_of_head(dropped, head, probabilities.shape))
        mixed.append((value @ kept.mT).transpose(0, 1))
    return torch.stack(mixed).view(rows.shape[1], -1) / (1 - heads.dropout)


def attention_gradients(
    gradient: torch.Tensor,
    rows: torch.Tensor,
    weights: Sequence[torch.Tensor],
    heads: Heads,
    dropped: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of rows, weight and bias, given the gradient of the result of `attention`."""
    projected_gradient = rows.new_empty(3, *gradient.shape)
    by_head = zip(
        _heads(rows, weights, heads),
        _by_head(gradient / (1 - heads.dropout), heads),
        zip(*_by_head(projected_gradient, heads), strict=True),
        strict=True,
    )
    for head, ((query, key, value), mixed_gradient, (into_query, into_key, into_value)) in enumerate(by_head):
        probabilities = torch.softmax(query.mT @ key, -1)
        mask = _mask_of_head(dropped, head, probabilities.shape)
        gradients = drop(mixed_gradient.mT @ value, mask)
        _softmax_gradient(gradients, probabilities, -1, torch.float32, grad_input=gradients)
        torch.bmm(key, gradients.mT, out=into_query)
        torch.bmm(query, gradients, out=into_key)
        torch.bmm(mixed_gradient, drop(probabilities, mask), out=into_value)
    projected_gradient[0] *= heads.scaling
    projected_gradient = projected_gradient.flatten(0, 1)
    return projected_gradient.t() @ weights[0], projected_gradient @ rows, projected_gradient.sum(1)


def _heads(rows: torch.Tensor, weights: Sequence[torch.Tensor], heads: Heads) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield scaled queries, keys and values of each head, (sequences, head width, length)."""
    weight, bias = weights
    query, key, value = torch.addmm(bias[:, None], weight, rows.t()).unflatten(0, (3, -1))
    scaled = query * heads.scaling
    return zip(*(_by_head(values, heads) for values in (scaled, key, value)), strict=True)


def _mask_of_head(dropped: torch.Tensor | None, head: int, shape: torch.Size) -> torch.Tensor | None:
    return None if dropped is None else mask_of(dropped[head], shape)


def _by_head(values: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Return a view (..., heads, sequences, head width, length) of (..., width, positions)."""
    return values.unflatten(-1, (-1, heads.length)).unflatten(-3, (heads.number, -1)).transpose(-3, -2)
