"""The configuration of the LSTM family: defaults, and contradictions that are refused."""

import pytest
from huggingface_hub.errors import StrictDataclassError

from solared_hf.models import SolaredLstmConfig
from solared_hf.schema import CHANNELS, NUM_TILES, TARGET_CHANNEL


def test_config_defaults_are_the_published_sizes_and_survive_json(tmp_path):
    config = SolaredLstmConfig(horizon_hours=12, step_hours=1)
    assert (config.input_channels, config.num_channels) == (list(CHANNELS), 6)
    assert (config.target_channel, config.num_tiles, config.input_steps) == (TARGET_CHANNEL, NUM_TILES, 120)
    assert (config.hidden_size, config.num_layers, config.dropout) == (64, 3, 0)
    assert (config.horizon_steps, config.forecast_steps) == (12, 24)
    config.save_pretrained(tmp_path)
    reloaded = SolaredLstmConfig.from_pretrained(tmp_path)
    assert {**reloaded.to_dict(), "auto_map": None} == {**config.to_dict(), "auto_map": None}
    assert isinstance(reloaded.horizon_hours, float)
    assert isinstance(reloaded.step_hours, float)


@pytest.mark.parametrize(
    ("horizon_hours", "step_hours", "forecast_steps", "steps"),
    # 4.8 and 0.2 are not binary fractions, and their quotient is 23.999999999999996.
    [(12, 1, 12, 12), (1, 1, 1, 1), (6.0, 0.5, 24, 12), (4.8, 0.2, 24, 24)],
)
def test_horizon_in_steps(horizon_hours, step_hours, forecast_steps, steps):
    config = SolaredLstmConfig(horizon_hours=horizon_hours, step_hours=step_hours, forecast_steps=forecast_steps)
    assert config.horizon_steps == steps


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"horizon_hours": 12.5}, "horizon_hours=12.5 must be a whole number of steps of 1.0 h"),
        ({"horizon_hours": 25}, r"raise forecast_steps to 25 or more: .* `--model_config '{\"forecast_steps\": 25}'`"),
        ({"horizon_hours": 0.2}, "whole number of steps"),
        ({"forecast_steps": 0}, "raise forecast_steps"),
        ({"horizon_hours": -1.0}, "horizon_hours=-1.0 and step_hours=1.0 must be positive"),
        ({"horizon_hours": float("nan")}, "must be positive and finite"),
        ({"step_hours": 0.0}, "step_hours=0.0 must be positive"),
        ({"input_steps": 0}, "input_steps=0 must be at least 1"),
        ({"num_layers": 0}, "num_layers=0 must be at least 1"),
        ({"num_layers": 1, "dropout": 0.1}, "Add a layer or leave dropout at 0"),
        ({"input_channels": []}, "at least one channel"),
        ({"input_channels": ["a", "a"]}, "Remove the duplicates"),
        ({"hidden_size": "64"}, "expected int"),
    ],
)
def test_a_contradictory_configuration_is_refused_with_a_remedy(fields, sentence):
    with pytest.raises(StrictDataclassError, match=sentence):
        SolaredLstmConfig(**fields)


def test_num_channels_must_agree_with_the_names():
    assert SolaredLstmConfig(num_channels=6).num_channels == 6
    with pytest.raises(ValueError, match="pass input_channels with one name per channel"):
        SolaredLstmConfig(num_channels=3)
