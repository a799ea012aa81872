"""The encoder layer on a CPU equals torch's layer, and its masks have the statistics of dropout."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from solared_hf.models import SpatioTemporalAttentionForPrediction
from solared_hf.models.spatio_temporal_attention.attention_on_cpu import Heads, attention
from solared_hf.models.spatio_temporal_attention.dropout_on_cpu import (
    draw_dropped,
    drop,
    mask_of,
    rounded_probability,
)
from solared_hf.models.spatio_temporal_attention.encoder_layer_on_cpu import is_plain_on_cpu
from solared_hf.models.spatio_temporal_attention.feed_forward_on_cpu import feed_forward
from solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention import (
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionLayer,
)

WIDTH, INNER, HEADS = 16, 24, 2


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def encoder_layer(dropout=0.0, attention_dropout=0.0, scale=1.0, seed=0):
    torch.manual_seed(seed)
    config = SpatioTemporalAttentionConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_attention_heads=HEADS,
        dropout=dropout,
        attention_dropout=attention_dropout,
        attn_implementation="sdpa",
    )
    layer = SpatioTemporalAttentionLayer(config).train()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape) * WIDTH**-0.5)
        layer.self_attn.qkv_proj.weight[: 2 * WIDTH] *= scale
    return layer


def torch_layer(layer):
    """Return torch's encoder layer with the same weights in float64, and its parameters by our names."""
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, 0.0, batch_first=True).double()
    names = {
        "self_attn.in_proj_": "self_attn.qkv_proj.",
        "self_attn.out_proj.": "self_attn.out_proj.",
        "norm1.": "attention_norm.",
        "linear1.": "fc1.",
        "linear2.": "fc2.",
        "norm2.": "feed_forward_norm.",
    }
    pairs = {f"{their}{kind}": f"{our}{kind}" for their, our in names.items() for kind in ("weight", "bias")}
    theirs.load_state_dict({their: layer.get_parameter(our) for their, our in pairs.items()})
    parameters = dict(theirs.named_parameters())
    return theirs, {our: parameters[their] for their, our in pairs.items()}


def states(groups, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, groups, length, WIDTH, generator=generator)


def run(layer, hidden, seed=3):
    """Return the output, and the gradients of a weighted sum of the output for the input and every parameter."""
    assert is_plain_on_cpu(layer, hidden)
    torch.manual_seed(seed)
    hidden = hidden.clone().requires_grad_()
    output = layer(hidden)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    parameters = dict(layer.named_parameters())
    gradients = torch.autograd.grad((output * weights).sum(), [hidden, *parameters.values()])
    return output.detach(), dict(zip(["hidden", *parameters], gradients, strict=True))


# The last sizes need several blocks, and the last block is shorter.
@pytest.mark.parametrize(("groups", "length"), [(1, 1), (3, 7), (7, 600), (131, 40)])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_the_layer_equals_that_of_torch(groups, length, scale, threads):
    layer, hidden = encoder_layer(scale=scale), states(groups, length)
    output, gradients = run(layer, hidden)
    theirs, names = torch_layer(layer)
    exact_hidden = hidden[0].double().requires_grad_()
    exact = theirs(exact_hidden)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))[0]
    wanted = [exact_hidden, *names.values()]
    expected = dict(zip(["hidden", *names], torch.autograd.grad((exact * weights).sum(), wanted), strict=True))
    torch.testing.assert_close(output[0].double(), exact, atol=1e-5 * scale, rtol=0)
    for name, gradient in gradients.items():
        difference = (gradient.view_as(expected[name]) - expected[name]).abs().max()
        assert difference <= 1e-5 * scale**2 * max(1, expected[name].abs().max()), name
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(hidden), output, atol=1e-5 * scale, rtol=0)


def test_the_number_of_threads_does_not_change_results():
    layer, hidden = encoder_layer(dropout=0.1, attention_dropout=0.1), states(300, 40)
    before = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(run(layer, hidden))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-6, rtol=1e-5)


