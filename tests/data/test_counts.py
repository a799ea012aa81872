"""Counts and indices: numpy integers work like Python integers, and other values give a readable error."""

import json
from datetime import timedelta

import numpy as np
import pytest
import torch

from dataset_builder.simulation import simulate_region
from solared_hf import (
    SolaredError,
    SolaredProcessor,
    SolaredWindows,
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
)
from solared_hf.forecasters import BASELINES, Climatology, DampedPersistence, ModelForecaster
from solared_hf.schema import CHANNELS

NO_COUNTS = [0, -3, 2.0, np.float32(2), True, "5", None, slice(1, 3), [2]]


@pytest.fixture
def timeline(make_timeline):
    return make_timeline(90001, steps=40)


@pytest.fixture
def windows(timeline) -> SolaredWindows:
    return SolaredWindows(timeline, input_steps=np.int64(10), horizon=timedelta(hours=3), trajectory_steps=np.int32(2))


def test_numpy_torch_and_negative_indices_work(windows):
    for index in (np.int64(3), np.uint8(3), torch.tensor(3), 3 - len(windows), np.int64(3 - len(windows))):
        assert torch.equal(windows[index]["past_values"], windows[3]["past_values"])
    assert torch.equal(windows[-1]["past_values"], windows[len(windows) - 1]["past_values"])
    assert len(list(windows)) == len(windows)
    with pytest.raises(IndexError):
        windows[len(windows)]
    for several in ([2, 5], np.array([2, 5]), torch.tensor([2, 5]), range(2, 8, 3), [np.int64(2), 5]):
        assert torch.equal(windows.batch(several)["past_values"], windows.batch([2, 5])["past_values"])
    assert len(windows.batch([])["past_values"]) == 0


@pytest.mark.parametrize("index", [slice(1, 3), 2.0, True, "2", None, [1, 2], np.array([1, 2]), torch.tensor([1, 2])])
def test_invalid_index_is_refused(windows, index):
    with pytest.raises(
        SolaredError, match=r"^The index of a window must be a whole number.*`windows.batch\(\[0, 1\]\)`"
    ):
        windows[index]


@pytest.mark.parametrize("indices", [slice(1, 3), 3, [1.5], np.array([True, False]), "12", [[1], [2, 3]], [[1]]])
def test_invalid_list_of_indices_is_refused(windows, indices):
    with pytest.raises(SolaredError, match=r"^A batch is a list of whole numbers, but got .*Try batch\(range\(8\)\)"):
        windows.batch(indices)


@pytest.mark.parametrize("count", NO_COUNTS)
def test_invalid_count_is_refused(timeline, windows, count):
    def refused(name: str):
        return pytest.raises(ValueError, match=f"^{name} must be a whole number of at least 1, but got ")

    if count is not None:  # which stands for the default
        with refused("input_steps"):
            SolaredWindows(timeline, input_steps=count)
        with refused("trajectory_steps"):
            SolaredWindows(timeline, input_steps=5, trajectory_steps=count)
    with refused("input_steps"):
        SolaredProcessor.fit([timeline.values], CHANNELS, input_steps=count)
    with refused("The number of steps"):
        simulate_region(90001, steps=count)
    fitted = [Climatology.fit([timeline]), DampedPersistence.fit([timeline])]
    for baseline in (*(kind() for kind in BASELINES.values()), *fitted):
        with refused("The number of steps ahead"):
            baseline.trajectory(windows, count)


def test_batch_size_must_be_a_whole_number(timeline):
    processor = SolaredProcessor.fit([timeline.values], CHANNELS, input_steps=np.int64(10))
    config = SpatioTemporalAttentionConfig(hidden_size=8, num_attention_heads=2, input_steps=10)
    forecaster = ModelForecaster(SpatioTemporalAttentionForPrediction(config), processor, "small", "cpu")
    windows = forecaster.windows([timeline])
    expected = forecaster.forecast(windows, 4)
    np.testing.assert_allclose(forecaster.forecast(windows, np.int64(7)), expected, rtol=1e-4, atol=1e-2)
    for count in NO_COUNTS:
        if count is not None:
            with pytest.raises(SolaredError, match="batch_size must be a whole number of at least 1"):
                forecaster.forecast(windows, count)


def test_processor_with_numpy_numbers_is_saved_and_loaded(timeline, tmp_path):
    processor = SolaredProcessor.fit(
        [timeline.values],
        np.array(CHANNELS),
        input_channels=np.array(CHANNELS[:2]),
        input_steps=np.int64(24),
        horizon_hours=np.float32(6),
        cadence_minutes=np.int64(60),
        fitted_on={"regions": np.array([90001]), "seed": np.int64(3), "split": "train"},
    )
    processor.save_pretrained(tmp_path)
    back = SolaredProcessor.from_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    for settings in (saved, vars(back), vars(processor)):
        assert (settings["input_steps"], settings["horizon_hours"], settings["cadence_minutes"]) == (24, 6, 60)
        assert settings["fitted_on"] == {"regions": [90001], "seed": 3, "split": "train"}
        assert settings["input_channels"] == list(CHANNELS[:2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon_hours": "12"}, "horizon_hours must be a number above 0, but got '12'"),
        ({"horizon_hours": -1}, "horizon_hours must be a number above 0, but got -1"),
        ({"cadence_minutes": np.nan}, "cadence_minutes must be a number above 0, but got nan"),
        ({"fitted_on": {"by": object()}}, "fitted_on holds a value that JSON cannot store"),
        (
            {"input_channels": "continuum_intensity"},
            "input_channels must be a list of names, but got 'continuum_intensity'",
        ),
    ],
)
def test_settings_that_json_cannot_store_are_refused(timeline, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SolaredProcessor.fit([timeline.values], CHANNELS, **settings)


def test_invalid_input_of_a_processor_is_refused(timeline):
    processor = SolaredProcessor.fit([timeline.values], CHANNELS, input_steps=10)
    values = timeline.values[:10].astype(np.float64)
    masked = np.ma.masked_array(np.where(values > 0, 1e20, values), values > 0)
    expected = processor(np.where(values > 0, np.nan, values))
    for name, array in processor(masked).items():
        np.testing.assert_array_equal(array, expected[name])
    refitted = SolaredProcessor.fit([np.ma.masked_array(timeline.values, timeline.values > 1e6)], CHANNELS)
    assert max(refitted.maximum.values()) <= 1e6
    for wrong, message in (
        (np.zeros((10, 6, 81)), r"all 81 tiles of the patch.*past_values\[..., 9:72\]"),
        (
            np.where(values > 0, np.inf, values),
            "values that are infinite or too large for float32. Replace them with NaN",
        ),
        (
            np.where(values > 0, 1e300, values),
            "values that are infinite or too large for float32. Replace them with NaN",
        ),
        (np.zeros((6, 10, 63)), r"shape \(batch, 10, 6, tiles\)"),
    ):
        with pytest.raises(ValueError, match=message):
            processor(wrong)
    with pytest.raises(ValueError, match=r"shape \(..., 6, tiles\) .* got \(10, 1, 63\). Put the channels before"):
        processor.normalise(values[:, :1], CHANNELS)
