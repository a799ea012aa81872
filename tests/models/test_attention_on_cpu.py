"""Attention and dropout on a CPU: the mathematics of torch's, and masks that are what dropout promises."""

import numpy as np
import pytest
import torch
from torch import nn

from solared_hf.models.spatio_temporal_attention.attention_on_cpu import blocked_attention
from solared_hf.models.spatio_temporal_attention.dropout_on_cpu import KeepMasks, add_dropped, dropped_relu
from solared_hf.models.spatio_temporal_attention.linear_on_cpu import blocked_linear
from solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention import (
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
)


def torch_attention(qkv, num_heads):
    query, key, value = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


# Of the last size, several blocks are needed. Scores are small by either bound, by the closer one, or would overflow.
@pytest.mark.parametrize(("groups", "length"), [(1, 1), (3, 7), (150, 40)])
@pytest.mark.parametrize("scale", [1.0, 1.5, 12.0])
def test_blocked_attention_is_that_of_torch(groups, length, scale):
    generator = torch.Generator().manual_seed(0)
    qkv = (torch.randn(groups, length, 3 * 16, generator=generator) * scale).requires_grad_()
    weights = torch.randn(groups, length, 16, generator=generator)
    ours = blocked_attention(qkv, num_heads=2, scaling=8**-0.5, probability=0.0)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), qkv)
    exact = qkv.detach().double().requires_grad_()
    expected = torch_attention(exact, num_heads=2)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), exact)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5 * scale**2, rtol=1e-5)
    torch.testing.assert_close(gradient.double(), expected_gradient, atol=1e-5 * scale**3, rtol=1e-5)
    if scale > 2 and length == 40:
        query, key, _ = qkv.detach().unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        assert (query @ key.mT * 8**-0.5).exp().isinf().any()


def test_attention_weights_are_dropped_and_the_gradient_knows_which():
    groups, length, probability = 30, 64, 0.3
    query, key = torch.randn(2, groups, length, length, generator=torch.Generator().manual_seed(0))
    # With the identity for values, the output is the attention weights themselves.
    value = torch.eye(length).expand(groups, -1, -1)
    qkv = torch.cat([query, key, value], dim=-1).requires_grad_()
    torch.manual_seed(1)
    dropped = blocked_attention(qkv, num_heads=1, scaling=length**-0.5, probability=probability)
    kept = (dropped != 0).float()
    count = kept.numel()
    assert kept.mean().item() == pytest.approx(1 - probability, abs=5 * (0.21 / count) ** 0.5)

    exact = qkv.detach().requires_grad_()
    query, key, value = exact.split(length, dim=-1)
    expected = (query @ key.mT * length**-0.5).softmax(-1) * kept / (1 - probability) @ value
    torch.testing.assert_close(dropped, expected, atol=1e-6, rtol=1e-5)
    weights = torch.randn(dropped.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((dropped * weights).sum(), qkv)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), exact)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", [(7,), (3, 5, 7), (2, 3000, 7)])
def test_blocked_linear_is_that_of_torch(shape):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator) for size in (shape, (4, 7), (4,))]
    gradient = torch.randn(*shape[:-1], 4, generator=generator)
    results = []
    for function in (blocked_linear, nn.functional.linear):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        output = function(*inputs)
        results.append((output.detach(), *torch.autograd.grad(output, inputs, gradient)))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("function", [add_dropped, dropped_relu])
def test_dropout_of_values_and_their_gradient(function):
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(700, 500, generator=generator).requires_grad_()
    residual = torch.randn(700, 500, generator=generator).requires_grad_()
    weights = torch.randn(700, 500, generator=generator)
    torch.manual_seed(1)
    arguments = (residual, 0.1) if function is add_dropped else (0.1,)
    output = function(before * 1, *arguments)
    output.backward(weights)
    dropout = output.detach() - (residual.detach() if function is add_dropped else 0)
    full = before.detach() / 0.9 if function is add_dropped else before.detach().relu() / 0.9
    kept = dropout.abs() > 1e-6
    torch.testing.assert_close(dropout, full * kept, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(before.grad, weights * kept / 0.9, atol=1e-6, rtol=1e-5)
    if function is add_dropped:
        assert kept.float().mean().item() == pytest.approx(0.9, abs=0.003)
        torch.testing.assert_close(residual.grad, weights)
    else:
        assert kept[before > 1e-3].float().mean().item() == pytest.approx(0.9, abs=0.004)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.001, 0.999])
def test_masks_keep_as_often_as_they_say_and_independently(probability):
    torch.manual_seed(3)
    masks = KeepMasks(probability)
    count = 4_000_000
    first, second = (masks.draw(torch.empty(2000, 2000)) for _ in range(2))
    variance = probability * (1 - probability)
    for mask in (first, second):
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        # Of probability 0.1, 256ths alone would miss by ten standard deviations.
        assert mask.mean().item() == pytest.approx(1 - probability, abs=4.5 * (variance / count) ** 0.5)
    # Neighbours in memory, those a row apart, the eight that share a word, and other draws.
    flat = first.flatten()
    for one, other in [*((flat[lag:], flat[:-lag]) for lag in (1, 8, 2000)), (flat, second.flatten())]:
        correlation = np.corrcoef(one, other)[0, 1]
        assert abs(correlation) < 4.5 / count**0.5
    torch.testing.assert_close(masks.recall(1, torch.empty(2000, 2000)), second)
    torch.testing.assert_close(masks.recall(0, torch.empty(2000, 2000)), first)


def test_seeds_repeat_a_training_step():
    config = SpatioTemporalAttentionConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32)
    model = SpatioTemporalAttentionForPrediction(config).train()
    past = torch.randn(2, 24, 6, 63)

    def predictions(seed):
        torch.manual_seed(seed)
        return model(past).prediction_outputs

    torch.testing.assert_close(predictions(7), predictions(7), atol=0, rtol=0)
    assert (predictions(7) - predictions(8)).abs().max() > 1e-3


def test_inference_in_parts_is_inference_as_a_whole():
    config = SpatioTemporalAttentionConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32)
    model = SpatioTemporalAttentionForPrediction(config).eval()
    # 15,120 positions, of which a layer takes some 8,000 at a time.
    past = torch.randn(6, 40, 6, 63)
    with torch.inference_mode():
        parts = model(past, output_hidden_states=True)
    whole = model(past, output_hidden_states=True)
    torch.testing.assert_close(parts.prediction_outputs, whole.prediction_outputs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(parts.hidden_states, whole.hidden_states, atol=1e-5, rtol=1e-4)