def test_two_threads_can_call_a_layer_at_once():
    layer, hidden = encoder_layer(), states(131, 40)
    expected, results = run(layer, hidden), []
    callers = [threading.Thread(target=lambda: results.append(run(layer, hidden))) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 2
    for result in results:
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_gradients_use_the_same_dropout(threads):
    """The derivative along a direction equals differences of the function with the same masks."""
    layer, hidden = encoder_layer(dropout=0.2, attention_dropout=0.3), states(131, 40)
    _, gradients = run(layer, hidden)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))

    def value(name, step):
        torch.manual_seed(3)
        moved = hidden + step if name == "hidden" else hidden
        parameter = None if name == "hidden" else layer.get_parameter(name)
        with torch.no_grad():
            if parameter is not None:
                parameter += step
            result = (layer(moved).double() * weights).sum().item()
            if parameter is not None:
                parameter -= step
        return result

    for name, gradient in gradients.items():
        step = gradient * (1e-3 / gradient.abs().max())
        expected = 2 * (gradient.double() * step).sum().item()
        assert value(name, step) - value(name, -step) == pytest.approx(expected, rel=0.03), name


def test_second_derivatives_equal_those_of_the_modules():
    layer, hidden = encoder_layer(), states(60, 40).requires_grad_()
    wanted = [hidden, *layer.parameters()]
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(4))
    results = []
    for is_plain in (True, False):
        if not is_plain:
            layer.fc1.register_forward_hook(lambda *_: None)
        assert is_plain_on_cpu(layer, hidden) == is_plain
        first = torch.autograd.grad(layer(hidden).square().sum(), hidden, create_graph=True)[0]
        results.append([first, *torch.autograd.grad((first * direction).sum(), wanted, allow_unused=True)])
    for ours, modules in zip(*results, strict=True):
        assert (ours is None) == (modules is None)
        if modules is not None:
            torch.testing.assert_close(ours, modules, atol=1e-4 * modules.abs().max().item(), rtol=0)


def test_gradients_with_a_graph_use_the_same_dropout():
    layer, hidden = encoder_layer(dropout=0.2, attention_dropout=0.3), states(131, 40).requires_grad_()
    gradients = []
    for create_graph in (True, False):
        torch.manual_seed(3)
        loss = layer(hidden).square().sum()
        gradients.append(torch.autograd.grad(loss, [hidden, *layer.parameters()], create_graph=create_graph))
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)


def drawn(size, probability, seed=0):
    return draw_dropped(np.random.Generator(np.random.SFC64(seed)), size, rounded_probability(probability))


def test_attention_probabilities_are_dropped_at_random_and_scaled():
    groups, length, probability = 30, 64, rounded_probability(0.3)
    # With identities for states and values, the output is the attention probabilities.
    identity = torch.eye(length)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, length, length, generator=generator)
    weights = torch.cat([query, key, identity]), torch.zeros(3 * length)
    heads = Heads(1, length, length**-0.5, probability)
    with torch.no_grad():
        mixed = attention(identity.repeat(groups, 1), weights, heads, drawn(groups * length**2, 0.3)[None])
    mixed = mixed.t().view(groups, length, length)
    kept = mixed != 0
    assert kept.float().mean().item() == pytest.approx(1 - probability, abs=5 * (0.21 / kept.numel()) ** 0.5)
    expected = (query.T @ key * length**-0.5).softmax(-1) * kept / (1 - probability)
    torch.testing.assert_close(mixed, expected, atol=1e-6, rtol=1e-5)


