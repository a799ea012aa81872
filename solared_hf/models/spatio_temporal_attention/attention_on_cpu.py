"""The attention half of an encoder layer on a CPU, in blocks of sequences that stay in the cache.

With the narrow heads of this family the products cost less than the passes over the scores, and a value that has left
the cache costs more than its arithmetic. So a block of sequences goes through the whole half of the layer at once, and
on the way back all but the attention's output is computed again. Queries, keys and values are held as (width,
positions): a head is then so many rows of them, and nothing is copied to take one. The file imports nothing of the
package but its neighbour, because it travels with saved weights.
"""

import torch
from torch.autograd.function import once_differentiable

from .dropout_on_cpu import draw_dropped, drop_, mask_buffer, spread

# Scores of a head in a block, 1.5 megabytes: fewer pay more for starting operations than for memory.
_SCORES = 3 << 17
# Between these, sums of exponentials have neither overflowed nor lost digits of their largest terms.
_SMALLEST_SUM, _LARGEST_SUM = 1e-25, 1e35


class _AddedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, qkv_weight, qkv_bias, out_weight, out_bias, num_heads, dropouts, is_kept):
        _, length, width = hidden.shape
        attention_dropout, dropout = dropouts
        output = torch.empty_like(hidden)
        blocks, size = _blocks(hidden, output)
        qkv, scores = hidden.new_empty(3 * width, size * length), hidden.new_empty(size, length, length)
        buffer = mask_buffer(max(scores.numel(), size * length * width))
        dropped = draw_dropped(len(blocks) * num_heads, scores.numel(), attention_dropout)
        output_dropped = draw_dropped(len(blocks), size * length * width, dropout)
        scaled = _with_scaled_queries(qkv_weight, qkv_bias, num_heads)
        kept = []

        for block, (rows, output_rows) in enumerate(blocks):
            heads, masks, shifts = _heads(rows, *scaled, num_heads, length, out=qkv), block * num_heads, None
            mixed, sums = _attend(heads, shifts, dropped, masks, scores, buffer)
            smallest, largest = (one.item() for one in sums.aminmax())
            if not (smallest > _SMALLEST_SUM and largest < _LARGEST_SUM):
                shifts = (heads[0].mT @ heads[1]).amax(-1, keepdim=True)
                mixed, sums = _attend(heads, shifts, dropped, masks, scores, buffer)
            attended = hidden.new_empty(width, len(rows))
            torch.div(mixed, sums.mT * (1 - attention_dropout), out=_by_head(attended, num_heads, length))
            added = torch.addmm(out_bias, attended.t(), out_weight.t())
            drop_(added, spread(output_dropped, block, buffer))
            torch.add(rows, added, alpha=1 / (1 - dropout), out=output_rows)
            if is_kept:
                kept += attended, sums, shifts
        ctx.save_for_backward(hidden, qkv_weight, qkv_bias, out_weight, dropped, output_dropped, *kept)
        ctx.num_heads, ctx.keep_attention, ctx.keep_output = num_heads, 1 - attention_dropout, 1 - dropout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        hidden, qkv_weight, qkv_bias, out_weight, dropped, output_dropped, *kept = ctx.saved_tensors
        num_heads, (_, length, width) = ctx.num_heads, hidden.shape
        hidden_gradient = torch.empty_like(hidden)
        blocks, size = _blocks(hidden, gradient.contiguous(), hidden_gradient)
        parameter_gradients = [torch.zeros_like(one) for one in (qkv_weight, qkv_bias, out_weight, qkv_bias[:width])]
        qkv_weight_gradient, qkv_bias_gradient, out_weight_gradient, out_bias_gradient = parameter_gradients
        qkv, scores = hidden.new_empty(3 * width, size * length), hidden.new_empty(2, size, length, length)
        buffer = mask_buffer(max(scores[0].numel(), size * length * width))
        scaled_weight, scaled_bias = _with_scaled_queries(qkv_weight, qkv_bias, num_heads)

        for block, (rows, output_gradient, rows_gradient) in enumerate(blocks):
            attended, sums, shifts = kept[3 * block : 3 * block + 3]
            added_gradient = output_gradient / ctx.keep_output
            drop_(added_gradient, spread(output_dropped, block, buffer))
            out_weight_gradient.addmm_(added_gradient.t(), attended.t())
            out_bias_gradient.add_(added_gradient.sum(0))
            attended_gradient = torch.mm(out_weight.t(), added_gradient.t())
            # The softmax takes the mean of the weights' gradients off each: that of gradient and output (Dao et al.
            # 2022, arXiv 2205.14135, section 3 and appendix B).
            means = _by_head(attended_gradient * attended, num_heads, length).sum(-2).unsqueeze(-1) / sums
            mixed_gradients = _by_head(attended_gradient, num_heads, length) / (sums.mT * ctx.keep_attention)
            heads = _heads(rows, scaled_weight, scaled_bias, num_heads, length, out=qkv)
            head_gradients = hidden.new_empty(heads.shape)
            weights, weight_gradients = scores[:, : len(means[0])]
            by_head = zip(*heads, mixed_gradients, means, *head_gradients, strict=True)
            for head, (query, key, value, mixed_gradient, mean, *into) in enumerate(by_head):
                _exponentials(query, key, shifts, head, out=weights)
                torch.bmm(mixed_gradient.mT, value, out=weight_gradients)
                mask = spread(dropped, block * num_heads + head, buffer)
                drop_(weight_gradients, mask)
                score_gradients = weight_gradients.sub_(mean).mul_(weights)
                drop_(weights, mask)
                torch.bmm(key, score_gradients.mT, out=into[0])
                torch.bmm(query, score_gradients, out=into[1])
                torch.bmm(mixed_gradient, weights, out=into[2])
            qkv_gradient = head_gradients.transpose(2, 3).reshape(3 * width, -1)
            qkv_weight_gradient.addmm_(qkv_gradient, rows)
            qkv_bias_gradient.add_(qkv_gradient.sum(1))
            torch.mm(qkv_gradient.t(), scaled_weight, out=rows_gradient).add_(output_gradient)
        for one in (qkv_weight_gradient, qkv_bias_gradient):
            one[:width].mul_(_scaling(width, num_heads))
        return hidden_gradient, *parameter_gradients, None, None, None


