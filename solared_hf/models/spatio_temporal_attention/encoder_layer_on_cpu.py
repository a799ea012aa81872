"""An encoder layer on a CPU, several times as fast in training as the same layer module by module.

The sequences are split into blocks that stay in the cache. Each block goes through the whole layer on one thread, and
a thread that is done takes the next block. Threads therefore wait for each other only at the end of the layer, and if
another process slows one thread down, the others take over its blocks. The results do not depend on the number of
threads or on their order.

This file is saved beside the weights and must load without the package, so it imports only its neighbours.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as module_hooks
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_on_cpu import Heads, attention, attention_gradients
from .dropout_on_cpu import draw_dropped, drop, mask_of, rounded_probability
from .feed_forward_on_cpu import feed_forward, feed_forward_gradients

# Largest block, in positions and in attention scores of one head. Smaller blocks cost more to start.
_POSITIONS, _SCORES = 2048, 1 << 18
# Python starts the operations of all threads one at a time, so more threads would wait for Python.
_MOST_THREADS = 16
# Methods that compute what the kernels compute, as they were when this file was imported.
_CALL = nn.Module.__call__
_FORWARDS = {cls.forward for cls in (nn.Linear, nn.LayerNorm, nn.Dropout, nn.ReLU)}

# Weight and bias of each module, see `_weights`.
Weights = Sequence[torch.Tensor]
# The bits of `draw_dropped`, or None if nothing is dropped: see `_draw_dropped`.
Dropped = Sequence[torch.Tensor | None]


class SelfAttention(Protocol):
    """The parts of a self-attention module that the kernels read."""

    config: Any
    head_dim: int
    scaling: float
    attention_dropout: float
    qkv_proj: nn.Linear
    out_proj: nn.Linear


class EncoderLayer(Protocol):
    """The parts of an encoder layer that the kernels read."""

    training: bool
    self_attn: SelfAttention
    attention_norm: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Linear
    feed_forward_norm: nn.LayerNorm
    dropout: nn.Dropout

    def modules(self) -> Iterator[nn.Module]: ...


class LayerSettings(NamedTuple):
    """Everything about a layer except the weights."""

    heads: Heads
    dropout: float
    epsilons: tuple[float, float]


Forward = Callable[..., torch.Tensor]


def faster_on_cpu(attention_class: type[nn.Module]) -> Callable[[Forward], Forward]:
    """Decorate the `forward` of an encoder layer, so that a plain layer on a CPU runs on the kernels of this file.

    Args:
        attention_class: Class of `layer.self_attn`. The kernels compute what its `forward` computes as it is now.
    """
    _FORWARDS.add(attention_class.forward)

    def decorate(forward: Forward) -> Forward:
        @wraps(forward)
        def switched(layer, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            if is_plain_on_cpu(layer, hidden_states):
                return encode_on_cpu(layer, hidden_states)
            return forward(layer, hidden_states, **kwargs)

        return switched

    return decorate


def is_plain_on_cpu(layer: EncoderLayer, hidden_states: torch.Tensor) -> bool:
    """Return True if the layer runs on a CPU in float32, and nothing watches or changes its modules and operations.

    Hooks, adapters, a replaced `forward`, offloaded weights, tracing, export and transforms of functions need the
    modules, so for them the answer is False.
    """
    return (
        not _are_operations_followed()
        and _is_plain(hidden_states)
        and hidden_states.numel() > 0
        and layer.self_attn.config._attn_implementation == "sdpa"
        and ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
        and all(_is_as_written(module, layer.training) for module in layer.modules() if module is not layer)
        and max(layer.self_attn.attention_dropout, layer.dropout.p) < 1
        and all(_is_plain(weight) and isinstance(weight, nn.Parameter) for weight in _weights(layer))
    )


def encode_on_cpu(layer: EncoderLayer, hidden_states: torch.Tensor) -> torch.Tensor:
    """Return the output of an encoder layer for which `is_plain_on_cpu` is True.

    Args:
        layer: A `SpatioTemporalAttentionLayer`.
        hidden_states: (batch, sequences, length, width).
    """
    dropouts = (layer.self_attn.attention_dropout, layer.dropout.p) if layer.training else (0.0, 0.0)
    attention_dropout, dropout = (rounded_probability(probability) for probability in dropouts)
    length, width = hidden_states.shape[2:]
    heads = Heads(width // layer.self_attn.head_dim, length, layer.self_attn.scaling, attention_dropout)
    settings = LayerSettings(heads, dropout, (layer.attention_norm.eps, layer.feed_forward_norm.eps))
    sequences = hidden_states.flatten(0, 1).contiguous()
    weights = cast(list[torch.Tensor], _weights(layer))
    if torch.is_grad_enabled():
        output = _EncoderLayer.apply(sequences, settings, *weights)
    else:
        output, _ = _encode_blocks(sequences, settings, weights, is_kept=False)
    return output.view_as(hidden_states)


def _weights(layer: EncoderLayer) -> list[torch.Tensor | None]:
    """Return weight and bias of each module, in the order in which the functions below take them."""
    attention = layer.self_attn
    modules = (
        *(attention.qkv_proj, attention.out_proj, layer.attention_norm),
        *(layer.fc1, layer.fc2, layer.feed_forward_norm),
    )
    # A module that takes the place of another may have no weights.
    return [getattr(module, name, None) for module in modules for name in ("weight", "bias")]


def _is_plain(tensor: torch.Tensor | None) -> bool:
    if tensor is None or type(tensor) not in (torch.Tensor, nn.Parameter):
        return False
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _is_as_written(module: nn.Module, training: bool) -> bool:
    """Return True if a module has no hooks, and its `forward` has not been replaced."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return (
        module.training == training
        and not any(hooks)
        and "forward" not in vars(module)
        and type(module).forward in _FORWARDS
        and type(module).__call__ is _CALL
    )