def test_inner_values_are_dropped_at_random_and_scaled():
    # With identities for both products, the output is the inner values.
    hidden = torch.randn(4000, 24, generator=torch.Generator().manual_seed(0))
    identity, zeros = torch.eye(24), torch.zeros(24)
    keep = 1 - rounded_probability(0.1)
    with torch.no_grad():
        values = feed_forward(hidden, (identity, zeros, identity, zeros), drawn(hidden.numel(), 0.1), keep)
    kept = values > 1e-6
    assert kept[hidden > 1e-3].float().mean().item() == pytest.approx(keep, abs=0.01)
    torch.testing.assert_close(values, hidden.relu() * kept / keep, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("part", ["attention", "feed forward"])
def test_the_output_of_each_part_is_dropped_at_random(part):
    """Each part adds a constant, so the normalised values show which elements were dropped."""
    layer = encoder_layer(dropout=0.3)
    with torch.no_grad():
        for module in (layer.self_attn.qkv_proj, layer.self_attn.out_proj, layer.fc1, layer.fc2):
            module.weight.zero_()
            module.bias.zero_()
        for module in (layer.attention_norm, layer.feed_forward_norm):
            module.weight.fill_(1)
            module.bias.zero_()
        (layer.self_attn.out_proj if part == "attention" else layer.fc2).bias.fill_(1)
        torch.manual_seed(1)
        output = layer(torch.zeros(1, 50, 100, WIDTH))
    # A position of which all or no values are dropped is 0 everywhere, and does not count.
    informative = output.view(-1, WIDTH)[output.view(-1, WIDTH).abs().amax(-1) > 0.1]
    kept = (informative > 0).float()
    assert len(informative) > 0.98 * output[..., 0].numel()
    assert kept.mean().item() == pytest.approx(0.7, abs=0.02)
    assert abs(np.corrcoef(kept[:, 0], kept[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(kept[1:, 0], kept[:-1, 0])[0, 1]) < 0.1


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.002, 0.999])
def test_masks_drop_independently_with_the_given_probability(probability):
    # Not a whole number of words.
    size, rounded = 3_000_001, rounded_probability(probability)
    assert rounded == pytest.approx(probability, abs=1 / 2048)
    first, second = torch.ones(size), torch.ones(size)
    words = [drawn(size, probability, seed) for seed in (0, 1)]
    with torch.no_grad():
        for values, bits in zip((first, second), words, strict=True):
            drop(values, mask_of(bits, values.shape))
    variance = rounded * (1 - rounded)
    for values in (first, second):
        assert set(values.unique().tolist()) == {0.0, 1.0}
        assert values.mean().item() == pytest.approx(1 - rounded, abs=4.5 * (variance / size) ** 0.5)
    # Pairs of neighbours in memory, of bits of one word, and of two masks.
    pairs = [(first[lag:], first[:-lag]) for lag in (1, len(words[0]))]
    for values, others in [*pairs, (first[:-64], second[64:])]:
        assert abs(np.corrcoef(values, others)[0, 1]) < 4.5 / size**0.5


def test_a_mask_drops_the_same_with_and_without_gradients():
    values = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    mask = mask_of(drawn(values.numel(), 0.5), values.shape)
    with torch.no_grad():
        in_place = drop(values.clone(), mask)
    torch.testing.assert_close(drop(values, mask), in_place, atol=0, rtol=0)
    assert (in_place == 0).any()


def test_without_dropout_no_random_numbers_are_drawn():
    layer = encoder_layer()
    before = torch.get_rng_state()
    layer(states(3, 7))
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

    torch.testing.assert_close(predictions(7), predictions(7), atol=1e-6, rtol=1e-5)
    assert (predictions(7) - predictions(8)).abs().max() > 1e-3


def test_inference_mode_equals_evaluation(model):
    past = torch.randn(6, 40, 6, 63)
    evaluated = model.eval()(past, output_hidden_states=True)
    with torch.inference_mode():
        inferred = model(past, output_hidden_states=True)
    torch.testing.assert_close(inferred.prediction_outputs, evaluated.prediction_outputs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inferred.hidden_states, evaluated.hidden_states, atol=1e-5, rtol=1e-5)


def test_another_default_device_does_not_disturb_a_model_on_the_cpu(model):
    past, future = torch.randn(2, 24, 6, 63), torch.zeros(2, 63)
    with torch.device("meta"):
        model.train()(past, future_values=future).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
