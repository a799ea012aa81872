"""The quantile trajectory family: changes from the last value, and quantiles that do not cross."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForTimeSeriesPrediction, Trainer, TrainingArguments

from solared_hf.models import QuantileTrajectoryConfig, QuantileTrajectoryForPrediction
from solared_hf.schema import CHANNELS, NUM_TILES, TARGET_CHANNEL

ROWS, COLUMNS, STEPS, AHEAD = 3, 4, 12, 6
TILES, TARGET = ROWS * COLUMNS, CHANNELS.index(TARGET_CHANNEL)
SMALL = {
    "num_tile_rows": ROWS,
    "num_tile_columns": COLUMNS,
    "num_members": 2,
    "hidden_size": 8,
    "num_neighbour_features": 4,
    "lag_hours": [2.0, 4.0, 8.0],
    "input_steps": STEPS,
    "forecast_steps": AHEAD,
    "horizon_hours": 3.0,
}


def untrained_model(**fields):
    torch.manual_seed(0)
    return QuantileTrajectoryForPrediction(QuantileTrajectoryConfig(**{**SMALL, **fields})).eval()


def small_model(**fields):
    """Return a model in which every weight changes the forecast, as after some training."""
    model = untrained_model(**fields)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    return model


def small_batch(size=3):
    generator = torch.Generator().manual_seed(1)
    past = torch.randn(size, STEPS, len(CHANNELS), TILES, generator=generator)
    return past, torch.randn(size, AHEAD, TILES, generator=generator)


def outputs(model, past, **kwargs):
    with torch.no_grad():
        return model(past_values=past, **kwargs)


def test_shapes_defaults_and_task():
    config = QuantileTrajectoryConfig()
    assert (config.num_channels, config.num_tiles, config.horizon_steps) == (6, NUM_TILES, 12)
    model, (past, _) = small_model(), small_batch()
    output = outputs(model, past)
    assert output.loss is None
    assert output.prediction_outputs.shape == (3, TILES)
    assert output.trajectory_outputs.shape == (3, AHEAD, TILES)
    assert output.quantile_outputs.shape == (3, AHEAD, 5, TILES)
    assert torch.equal(output.prediction_outputs, output.trajectory_outputs[:, 2])


def test_an_untrained_model_forecasts_persistence():
    past, _ = small_batch()
    trajectory = outputs(untrained_model(), past).trajectory_outputs
    assert torch.equal(trajectory, past[:, -1:, TARGET].expand_as(trajectory))


def test_quantiles_never_cross():
    past, _ = small_batch()
    quantiles = outputs(small_model(), 100 * past).quantile_outputs
    assert (quantiles.diff(dim=2) >= 0).all()
    assert (quantiles.diff(dim=2) > 0).any()


def test_features_are_means_of_the_pieces_of_the_past():
    model = untrained_model(input_zero=[1.0] * 6, input_scale=[2.0] * 6)
    past, _ = small_batch(1)
    features = model.features(past)[0].reshape(2, 4, len(CHANNELS), TILES)
    values = (past[0].double() - 1) / 2
    now = values[-2:].mean(0)
    expected = torch.stack([now, now - values[-1], now - values[-4:-2].mean(0), now - values[-8:-4].mean(0)])
    # Before training, features are standardised with mean 0 and variance 1 (1 + 1e-5, to be exact).
    assert torch.allclose(features[0].double(), expected.asinh(), atol=1e-4)
    assert torch.allclose(features[1].double(), expected, atol=1e-4)


def test_features_are_standardised_by_the_training_data_and_clamped():
    model = untrained_model().train()
    past, _ = small_batch(64)
    model.features(5 + 3 * past)
    model.eval()
    seen = model.features(5 + 3 * past)
    assert torch.allclose(seen.mean(dim=(0, 2, 3)), torch.zeros(1), atol=1e-3)
    assert torch.allclose(seen.std(dim=(0, 2, 3)), torch.ones(1), atol=2e-2)
    assert model.features(1e6 * past).abs().max() == 8


def test_the_normalisation_does_not_change_physical_forecasts():
    """`input_zero` and `input_scale` undo the processor: equal physical values give equal physical forecasts."""
    past, _ = small_batch()
    physical = outputs(small_model(), past).quantile_outputs
    normalised = outputs(small_model(input_zero=[0.25] * 6, input_scale=[0.5] * 6), past * 0.5 + 0.25).quantile_outputs
    assert torch.allclose((normalised - 0.25) / 0.5, physical, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 8, 40])
def test_only_the_latest_steps_of_any_number_count(steps):
    model = small_model()
    past = torch.randn(2, steps, len(CHANNELS), TILES, generator=torch.Generator().manual_seed(0))
    forecast = outputs(model, past).trajectory_outputs
    assert torch.isfinite(forecast).all()
    torch.testing.assert_close(forecast, outputs(model, past[:, -8:]).trajectory_outputs)


def test_a_missing_input_is_read_as_the_latest_observed_value():
    model, (past, _) = small_model(), small_batch()
    observed = torch.ones_like(past, dtype=torch.bool)
    observed[0, 9:, 2, 5] = False
    held = past.clone()
    held[0, 9:, 2, 5] = past[0, 8, 2, 5]
    expected = outputs(model, held).quantile_outputs
    for filled in (torch.nan, 0.0, 1e6):
        past[0, 9:, 2, 5] = filled
        torch.testing.assert_close(outputs(model, past, past_observed_mask=observed).quantile_outputs, expected)


def test_an_input_that_was_never_observed_is_read_as_physical_zero():
    model, (past, _) = small_model(input_zero=[0.3] * 6), small_batch()
    observed = torch.ones_like(past, dtype=torch.bool)
    observed[1, :, TARGET, 7] = False
    zero = past.clone()
    zero[1, :, TARGET, 7] = 0.3
    past[1, :, TARGET, 7] = torch.nan
    forecast = outputs(model, past, past_observed_mask=observed).trajectory_outputs
    torch.testing.assert_close(forecast, outputs(model, zero).trajectory_outputs)


@pytest.mark.parametrize("num_layers", [0, 1])
def test_neighbours_are_seen_and_far_tiles_are_not(num_layers):
    """Each convolution over the grid adds one tile to the reach."""
    model, (past, _) = small_model(num_layers=num_layers), small_batch(1)
    before = outputs(model, past).trajectory_outputs
    past[:, -1, 4, 0] += 5  # the south-eastern tile: row 0, column 0
    change = (outputs(model, past).trajectory_outputs - before).abs().amax(dim=(0, 1))
    changed = (change > 1e-4).reshape(ROWS, COLUMNS)
    expected = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    expected[: 2 + num_layers, : 2 + num_layers] = True
    assert torch.equal(changed, expected)


def test_members_are_averaged():
    model, (past, _) = small_model(), small_batch()
    both = outputs(model, past).trajectory_outputs
    alone = []
    for member in model.members:
        single = small_model(num_members=1)
        single.members[0].load_state_dict(member.state_dict())
        alone.append(outputs(single, past).trajectory_outputs)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
    assert torch.allclose(both, (alone[0] + alone[1]) / 2, atol=1e-5)


def test_loss_by_hand():
    """The squared error over the spread, plus the pinball loss, worked out for one tile and step."""
    model = untrained_model(num_members=1)
    changes = torch.tensor([[[[1.0]]]])
    quantiles = torch.tensor([[[[[0.0], [0.5], [1.0], [1.5], [2.0]]]]])
    loss = model._loss(changes, quantiles, torch.tensor([[[3.0]]]))
    pinball = 0.1 * 3 + 0.25 * 2.5 + 0.5 * 2 + 0.75 * 1.5 + 0.9 * 1
    assert loss.item() == pytest.approx((3 - 1) ** 2 / (2 + 0.1) + pinball, rel=1e-6)


def test_missing_targets_do_not_count_in_the_loss():
    model, (past, future) = small_model(), small_batch()
    future[:, 3:] = torch.nan
    future[0, 1, 2] = torch.nan
    loss = model(past_values=past, future_trajectory=future).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    only_horizon = torch.full_like(future, torch.nan)
    only_horizon[:, 2] = future[:, 2]
    at_horizon = model(past_values=past, future_values=future[:, 2]).loss
    assert torch.allclose(model(past_values=past, future_trajectory=only_horizon).loss, at_horizon)
    assert model(past_values=past, future_trajectory=torch.full_like(future, torch.nan)).loss == 0


def test_training_mirrors_and_shifts_the_patch_and_its_forecast_alike():
    """A network that looks at each tile alone gives the same forecast, because the shift is undone."""
    model, (past, _) = small_model(num_layers=0, dropout=0.0, input_noise=0.0, input_dropout=0.0), small_batch()
    with torch.no_grad():
        for member in model.members:
            member.neighbours.weight.zero_()
            member.position.zero_()
    expected = outputs(model, past).quantile_outputs
    model.train()
    model.features.eval()
    for _ in range(10):
        assert torch.allclose(outputs(model, past).quantile_outputs, expected, atol=1e-5)
    seen = [model._vary(model.features(past))[0] for _ in range(10)]
    assert any(not torch.equal(seen[0], other) for other in seen[1:])


def test_auto_classes_load_a_saved_model_with_the_same_forecasts(tmp_path):
    model, (past, _) = small_model(input_zero=[0.1] * 6, input_scale=[0.7] * 6), small_batch()
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), QuantileTrajectoryConfig)
    for auto in (AutoModel, AutoModelForTimeSeriesPrediction):
        loaded = auto.from_pretrained(tmp_path).eval()
        assert isinstance(loaded, QuantileTrajectoryForPrediction)
        torch.testing.assert_close(outputs(loaded, past).quantile_outputs, outputs(model, past).quantile_outputs)


def test_half_precision_does_not_round_the_last_value(tmp_path):
    """A forecast is a large last value plus a small change, which bfloat16 would round away."""
    untrained_model().save_pretrained(tmp_path)
    loaded = QuantileTrajectoryForPrediction.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert loaded.members[0].own.weight.dtype == torch.bfloat16
    assert loaded.features.standardise.running_var.dtype == torch.float32
    past = 1000 + torch.randn(2, STEPS, len(CHANNELS), TILES)
    for model in (loaded, untrained_model().to(torch.bfloat16)):
        assert torch.equal(outputs(model, past).prediction_outputs, past[:, -1, TARGET])
    trained = small_model()
    expected = outputs(trained, past).quantile_outputs
    rounded = outputs(trained.to(torch.bfloat16), past).quantile_outputs
    assert torch.allclose(rounded - past[:, None, -1:, TARGET], expected - past[:, None, -1:, TARGET], atol=1.0)


def test_the_trainer_lowers_the_loss(tmp_path):
    """Intensity falls by 1 each hour in tiles with strong flux: the model learns this, and persistence cannot."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(64):
        past = generator.normal(0, 0.1, (STEPS, len(CHANNELS), TILES)).astype(np.float32)
        active = generator.random(TILES) < 0.5
        past[:, 4] += 3 * active
        future = past[-1, TARGET] - np.arange(1, AHEAD + 1, dtype=np.float32)[:, None] * active
        rows.append({"past_values": past, "future_values": future[2], "future_trajectory": future})
    arguments = TrainingArguments(
        output_dir=tmp_path, max_steps=150, per_device_train_batch_size=32, learning_rate=1e-2, report_to="none",
        save_strategy="no", use_cpu=True, label_names=["future_values"], disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    model = untrained_model(input_noise=0.0, input_dropout=0.0, dropout=0.0)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 4
    predictions = trainer.predict(rows).predictions
    assert predictions.shape == (64, TILES)
    assert np.abs(predictions - [row["future_values"] for row in rows]).mean() < 0.3


def test_lag_hours_become_steps_of_the_cadence():
    hourly, fast = QuantileTrajectoryConfig(), QuantileTrajectoryConfig(step_hours=0.2, input_steps=360)
    assert hourly.lag_steps == [3, 6, 9, 12, 18, 24, 36, 72]
    assert fast.lag_steps == [15, 30, 45, 60, 90, 120, 180, 360]
    # 24 h of forecasts, and the same horizon.
    assert (hourly.forecast_steps, hourly.horizon_steps) == (24, 12)
    assert (fast.forecast_steps, fast.horizon_steps) == (120, 60)
    # Hours that round to the same step at a coarse cadence count once.
    assert QuantileTrajectoryConfig(step_hours=6.0).lag_steps == [1, 2, 3, 4, 6, 12]


def test_all_72_hours_are_used_at_a_cadence_of_12_minutes():
    config = {**SMALL, "lag_hours": [3.0, 24.0, 72.0], "step_hours": 0.2, "input_steps": 360, "forecast_steps": 30}
    model = QuantileTrajectoryForPrediction(QuantileTrajectoryConfig(**config)).eval()
    with torch.no_grad():
        for member in model.members:
            member.linear.weight.normal_()
    past = torch.zeros(1, 370, len(CHANNELS), TILES)
    before = outputs(model, past).trajectory_outputs
    for step, counts in ((0, False), (9, False), (10, True), (300, True), (369, True)):
        changed = past.clone()
        changed[:, step] = 10.0
        change = (outputs(model, changed).trajectory_outputs - before).abs().max()
        assert (change > 1e-3) == counts


@pytest.mark.parametrize(("step_hours", "lag_hours"), [(1.0, [2.0, 4.0, 8.0]), (0.5, [1.0, 2.0, 4.0])])
def test_older_configurations_with_lags_in_steps_are_read(tmp_path, step_hours, lag_hours):
    """Configurations saved before lags were in hours give the same pieces and the same forecasts."""
    model, (past, _) = small_model(step_hours=step_hours, lag_hours=lag_hours), small_batch()
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved.pop("lag_hours") == lag_hours
    (tmp_path / "config.json").write_text(json.dumps({**saved, "lag_edges": [2, 4, 8]}))
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert (loaded.config.lag_hours, loaded.config.lag_steps) == (lag_hours, [2, 4, 8])
    torch.testing.assert_close(outputs(loaded, past).quantile_outputs, outputs(model, past).quantile_outputs)
    loaded.save_pretrained(tmp_path)
    assert "lag_edges" not in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ValueError, match=r"lag_edges=\[2\] steps of 1.0 h contradict lag_hours=\[3\]\. Leave"):
        QuantileTrajectoryConfig(lag_hours=[3], lag_edges=[2])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"input_channels": ["unsigned_magnetic_flux"]},
            "forecasts the change of continuum_intensity, but input_channels is",
        ),
        ({"input_channels": [TARGET_CHANNEL, TARGET_CHANNEL]}, "Remove the duplicates"),
        ({"input_scale": [1.0]}, "one finite value for each of the 6"),
        ({"input_scale": [0.0] * 6}, "the scales above 0"),
        ({"input_scale": [float("nan")] * 6}, "finite value"),
        ({"hidden_size": 0}, "hidden_size=0 must be at least 1"),
        ({"num_members": 0}, "num_members=0 must be at least 1"),
        ({"max_shift": -1}, "must not be negative"),
        ({"dropout": 1.0}, "below 1"),
        ({"quantile_levels": [0.1, 0.9]}, "include the median"),
        ({"quantile_levels": [0.5, 0.1]}, "must increase"),
        ({"quantile_levels": [0.5, 1.0]}, "between 0 and 1"),
        ({"lag_hours": []}, "increasing numbers of hours"),
        ({"lag_hours": [3, 3]}, "increasing numbers of hours"),
        ({"lag_hours": [0, 3]}, "increasing numbers of hours above 0"),
        ({"lag_hours": [float("nan")]}, "increasing numbers of hours"),
        ({"lag_hours": [1.0, float("inf")]}, "increasing numbers of hours"),
        ({"horizon_hours": 12.5}, "whole number of steps"),
        ({"horizon_hours": 48}, r"forecast_steps to 48 or more: .* `--model_config '{\"forecast_steps\": 48}'`"),
        (
            {"step_hours": 0.2, "forecast_steps": 24},
            "12.0 is 60 steps of 0.2 h ahead, but forecast_steps is 24",
        ),
        ({"input_steps": 0}, "must be at least 1"),
        ({"step_hours": 0.0}, "must be positive"),
    ],
)
def test_a_contradictory_configuration_is_refused_with_a_remedy(fields, sentence):
    with pytest.raises(StrictDataclassError, match=sentence):
        QuantileTrajectoryConfig(**fields)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"past_values": torch.zeros(1, STEPS, 5, TILES)}, r"\(batch_size, steps, 6 channels, 12 tiles\)"),
        ({"past_values": torch.zeros(1, 0, 6, TILES)}, "at least one step"),
        ({"past_observed_mask": torch.ones(1, 1, 6, TILES, dtype=torch.bool)}, "past_observed_mask"),
        ({"future_values": torch.zeros(1, 3)}, "future_values"),
        ({"future_trajectory": torch.zeros(1, 24, TILES)}, "future_trajectory"),
    ],
)
def test_a_wrong_shape_is_refused(inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_model()(**{"past_values": torch.zeros(1, STEPS, 6, TILES), **inputs})
