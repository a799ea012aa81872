"""The layer's halves on a CPU: the mathematics of torch's layers, and masks that are what dropout promises."""

import numpy as np
import pytest
import torch
from torch import nn

from solared_hf.models.spatio_temporal_attention.attention_on_cpu import add_attention
from solared_hf.models.spatio_temporal_attention.dropout_on_cpu import draw_dropped, drop_, mask_buffer, spread
from solared_hf.models.spatio_temporal_attention.feed_forward_on_cpu import add_feed_forward
from solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention import (
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
)


def random_tensors(*shapes, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) * scale for shape in shapes]


def attention_inputs(groups, length, width, scale=1.0):
    hidden, *weights = random_tensors(
        (groups, length, width), (3 * width, width), (3 * width,), (width, width), (width,)
    )
    return [hidden, *(weight * width**-0.5 * scale for weight in weights[:2]), *weights[2:]]


def feed_forward_inputs(positions, width, inner):
    return random_tensors((positions, width), (inner, width), (inner,), (width, inner), (width,), scale=0.5)


def torch_attention(hidden, qkv_weight, qkv_bias, out_weight, out_bias, num_heads=2):
    qkv = nn.functional.linear(hidden, qkv_weight, qkv_bias)
    query, key, value = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    attended = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return hidden + nn.functional.linear(attended, out_weight, out_bias)


def torch_feed_forward(hidden, weight1, bias1, weight2, bias2):
    inner = nn.functional.linear(hidden, weight1, bias1).relu()
    return hidden + nn.functional.linear(inner, weight2, bias2)


def assert_same_with_gradients(ours, theirs, inputs, tolerance):
    """Values and gradients of a function in float32 against those of another in float64."""
    results = []
    for function, dtype in ((ours, torch.float32), (theirs, torch.float64)):
        given = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        output = function(*given)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append([output.detach(), *torch.autograd.grad((output * weights).sum(), given)])
    for mine, exact in zip(*results, strict=True):
        assert (mine - exact).abs().max() <= tolerance * max(1, exact.abs().max())


# Of the last sizes, several blocks are needed, and the last one is shorter.
@pytest.mark.parametrize(("groups", "length"), [(1, 1), (3, 7), (7, 300), (400, 40)])
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_attention_is_that_of_torch(groups, length, scale):
    inputs = attention_inputs(groups, length, 16, scale)
    if scale > 1 and length > 1:
        query, key, _ = nn.functional.linear(*inputs[:3]).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        assert (query @ key.mT * 8**-0.5).exp().isinf().any(), "the exponentials were to overflow"
    assert_same_with_gradients(
        lambda *given: add_attention(*given, 2, 0.0, 0.0), torch_attention, inputs, 1e-5 * scale**2
    )


def test_scores_that_are_all_far_below_zero_are_no_division_by_zero():
    hidden, qkv_weight, qkv_bias, *out = attention_inputs(3, 7, 16)
    qkv_bias[:16], qkv_bias[16:32] = 20, -20
    exact = torch_attention(*(one.double() for one in (hidden, qkv_weight, qkv_bias, *out)))
    ours = add_attention(hidden, qkv_weight, qkv_bias, *out, 2, 0.0, 0.0)
    torch.testing.assert_close(ours.double(), exact, atol=1e-4, rtol=1e-4)


def test_attention_weights_are_dropped_at_random_and_what_is_left_is_scaled():
    groups, length, probability = 30, 64, 0.3
    # With identities for states, values and output, what is added is the attention weights themselves.
    identity, zeros = torch.eye(length), torch.zeros(length)
    query, key = random_tensors((length, length), (length, length))
    qkv_weight, qkv_bias = torch.cat([query, key, identity]), torch.zeros(3 * length)
    hidden = identity.expand(groups, -1, -1).contiguous()
    torch.manual_seed(1)
    added = add_attention(hidden, qkv_weight, qkv_bias, identity, zeros, 1, probability, 0.0) - hidden
    kept = added != 0
    assert kept.float().mean().item() == pytest.approx(1 - probability, abs=5 * (0.21 / kept.numel()) ** 0.5)
    expected = (query.T @ key * length**-0.5).softmax(-1) * kept / (1 - probability)
    torch.testing.assert_close(added, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("positions", [5, 4096, 5000])
def test_feed_forward_is_that_of_torch(positions):
    inputs = feed_forward_inputs(positions, 8, 12)
    assert_same_with_gradients(lambda *given: add_feed_forward(*given, 0.0), torch_feed_forward, inputs, 1e-5)


@pytest.mark.parametrize("half", ["attention", "feed forward"])
def test_what_a_half_adds_is_dropped_at_random_and_what_is_left_is_scaled(half):
    torch.manual_seed(1)
    if half == "attention":
        hidden, *weights = attention_inputs(80, 100, 16)
        dropped = add_attention(hidden, *weights, 2, 0.0, 0.1) - hidden
        full = torch_attention(hidden, *weights) - hidden
    else:
        # All inner values are dropped or not in one way for all: only the second dropout is seen.
        hidden, *weights = feed_forward_inputs(5000, 16, 4)
        weights[2].zero_()
        dropped = add_feed_forward(hidden, *weights, 0.1) - hidden
        full = torch_feed_forward(hidden, *weights) - hidden
    kept = dropped.abs() > 1e-6
    assert kept.float().mean().item() == pytest.approx(0.9, abs=5 * (0.09 / kept.numel()) ** 0.5)
    torch.testing.assert_close(dropped, full * kept / 0.9, atol=1e-5, rtol=1e-4)


def test_inner_values_are_dropped_at_random_and_what_is_left_is_scaled():
    # With an identity behind, what is added is the inner values themselves, unless the second dropout takes them too.
    hidden = random_tensors((4000, 24))[0]
    identity, zeros = torch.eye(24), torch.zeros(24)
    torch.manual_seed(1)
    added = add_feed_forward(hidden, identity, zeros, identity, zeros, 0.1) - hidden
    kept = added.abs() > 1e-6
    assert kept[hidden > 1e-3].float().mean().item() == pytest.approx(0.81, abs=0.01)
    torch.testing.assert_close(added, hidden.relu() * kept / 0.81, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("half", ["attention", "feed forward"])
def test_gradients_know_what_was_dropped(half):
    """The derivative along a direction, against differences of the function with the same masks."""
    if half == "attention":
        inputs = attention_inputs(400, 40, 16)
        function = lambda *given: add_attention(*given, 2, 0.3, 0.2)  # noqa: E731
    else:
        inputs = feed_forward_inputs(5000, 8, 12)
        function = lambda *given: add_feed_forward(*given, 0.3)  # noqa: E731
    weights = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(2))

    def value(given):
        torch.manual_seed(3)
        return (function(*given).double() * weights).sum()

    given = [tensor.clone().requires_grad_() for tensor in inputs]
    gradients = torch.autograd.grad(value(given), given)
    for index, gradient in enumerate(gradients):
        step = gradient * (1e-2 / gradient.abs().max())
        ahead, behind = (
            value([one + sign * step if i == index else one for i, one in enumerate(inputs)]) for sign in (1, -1)
        )
        expected = 2 * (gradient.double() * step).sum().item()
        assert (ahead - behind).item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.0004, 0.999])
