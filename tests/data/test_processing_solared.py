"""The processor: statistics of the train split, saving and loading, and refused inputs."""

import json

import numpy as np
import pytest
import torch

from solared_hf import SolaredProcessor
from solared_hf.schema import CHANNELS, NUM_TILES


@pytest.fixture
def processor(make_timeline) -> SolaredProcessor:
    regions = [make_timeline(90001, steps=30), make_timeline(90002, steps=20, seed=1)]
    regions[0].values[3, 0, 0] = np.nan
    return SolaredProcessor.fit(
        [region.values for region in regions],
        CHANNELS,
        input_steps=8,
        horizon_hours=6.0,
        cadence_minutes=60.0,
        fitted_on={"split": "train", "regions": [90001, 90002], "dataset": "simulated", "revision": "abc"},
    )


def test_fit_finds_the_range_of_each_channel_over_all_regions(make_timeline):
    low, high = make_timeline(90001, steps=5), make_timeline(90002, steps=5)
    low.values[:] = np.arange(6)[:, None]
    high.values[:] = 10 * np.arange(1, 7)[:, None]
    low.values[2, 3, 5] = np.nan
    processor = SolaredProcessor.fit([low.values, high.values], CHANNELS)
    assert list(processor.minimum.values()) == [0, 1, 2, 3, 4, 5]
    assert list(processor.maximum.values()) == [10, 20, 30, 40, 50, 60]
    assert processor.target_range == 55


def test_inverse_undoes_normalise_in_numpy_and_torch(processor, make_timeline):
    values = make_timeline(90003, steps=9, seed=5).values
    normalised = processor.normalise(values, CHANNELS)
    assert normalised.dtype == np.float32
    for channel, name in enumerate(CHANNELS):
        back = processor.inverse(normalised[:, channel], name)
        np.testing.assert_allclose(back, values[:, channel], rtol=1e-4, atol=1e-6 * np.abs(values[:, channel]).max())
    target = processor.inverse(torch.from_numpy(normalised[:, 5]))
    assert isinstance(target, torch.Tensor)
    np.testing.assert_allclose(target.numpy(), values[:, 5], rtol=1e-4, atol=0.01)


def test_all_settings_are_saved_in_preprocessor_config_json(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    back = SolaredProcessor.from_pretrained(tmp_path)
    settings = ("input_channels", "input_steps", "horizon_hours", "cadence_minutes", "nan_policy", "fitted_on")
    for name in ("minimum", "maximum", *settings):
        assert getattr(back, name) == getattr(processor, name), name
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["feature_extractor_type"] == "SolaredProcessor"
    assert saved["fitted_on"]["split"] == "train"


def test_call_returns_the_input_of_a_model(processor, make_timeline):
    values = make_timeline(90003, steps=8, seed=3).values
    values[2, 1, 4] = np.nan
    features = processor(values, return_tensors="pt")
    assert features["past_values"].shape == (1, 8, 6, NUM_TILES)
    assert features["past_values"].dtype == torch.float32
    assert features["past_observed_mask"].dtype == torch.bool
    assert not features["past_observed_mask"][0, 2, 1, 4]
    zero = processor.normalise(np.zeros((1, 1)), ["power_3_4mhz"])[0, 0]
    assert features["past_values"][0, 2, 1, 4] == pytest.approx(float(zero))
    assert processor(np.stack([values, values]))["past_values"].shape == (2, 8, 6, NUM_TILES)


def test_nan_policies(processor, make_timeline):
    values = make_timeline(90003, steps=8, seed=3).values
    values[2, 1, 4] = np.nan
    processor.nan_policy = "interpolate"
    filled = processor(values)["past_values"][0, :, 1, 4]
    assert filled[2] == pytest.approx((filled[1] + filled[3]) / 2)
    processor.nan_policy = "drop"
    with pytest.raises(ValueError, match="NaN policy of the processor is 'drop'"):
        processor(values)


def test_missing_channels_are_refused(processor):
    with pytest.raises(ValueError, match=r"no statistics for flux, only for power_2_3mhz"):
        processor.normalise(np.zeros((2, 63)), ["flux", "power_2_3mhz"])
    with pytest.raises(ValueError, match="no minimum and maximum for continuum_intensity"):
        SolaredProcessor({"power_2_3mhz": 0}, {"power_2_3mhz": 1}, ["power_2_3mhz"])
    with pytest.raises(ValueError, match=r"shape \(batch, 8, 6, tiles\).*got \(1, 8, 5, 63\)"):
        processor(np.zeros((8, 5, 63)))
    with pytest.raises(ValueError, match=r"got \(1, 50, 6, 63\)"):
        processor(np.zeros((50, 6, 63)))


def test_channels_without_a_range_are_refused(make_timeline):
    values = make_timeline(90001, steps=5).values
    values[:, 4] = 7
    with pytest.raises(ValueError, match=r"unsigned_magnetic_flux ranges from 7.0 to 7.0"):
        SolaredProcessor.fit([values], CHANNELS)
    values[:, 4] = np.nan
    with pytest.raises(ValueError, match="unsigned_magnetic_flux ranges from inf to -inf"):
        SolaredProcessor.fit([values], CHANNELS)
    with pytest.raises(ValueError, match="no region to fit"):
        SolaredProcessor.fit([], CHANNELS)
