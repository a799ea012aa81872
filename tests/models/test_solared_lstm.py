"""The LSTM family: the computation of the paper, for each tile on its own."""

from datetime import timedelta

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTimeSeriesPrediction, Trainer, TrainingArguments

from solared_hf import SolaredProcessor, SolaredWindows
from solared_hf.models import SolaredLstmConfig, SolaredLstmForPrediction
from solared_hf.schema import CHANNELS, NUM_TILES

STEPS, TILES, AHEAD = 7, 5, 4
SMALL = {
    "num_tiles": TILES,
    "hidden_size": 8,
    "num_layers": 2,
    "input_steps": STEPS,
    "forecast_steps": AHEAD,
    "horizon_hours": 3.0,
}


def small_model(seed=0, **fields):
    torch.manual_seed(seed)
    return SolaredLstmForPrediction(SolaredLstmConfig(**{**SMALL, **fields})).eval()


def small_batch(size=3, seed=1):
    """Return past values, and the trajectory that follows them."""
    generator = torch.Generator().manual_seed(seed)
    past = torch.randn(size, STEPS, len(CHANNELS), TILES, generator=generator)
    return past, torch.randn(size, AHEAD, TILES, generator=generator)


def forecast(model, past, **kwargs):
    with torch.no_grad():
        return model(past_values=past, **kwargs).trajectory_outputs


def gradients(model, **inputs):
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


# Mathematics


