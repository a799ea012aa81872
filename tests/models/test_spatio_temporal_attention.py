"""The attention family: mathematics, outputs, saving and training."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import nn
from transformers import Trainer, TrainingArguments

from solared_hf.models import SpatioTemporalAttentionConfig, SpatioTemporalAttentionForPrediction
from solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention import (
    SpatioTemporalAttentionSelfAttention,
    sinusoidal_table,
)
from solared_hf.schema import CHANNELS, NUM_TILES, TARGET_CHANNEL

STEPS, TILES = 7, 5
SMALL = {
    "num_tiles": TILES,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "input_steps": STEPS,
    "max_position_embeddings": 32,
}


def small_model(seed=0, **fields):
    torch.manual_seed(seed)
    return SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionConfig(**{**SMALL, **fields})).eval()


def small_batch(size=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    past = torch.randn(size, STEPS, len(CHANNELS), TILES, generator=generator)
    return past, torch.randn(size, TILES, generator=generator)


def predict(model, past, **kwargs):
    with torch.no_grad():
        return model(past_values=past, **kwargs).prediction_outputs


# Configuration


def test_config_defaults_are_the_vocabulary_and_survive_json(tmp_path):
    config = SpatioTemporalAttentionConfig(horizon_hours=12)
    assert (config.input_channels, config.num_channels) == (list(CHANNELS), 6)
    assert (config.target_channel, config.num_tiles, config.input_steps) == (TARGET_CHANNEL, NUM_TILES, 120)
    config.save_pretrained(tmp_path)
    reloaded = SpatioTemporalAttentionConfig.from_pretrained(tmp_path)
    assert {**reloaded.to_dict(), "auto_map": None} == {**config.to_dict(), "auto_map": None}
    assert isinstance(reloaded.horizon_hours, float)


def test_config_accepts_the_vocabulary_tuple():
    assert SpatioTemporalAttentionConfig(input_channels=CHANNELS).input_channels == list(CHANNELS)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"hidden_size": 60}, "Choose a number of heads that divides it"),
        ({"hidden_size": 9, "num_attention_heads": 3}, "Choose an even hidden_size"),
        ({"input_steps": 2000}, "Raise max_position_embeddings"),
        ({"horizon_hours": -1.0}, "horizon_hours=-1.0 must be positive"),
        ({"input_channels": ["a", "a"]}, "Remove the duplicates"),
        ({"hidden_size": "64"}, "expected int"),
    ],
)
def test_a_contradictory_configuration_is_refused_with_a_remedy(fields, sentence):
    with pytest.raises(StrictDataclassError, match=sentence):
        SpatioTemporalAttentionConfig(**fields)


def test_num_channels_must_agree_with_the_names():
    assert SpatioTemporalAttentionConfig(num_channels=6).num_channels == 6
    with pytest.raises(ValueError, match="pass input_channels with one name per channel"):
        SpatioTemporalAttentionConfig(num_channels=3)


def test_field_overridden_on_loading_is_validated(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="Choose a number of heads"):
        SpatioTemporalAttentionForPrediction.from_pretrained(tmp_path, num_attention_heads=3)


# Mathematics


def test_positions_equal_those_of_the_paper():
    table = sinusoidal_table(50, 8)
    assert table[3, 0].item() == pytest.approx(torch.sin(torch.tensor(3.0)).item())
    # Column pair 2i has wavelength 2 pi 10000^(2i/width): here 10000^(4/8) = 100.
    assert table[25, 4].item() == pytest.approx(torch.sin(torch.tensor(0.25)).item(), abs=1e-6)
    assert table[25, 5].item() == pytest.approx(torch.cos(torch.tensor(0.25)).item(), abs=1e-6)


def test_sdpa_equals_eager_and_later_steps_reach_earlier_ones():
    past, _ = small_batch()
    changed = past.clone()
    changed[:, -1] += 1.0
    states = {}
    for implementation in ("sdpa", "eager"):
        model = small_model()
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            # Hidden state 1 is the output of the first temporal layer: (batch, tiles, steps, width).
            before, after = (model(x, output_hidden_states=True).hidden_states[1] for x in (past, changed))
        assert (before[:, :, 0] - after[:, :, 0]).abs().max() > 1e-4, implementation
        states[implementation] = predict(model, past)
    torch.testing.assert_close(states["sdpa"], states["eager"], atol=1e-6, rtol=0)


def test_tiles_see_each_other_and_depend_on_position():
    model = small_model()
    past, _ = small_batch()
    changed = past.clone()
    changed[..., 0] += 1.0
    assert (predict(model, past) - predict(model, changed))[:, 1:].abs().min() > 0
    # Without positions along the tiles a permutation of the input would only permute the output.
    swapped = past.flip(-1)
    assert (predict(model, past).flip(-1) - predict(model, swapped)).abs().max() > 1e-4


def test_predictions_do_not_depend_on_the_rest_of_the_batch():
    model = small_model()
    past, _ = small_batch(size=4)
    alone = predict(model, past[:1])
    past[1] = 1e6
    past[2:] = float("nan")
    torch.testing.assert_close(predict(model, past)[:1], alone, atol=1e-6, rtol=0)


def test_a_masked_nan_is_read_as_zero():
    model = small_model()
    past, future = small_batch()
    mask = torch.rand(past.shape, generator=torch.Generator().manual_seed(3)) > 0.3
    expected = predict(model, past * mask)
    assert (expected - predict(model, past)).abs().max() > 1e-4
    past[~mask] = float("nan")
    torch.testing.assert_close(predict(model, past, past_observed_mask=mask), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(predict(model, past, past_observed_mask=mask.float()), expected, atol=1e-6, rtol=0)
    model(past, past_observed_mask=mask, future_values=future).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_masked_value_that_the_processor_filled_in_is_used():
    model = small_model()
    past, _ = small_batch()
    mask = torch.zeros_like(past, dtype=torch.bool)
    torch.testing.assert_close(predict(model, past, past_observed_mask=mask), predict(model, past), atol=1e-6, rtol=0)


def test_loss_is_the_mean_squared_error():
    model = small_model()
    past, future = small_batch()
    output = model(past, future_values=future)
    torch.testing.assert_close(output.loss, (output.prediction_outputs - future).pow(2).mean())
    assert model(past).loss is None


def test_dropout_and_attention_dropout_are_separate_fields():
    past, _ = small_batch()

    def train_forward(**fields):
        model = small_model(**fields)
        expected = predict(model, past)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            output = model.train()(past, output_attentions=True)
        return output.attentions, (output.prediction_outputs - expected).abs().max()

    attentions, difference = train_forward(dropout=0.0, attention_dropout=0.0)
    assert difference < 1e-6
    attentions, difference = train_forward(dropout=0.0, attention_dropout=0.5)
    assert difference > 1e-3
    assert all((layer == 0).any() for layer in attentions)
    attentions, difference = train_forward(dropout=0.5, attention_dropout=0.0)
    assert difference > 1e-3
    assert all((layer > 0).all() for layer in attentions)


# What forward returns


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_hidden_states_have_one_entry_per_layer_and_the_input(implementation):
    model = small_model(num_temporal_layers=1, num_spatial_layers=2)
    model.set_attn_implementation(implementation)
    past, _ = small_batch()
    states = model(past, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == 2 * [(3, TILES, STEPS, 16)] + 2 * [(3, STEPS, TILES, 16)]
    assert model(past).hidden_states is None


def test_attentions_are_probabilities_over_steps_then_tiles():
    model = small_model(num_temporal_layers=1, num_spatial_layers=2)
    model.set_attn_implementation("eager")
    attentions = model(small_batch()[0], output_attentions=True).attentions
    temporal, spatial = (3, TILES, 4, STEPS, STEPS), (3, STEPS, 4, TILES, TILES)
    assert [tuple(layer.shape) for layer in attentions] == [temporal, spatial, spatial]
    for layer in attentions:
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))


def test_return_dict_false_gives_loss_then_predictions():
    model = small_model()
    past, future = small_batch()
    loss, predictions = model(past, future_values=future, return_dict=False)
    assert (loss.shape, predictions.shape) == ((), (3, TILES))


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"past_values": (3, STEPS, TILES)}, r"\(batch_size, steps, 6 channels, 5 tiles\) .*, got \(3, 7, 5\)"),
        ({"past_values": (3, STEPS, 4, TILES)}, r"got \(3, 7, 4, 5\)"),
        ({"past_values": (3, STEPS, 6, 63)}, r"got \(3, 7, 6, 63\)"),
        ({"past_values": (3, 33, 6, TILES)}, "33 steps, but config.max_position_embeddings is 32"),
        ({"past_values": (3, 0, 6, TILES)}, r"at least one step, got \(3, 0, 6, 5\)"),
        ({"past_observed_mask": (3, STEPS, 1, TILES)}, r"shape of past_values, \(3, 7, 6, 5\), got \(3, 7, 1, 5\)"),
        ({"future_values": (3, 1)}, r"\(batch_size, tiles\) = \(3, 5\), got \(3, 1\)"),
        ({"future_values": (TILES,)}, r"got \(5,\)"),
    ],
)
def test_a_wrong_shape_is_refused_with_the_expected_shape(shapes, sentence):
    inputs = {name: torch.ones(shape) for name, shape in {"past_values": (3, STEPS, 6, TILES), **shapes}.items()}
    with pytest.raises(ValueError, match=sentence):
        small_model()(**inputs)


def test_bf16_model_takes_float32_input_and_keeps_a_float32_loss(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    half = SpatioTemporalAttentionForPrediction.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    past, future = small_batch()
    output = half(past, future_values=future)
    assert (output.prediction_outputs.dtype, output.loss.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(output.prediction_outputs.float(), predict(model, past), atol=0.05, rtol=0)
    torch.testing.assert_close(output.loss, (output.prediction_outputs.float() - future).pow(2).mean())


# Saving, initialisation, training


def test_saved_model_predicts_the_same(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    reloaded = SpatioTemporalAttentionForPrediction.from_pretrained(tmp_path)
    past, _ = small_batch()
    torch.testing.assert_close(predict(reloaded, past), predict(model, past), atol=1e-6, rtol=0)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(dict(model.named_parameters()))
    # The tables are not in the file, so loading must compute them again.
    for length, positions in ((32, reloaded.temporal_positions), (TILES, reloaded.spatial_positions)):
        assert torch.equal(positions.table, sinusoidal_table(length, 16))


def test_initialisation_equals_that_of_torch():
    torch.manual_seed(0)
    model = SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionConfig())
    theirs = nn.TransformerEncoderLayer(64, 8, 256)
    pairs = {
        "self_attn.qkv_proj.weight": theirs.self_attn.in_proj_weight,
        "self_attn.qkv_proj.bias": theirs.self_attn.in_proj_bias,
        "self_attn.out_proj.weight": theirs.self_attn.out_proj.weight,
        "self_attn.out_proj.bias": theirs.self_attn.out_proj.bias,
        "attention_norm.weight": theirs.norm1.weight,
        "attention_norm.bias": theirs.norm1.bias,
        "fc1.weight": theirs.linear1.weight,
        "fc1.bias": theirs.linear1.bias,
        "fc2.weight": theirs.linear2.weight,
        "fc2.bias": theirs.linear2.bias,
        "feed_forward_norm.weight": theirs.norm2.weight,
        "feed_forward_norm.bias": theirs.norm2.bias,
    }
    for layer in (*model.temporal_layers, *model.spatial_layers):
        assert set(pairs) == set(dict(layer.named_parameters()))
        for name, expected in pairs.items():
            ours = layer.get_parameter(name)
            # A uniform distribution is determined by its largest value. The smallest vectors have 64 draws.
            assert ours.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.15), name
            assert ours.mean().item() == pytest.approx(expected.mean().item(), abs=0.03), name
    assert model.input_projection.weight.abs().max().item() == pytest.approx(6**-0.5, rel=0.05)


def test_gradient_checkpointing_recomputes_and_changes_nothing():
    past, future = small_batch()

    def gradients(checkpointing):
        model = small_model(dropout=0.1).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        calls = []
        for module in model.modules():
            if isinstance(module, SpatioTemporalAttentionSelfAttention):
                module.register_forward_hook(lambda *_: calls.append(1))
        torch.manual_seed(5)
        model(past, future_values=future).loss.backward()
        return len(calls), {name: parameter.grad for name, parameter in model.named_parameters()}

    plain_calls, plain = gradients(False)
    calls, recomputed = gradients(True)
    assert (plain_calls, calls) == (4, 8)
    torch.testing.assert_close(recomputed, plain)


def test_accumulated_batches_equal_one_batch(tmp_path):
    past, future = small_batch(size=8)
    # A column named labels makes the Trainer count items for models with `accepts_loss_kwargs`.
    rows = [{"past_values": x, "future_values": y, "labels": y} for x, y in zip(past, future, strict=True)]

    def trained(batch_size, accumulation):
        model = small_model(dropout=0.0, attention_dropout=0.0)
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
        Trainer(model=model, args=arguments, train_dataset=rows).train()
        return dict(model.named_parameters())

    whole, accumulated, before = trained(8, 1), trained(4, 2), dict(small_model().named_parameters())
    moved = max((whole[name] - before[name]).abs().max().item() for name in before)
    assert moved > 1e-3
    torch.testing.assert_close(accumulated, whole, atol=1e-6, rtol=0)
