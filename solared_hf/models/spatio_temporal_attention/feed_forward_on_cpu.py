"""The feed-forward half of an encoder layer on a CPU, some positions at a time, so that they stay in the cache.

The widest values are computed again on the way back: the product costs no more than memory does for keeping them. The
file imports nothing of the package but its neighbour, because it travels with saved weights.
"""

import torch
from torch.autograd.function import once_differentiable

from .dropout_on_cpu import draw_dropped, drop_, mask_buffer, spread

# Positions of a block.
_POSITIONS = 2048


class _AddedFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight1, bias1, weight2, bias2, dropout):
        (_, width), inner = hidden.shape, len(weight1)
        output = torch.empty_like(hidden)
        blocks = list(zip(hidden.split(_POSITIONS), output.split(_POSITIONS), strict=True))
        buffer = mask_buffer(_POSITIONS * max(width, inner))
        dropped = draw_dropped(len(blocks), _POSITIONS * inner, dropout)
        output_dropped = draw_dropped(len(blocks), _POSITIONS * width, dropout)
        weight2_scaled = weight2.t() / (1 - dropout)

        for block, (rows, output_rows) in enumerate(blocks):
            activated = _activated(rows, weight1, bias1, spread(dropped, block, buffer))
            added = torch.addmm(bias2, activated, weight2_scaled)
            drop_(added, spread(output_dropped, block, buffer))
            torch.add(rows, added, alpha=1 / (1 - dropout), out=output_rows)
        ctx.save_for_backward(hidden, weight1, bias1, weight2, dropped, output_dropped)
        ctx.keep = 1 - dropout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        hidden, weight1, bias1, weight2, dropped, output_dropped = ctx.saved_tensors
        (_, width), inner = hidden.shape, len(weight1)
        gradient, hidden_gradient = gradient.contiguous(), torch.empty_like(hidden)
        # The other way round than the weights, which is how this product is quick.
        weight1_gradient, weight2_gradient = hidden.new_zeros(width, inner), torch.zeros_like(weight2)
        bias1_gradient, bias2_gradient = hidden.new_zeros(inner), hidden.new_zeros(width)
        buffer = mask_buffer(_POSITIONS * max(width, inner))
        weight2_scaled = weight2 / ctx.keep

        blocks = (one.split(_POSITIONS) for one in (hidden, gradient, hidden_gradient))
        for block, (rows, output_gradient, into) in enumerate(zip(*blocks, strict=True)):
            activated = _activated(rows, weight1, bias1, spread(dropped, block, buffer))
            added_gradient = output_gradient / ctx.keep
            drop_(added_gradient, spread(output_dropped, block, buffer))
            weight2_gradient.addmm_(added_gradient.t(), activated)
            bias2_gradient.add_(added_gradient.sum(0))
            inner_gradient = torch.mm(added_gradient, weight2_scaled)
            # What was dropped is 0, as what was negative is, so the values are their own mask.
            torch.ops.aten.threshold_backward.grad_input(inner_gradient, activated, 0, grad_input=inner_gradient)
            weight1_gradient.addmm_(rows.t(), inner_gradient)
            bias1_gradient.add_(inner_gradient.sum(0))
            torch.mm(inner_gradient, weight1, out=into).add_(output_gradient)
        # The scale of the first dropout went with the weights on the way there.
        weight2_gradient.div_(ctx.keep)
        return hidden_gradient, weight1_gradient.t(), bias1_gradient, weight2_gradient, bias2_gradient, None


def _activated(rows, weight1, bias1, mask):
    # An addition in the cache is quicker than a product that starts from a matrix of biases.
    activated = torch.mm(rows, weight1.t()).add_(bias1).clamp_min_(0)
    drop_(activated, mask)
    return activated


def add_feed_forward(
    hidden_states: torch.Tensor,
    weight1: torch.Tensor,
    bias1: torch.Tensor,
    weight2: torch.Tensor,
    bias2: torch.Tensor,
    dropout: float,
) -> torch.Tensor:
    """`hidden_states + dropout(linear2(dropout(relu(linear1(hidden_states)))))`.

    Args:
        hidden_states: (positions, width) float32 on a CPU, contiguous.
        weight1, bias1: (inner, width) and (inner,).
        weight2, bias2: (width, inner) and (width,).
        dropout: probability of an element to be dropped, at least 0 and below 1.
    """
    return _AddedFeedForward.apply(hidden_states, weight1, bias1, weight2, bias2, dropout)
