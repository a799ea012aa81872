"""The feed-forward half of an encoder layer on a CPU, some positions at a time, so that they stay in the cache.

The file imports nothing of the package but its neighbour, because it travels with saved weights.
"""

import torch
from torch.autograd.function import once_differentiable

from .dropout_on_cpu import draw_kept, drop_, mask_buffer

# Positions of a block.
_POSITIONS = 2048


class _AddedFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight1, bias1, weight2, bias2, dropout, is_kept):
        positions, width = hidden.shape
        inner = len(weight1)
        output = torch.empty_like(hidden)
        # Without a way back, a block of the widest values is enough.
        activated = hidden.new_empty(positions if is_kept else min(positions, _POSITIONS), inner)
        buffer = mask_buffer(_POSITIONS * max(width, inner))
        starts = range(0, positions, _POSITIONS)
        kept = draw_kept(len(starts), _POSITIONS * inner, dropout)
        output_kept = draw_kept(len(starts), _POSITIONS * width, dropout)
        weight2_scaled = weight2.t() / (1 - dropout)

        for block, start in enumerate(starts):
            rows = hidden[start : start + _POSITIONS]
            activated_rows = activated[start : start + _POSITIONS] if is_kept else activated[: len(rows)]
            torch.addmm(bias1, rows, weight1.t(), out=activated_rows).clamp_min_(0)
            drop_(activated_rows, kept, block, buffer)
            added = torch.addmm(bias2, activated_rows, weight2_scaled)
            drop_(added, output_kept, block, buffer)
            torch.add(rows, added, alpha=1 / (1 - dropout), out=output[start : start + _POSITIONS])
        ctx.save_for_backward(hidden, weight1, weight2, activated)
        ctx.output_kept, ctx.keep = output_kept, 1 - dropout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        hidden, weight1, weight2, activated = ctx.saved_tensors
        (positions, width), inner = hidden.shape, len(weight1)
        gradient, hidden_gradient = gradient.contiguous(), torch.empty_like(hidden)
        weight1_gradient, weight2_gradient = torch.zeros_like(weight1), torch.zeros_like(weight2)
        bias1_gradient, bias2_gradient = hidden.new_zeros(inner), hidden.new_zeros(width)
        buffer, activated_buffer = mask_buffer(_POSITIONS * width), hidden.new_empty(min(positions, _POSITIONS), inner)
        weight2_scaled = weight2 / ctx.keep

        for block, start in enumerate(range(0, positions, _POSITIONS)):
            its = slice(start, start + _POSITIONS)
            added_gradient = gradient[its] / ctx.keep
            drop_(added_gradient, ctx.output_kept, block, buffer)
            weight2_gradient.addmm_(added_gradient.t(), activated[its])
            bias2_gradient.add_(added_gradient.sum(0))
            inner_gradient = torch.mm(added_gradient, weight2_scaled, out=activated_buffer[: len(added_gradient)])
            # What was dropped is 0, as what was negative is, so the values are their own mask.
            torch.ops.aten.threshold_backward(inner_gradient, activated[its], 0, grad_input=inner_gradient)
            weight1_gradient.addmm_(inner_gradient.t(), hidden[its])
            bias1_gradient.add_(inner_gradient.sum(0))
            torch.addmm(gradient[its], inner_gradient, weight1, out=hidden_gradient[its])
        # The scale of the first dropout went with the weights on the way there.
        weight2_gradient.div_(ctx.keep)
        return hidden_gradient, weight1_gradient, bias1_gradient, weight2_gradient, bias2_gradient, None, None


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
    return _AddedFeedForward.apply(hidden_states, weight1, bias1, weight2, bias2, dropout, torch.is_grad_enabled())
