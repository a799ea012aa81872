"""`pipeline("solar-active-region-forecasting")`: its forecasts, inputs and errors."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from transformers import AutoModel, pipeline
from transformers.pipelines import get_supported_tasks

from solared_hf import (
    SolarActiveRegionForecastingPipeline,
    SolaredError,
    SolaredProcessor,
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
    SpatioTemporalResnetConfig,
    SpatioTemporalResnetForPrediction,
    Timeline,
    load_forecaster,
    load_timelines,
)
from solared_hf.forecasters import forecast_table
from solared_hf.schema import CHANNELS

TASK = "solar-active-region-forecasting"
INPUT_STEPS = 12
DEVICES = ["cpu", *([torch.accelerator.current_accelerator().type] if torch.accelerator.is_available() else [])]

# The tests import the package first, as tests/conftest.py does. The arguments are a model folder and a Parquet file.
TRANSFORMERS_FIRST = """
import sys
from transformers import pipeline
import solared_hf
from datasets import load_dataset
forecaster = pipeline("solar-active-region-forecasting", model=sys.argv[1])
for forecast in forecaster(load_dataset("parquet", data_files=sys.argv[2], split="train", streaming=True)):
    print(forecast["ar_number"], *forecast["forecast_intensity"][-1])
"""


@pytest.fixture(scope="module")
def processor(simulated_dataset) -> SolaredProcessor:
    values = [timeline.values for timeline in load_timelines(simulated_dataset, "train")]
    return SolaredProcessor.fit(values, CHANNELS, input_steps=INPUT_STEPS, cadence_minutes=60)


@pytest.fixture(scope="module")
def folders(processor, tmp_path_factory) -> dict:
    """Return a model folder of each family."""
    attention = SpatioTemporalAttentionConfig(
        hidden_size=8, num_attention_heads=2, num_temporal_layers=1, num_spatial_layers=1, input_steps=INPUT_STEPS
    )
    models = {
        "attention": SpatioTemporalAttentionForPrediction(attention),
        "resnet": SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig(input_steps=INPUT_STEPS)),
    }
    folders = {family: tmp_path_factory.mktemp(family) for family in models}
    for family, model in models.items():
        model.save_pretrained(folders[family])
        processor.save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="module")
def forecaster(folders):
    return pipeline(TASK, model=folders["attention"])


@pytest.fixture
def assert_same(processor):
    """Return a function that compares forecasts of regions, by default to 1e-5 of the processor's range."""

    def compare(actual: list[dict], expected: list[dict], tolerance: float = 1e-5) -> None:
        assert [forecast["ar_number"] for forecast in actual] == [forecast["ar_number"] for forecast in expected]
        for forecast, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(forecast["target_time_tai"], other["target_time_tai"])
            difference = np.abs(forecast["forecast_intensity"] - other["forecast_intensity"])
            assert difference.max() <= tolerance * processor.target_range

    return compare


@pytest.mark.parametrize("family", ["attention", "resnet"])
def test_one_region_is_forecast_beyond_the_last_step(folders, family, processor, make_timeline, assert_same):
    timeline = make_timeline(11726, 40, missing=[20])
    forecast = pipeline(TASK, model=str(folders[family]))(timeline)
    assert set(forecast) == {"ar_number", "last_input_time_tai", "target_time_tai", "forecast_intensity"}
    assert type(forecast["ar_number"]) is int
    assert forecast["last_input_time_tai"].dtype == forecast["target_time_tai"].dtype == "datetime64[ms]"
    assert forecast["last_input_time_tai"][-1] == timeline.times[-1]
    assert (forecast["target_time_tai"] - forecast["last_input_time_tai"] == np.timedelta64(12, "h")).all()
    # Parts of 20 and 19 steps before and after the missing step.
    assert forecast["forecast_intensity"].shape == (9 + 8, 63)
    assert forecast["forecast_intensity"].dtype == np.float32

    inputs = processor(timeline.values[-INPUT_STEPS:], return_tensors="pt")
    with torch.no_grad():
        latest = AutoModel.from_pretrained(folders[family])(**inputs).prediction_outputs
    error = forecast["forecast_intensity"][-1] - processor.inverse(latest.numpy())[0]
    assert np.abs(error).max() <= 1e-5 * processor.target_range

    other = load_forecaster(folders[family])
    windows = other.windows([timeline], require_target=False)
    table = forecast_table(windows, other.forecast(windows))
    for column in ("last_input_time_tai", "target_time_tai"):
        np.testing.assert_array_equal(np.repeat(forecast[column], 63), table[column].to_numpy())
    error = forecast["forecast_intensity"].ravel() - table["forecast_intensity"].to_numpy()
    assert np.abs(error).max() <= 1e-5 * processor.target_range


def test_regions_and_splits_give_a_list_in_order(forecaster, simulated_dataset, assert_same):
    whole = load_timelines(simulated_dataset, "test")
    timelines = [Timeline(region.ar_number, region.times[:20], region.values[:20]) for region in whole]
    alone = [forecaster(timeline) for timeline in timelines]
    assert len(alone) > 1
    assert_same(forecaster(timelines), alone)
    assert_same(forecaster(timelines[::-1]), alone[::-1])
    assert_same(forecaster(timeline for timeline in timelines), alone)
    assert_same(forecaster(timelines[:1]), alone[:1])
    for streaming in (False, True):
        split = load_dataset(str(simulated_dataset), split="test", streaming=streaming)
        assert_same(forecaster(split.filter(lambda row: row["step"] < 20)), alone)