def by_hand(model, sequence):
    """Return the trajectory of one tile from `sequence` (steps, channels), by the equations of an LSTM in float64."""
    weights = {name: weight.detach().double() for name, weight in model.named_parameters()}

    def advance(network, value, hidden, cell):
        for layer in range(len(hidden)):
            inputs, recurrent, input_bias, recurrent_bias = (
                weights[f"{network}.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            gates = inputs @ value + input_bias + recurrent @ hidden[layer] + recurrent_bias
            enter, forget, candidate, leave = gates.chunk(4)
            cell[layer] = forget.sigmoid() * cell[layer] + enter.sigmoid() * candidate.tanh()
            hidden[layer] = value = leave.sigmoid() * cell[layer].tanh()
        return value

    size, layers = model.config.hidden_size, model.config.num_layers
    hidden, cell = ([torch.zeros(size, dtype=torch.float64) for _ in range(layers)] for _ in range(2))
    for value in sequence.double():
        advance("encoder", value, hidden, cell)
    output, trajectory = torch.zeros(size, dtype=torch.float64), []
    for _ in range(model.config.forecast_steps):
        output = advance("decoder", output, hidden, cell)
        trajectory.append(weights["prediction_head.weight"][0] @ output + weights["prediction_head.bias"][0])
    return torch.stack(trajectory).float()


@pytest.mark.parametrize("steps", [1, STEPS, STEPS + 5])
def test_trajectories_follow_the_equations_for_any_number_of_steps(steps):
    model = small_model(num_layers=3)
    past = torch.randn(2, steps, len(CHANNELS), TILES, generator=torch.Generator().manual_seed(2))
    ours = forecast(model, past)
    assert ours.shape == (2, AHEAD, TILES)
    for window in range(2):
        for tile in range(TILES):
            expected = by_hand(model, past[window, :, :, tile])
            torch.testing.assert_close(ours[window, :, tile], expected, atol=1e-6, rtol=0)


def test_the_prediction_is_the_trajectory_at_the_horizon():
    past, _ = small_batch()
    for hours, index in ((1.0, 0), (3.0, 2), (4.0, 3)):
        with torch.no_grad():
            output = small_model(horizon_hours=hours)(past)
        assert torch.equal(output.prediction_outputs, output.trajectory_outputs[:, index])
    assert output.trajectory_outputs.std(dim=1).min() > 0


def test_the_published_task_does_not_need_the_intensity():
    model = SolaredLstmForPrediction(SolaredLstmConfig(input_channels=CHANNELS[:5])).eval()
    output = model(torch.zeros(2, 10, 5, NUM_TILES))
    assert output.prediction_outputs.shape == (2, NUM_TILES)
    assert output.trajectory_outputs.shape == (2, 24, NUM_TILES)


def test_each_tile_is_a_separate_sequence():
    model = small_model()
    past, _ = small_batch(size=4)
    expected = forecast(model, past)
    changed = past.clone()
    changed[0, :, :, 2] = float("nan")
    changed[1] = 1e6
    kept = torch.ones(4, TILES, dtype=torch.bool)
    kept[0, 2], kept[1] = False, False
    ours = forecast(model, changed).transpose(1, 2)
    torch.testing.assert_close(ours[kept], expected.transpose(1, 2)[kept], atol=1e-6, rtol=0)
    assert ours[0, 2].isnan().all()
    # All tiles share the weights, so a permutation of the tiles permutes the forecasts.
    torch.testing.assert_close(forecast(model, past.flip(-1)), expected.flip(-1), atol=1e-6, rtol=0)


def test_a_masked_nan_is_read_as_zero():
    model = small_model()
    past, future = small_batch()
    mask = torch.rand(past.shape, generator=torch.Generator().manual_seed(3)) > 0.3
    expected = forecast(model, past * mask)
    assert (expected - forecast(model, past)).abs().max() > 1e-4
    past[~mask] = float("nan")
    torch.testing.assert_close(forecast(model, past, past_observed_mask=mask), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(forecast(model, past, past_observed_mask=mask.float()), expected, atol=1e-6, rtol=0)
    found = gradients(model, past_values=past, past_observed_mask=mask, future_trajectory=future)
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_a_masked_value_that_the_processor_filled_in_is_used():
    model = small_model()
    past, _ = small_batch()
    mask = torch.zeros_like(past, dtype=torch.bool)
    torch.testing.assert_close(
        forecast(model, past, past_observed_mask=mask), forecast(model, past), atol=1e-6, rtol=0
    )


def test_dropout_acts_only_in_training():
    past, _ = small_batch()
    model = small_model(dropout=0.5)
    expected = forecast(model, past)
    torch.testing.assert_close(expected, forecast(small_model(), past), atol=1e-6, rtol=0)
    torch.manual_seed(0)
    assert (forecast(model.train(), past) - expected).abs().max() > 1e-3
    torch.testing.assert_close(forecast(small_model().train(), past), expected, atol=1e-6, rtol=0)


# The loss


def test_the_loss_of_a_trajectory_is_over_the_observed_values():
    model = small_model()
    past, future = small_batch()
    observed = torch.rand(future.shape, generator=torch.Generator().manual_seed(4)) > 0.4
    future[~observed] = float("nan")
    output = model(past, future_trajectory=future)
    errors = (output.trajectory_outputs - future)[observed]
    torch.testing.assert_close(output.loss, errors.pow(2).mean())
    # The trajectory includes the target at the horizon, which must not count twice.
    both = model(past, future_values=future[:, 2], future_trajectory=future)
    torch.testing.assert_close(both.loss, output.loss)


def test_missing_targets_get_no_gradient():
    model = small_model()
    past, future = small_batch()
    future[1] = float("nan")
    ours = gradients(model, past_values=past, future_trajectory=future)
    kept = [0, 2]
    expected = gradients(model, past_values=past[kept], future_trajectory=future[kept])
    torch.testing.assert_close(ours, expected)


def test_without_a_trajectory_the_loss_is_at_the_horizon():
    model = small_model()
    past, future = small_batch()
    target = future[:, 2].clone()
    output = model(past, future_values=target)
    torch.testing.assert_close(output.loss, (output.prediction_outputs - target).pow(2).mean())
    only_there = torch.full_like(future, float("nan"))
    only_there[:, 2] = target
    torch.testing.assert_close(model(past, future_trajectory=only_there).loss, output.loss)
    target[:, 1:] = float("nan")
    expected = (output.prediction_outputs - target)[:, 0].pow(2).mean()
    torch.testing.assert_close(model(past, future_values=target).loss, expected)
    assert model(past).loss is None


def test_a_batch_without_observed_targets_has_no_gradient():
    model = small_model()
    past, future = small_batch()
    unknown = torch.full_like(future, float("nan"))
    assert model(past, future_trajectory=unknown).loss.item() == 0
    assert all((found == 0).all() for found in gradients(model, past_values=past, future_trajectory=unknown).values())


# What forward returns


def test_hidden_states_are_the_outputs_of_encoder_and_decoder():
    model = small_model()
    past, _ = small_batch()
    output = model(past, output_hidden_states=True)
    encoded, decoded = output.hidden_states
    assert (encoded.shape, decoded.shape) == ((3, TILES, STEPS, 8), (3, TILES, AHEAD, 8))
    theirs = model.encoder(past[1, :, :, 3])[0]
    torch.testing.assert_close(encoded[1, 3], theirs, atol=1e-6, rtol=0)
    read = model.prediction_head(decoded).squeeze(-1).transpose(1, 2)
    torch.testing.assert_close(read, output.trajectory_outputs, atol=1e-6, rtol=0)
    assert model(past).hidden_states is None


def test_return_dict_false_gives_loss_predictions_and_trajectories():
    past, future = small_batch()
    loss, predictions, trajectories = small_model()(past, future_trajectory=future, return_dict=False)
    assert (loss.shape, predictions.shape, trajectories.shape) == ((), (3, TILES), (3, AHEAD, TILES))


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"past_values": (3, STEPS, TILES)}, r"\(batch_size, steps, 6 channels, 5 tiles\) .*, got \(3, 7, 5\)"),
        ({"past_values": (3, STEPS, 4, TILES)}, r"got \(3, 7, 4, 5\)"),
        ({"past_values": (3, STEPS, 6, 63)}, r"got \(3, 7, 6, 63\)"),
        ({"past_values": (3, 0, 6, TILES)}, r"at least one step, got \(3, 0, 6, 5\)"),
        ({"past_observed_mask": (3, STEPS, 1, TILES)}, r"shape of past_values, \(3, 7, 6, 5\), got \(3, 7, 1, 5\)"),
        ({"future_values": (3, 1)}, r"\(batch_size, tiles\) = \(3, 5\), got \(3, 1\)"),
        ({"future_trajectory": (3, TILES)}, r"forecast_steps, tiles\) = \(3, 4, 5\), got \(3, 5\)"),
        ({"future_trajectory": (3, 24, TILES)}, r"got \(3, 24, 5\)"),
    ],
)
def test_a_wrong_shape_is_refused_with_the_expected_shape(shapes, sentence):
    inputs = {name: torch.ones(shape) for name, shape in {"past_values": (3, STEPS, 6, TILES), **shapes}.items()}
    with pytest.raises(ValueError, match=sentence):
        small_model()(**inputs)


