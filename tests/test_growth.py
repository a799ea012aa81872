"""What thousands of regions take of memory: their values once as timelines, once more as windows, and little else."""

import tracemalloc
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from dataset_builder.simulation import simulate_region
from solared_hf import SolaredError, SolaredProcessor, SolaredWindows
from solared_hf.data.timelines import timelines_from_dataset, timelines_from_table
from solared_hf.evaluation import score_forecasts
from solared_hf.evaluation.intervals import region_interval
from solared_hf.evaluation.scores import intensity_processor
from solared_hf.forecasters import Average, Persistence
from solared_hf.forecasters.lagged_regression import _training_rows
from solared_hf.schema import CHANNELS

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def many():
    """Forty regions of 150 steps, 9 MB of values; one has NaN and one a gap."""
    alike = simulate_region(90_001, steps=150)
    regions = [replace(alike, ar_number=90_001 + index, values=alike.values + index) for index in range(40)]
    regions[3].values[20:23, :, 9] = np.nan
    regions[5] = replace(regions[5], times=np.delete(alike.times, 80), values=np.delete(regions[5].values, 80, axis=0))
    return regions


def _bytes(regions) -> int:
    return sum(region.values.nbytes for region in regions)


def _peak(call):
    """What a call gives, and the bytes that Python and numpy hold at its peak."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["table", "map-style", "streaming"])
def test_timelines_hold_each_value_once(many, kind):
    table = pa.concat_tables([region.to_table() for region in many])
    rows = Dataset(table)
    read, data = {
        "table": (timelines_from_table, table),
        "map-style": (timelines_from_dataset, rows),
        "streaming": (timelines_from_dataset, rows.to_iterable_dataset(num_shards=4)),
    }[kind]
    timelines, peak = _peak(lambda: read(data))
    assert peak < 1.6 * _bytes(many)
    for timeline, region in zip(timelines, many, strict=True):
        np.testing.assert_array_equal(timeline.values, region.values)
        np.testing.assert_array_equal(timeline.times, region.times)


def test_windows_copy_the_values_once_and_baselines_never(many):
    processor, peak = _peak(lambda: SolaredProcessor.fit((region.values for region in many), CHANNELS))
    assert peak < 0.3 * _bytes(many)
    windows, peak = _peak(lambda: SolaredWindows(many, processor=processor))
    # The observed mask and the target are 0.42 times the values.
    assert peak < 1.7 * _bytes(many)
    bare, peak = _peak(lambda: Persistence().windows(many))
    assert peak < 0.3 * _bytes(many)
    for baseline in (Persistence(), Average()):
        forecast, peak = _peak(lambda: baseline.forecast(bare))  # noqa: B023
        assert peak < 0.3 * _bytes(many) + 2 * forecast.nbytes
    assert len(windows) == len(bare)


def test_windows_that_have_not_been_read_give_the_same(many):
    processor = SolaredProcessor.fit((region.values for region in many), CHANNELS, nan_policy="interpolate")
    arguments = {"processor": processor, "input_steps": 20, "trajectory_steps": 3}
    read, unread = SolaredWindows(many, **arguments), SolaredWindows(many, **arguments, read=False)
    assert len(read) == len(unread)
    picked = np.random.default_rng(0).integers(len(read), size=50)
    for name, expected in read.batch(picked).items():
        np.testing.assert_array_equal(unread.batch(picked)[name], expected)
    for windows in (read, SolaredWindows(many, **arguments, read=False)):
        parts = list(windows.parts())
        assert len(parts) > 2
        assert [region.timeline.ar_number for part in parts for region in part.regions] == [
            region.ar_number for region in many
        ]
        for name in read.batch([0]):
            given = np.concatenate([part.batch(range(len(part)))[name] for part in parts])
            np.testing.assert_array_equal(given, read.batch(range(len(read)))[name])
        for index in (0, 7):
            np.testing.assert_array_equal(parts[1][index]["target_time"], read[len(parts[0]) + index]["target_time"])


def test_parts_pass_over_regions_without_windows(many):
    short = [
        replace(many[0], ar_number=80_000 + i, times=many[0].times[:30], values=many[0].values[:30]) for i in range(90)
    ]
    windows = SolaredWindows([*short, *many[:3], *short], input_steps=40)
    parts = list(windows.parts())
    assert sum(map(len, parts)) == len(windows)
    np.testing.assert_array_equal(np.concatenate([part.ar_numbers for part in parts]), windows.ar_numbers)


def test_nothing_to_cut_is_told_of_a_few_regions_only(many):
    with pytest.raises(SolaredError, match="and 35 more regions") as caught:
        SolaredWindows(many, input_steps=1_000)
    assert len(str(caught.value)) < 1_000


def test_scores_of_many_regions_are_those_of_one_after_the_other(many):
    random = np.random.default_rng(0)
    windows = SolaredWindows([many[index] for index in random.permutation(len(many))], input_steps=20)
    forecasts = {"persistence": Persistence().forecast(windows), "average": Average().forecast(windows)}
    _, average = score_forecasts(forecasts, "persistence", windows, intensity_processor(many))
    errors = np.square(forecasts["average"].astype(np.float64) - windows.observed_targets)
    expected = {
        int(number): np.sqrt(np.nanmean(errors[windows.ar_numbers == number]))
        for number in np.unique(windows.ar_numbers)
    }
    assert average.rmse_dn_by_region == pytest.approx(expected)
    assert list(average.rmse_dn_by_region) == sorted(expected)


def test_an_interval_is_the_same_however_many_are_drawn_at_a_time(monkeypatch):
    values = np.random.default_rng(0).standard_normal(50)
    expected = region_interval(np.mean, values)
    monkeypatch.setattr("solared_hf.evaluation.intervals._DRAWS", 700)
    assert region_interval(np.mean, values) == pytest.approx(expected)


def test_regressions_learn_from_no_more_rows_than_memory_has_room_for(many, monkeypatch):
    every_other, changes, _ = _training_rows(many, np.array([12]), HOUR)
    monkeypatch.setattr("solared_hf.forecasters.lagged_regression._MOST_TRAINING_ROWS", len(changes) // 3)
    fewer, changes, weights = _training_rows(many, np.array([12]), HOUR)
    assert len(every_other) / 5 < len(fewer) < len(every_other) / 2.5
    assert len(fewer) == len(changes) == len(weights)