def test_masks_drop_as_often_as_they_say_and_independently(probability):
    torch.manual_seed(3)
    # More than the generators give at once, and no whole number of words.
    num_masks, size = 2, 3_000_001
    dropped = draw_dropped(num_masks, size, probability)
    first, second = torch.ones(num_masks, size)
    for index, values in enumerate((first, second)):
        drop_(values, spread(dropped, index, mask_buffer(size)))
    variance = probability * (1 - probability)
    for mask in (first, second):
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        # Of probability 0.0004, the random bits alone would drop nothing.
        assert mask.mean().item() == pytest.approx(1 - probability, abs=4.5 * (variance / size) ** 0.5)
    # Neighbours in memory, those of one word, those of one generator, and those of another mask.
    for one, other in [
        *((first[lag:], first[:-lag]) for lag in (1, dropped.shape[1], 1 << 16)),
        (first[:-64], second[64:]),
    ]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / size**0.5


def test_a_default_device_elsewhere_is_nothing_to_a_model_on_the_cpu():
    hidden, *weights = attention_inputs(3, 7, 16)
    _, *feed_forward_weights = feed_forward_inputs(1, 16, 4)
    with torch.device("meta"):
        attended = add_attention(hidden.requires_grad_(), *weights, 2, 0.1, 0.1)
        output = add_feed_forward(attended.view(-1, 16), *feed_forward_weights, 0.1)
        output.sum().backward()
    assert hidden.grad.isfinite().all()


def test_nothing_is_drawn_where_nothing_is_dropped():
    before = torch.get_rng_state()
    assert draw_dropped(2, 100, 0.0) is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SpatioTemporalAttentionForPrediction(
        SpatioTemporalAttentionConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32)
    )


def test_seeds_repeat_a_training_step(model):
    past = torch.randn(2, 24, 6, 63)

    def predictions(seed):
        torch.manual_seed(seed)
        return model.train()(past).prediction_outputs

    torch.testing.assert_close(predictions(7), predictions(7), atol=1e-5, rtol=0)
    assert (predictions(7) - predictions(8)).abs().max() > 1e-3


def test_inference_is_evaluation(model):
    past = torch.randn(6, 40, 6, 63)
    evaluated = model.eval()(past, output_hidden_states=True)
    with torch.inference_mode():
        inferred = model(past, output_hidden_states=True)
    torch.testing.assert_close(inferred.prediction_outputs, evaluated.prediction_outputs, atol=1e-5, rtol=0)
    torch.testing.assert_close(inferred.hidden_states, evaluated.hidden_states, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["self_attn.qkv_proj", "self_attn.out_proj", "fc1", "fc2", "self_attn"])
def test_adapters_and_hooks_are_not_passed_by(model, name):
    past = torch.randn(1, 12, 6, 63)
    layer = model.eval().temporal_layers[0]
    module, seen = layer.get_submodule(name), []
    before = model(past).prediction_outputs
    hook = module.register_forward_hook(lambda *_: seen.append(name))
    torch.testing.assert_close(model(past).prediction_outputs, before, atol=1e-5, rtol=1e-4)
    assert seen == [name]
    hook.remove()
    if isinstance(module, nn.Linear):
        layer.set_submodule(name, nn.Sequential(module, nn.Hardtanh(-0.01, 0.01)))
        assert (model(past).prediction_outputs - before).abs().max() > 1e-4
