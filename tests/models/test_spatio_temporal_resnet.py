"""The ResNet family: torchvision's network, with the initialisation of torchvision."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import R3D_18_Weights, r3d_18
from torchvision.models.video.resnet import BasicBlock
from transformers import Trainer, TrainingArguments

from solared_hf.models import SpatioTemporalResnetConfig, SpatioTemporalResnetForPrediction
from solared_hf.models.spatio_temporal_resnet.modeling_spatio_temporal_resnet import (
    SpatioTemporalResnetConv3d,
    load_kinetics_weights,
)
from solared_hf.schema import CHANNELS, NUM_TILES, TARGET_CHANNEL

STEPS = 4


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig()).eval()


def make_batch(size=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    past = torch.randn(size, STEPS, len(CHANNELS), NUM_TILES, generator=generator)
    return past, torch.randn(size, NUM_TILES, generator=generator)


def predict(model, past, **kwargs):
    with torch.no_grad():
        return model(past_values=past, **kwargs).prediction_outputs


def test_config_defaults_are_the_vocabulary():
    config = SpatioTemporalResnetConfig()
    assert (config.input_channels, config.target_channel) == (list(CHANNELS), TARGET_CHANNEL)
    assert (config.num_channels, config.num_tiles, config.spatial_layout) == (6, NUM_TILES, "flat")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"spatial_layout": "grid", "num_tiles": 81}, "Choose spatial_layout='flat'"),
        ({"spatial_layout": "cube"}, "spatial_layout"),
        ({"input_channels": []}, "at least one channel"),
        ({"input_steps": 0}, "must be at least 1"),
        ({"horizon_hours": 0.0}, "must be positive"),
    ],
)
def test_a_contradictory_configuration_is_refused_with_a_remedy(fields, sentence):
    with pytest.raises(StrictDataclassError, match=sentence):
        SpatioTemporalResnetConfig(**fields)


def test_initialisation_equals_that_of_torchvision(model):
    torch.manual_seed(1)
    theirs = dict(r3d_18(num_classes=NUM_TILES).named_parameters())
    for name, ours in model.backbone.named_parameters():
        if name == "stem.0.weight":
            # Six channels instead of three change the fan in, and torchvision's rule uses the fan out.
            assert ours.shape == (64, 6, 3, 7, 7)
        else:
            assert ours.shape == theirs[name].shape
        assert ours.std(correction=0).item() == pytest.approx(theirs[name].std(correction=0).item(), rel=0.05), name
        assert ours.mean().item() == pytest.approx(theirs[name].mean().item(), abs=1e-3), name
    for name, buffer in model.backbone.named_buffers():
        assert (buffer == (1 if name.endswith("running_var") else 0)).all(), name


def plain_torchvision(state_dict):
    """Return the network of the published baseline: torchvision's network with a stem for six channels."""
    network = r3d_18(num_classes=NUM_TILES)
    network.stem[0] = nn.Conv3d(6, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
    network.load_state_dict(state_dict)
    return network


@pytest.mark.parametrize(("layout", "rows"), [("flat", 1), ("grid", 7)])
def test_the_network_equals_that_of_torchvision(model, layout, rows):
    ours = copy.deepcopy(model)
    ours.config.spatial_layout = layout
    theirs = plain_torchvision(ours.backbone.state_dict())
    past, future = make_batch(size=4)
    clip = torch.stack([past[:, :, channel].reshape(4, STEPS, rows, -1) for channel in range(6)], dim=1)
    for training in (True, False):  # Training first, so that evaluation uses the statistics of the training.
        ours.train(training).zero_grad()
        theirs.train(training).zero_grad()
        output, expected = ours(past, future_values=future), theirs(clip)
        torch.testing.assert_close(output.prediction_outputs, expected, atol=1e-5, rtol=0)
        output.loss.backward()
        nn.functional.mse_loss(expected, future).backward()
        gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
        for name, parameter in ours.backbone.named_parameters():
            error = (parameter.grad - gradients[name]).abs().max() / gradients[name].abs().max()
            assert error < 1e-4, name  # Also fails for NaN, from a gradient of zeros.
    torch.testing.assert_close(ours.backbone.state_dict(), theirs.state_dict(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 3)])
