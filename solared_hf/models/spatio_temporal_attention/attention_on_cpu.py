"""Self-attention of many short sequences on a CPU, in blocks whose scores stay in the cache.

With the narrow heads of this family the products cost less than the passes over the scores: over every score, and its
random number in training, softmax and dropout would go several times. The file imports nothing of the package but its
neighbour, because it travels with saved weights.
"""

import torch
from torch.autograd.function import once_differentiable

from .dropout_on_cpu import KeepMasks

# Scores of a block: four megabytes of float32. Smaller blocks pay more for starting operations than for memory.
_BLOCK = 1 << 20
# Sums of exponentials up to this one overflow for no length of sequence, and the smallest are no denormal numbers.
_LARGEST_EXPONENT = 60.0


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, num_heads, scaling, probability):
        groups, length, width = qkv.shape
        heads = _by_head(qkv, num_heads).clone(memory_format=torch.contiguous_format).flatten(1, 2)
        heads[0].mul_(scaling)
        output = qkv.new_empty(groups, length, width // 3)
        outputs = output.unflatten(-1, (num_heads, -1)).transpose(1, 2)
        log_sums = qkv.new_empty(groups * num_heads, length, 1)
        masks = KeepMasks(probability) if probability else None

        blocks = _blocks(groups, num_heads, length)
        scores, mask = qkv.new_empty(2, blocks[0][1] * num_heads, length, length)
        for start, stop in blocks:
            sequences = slice(start * num_heads, stop * num_heads)
            query, key, value = heads[:, sequences]
            weights = torch.bmm(query, key.transpose(1, 2), out=scores[: len(query)])
            shift = None if _are_small(query, key) else weights.amax(-1, keepdim=True)
            weights = weights.exp_() if shift is None else weights.sub_(shift).exp_()
            sums = weights.sum(-1, keepdim=True)
            if masks is not None:
                weights.mul_(masks.draw(mask[: len(query)]))
            block = torch.bmm(weights, value).div_(sums * (1 - probability))
            outputs[start:stop] = block.view(outputs[start:stop].shape)
            log_sums[sequences] = sums.log_() if shift is None else sums.log_().add_(shift)
        ctx.save_for_backward(heads, output, log_sums)
        ctx.scaling, ctx.masks = scaling, masks
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        heads, output, log_sums = ctx.saved_tensors
        groups, length, width = output.shape
        num_heads = heads.shape[1] // groups
        qkv_gradient = output.new_empty(groups, length, 3 * width)
        head_gradients = _by_head(qkv_gradient, num_heads)
        # The softmax takes the mean of the weights' gradients off each: that of gradient and output (Dao et al. 2022,
        # arXiv 2205.14135, section 3 and appendix B).
        means = (gradient * output).unflatten(-1, (num_heads, -1)).sum(-1).transpose(1, 2).reshape(log_sums.shape)
        gradient = gradient.unflatten(-1, (num_heads, -1)).transpose(1, 2)

        blocks = _blocks(groups, num_heads, length)
        buffers = output.new_empty(3, blocks[0][1] * num_heads, length, length)
        for index, (start, stop) in enumerate(blocks):
            sequences = slice(start * num_heads, stop * num_heads)
            query, key, value = heads[:, sequences]
            weights, weight_gradients, kept = buffers[:, : len(query)]
            block_gradient = gradient[start:stop].flatten(0, 1)
            torch.baddbmm(log_sums[sequences], query, key.transpose(1, 2), beta=-1, out=weights).exp_()
            if ctx.masks is None:
                value_gradient = torch.bmm(weights.transpose(1, 2), block_gradient)
                torch.baddbmm(means[sequences], block_gradient, value.transpose(1, 2), beta=-1, out=weight_gradients)
            else:
                ctx.masks.recall(index, kept)
                block_gradient = block_gradient * ctx.masks.scale
                torch.bmm(block_gradient, value.transpose(1, 2), out=weight_gradients)
                weight_gradients.mul_(kept).sub_(means[sequences])
                value_gradient = torch.bmm(kept.mul_(weights).transpose(1, 2), block_gradient)
            weight_gradients.mul_(weights)
            query_gradient = torch.bmm(weight_gradients, key).mul_(ctx.scaling)
            key_gradient = torch.bmm(weight_gradients.transpose(1, 2), query)
            for part, one in zip(head_gradients, (query_gradient, key_gradient, value_gradient), strict=True):
                part[start:stop] = one.view(part[start:stop].shape)
        return qkv_gradient, None, None, None


def _are_small(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether all scores are known to be so small that their exponentials need no shift."""
    if query.shape[-1] * query.abs().max() * key.abs().max() < _LARGEST_EXPONENT:
        return True
    # Cauchy and Schwarz: no score exceeds the product of the norms. It is closer, and takes longer.
    longest_query, longest_key = (torch.linalg.vector_norm(one, dim=-1).max() for one in (query, key))
    return bool(longest_query * longest_key < _LARGEST_EXPONENT)


def _by_head(qkv: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(3, groups, num_heads, length, head_dim) view of (groups, length, 3 * hidden_size)."""
    return qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)


def _blocks(groups: int, num_heads: int, length: int) -> list[tuple[int, int]]:
    """First and last but one group of each block; the first block is the longest."""
    size = max(1, _BLOCK // (num_heads * length**2))
    return [(start, min(start + size, groups)) for start in range(0, groups, size)]


def blocked_attention(qkv: torch.Tensor, num_heads: int, scaling: float, probability: float) -> torch.Tensor:
    """What `torch.nn.functional.scaled_dot_product_attention` gives for the heads of one projection, without a mask.

    Neither the scores nor their gradients are ever held as a whole: they are computed again on the way back. Dropped
    attention weights are remembered as bits.

    Args:
        qkv: (groups, length, 3 * hidden_size) float32 on a CPU, contiguous: query, key and value, heads side by side.
        num_heads: heads that the hidden size is split into.
        scaling: factor of the scores.
        probability: of an attention weight to be dropped, at least 0 and below 1.

    Returns:
        (groups, length, hidden_size) float32, heads side by side.
    """
    return _BlockedAttention.apply(qkv, num_heads, scaling, probability)