def _attend(heads, shifts, dropped, first_mask, scores, buffer):
    """Values times the exponentials that are kept, (num_heads, groups, head_dim, length), and sums of all of these."""
    mixed = heads.new_empty(heads.shape[1:])
    sums = heads.new_empty(*mixed.shape[:2], mixed.shape[-1], 1)
    weights = scores[: mixed.shape[1]]
    for head, (query, key, value, its_mixed, its_sums) in enumerate(zip(*heads, mixed, sums, strict=True)):
        _exponentials(query, key, shifts, head, out=weights)
        torch.sum(weights, -1, keepdim=True, out=its_sums)
        drop_(weights, spread(dropped, first_mask + head, buffer))
        torch.bmm(value, weights.mT, out=its_mixed)
    return mixed, sums


def _exponentials(query, key, shifts, head, out):
    """Exponentials of a head's (groups, length, length) scores, less a shift for each query if there are any."""
    torch.bmm(query.mT, key, out=out)
    if shifts is not None:
        out.sub_(shifts[head])
    out.exp_()


def _heads(rows, weight, bias, num_heads, length, out):
    """(3, num_heads, groups, head_dim, length): queries, keys and values of (positions, width) rows."""
    # An addition in the cache is quicker than a product that starts from a matrix of biases.
    qkv = torch.mm(weight, rows.t(), out=out[:, : len(rows)]).add_(bias[:, None])
    return _by_head(qkv.unflatten(0, (3, -1)), num_heads, length)


def _with_scaled_queries(weight, bias, num_heads):
    scales = torch.ones_like(bias)
    scales[: weight.shape[1]] = _scaling(weight.shape[1], num_heads)
    return weight * scales[:, None], bias * scales


def _scaling(width: int, num_heads: int) -> float:
    return (width // num_heads) ** -0.5


def _by_head(values: torch.Tensor, num_heads: int, length: int) -> torch.Tensor:
    """(..., num_heads, groups, head_dim, length) view of (..., width, positions)."""
    return values.unflatten(-1, (-1, length)).unflatten(-3, (num_heads, -1)).transpose(-3, -2)


def _blocks(*tensors: torch.Tensor) -> tuple[list[tuple[torch.Tensor, ...]], int]:
    """Rows of the blocks of (groups, length, width) tensors, (positions, width), and the groups of a block."""
    groups, length, width = tensors[0].shape
    size = min(groups, max(1, _SCORES // length**2))
    return list(zip(*(one.view(-1, width).split(size * length) for one in tensors), strict=True)), size


def add_attention(
    hidden_states: torch.Tensor,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    out_weight: torch.Tensor,
    out_bias: torch.Tensor,
    num_heads: int,
    attention_dropout: float,
    dropout: float,
) -> torch.Tensor:
    """`hidden_states + dropout(attention(hidden_states))`, as a layer of `torch.nn.TransformerEncoder` computes it.

    The scores are never held as a whole. What is dropped is remembered as bits.

    Args:
        hidden_states: (groups, length, width) float32 on a CPU, contiguous: independent sequences.
        qkv_weight, qkv_bias: (3 * width, width) and (3 * width,), the projections to queries, keys and values.
        out_weight, out_bias: (width, width) and (width,), the projection of the heads' outputs.
        num_heads: heads that the width is split into.
        attention_dropout: probability of an attention weight to be dropped, at least 0 and below 1.
        dropout: the same of an element of what is added.
    """
    is_kept = torch.is_grad_enabled()
    weights = (qkv_weight, qkv_bias, out_weight, out_bias)
    return _AddedAttention.apply(hidden_states, *weights, num_heads, (attention_dropout, dropout), is_kept)