def _are_operations_followed() -> bool:
    """Return True if something records, transforms or changes operations."""
    return bool(
        torch.compiler.is_compiling()
        or module_hooks._has_any_global_hook()
        or torch.is_autocast_enabled("cpu")
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
    )


class _EncoderLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, settings, *weights):
        output, kept = _encode_blocks(hidden, settings, weights, is_kept=True)
        ctx.save_for_backward(hidden, *weights, *(tensor for tensors in kept for tensor in tensors))
        ctx.settings = settings
        return output

    @staticmethod
    def backward(ctx, gradient):
        hidden, *others = ctx.saved_tensors
        weights, others = others[:12], others[12:]
        kept = list(zip(*[iter(others)] * 7, strict=True))
        settings = ctx.settings

        if torch.is_grad_enabled():
            # The caller wants derivatives of the gradients, so autograd has to see the operations.
            encoded = [
                _encode(rows, settings, weights, dropped)[0]
                for rows, (_, _, _, *dropped) in zip(_blocks(hidden), kept, strict=True)
            ]
            inputs = [tensor if tensor.requires_grad else None for tensor in (hidden, *weights)]
            wanted = [tensor for tensor in inputs if tensor is not None]
            output = torch.cat(encoded).view_as(hidden)
            gradients = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
            hidden_gradient, *weight_gradients = [None if given is None else next(gradients) for given in inputs]
            return hidden_gradient, None, *weight_gradients

        hidden_gradient = torch.empty_like(hidden)
        blocks = list(
            zip(_blocks(gradient.contiguous()), _blocks(hidden), _blocks(hidden_gradient), kept, strict=True)
        )

        def run(block: int) -> tuple[torch.Tensor, ...]:
            output_gradient, rows, rows_gradient, tensors = blocks[block]
            with torch.no_grad():
                input_gradient, *gradients = _gradients(
                    output_gradient, rows, settings, weights, tensors[:3], tensors[3:]
                )
                rows_gradient.copy_(input_gradient)
            return gradients

        # The sum is in the order of the blocks, so that it does not depend on the threads.
        of_blocks = _run_blocks(run, len(blocks))
        weight_gradients = [torch.stack(gradients).sum(0) for gradients in zip(*of_blocks, strict=True)]
        return hidden_gradient, None, *weight_gradients


def _encode_blocks(
    hidden: torch.Tensor, settings: LayerSettings, weights: Weights, is_kept: bool
) -> tuple[torch.Tensor, list]:
    """Return the output of all blocks, and for each block the tensors that the gradients need."""
    output = torch.empty_like(hidden)
    blocks = list(zip(_blocks(hidden), _blocks(output), strict=True))
    # The seeds come from torch's generator, so that `torch.manual_seed` and gradient checkpointing control them.
    seeds = torch.randint(2**63 - 1, (len(blocks),), device="cpu").tolist() if _drops(settings) else None
    is_inference = torch.is_inference_mode_enabled()

    def run(block: int) -> tuple[torch.Tensor | None, ...]:
        rows, output_rows = blocks[block]
        with torch.inference_mode(is_inference), torch.no_grad():
            dropped = _draw_dropped(rows, settings, weights, seeds[block]) if seeds else 4 * (None,)
            encoded, kept = _encode(rows, settings, weights, dropped)
            output_rows.copy_(encoded)
        return (*kept, *dropped) if is_kept else ()

    return output, _run_blocks(run, len(blocks))


