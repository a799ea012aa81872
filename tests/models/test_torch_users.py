"""Models of all families work with the tools of torch: hooks, adapters, offloading, transforms and export."""

import copy
from functools import partial

import accelerate
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from tests.models.families import SMALL, small_model

STEPS, TILES = 12, 63


@pytest.fixture(params=SMALL)
def model(request):
    model = small_model(request.param, input_steps=STEPS)
    if request.param == "quantile_trajectory":
        # Untrained, the model forecasts persistence, which most weights do not change.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def attention():
    return small_model("spatio_temporal_attention", input_steps=STEPS).eval()


def past_values(size=2, steps=STEPS):
    return torch.randn(size, steps, 6, TILES, generator=torch.Generator().manual_seed(1))


def predict(model, past):
    return model(past_values=past).prediction_outputs


def close(first, second, atol=1e-5):
    torch.testing.assert_close(first, second, atol=atol, rtol=1e-3)


def train_step(model, past):
    model.train()(past_values=past, future_values=torch.zeros(len(past), TILES)).loss.backward()


def modules_that_compute(model):
    """Return all modules with a forward method, by name."""
    return {name: module for name, module in model.named_modules() if name and not isinstance(module, nn.ModuleList)}


# Hooks


@pytest.mark.parametrize("train", [False, True])
def test_hooks_of_every_module_are_called(model, train):
    modules, called, hooks = modules_that_compute(model), {"before": set(), "after": set()}, []
    for name, module in modules.items():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: called["before"].add(name)))
        hooks.append(module.register_forward_hook(lambda *_, name=name: called["after"].add(name)))
    model.train(train)(past_values=past_values())
    assert called["before"] == called["after"] == set(modules)


def test_backward_hooks_of_every_module_are_called(model):
    modules, called = modules_that_compute(model), set()
    for name, module in modules.items():
        module.register_full_backward_hook(lambda *_, name=name: called.add(name))
    past = past_values().requires_grad_()
    train_step(model, past)
    # torch hooks outputs that are tensors, and the decoder uses only the state of the encoder, which is a tuple.
    assert set(modules) - called <= {"encoder"}
    assert past.grad.isfinite().all()


def test_hooks_of_all_modules_at_once_are_called(model):
    called = []
    hook = register_module_forward_hook(lambda module, *_: called.append(module))
    try:
        predict(model, past_values())
    finally:
        hook.remove()
    assert set(modules_that_compute(model).values()) <= set(called)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", ["forward", "forward pre", "full backward", "full backward pre"])
def test_one_hook_on_any_module_of_a_layer_is_called(attention, kind, train):
    for name, module in attention.temporal_layers[0].named_modules():
        called = []
        register = getattr(module, f"register_{kind.replace(' ', '_')}_hook")
        hook = register(lambda *_, called=called: called.append(1))
        attention.train(train)(past_values=past_values()).prediction_outputs.sum().backward()
        hook.remove()
        assert called, name


# Changed modules


def linear_modules(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize("train", [False, True])
def test_a_replaced_module_is_used(attention, train):
    past = past_values()
    for layer in attention.spatial_layers:
        layer.dropout.p = layer.self_attn.attention_dropout = 0.0
    for layer in attention.temporal_layers:
        layer.dropout.p = layer.self_attn.attention_dropout = 0.0
    attention.train(train)
    before = predict(attention, past)
    for name, module in list(modules_that_compute(attention.temporal_layers[0]).items()):
        changed = copy.deepcopy(attention)
        layer = changed.temporal_layers[0]
        layer.set_submodule(name, nn.Identity() if name != "self_attn" else Doubled(layer.self_attn))
        if name in ("self_attn.qkv_proj", "fc1", "fc2"):
            # These modules change the width, so the replacement must change it too.
            layer.set_submodule(name, nn.Sequential(module, nn.Hardtanh(-0.01, 0.01)))
        differs = (predict(changed, past) - before).abs().max() > 1e-6
        assert differs == (name != "dropout"), name


class Doubled(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.attention_dropout, self.config = attention.attention_dropout, attention.config

    def forward(self, *arguments, **options):
        output, probabilities = self.attention(*arguments, **options)
        return 2 * output, probabilities


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("of", ["module", "class"])
def test_a_replaced_forward_is_used(attention, of, train, monkeypatch):
    attention.train(train)
    for name, module in attention.temporal_layers[0].named_modules():
        if name:
            called, target = [], module if of == "module" else type(module)
            forward = target.forward

            def replaced(*arguments, forward=forward, called=called, **options):
                called.append(1)
                return forward(*arguments, **options)

            with monkeypatch.context() as patch:
                patch.setattr(target, "forward", replaced)
                train_step(attention, past_values()) if train else predict(attention, past_values())
            assert called, name


def test_adapters_are_used_and_trained(model):
    peft = pytest.importorskip("peft")
    past, names = past_values(), list(linear_modules(model))
    before = predict(model, past)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=names, init_lora_weights=False))
    assert (predict(adapted, past) - before).abs().max() > 1e-5
    train_step(adapted, past)
    adapters = {name: parameter for name, parameter in adapted.named_parameters() if "lora" in name}
    assert len(adapters) == 2 * len(names)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapters.values())


def test_parametrised_weights_are_used(attention):
    class Zero(nn.Module):
        def forward(self, weight):
            return 0 * weight

    before = predict(attention, past_values())
    parametrize.register_parametrization(attention.temporal_layers[0].fc1, "weight", Zero())
    assert (predict(attention, past_values()) - before).abs().max() > 1e-6


