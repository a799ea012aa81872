"""The feed-forward part of an encoder layer and its gradients on a CPU, for a block of positions.

The gradients compute the inner values again, because the product costs no more than keeping the values in memory.
This file is saved beside the weights and must load without the package, so it imports only its neighbour.
"""

from collections.abc import Sequence

import torch

from .dropout_on_cpu import drop, mask_of

_relu_gradient = torch.ops.aten.threshold_backward.grad_input


def feed_forward(
    rows: torch.Tensor, weights: Sequence[torch.Tensor], dropped: torch.Tensor | None, keep: float
) -> torch.Tensor:
    """Return `linear2(dropout(relu(linear1(rows))))`, (positions, width).

    Args:
        rows: (positions, width).
        weights: Weight (inner, width) and bias (inner,), weight (width, inner) and bias (width,).
        dropped: The bits of `draw_dropped` for the (positions, inner) values, or None.
        keep: Probability that a value is kept.
    """
    return torch.addmm(weights[3], _inner(rows, weights, dropped), weights[2].t(), alpha=1 / keep)


def feed_forward_gradients(
    gradient: torch.Tensor,
    rows: torch.Tensor,
    weights: Sequence[torch.Tensor],
    dropped: torch.Tensor | None,
    keep: float,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of rows and of the four weights, given the gradient of the result of `feed_forward`."""
    inner = _inner(rows, weights, dropped)
    inner_gradient = gradient @ (weights[2] / keep)
    # Dropped and negative values are both 0 in `inner`, so `inner` serves as the mask.
    _relu_gradient(inner_gradient, inner, 0, grad_input=inner_gradient)
    return (
        inner_gradient @ weights[0],
        inner_gradient.t() @ rows,
        inner_gradient.sum(0),
        (gradient.t() @ inner) / keep,
        gradient.sum(0),
    )


def _inner(rows: torch.Tensor, weights: Sequence[torch.Tensor], dropped: torch.Tensor | None) -> torch.Tensor:
    inner = torch.addmm(weights[1], rows, weights[0].t()).relu_()
    return drop(inner, mask_of(dropped, inner.shape))