def _drops(settings: LayerSettings) -> bool:
    return max(settings.heads.dropout, settings.dropout) > 0


def _blocks(sequences: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return views (positions, width) of (sequences, length, width). Each view holds several sequences."""
    _, length, width = sequences.shape
    size = max(1, min(_POSITIONS // length, _SCORES // length**2))
    return sequences.view(-1, width).split(size * length)


def _run_blocks(run: Callable, num_blocks: int) -> list:
    """Return the results of `run` for all blocks. Each block runs on one thread, without parallel regions inside."""
    threads = torch.get_num_threads()
    workers = min(threads, _MOST_THREADS)
    if workers == 1:
        return [run(block) for block in range(num_blocks)]
    # Some libraries that torch calls have one number of threads for the whole process.
    torch.set_num_threads(1)
    try:
        return list(_workers(workers).map(run, range(num_blocks)))
    finally:
        torch.set_num_threads(threads)


@cache
def _workers(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))


# The threads do not exist in a forked process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)


def _draw_dropped(
    rows: torch.Tensor, settings: LayerSettings, weights: Weights, seed: int
) -> tuple[torch.Tensor | None, ...]:
    """Draw what is dropped of the attention probabilities, the attention output, the inner values and their output."""
    random = np.random.Generator(np.random.SFC64(seed))
    positions, width = rows.shape
    heads = settings.heads
    # Each head begins with a new word.
    scores = -(-positions * heads.length // 64) * 64
    probabilities = draw_dropped(random, heads.number * scores, heads.dropout)
    if probabilities is not None:
        probabilities = probabilities.view(heads.number, -1)
    widths = (width, len(weights[6]), width)
    return probabilities, *(draw_dropped(random, positions * size, settings.dropout) for size in widths)


def _encode(
    rows: torch.Tensor, settings: LayerSettings, weights: Weights, dropped: Dropped
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return the layer's output for a block of (positions, width), and the tensors that `_gradients` needs."""
    probabilities_dropped, attended_dropped, inner_dropped, added_dropped = dropped
    keep = 1 - settings.dropout
    mixed = attention(rows, weights[:2], settings.heads, probabilities_dropped)
    attended = _add(rows, torch.addmm(weights[3], mixed.t(), weights[2].t()), attended_dropped, keep)
    normed = _norm(attended, weights[4:6], settings.epsilons[0])[0]
    summed = _add(normed, feed_forward(normed, weights[6:10], inner_dropped, keep), added_dropped, keep)
    return _norm(summed, weights[10:], settings.epsilons[1])[0], (mixed, attended, summed)


def _gradients(gradient, rows, settings, weights, kept, dropped):
    """Return the gradients of the rows and of the weights, given the gradient of a block's output."""
    mixed, attended, summed = kept
    probabilities_dropped, attended_dropped, inner_dropped, added_dropped = dropped
    keep = 1 - settings.dropout

    summed_gradient, *second_norm = _norm_gradients(gradient, summed, weights[10:], settings.epsilons[1])
    normed = _norm(attended, weights[4:6], settings.epsilons[0])[0]
    added_gradient = drop(summed_gradient / keep, mask_of(added_dropped, rows.shape))
    normed_gradient, *fed = feed_forward_gradients(added_gradient, normed, weights[6:10], inner_dropped, keep)

    normed_gradient += summed_gradient
    attended_gradient, *first_norm = _norm_gradients(normed_gradient, attended, weights[4:6], settings.epsilons[0])
    added_gradient = drop(attended_gradient / keep, mask_of(attended_dropped, rows.shape))
    mixed_gradient = weights[2].t() @ added_gradient.t()
    rows_gradient, *projection = attention_gradients(
        mixed_gradient, rows, weights[:2], settings.heads, probabilities_dropped
    )
    output = added_gradient.t() @ mixed.t(), added_gradient.sum(0)
    return rows_gradient.add_(attended_gradient), *projection, *output, *first_norm, *fed, *second_norm


def _add(rows, added, dropped, keep):
    return torch.add(rows, drop(added, mask_of(dropped, added.shape)), alpha=1 / keep)


def _norm(values, weights, epsilon):
    weight, bias = weights
    return torch.native_layer_norm(values, weight.shape, weight, bias, epsilon)


def _norm_gradients(gradient, values, weights, epsilon):
    weight, bias = weights
    _, mean, deviation = _norm(values, weights, epsilon)
    return torch.ops.aten.native_layer_norm_backward(
        gradient, values, weight.shape, mean, deviation, weight, bias, (True, True, True)
    )
