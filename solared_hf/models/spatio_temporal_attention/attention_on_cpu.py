"""The attention half of an encoder layer on a CPU, in blocks of sequences that stay in the cache.

With the narrow heads of this family the products cost less than the passes over the scores, and a value that has left
the cache costs more than its arithmetic. So a block of sequences goes through the whole half of the layer at once, and
on the way back all but the attention's output is computed again. The file imports nothing of the package but its
neighbour, because it travels with saved weights.
"""

from collections.abc import Iterator

import torch
from torch.autograd.function import once_differentiable

from .dropout_on_cpu import draw_kept, drop, drop_, mask_buffer, spread

# Positions of a block: fewer make the products with the weights slow.
_POSITIONS = 2048
# Scores of a part of a block, two megabytes: smaller parts pay more for starting operations than for memory.
_SCORES = 1 << 19
# Between these, sums of exponentials have neither overflowed nor lost digits of their largest terms.
_SMALLEST_SUM, _LARGEST_SUM = 1e-25, 1e35


class _AddedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, qkv_weight, qkv_bias, out_weight, out_bias, num_heads, dropouts, is_kept):
        groups, length, width = hidden.shape
        attention_dropout, dropout = dropouts
        blocks, part_groups = _blocks(groups, num_heads, length)
        block_groups = blocks[0][1]
        # Without a way back, a block of what is kept for it is enough.
        kept_groups = groups if is_kept else block_groups
        attended = hidden.new_empty(kept_groups, length, width)
        sums = hidden.new_empty(kept_groups, num_heads, length, 1)
        shifts, output = [], torch.empty_like(hidden)
        scores = hidden.new_empty(part_groups * num_heads, length, length)
        buffer = mask_buffer(max(scores.numel(), block_groups * length * width))
        kept = draw_kept(-(-groups // part_groups), scores.numel(), attention_dropout)
        output_kept = draw_kept(len(blocks), block_groups * length * width, dropout)

        for block, (start, stop) in enumerate(blocks):
            rows = hidden[start:stop].view(-1, width)
            its = slice(start, stop) if is_kept else slice(stop - start)
            heads = _heads(rows, qkv_weight, qkv_bias, length, num_heads)
            attended_heads, block_sums = _by_head(attended[its], num_heads), sums[its].view(-1, length, 1)
            for part, sequences in _parts(stop - start, part_groups, num_heads):
                query, key, value = heads[:, sequences]
                weights, part_sums, shift = _exponentials(query, key, scores[: len(query)])
                drop_(weights, kept, len(shifts), buffer)
                mixed = torch.bmm(weights, value).div_(part_sums)
                attended_heads[part] = mixed.view(-1, num_heads, length, width // num_heads)
                block_sums[sequences] = part_sums
                shifts.append(shift)
            if kept is not None:
                attended[its].div_(1 - attention_dropout)
            added = torch.addmm(out_bias, attended[its].view(-1, width), out_weight.t())
            drop_(added, output_kept, block, buffer)
            torch.add(rows, added, alpha=1 / (1 - dropout), out=output[start:stop].view(-1, width))
        ctx.save_for_backward(hidden, qkv_weight, qkv_bias, out_weight, attended, sums)
        ctx.shifts, ctx.kept, ctx.output_kept = shifts, kept, output_kept
        ctx.num_heads, ctx.keep_attention, ctx.keep_output = num_heads, 1 - attention_dropout, 1 - dropout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        hidden, qkv_weight, qkv_bias, out_weight, attended, sums = ctx.saved_tensors
        num_heads, (groups, length, width) = ctx.num_heads, hidden.shape
        blocks, part_groups = _blocks(groups, num_heads, length)
        gradient, hidden_gradient = gradient.contiguous(), torch.empty_like(hidden)
        parameter_gradients = [torch.zeros_like(one) for one in (qkv_weight, qkv_bias, out_weight, qkv_bias[:width])]
        qkv_weight_gradient, qkv_bias_gradient, out_weight_gradient, out_bias_gradient = parameter_gradients
        scores = hidden.new_empty(3, part_groups * num_heads, length, length)
        buffer = mask_buffer(max(scores[0].numel(), blocks[0][1] * length * width))
        qkv_buffer = hidden.new_empty(blocks[0][1], length, 3 * width)

        done = 0
        for block, (start, stop) in enumerate(blocks):
            its = slice(start, stop)
            rows, attended_rows, gradient_rows = (one[its].view(-1, width) for one in (hidden, attended, gradient))
            added_gradient = gradient_rows / ctx.keep_output
            drop_(added_gradient, ctx.output_kept, block, buffer)
            out_weight_gradient.addmm_(added_gradient.t(), attended_rows)
            out_bias_gradient.add_(added_gradient.sum(0))
            attended_gradient = torch.mm(added_gradient, out_weight)
            # The softmax takes the mean of the weights' gradients off each: that of gradient and output (Dao et al.
            # 2022, arXiv 2205.14135, section 3 and appendix B).
            products = (attended_gradient * attended_rows).view(-1, length, num_heads, width // num_heads)
            means = products.sum(-1).transpose(1, 2).unsqueeze(-1) / sums[its]
            mixed_gradients = _by_head(attended_gradient.view(-1, length, width), num_heads)
            mixed_gradients = mixed_gradients / (sums[its] * ctx.keep_attention)
            mixed_gradients, means = mixed_gradients.flatten(0, 1), means.flatten(0, 1)
            heads = _heads(rows, qkv_weight, qkv_bias, length, num_heads)
            qkv_gradient = qkv_buffer[: stop - start]
            head_gradients = _by_head(qkv_gradient.unflatten(-1, (3, -1)).movedim(2, 0), num_heads)
            for part, sequences in _parts(stop - start, part_groups, num_heads):
                query, key, value = heads[:, sequences]
                mixed_gradient = mixed_gradients[sequences]
                weights, weight_gradients, dropped_weights = scores[:, : len(query)]
                torch.bmm(query, key.mT, out=weights)
                weights = weights.exp_() if ctx.shifts[done] is None else weights.sub_(ctx.shifts[done]).exp_()
                torch.bmm(mixed_gradient, value.mT, out=weight_gradients)
                if ctx.kept is None:
                    dropped_weights = weights
                else:
                    mask = spread(ctx.kept[done], buffer)
                    drop(weight_gradients, mask, out=weight_gradients)
                    drop(weights, mask, out=dropped_weights)
                done += 1
                weight_gradients.sub_(means[sequences]).mul_(weights)
                # Products with a short first factor are twice as quick as those with a short second one.
                gradients = (
                    torch.bmm(weight_gradients, key),
                    torch.bmm(query.mT, weight_gradients).mT,
                    torch.bmm(mixed_gradient.mT, dropped_weights).mT,
                )
                for one, into in zip(gradients, head_gradients, strict=True):
                    into[part] = one.unflatten(0, (-1, num_heads))
            qkv_gradient[..., :width].mul_(_scaling(width, num_heads))
            qkv_gradient = qkv_gradient.view(-1, 3 * width)
            qkv_weight_gradient.addmm_(qkv_gradient.t(), rows)
            qkv_bias_gradient.add_(qkv_gradient.sum(0))
            torch.addmm(gradient_rows, qkv_gradient, qkv_weight, out=hidden_gradient[its].view(-1, width))
        return hidden_gradient, *parameter_gradients, None, None, None


def _exponentials(query, key, out):
    """Exponentials of the scores, their sums over the keys, and what was taken off the scores before, if anything."""
    weights = torch.bmm(query, key.mT, out=out).exp_()
    sums = weights.sum(-1, keepdim=True)
    smallest, largest = (one.item() for one in sums.aminmax())
    if smallest > _SMALLEST_SUM and largest < _LARGEST_SUM:
        return weights, sums, None
    weights = torch.bmm(query, key.mT, out=out)
    shift = weights.amax(-1, keepdim=True)
    weights.sub_(shift).exp_()
    return weights, weights.sum(-1, keepdim=True), shift


def _heads(rows, weight, bias, length, num_heads):
    """(3, groups * num_heads, length, head_dim): queries, scaled, keys and values of (positions, width) rows."""
    qkv = torch.addmm(bias, rows, weight.t()).view(-1, length, 3, rows.shape[-1])
    heads = _by_head(qkv.movedim(2, 0), num_heads).clone(memory_format=torch.contiguous_format)
    heads[0].mul_(_scaling(rows.shape[-1], num_heads))
    return heads.flatten(1, 2)


def _scaling(width: int, num_heads: int) -> float:
    return (width // num_heads) ** -0.5


def _by_head(values: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(..., num_heads, length, head_dim) view of (..., length, width)."""
    return values.unflatten(-1, (num_heads, -1)).transpose(-2, -3)


def _blocks(groups: int, num_heads: int, length: int) -> tuple[list[tuple[int, int]], int]:
    """First and last but one group of each block, the longest block first, and the groups of a part of a block."""
    part = max(1, _SCORES // (num_heads * length**2))
    size = min(groups, -(-_POSITIONS // (part * length)) * part)
    return [(start, min(start + size, groups)) for start in range(0, groups, size)], min(part, groups)


def _parts(groups: int, part_groups: int, num_heads: int) -> Iterator[tuple[slice, slice]]:
    """Groups of each part of a block, and their sequences, one a head."""
    for start in range(0, groups, part_groups):
        stop = min(start + part_groups, groups)
        yield slice(start, stop), slice(start * num_heads, stop * num_heads)


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