def test_batches_across_regions_do_not_change_the_forecasts(folders, make_timeline, assert_same):
    timelines = [make_timeline(ar_number, 16, seed=ar_number) for ar_number in (1, 2, 3)]  # 5 windows each
    forecaster = pipeline(TASK, model=folders["resnet"], batch_size=4)
    batches = []

    def record(model, _, inputs):
        batches.append(len(inputs["past_values"]))
        assert torch.is_inference_mode_enabled()
        assert not model.training

    forecaster.model.register_forward_pre_hook(record, with_kwargs=True)
    forecasts = forecaster(timelines)
    assert batches == [4, 4, 4, 3]
    batches.clear()
    assert_same(forecaster(timelines, batch_size=1), forecasts)
    assert batches == [1] * 15


def test_region_without_windows_gives_an_empty_forecast(forecaster, make_timeline):
    empty, whole = forecaster([make_timeline(1, 5), make_timeline(2, 16)])
    assert (empty["ar_number"], whole["ar_number"]) == (1, 2)
    assert empty["forecast_intensity"].shape == (0, 63)
    assert len(empty["last_input_time_tai"]) == len(empty["target_time_tai"]) == 0
    assert whole["forecast_intensity"].shape == (5, 63)
    with pytest.raises(SolaredError, match="AR1: 0 windows from 5 steps"):
        forecaster(make_timeline(1, 5))


@pytest.mark.parametrize("device", DEVICES)
def test_device_and_dtype(folders, forecaster, device, make_timeline, assert_same):
    timelines = [make_timeline(11726, 30)]
    half = pipeline(TASK, model=folders["attention"], device=device, dtype="bfloat16")
    assert half.device.type == half.model.device.type == device
    assert half.model.dtype == torch.bfloat16
    forecast = half(timelines)
    assert forecast[0]["forecast_intensity"].dtype == np.float32
    assert_same(forecast, forecaster(timelines), tolerance=0.1)


def test_model_object_needs_its_processor(folders, forecaster, processor, make_timeline, assert_same):
    model = AutoModel.from_pretrained(folders["attention"]).train()
    with_processor = pipeline(TASK, model=model, feature_extractor=processor)
    timelines = [make_timeline(11726, 16)]
    assert_same(with_processor(timelines), forecaster(timelines))
    with pytest.raises(SolaredError, match=r"lacks its processor\. Pass feature_extractor="):
        SolarActiveRegionForecastingPipeline(model=model)


def test_folder_with_a_missing_or_other_processor_is_refused(folders, processor, tmp_path):
    AutoModel.from_pretrained(folders["attention"]).save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"Can't load feature extractor .*preprocessor_config\.json"):
        pipeline(TASK, model=tmp_path)
    SolaredProcessor(**{**processor.to_dict(), "horizon_hours": 6.0}).save_pretrained(tmp_path)
    refusals = []
    for load in (load_forecaster, lambda folder: pipeline(TASK, model=folder)):
        with pytest.raises(SolaredError, match=r"has horizon_hours 12\.0, but its processor has 6\.0") as refused:
            load(tmp_path)
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]


def test_names_are_refused_as_regions(forecaster, simulated_dataset):
    for name in ("nasa-impact/ar_emergence", simulated_dataset):
        with pytest.raises(SolaredError, match=r"`load_dataset` or `load_timelines`"):
            forecaster(name)
    with pytest.raises(SolaredError, match="Choose one split"):
        forecaster(load_dataset(str(simulated_dataset), streaming=True))


def test_saved_pipeline_is_a_model_folder(forecaster, make_timeline, assert_same, tmp_path, folders):
    forecaster.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folders["attention"].iterdir()}
    assert (tmp_path / "config.json").read_text() == (folders["attention"] / "config.json").read_text()
    timelines = [make_timeline(11726, 16)]
    assert_same(pipeline(TASK, model=tmp_path)(timelines), forecaster(timelines))


def test_task_is_known_if_transformers_was_imported_first(folders, forecaster, make_timeline, in_processes, tmp_path):
    assert TASK in get_supported_tasks()
    timelines = [make_timeline(11698, 16), make_timeline(11726, 14, seed=1)]
    pq.write_table(pa.concat_tables(timeline.to_table() for timeline in timelines), tmp_path / "regions.parquet")
    arguments = str(folders["attention"]), str(tmp_path / "regions.parquet")
    ((code, output, errors),) = in_processes((TRANSFORMERS_FIRST, *arguments))
    assert code == 0, errors
    expected = [[forecast["ar_number"], *forecast["forecast_intensity"][-1]] for forecast in forecaster(timelines)]
    np.testing.assert_allclose(np.loadtxt(output.splitlines()), expected, rtol=1e-5, atol=1e-2)
    # The output is only progress, which a slow machine also shows for forecasts, and no warning of transformers.
    progress = ("Loading weights", "Forecasting")
    assert [line for line in errors.splitlines() if line.strip() and not line.startswith(progress)] == []