@pytest.mark.parametrize("kernel_size", [(1, 1, 1), (3, 3, 3), (3, 7, 7)])
def test_the_convolution_equals_that_of_torch_for_every_number_of_pixels(kernel_size, stride):
    torch.manual_seed(0)
    padding = tuple(size // 2 for size in kernel_size)
    ours = SpatioTemporalResnetConv3d(2, 3, kernel_size, stride, padding, bias=False).double()
    theirs = nn.Conv3d(2, 3, kernel_size, stride, padding, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    for shape in itertools.product((1, 2, 3, 8), repeat=3):
        clip = torch.randn(2, 2, *shape, dtype=torch.float64, requires_grad=True)
        output, expected = ours(clip), theirs(clip)
        torch.testing.assert_close(output, expected)
        direction = torch.randn_like(expected)
        gradients = torch.autograd.grad(output, (clip, ours.weight), direction)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, (clip, theirs.weight), direction))


def test_a_picture_of_one_row_costs_no_arithmetic_on_padding(model):
    def operations(network, clip):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(clip)
        return counter.get_total_flops()

    clip = torch.zeros(1, 6, 16, 1, NUM_TILES)
    assert operations(model.backbone, clip) < 0.35 * operations(plain_torchvision(model.backbone.state_dict()), clip)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_recomputes_and_changes_nothing(model, use_reentrant):
    past, future = make_batch()

    def train_step(checkpointing):
        network = copy.deepcopy(model).train()
        if checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        runs = []
        for module in network.modules():
            if isinstance(module, BasicBlock):
                module.conv1.register_forward_hook(lambda *_: runs.append(1))
        output = network(past, future_values=future, output_hidden_states=True)
        output.loss.backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        statistics = {name: buffer for name, buffer in network.named_buffers() if "running" in name}
        momenta = {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm3d)}
        return len(runs), (output.loss, output.hidden_states, gradients, statistics, momenta)

    plain_runs, plain = train_step(checkpointing=False)
    runs, recomputed = train_step(checkpointing=True)
    assert (plain_runs, runs) == (8, 16)
    torch.testing.assert_close(recomputed[:-1], plain[:-1], atol=1e-5, rtol=1e-4)
    assert recomputed[-1] == plain[-1]


def test_a_saved_model_predicts_the_same(model, tmp_path):
    # Statistics of a fresh model are zeros and ones, and a lost buffer could have the same values.
    model.backbone.stem[1].running_mean.fill_(0.25)
    model.save_pretrained(tmp_path)
    reloaded = SpatioTemporalResnetForPrediction.from_pretrained(tmp_path)
    past, _ = make_batch()
    expected = predict(model, past)
    torch.testing.assert_close(predict(reloaded, past), expected, atol=1e-5, rtol=0)
    model.backbone.stem[1].running_mean.zero_()
    assert (predict(model, past) - expected).abs().max() > 1e-3


def test_predictions_do_not_depend_on_the_rest_of_the_batch(model):
    past, _ = make_batch(size=3)
    alone = predict(model, past[:1])
    past[1], past[2] = 1e6, float("nan")
    torch.testing.assert_close(predict(model, past)[:1], alone, atol=1e-5, rtol=0)


def test_a_masked_nan_is_read_as_zero(model):
    past, _ = make_batch()
    mask = torch.rand(past.shape, generator=torch.Generator().manual_seed(3)) > 0.3
    expected = predict(model, past * mask)
    assert (expected - predict(model, past)).abs().max() > 1e-3
    past[~mask] = float("nan")
    torch.testing.assert_close(predict(model, past, past_observed_mask=mask), expected, atol=1e-5, rtol=0)