def test_bf16_model_takes_float32_input_and_keeps_a_float32_loss(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    half = SolaredLstmForPrediction.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    past, future = small_batch()
    output = half(past, future_trajectory=future)
    assert (output.trajectory_outputs.dtype, output.loss.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(output.trajectory_outputs.float(), forecast(model, past), atol=0.02, rtol=0)
    torch.testing.assert_close(output.loss, (output.trajectory_outputs.float() - future).pow(2).mean())


# Saving, initialisation, training


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForTimeSeriesPrediction, SolaredLstmForPrediction])
def test_a_saved_model_forecasts_the_same(tmp_path, auto):
    model = small_model()
    model.save_pretrained(tmp_path)
    torch.manual_seed(1)
    reloaded = auto.from_pretrained(tmp_path)
    assert type(reloaded) is SolaredLstmForPrediction
    past, _ = small_batch()
    torch.testing.assert_close(forecast(reloaded, past), forecast(model, past), atol=1e-6, rtol=0)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(dict(model.named_parameters()))


def test_auto_classes_build_the_family():
    config = AutoConfig.for_model("solared_lstm", **SMALL)
    assert isinstance(AutoModelForTimeSeriesPrediction.from_config(config), SolaredLstmForPrediction)


def test_field_overridden_on_loading_is_validated(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="raise forecast_steps"):
        SolaredLstmForPrediction.from_pretrained(tmp_path, horizon_hours=5.0)


def assert_uniform(ours, theirs, name):
    assert ours.shape == theirs.shape
    # A uniform distribution is determined by its largest value and its mean. The smallest vectors have 64 draws.
    assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.1), name
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=0.03), name


