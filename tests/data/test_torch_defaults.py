"""The default dtype and device of torch do not change the data."""

import numpy as np
import pytest
import torch

from dataset_builder.fits import band_power
from solared_hf import (
    SolaredProcessor,
    SolaredWindows,
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
)
from solared_hf.forecasters import ModelForecaster
from solared_hf.schema import CHANNELS


@pytest.fixture(params=["bfloat16", "float64", "meta"])
def other_default(request):
    """Return a function that sets another default dtype or device of torch until the end of the test."""

    def change():
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, request.param))

    yield change
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.fixture
def timeline(make_timeline):
    timeline = make_timeline(90001, steps=60, missing=[40])
    timeline.values[20, 5, 7] = np.nan
    return timeline


@pytest.mark.parametrize("nan_policy", ["zero", "interpolate"])
def test_windows_and_processor_keep_float32_on_the_cpu(timeline, other_default, nan_policy):
    def made() -> list[dict[str, torch.Tensor]]:
        processor = SolaredProcessor.fit([timeline.values], CHANNELS, input_steps=10, nan_policy=nan_policy)
        windows = SolaredWindows(timeline, processor=processor, require_target=False, trajectory_steps=5)
        unprocessed = SolaredWindows(timeline, input_steps=10, nan_policy=nan_policy)
        inputs = processor(timeline.values[15:25], return_tensors="pt")
        return [windows[15], windows[len(windows) - 1], windows.batch(range(len(windows))), unprocessed[0], inputs]

    expected = made()
    other_default()
    for item, same in zip(made(), expected, strict=True):
        for name, tensor in same.items():
            if isinstance(tensor, torch.Tensor):
                assert (item[name].dtype, item[name].device) == (tensor.dtype, tensor.device), name
                torch.testing.assert_close(item[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_a_loaded_model_forecasts_the_same(timeline, other_default):
    processor = SolaredProcessor.fit([timeline.values], CHANNELS, input_steps=10)
    config = SpatioTemporalAttentionConfig(hidden_size=8, num_attention_heads=2, input_steps=10)
    forecaster = ModelForecaster(SpatioTemporalAttentionForPrediction(config), processor, "small", "cpu")
    windows = forecaster.windows([timeline])
    expected = forecaster.forecast(windows)
    other_default()
    forecast = forecaster.forecast(forecaster.windows([timeline]))
    assert forecast.dtype == np.float32
    np.testing.assert_allclose(forecast, expected, rtol=1e-4, atol=1e-3 * processor.target_range)


def test_acoustic_power_keeps_float32(other_default):
    cube = np.random.default_rng(0).normal(size=(640, 3, 3)).astype(np.float32)
    expected = band_power(cube)
    other_default()
    power = band_power(cube, device="cpu")
    assert power.dtype == np.float32
    np.testing.assert_allclose(power, expected, rtol=1e-5)