def test_outputs(model):
    past, future = make_batch()
    output = model(past, future_values=future, output_hidden_states=True)
    torch.testing.assert_close(output.loss, (output.prediction_outputs - future).pow(2).mean())
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    assert [state.shape[1] for state in output.hidden_states] == widths
    assert output.hidden_states[0].shape == (2, 64, STEPS, 1, 32)
    loss, predictions = model(past, future_values=future, return_dict=False)
    assert (loss.shape, predictions.shape) == ((), (2, NUM_TILES))


def test_bf16_model_takes_float32_input_and_keeps_a_float32_loss(model):
    past, future = make_batch()
    expected = predict(model, past)
    try:
        output = model.to(torch.bfloat16)(past, future_values=future)
    finally:
        model.to(torch.float32)
    assert (output.prediction_outputs.dtype, output.loss.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(output.prediction_outputs.float(), expected, atol=0.05, rtol=0.1)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"past_values": (2, 6, NUM_TILES)}, r"got \(2, 6, 63\)"),
        ({"past_values": (2, STEPS, 5, NUM_TILES)}, r"6 channels, 63 tiles\) .* got \(2, 4, 5, 63\)"),
        ({"past_values": (2, 0, 6, NUM_TILES)}, "at least one step"),
        ({"past_observed_mask": (2, STEPS, 6, 1)}, r"shape of past_values"),
        ({"future_values": (2, 1)}, r"\(batch_size, tiles\) = \(2, 63\), got \(2, 1\)"),
    ],
)
def test_a_wrong_shape_is_refused_with_the_expected_shape(model, shapes, sentence):
    inputs = {name: torch.ones(shape) for name, shape in {"past_values": (2, STEPS, 6, NUM_TILES), **shapes}.items()}
    with pytest.raises(ValueError, match=sentence):
        model(**inputs)


@pytest.mark.parametrize("source", ["state dict", "file", "torchvision"])
def test_kinetics_weights_replace_all_but_stem_and_head(source, tmp_path, monkeypatch):
    torch.manual_seed(7)
    kinetics = r3d_18(num_classes=400).state_dict()
    kinetics["stem.1.running_mean"] += 0.5
    # torchvision looks into its cache before it downloads.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / Path(R3D_18_Weights.KINETICS400_V1.url).name
    cached.parent.mkdir(parents=True)
    torch.save(kinetics, cached)

    model = SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig())
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    kept = load_kinetics_weights(model, {"state dict": kinetics, "file": cached, "torchvision": None}[source])
    assert set(kept) == {"stem.0.weight", "fc.weight", "fc.bias"}
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, (before if name in kept else kinetics)[name]), name


def test_three_channels_take_the_kinetics_stem_too():
    kinetics = r3d_18(num_classes=400).state_dict()
    model = SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig(input_channels=list(CHANNELS[:3])))
    assert set(load_kinetics_weights(model, kinetics)) == {"fc.weight", "fc.bias"}
    assert torch.equal(model.backbone.stem[0].weight, kinetics["stem.0.weight"])


def test_weights_of_another_network_are_refused(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = {name: tensor for name, tensor in model.backbone.state_dict().items() if not name.startswith("layer3")}
    with pytest.raises(ValueError, match="not those of torchvision's r3d_18: 'layer3"):
        load_kinetics_weights(model, weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_accumulated_batches_equal_one_batch(tmp_path):
    # All samples are the same, because batch statistics would differ between halves of a batch.
    past, future = make_batch(size=1)
    # A column named labels makes the Trainer count items for models with `accepts_loss_kwargs`.
    rows = 4 * [{"past_values": past[0], "future_values": future[0], "labels": future[0]}]

    def trained(batch_size, accumulation):
        torch.manual_seed(0)
        model = SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig())
        arguments = TrainingArguments(
            output_dir=tmp_path,
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.1,
            # Clipping would hide a gradient of the wrong norm.
            max_grad_norm=0.0,
            remove_unused_columns=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        before = model.backbone.fc.weight.detach().clone()
        Trainer(model=model, args=arguments, train_dataset=rows).train()
        return model.backbone.fc.weight.detach() - before

    whole, accumulated = trained(4, 1), trained(2, 2)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(accumulated, whole, atol=1e-5, rtol=1e-3)