def test_initialisation_equals_that_of_torch():
    torch.manual_seed(0)
    model = SolaredLstmForPrediction(SolaredLstmConfig())
    pairs = (
        (model.encoder, nn.LSTM(6, 64, 3)),
        (model.decoder, nn.LSTM(64, 64, 3)),
    )
    for ours, theirs in pairs:
        for name, expected in theirs.named_parameters():
            assert_uniform(ours.get_parameter(name), expected, name)
    assert_uniform(model.prediction_head.weight, nn.Linear(64, 1).weight, "prediction_head")
    assert 0 < model.prediction_head.bias.abs().item() <= 1 / 8


def test_only_weights_that_are_not_loaded_are_initialised(tmp_path):
    torch.manual_seed(0)
    SolaredLstmForPrediction(SolaredLstmConfig()).save_pretrained(tmp_path)
    saved = dict(SolaredLstmForPrediction.from_pretrained(tmp_path).named_parameters())
    model = SolaredLstmForPrediction.from_pretrained(
        tmp_path, input_channels=list(CHANNELS[:5]), ignore_mismatched_sizes=True
    )
    fresh = "encoder.weight_ih_l0"
    assert all(torch.equal(weight, saved[name]) for name, weight in model.named_parameters() if name != fresh)
    assert_uniform(model.get_parameter(fresh), nn.LSTM(5, 64).weight_ih_l0, fresh)
    # The LSTM computes with the initialised weights and not with the weights from its construction.
    past = torch.randn(1, 3, 5, NUM_TILES, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(forecast(model, past)[0, :, 0], by_hand(model, past[0, :, :, 0]), atol=1e-6, rtol=0)


def training_arguments(folder, **options):
    return TrainingArguments(
        output_dir=folder,
        optim="sgd",
        learning_rate=0.1,
        # Clipping would hide a gradient of the wrong norm.
        max_grad_norm=0.0,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        label_names=["future_values"],
        **options,
    )


def test_accumulated_batches_equal_one_batch(tmp_path):
    past, future = small_batch(size=8)
    # A column named labels makes the Trainer count items for models with `accepts_loss_kwargs`.
    rows = [{"past_values": x, "future_trajectory": y, "labels": y} for x, y in zip(past, future, strict=True)]

    def trained(batch_size, accumulation):
        model = small_model()
        arguments = training_arguments(
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            remove_unused_columns=False,
        )
        Trainer(model=model, args=arguments, train_dataset=rows).train()
        return dict(model.named_parameters())

    whole, accumulated, before = trained(8, 1), trained(4, 2), dict(small_model().named_parameters())
    moved = max((whole[name] - before[name]).abs().max().item() for name in before)
    assert moved > 1e-3
    torch.testing.assert_close(accumulated, whole, atol=1e-6, rtol=0)


def test_the_trainer_trains_on_the_trajectories_of_windows(tmp_path, make_timeline):
    timeline = make_timeline(90001, STEPS + 6)
    processor = SolaredProcessor.fit([timeline.values], CHANNELS, input_steps=STEPS, horizon_hours=3.0)
    # The trajectory of the last of four windows ends a step after the timeline.
    windows = SolaredWindows(timeline, processor=processor, trajectory_steps=AHEAD)
    assert windows.horizon == timedelta(hours=3)
    trajectories = torch.stack([window["future_trajectory"] for window in windows])
    assert trajectories.isnan().any(dim=-1).sum(dim=1).tolist() == [0, 0, 0, 1]
    model = small_model(num_tiles=NUM_TILES)
    expected = forecast(model, torch.stack([window["past_values"] for window in windows]))

    seen = []
    trainer = Trainer(
        model=model,
        args=training_arguments(tmp_path, max_steps=20, per_device_train_batch_size=4, per_device_eval_batch_size=3),
        train_dataset=windows,
        eval_dataset=windows,
        compute_metrics=lambda prediction: seen.append(prediction) or {},
    )
    before = trainer.evaluate()["eval_loss"]
    # The metrics get the forecasts at the horizon, as in a family without trajectories.
    np.testing.assert_allclose(seen[0].predictions, expected[:, 2], atol=1e-6)
    whole = ((expected - trajectories)[:3] ** 2).mean().item()
    rest = ((expected - trajectories)[3] ** 2).nanmean().item()
    assert before == pytest.approx((3 * whole + rest) / 4, rel=1e-4)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before