def test_dynamic_quantisation_changes_forecasts_little(model):
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    close(predict(quantised, past_values()), predict(model, past_values()), atol=0.1)


def test_dropout_can_be_switched_on_in_evaluation(attention):
    for module in attention.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    past = past_values()
    assert (predict(attention, past) - predict(attention, past)).abs().max() > 1e-4


def test_dropout_can_be_switched_off_in_training(attention):
    past, before = past_values(), predict(attention, past_values())
    attention.train()
    for module in attention.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for layer in (*attention.temporal_layers, *attention.spatial_layers):
        layer.self_attn.attention_dropout = 0.0
    close(predict(attention, past), before)


# Moved weights


def test_offloaded_weights_are_loaded_when_needed(model):
    past = past_values()
    expected = predict(model, past).detach()
    accelerate.cpu_offload(model, execution_device="cpu")
    assert all(parameter.is_meta for parameter in model.parameters())
    with torch.no_grad():
        close(predict(model, past), expected)


def test_functional_call_uses_the_given_weights(model):
    zeros = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    past = past_values()
    given = torch.func.functional_call(model, zeros, (past,)).prediction_outputs
    assert (given - predict(model, past)).abs().max() > 1e-5


# Transforms


def test_jacobians_agree_in_backward_and_forward_mode(model):
    past = past_values(1)
    direction = torch.randn(past.shape, generator=torch.Generator().manual_seed(2))

    def sums(values):
        return predict(model, values).unflatten(1, (9, 7)).sum(-1)

    jacobian = torch.func.jacrev(sums)(past)
    expected = torch.autograd.functional.jacobian(sums, past)
    close(jacobian, expected)
    along = (expected * direction).flatten(2).sum(-1)
    close(torch.func.jvp(sums, (past,), (direction,))[1], along, atol=1e-4)
    with forward_ad.dual_level():
        dual = sums(forward_ad.make_dual(past, direction))
        close(forward_ad.unpack_dual(dual).tangent, along, atol=1e-4)


def test_vmap_equals_a_loop(model):
    past = past_values(3)[:, None]
    expected = torch.stack([predict(model, window) for window in past])
    close(torch.func.vmap(partial(predict, model))(past), expected)
    with torch.no_grad():
        close(torch.func.vmap(partial(predict, model))(past), expected)


def test_gradients_of_each_sample_at_once(model):
    past = past_values(2)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters, window):
        return torch.func.functional_call(model, parameters, (window[None],)).prediction_outputs.square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, past)
    for index, window in enumerate(past):
        model.zero_grad()
        predict(model, window[None]).square().sum().backward()
        for name, parameter in model.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            close(gradients[name][index], expected, atol=1e-3 * max(1, expected.abs().max().item()))


@pytest.mark.parametrize("train", [False, True])
def test_gradients_can_be_differentiated(model, train):
    past = past_values().requires_grad_()
    model.train(train)
    gradient = torch.autograd.grad(predict(model, past).square().sum(), past, create_graph=True)[0]
    gradient.square().sum().backward()
    assert past.grad.isfinite().all()
    assert past.grad.any()


@pytest.mark.parametrize("train", [False, True])
def test_an_empty_batch_gives_an_empty_forecast(model, train):
    past, future = past_values(0), torch.zeros(0, TILES)
    mask = torch.ones_like(past, dtype=torch.bool)
    output = model.train(train)(past, past_observed_mask=mask, future_values=future, output_hidden_states=True)
    assert output.prediction_outputs.shape == (0, TILES)
    output.loss.backward()
    trajectory = getattr(output, "trajectory_outputs", None)
    assert trajectory is None or trajectory.shape == (0, model.config.forecast_steps, TILES)


# Export


def test_a_traced_model_forecasts_the_same(model):
    traced = torch.jit.trace(model, example_kwarg_inputs={"past_values": past_values()}, strict=False)
    other = past_values(3) + 1
    close(traced(past_values=other)["prediction_outputs"], predict(model, other))


def test_a_compiled_model_forecasts_the_same(model):
    compiled = torch.compile(model, backend="eager")
    close(predict(compiled, past_values()), predict(model, past_values()))


def test_an_onnx_model_forecasts_the_same_for_any_batch_and_number_of_steps(model, tmp_path):
    past = past_values()
    observed = torch.rand(past.shape, generator=torch.Generator().manual_seed(3)) > 0.3
    inputs = {"past_values": past.masked_fill(~observed, float("nan")), "past_observed_mask": observed}
    program = torch.onnx.export(
        model, kwargs=inputs, dynamic_shapes={name: {0: "batch", 1: "steps"} for name in inputs}, verbose=False
    )
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == list(inputs)
    for size, steps in ((2, STEPS), (5, STEPS + 5)):
        other = past_values(size, steps)
        observed = torch.rand(other.shape, generator=torch.Generator().manual_seed(4)) > 0.3
        given = {"past_values": other.masked_fill(~observed, float("nan")), "past_observed_mask": observed}
        with torch.no_grad():
            expected = model(**given)
        outputs = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        for output, tensor in zip(outputs, expected.to_tuple(), strict=True):
            np.testing.assert_allclose(output, tensor.numpy(), atol=1e-4, rtol=1e-3)
