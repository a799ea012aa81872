"""The feed-forward part of an encoder layer on a CPU for a block of positions, and its gradients.

The widest values are computed again for the gradients, because the product costs no more than keeping them in memory.
The file imports nothing of the package but its neighbour, because it travels with saved weights.
"""

import torch

from .dropout_on_cpu import drop, mask_of

_relu_gradient = torch.ops.aten.threshold_backward.grad_input


def feed_forward(
    rows: torch.Tensor, weights: tuple[torch.Tensor, ...], dropped: torch.Tensor | None, keep: float
) -> torch.Tensor:
    """`linear2(dropout(relu(linear1(rows))))`.

    Args:
        rows: (positions, width).
        weights: weight (inner, width) and bias (inner,), weight (width, inner) and bias (width,).
        dropped: the bits of `draw_dropped` for the (positions, inner) values.
        keep: probability that a value is kept.
    """
    return torch.addmm(weights[3], _inner(rows, weights, dropped), weights[2].t(), alpha=1 / keep)


def feed_forward_gradients(
    gradient: torch.Tensor,
    rows: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
    dropped: torch.Tensor | None,
    keep: float,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of rows and of the four weights, given that of what `feed_forward` returns."""
    inner = _inner(rows, weights, dropped)
    inner_gradient = gradient @ (weights[2] / keep)
    # A dropped value is 0, as a negative one is, so that the values are their own mask.
    _relu_gradient(inner_gradient, inner, 0, grad_input=inner_gradient)
    return (
        inner_gradient @ weights[0],
        inner_gradient.t() @ rows,
        inner_gradient.sum(0),
        (gradient.t() @ inner) / keep,
        gradient.sum(0),
    )


def _inner(rows, weights, dropped):
    inner = torch.addmm(weights[1], rows, weights[0].t()).relu_()
    return drop(inner, mask_of(dropped, inner.shape))
