"""The content of a window, and which windows are dropped."""

from datetime import timedelta

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, default_collate

from solared_hf import SolaredError, SolaredProcessor, SolaredWindows, Timeline
from solared_hf.data import batch_of
from solared_hf.schema import CHANNELS, NUM_TILES, timeline_features

HOUR = timedelta(hours=1)


def test_window_has_the_input_and_the_intensity_one_horizon_later(make_timeline):
    timeline = make_timeline(90001, steps=150)
    windows = SolaredWindows(timeline)
    assert len(windows) == 150 - 120 - 12 + 1
    window = windows[5]
    assert window["past_values"].shape == (120, 6, NUM_TILES)
    assert window["past_values"].dtype == torch.float32
    np.testing.assert_array_equal(window["past_values"], timeline.values[5:125])
    np.testing.assert_array_equal(window["future_values"], timeline.values[124 + 12, 5])
    assert window["past_observed_mask"].all()
    assert window["ar_number"] == 90001
    assert np.datetime64(window["target_time"], "ms") == timeline.times[136]
    assert windows.last_input_times[5] == timeline.times[124]
    assert windows.target_times[5] == timeline.times[136]


def test_channels_have_the_requested_order(make_timeline):
    timeline = make_timeline(90001, steps=40)
    asked = ["continuum_intensity", "power_3_4mhz"]
    window = SolaredWindows(timeline, input_steps=10, input_channels=asked)[3]
    expected = timeline.values[3:13][:, [5, 1]]
    np.testing.assert_array_equal(window["past_values"], expected)


def test_horizon_is_a_duration_at_any_cadence(make_timeline):
    timeline = make_timeline(90001, steps=100, cadence=timedelta(minutes=12))
    window = SolaredWindows(timeline, input_steps=20, horizon=2 * HOUR)[0]
    np.testing.assert_array_equal(window["future_values"], timeline.values[19 + 10, 5])


def test_horizon_between_two_steps_is_refused(make_timeline):
    with pytest.raises(SolaredError, match=r"0:30:00 is not a multiple of the cadence 1:00:00 of AR90001"):
        SolaredWindows(make_timeline(90001, steps=40), input_steps=10, horizon=HOUR / 2)


@pytest.mark.parametrize("minutes", [12, 60])
def test_jitter_of_times_does_not_change_the_windows(make_timeline, minutes):
    timeline = make_timeline(90001, steps=100, cadence=timedelta(minutes=minutes), missing=[50])
    off = np.random.default_rng(0).integers(-700, 701, len(timeline)).astype("timedelta64[ms]")
    jittered = Timeline(90001, timeline.times + off, timeline.values)
    processor = SolaredProcessor.fit([timeline.values], CHANNELS, cadence_minutes=minutes)
    for required in (True, False):
        settings = {"input_steps": 10, "horizon": 2 * HOUR, "processor": processor, "require_target": required}
        expected, windows = (SolaredWindows(one, **settings) for one in (timeline, jittered))
        assert (windows.cadence, windows.horizon_steps) == (expected.cadence, expected.horizon_steps)
        np.testing.assert_array_equal(windows.regions[0].starts, expected.regions[0].starts)
        np.testing.assert_array_equal(windows.observed_targets, expected.observed_targets)


@pytest.mark.parametrize("missing", [[50], [50, 51, 52]])
def test_no_window_spans_a_gap(make_timeline, missing):
    timeline = make_timeline(90001, steps=100, missing=missing)
    windows = SolaredWindows(timeline, input_steps=10, horizon=4 * HOUR)
    for index in range(len(windows)):
        last_input, target = windows.last_input_times[index], windows.target_times[index]
        first_input = last_input - np.timedelta64(9, "h")
        spanned = np.arange(first_input, target + np.timedelta64(1, "h"), np.timedelta64(1, "h"))
        assert np.isin(spanned, timeline.times).all()
    # 14 steps per window: 50 rows before the gap give 37 windows, and the rows after the gap give 13 fewer than rows.
    after = 100 - 50 - len(missing)
    assert len(windows) == 37 + after - 13
    (report,) = windows.report()
    assert report.windows == len(windows)
    assert report.dropped == {"spans a gap": 13}


def test_target_is_never_filled(make_timeline):
    timeline = make_timeline(90001, steps=60)
    timeline.values[40, 5, 7] = np.nan
    for policy in ("zero", "interpolate"):
        windows = SolaredWindows(timeline, input_steps=10, nan_policy=policy)
        assert len(windows) == 60 - 22 + 1 - 1
        assert not np.isnan(windows.observed_targets).any()
        assert windows.report()[0].dropped == {"target not observed": 1}
        assert timeline.times[40] not in windows.target_times


def test_zero_policy_replaces_nan_by_zero_in_physical_units(make_timeline):
    timeline = make_timeline(90001, steps=60)
    timeline.values[12, 2, 30] = np.nan
    window = SolaredWindows(timeline, input_steps=10, nan_policy="zero")[5]
    assert window["past_values"][7, 2, 30] == 0
    assert not window["past_observed_mask"][7, 2, 30]
    assert window["past_observed_mask"].sum() == 10 * 6 * NUM_TILES - 1


def test_interpolation_uses_no_step_after_the_input(make_timeline):
    timeline = make_timeline(90001, steps=60)
    timeline.values[:, 2, 30] = np.arange(60, dtype=np.float32) ** 2
    timeline.values[[13, 14], 2, 30] = np.nan
    windows = SolaredWindows(timeline, input_steps=10, nan_policy="interpolate")
    inside = windows[8]["past_values"][:, 2, 30]
    np.testing.assert_allclose(inside[5:7], [144 + 81 / 3, 144 + 2 * 81 / 3])
    # The window that ends at step 14 repeats the last observed value, 12 ** 2, although step 15 was observed.
    assert windows[5]["past_values"][-2:, 2, 30].tolist() == [144, 144]
    assert not windows[5]["past_observed_mask"][-2:, 2, 30].any()
    # The values of the region are unchanged.
    assert np.isnan(timeline.values[13, 2, 30])


def test_interpolation_of_an_unobserved_tile_is_zero(make_timeline):
    timeline = make_timeline(90001, steps=60)
    timeline.values[:, 0, 3] = np.nan
    window = SolaredWindows(timeline, input_steps=10, nan_policy="interpolate")[0]
    assert (window["past_values"][:, 0, 3] == 0).all()


def test_drop_policy_drops_windows_with_nan_in_the_input_channels(make_timeline):
    timeline = make_timeline(90001, steps=60)
    timeline.values[20, 0, 0] = np.nan
    windows = SolaredWindows(timeline, input_steps=10, nan_policy="drop")
    assert windows.report()[0].dropped == {"input has NaN": 10}
    assert all(windows[index]["past_observed_mask"].all() for index in range(len(windows)))
    without = SolaredWindows(timeline, input_steps=10, nan_policy="drop", input_channels=CHANNELS[1:])
    assert without.report()[0].dropped == {}


def test_unobserved_windows_are_dropped_and_reported(make_timeline):
    good, blind = make_timeline(90001, steps=60), make_timeline(90002, steps=60)
    blind.values[:30] = np.nan
    windows = SolaredWindows([good, blind], input_steps=10)
    assert windows.report()[1].dropped == {"target not observed": 9, "input never observed": 12}
    assert "AR90002: 18 windows from 60 steps, 21 dropped" in str(windows.report()[1])
    blind.values[:] = np.nan
    with pytest.raises(SolaredError, match=r"No window of 10 input steps.*AR90002: 0 windows.*39 target not observed"):
        SolaredWindows(blind, input_steps=10)


def test_short_region_gives_no_window_and_no_error_beside_others(make_timeline):
    windows = SolaredWindows([make_timeline(90001, steps=60), make_timeline(90002, steps=5)], input_steps=10)
    assert [report.windows for report in windows.report()] == [39, 0]
    assert windows.report()[1].dropped == {"region too short": 1}
    with pytest.raises(SolaredError, match="Use fewer input steps"):
        SolaredWindows(make_timeline(90002, steps=5), input_steps=10)


def test_windows_without_a_required_target(make_timeline):
    timeline = make_timeline(90001, steps=60)
    windows = SolaredWindows(timeline, input_steps=10, require_target=False)
    assert len(windows) == 51
    assert windows.last_input_times[-1] == timeline.times[-1]
    assert torch.isnan(windows[50]["future_values"]).all()
    assert np.isnan(windows.observed_targets[-12:]).all()
    np.testing.assert_array_equal(windows[38]["future_values"], timeline.values[59, 5])
    # A target after a gap is found by its time, not by counting rows.
    gappy = make_timeline(90001, steps=60, missing=[25, 26])
    windows = SolaredWindows(gappy, input_steps=10, require_target=False)
    at = int(np.flatnonzero(windows.last_input_times == gappy.times[20])[0])
    np.testing.assert_array_equal(windows[at]["future_values"], gappy.values[32 - 2, 5])


def test_map_style_and_streaming_datasets_give_the_same_windows(make_timeline):
    timelines = [make_timeline(90001, steps=50), make_timeline(90002, steps=45, seed=1)]
    rows = [row for timeline in timelines for row in timeline.to_table().to_pylist()]
    dataset = Dataset.from_list(rows, features=timeline_features())
    for source in (dataset, dataset.to_iterable_dataset()):
        windows = SolaredWindows(source, input_steps=10)
        expected = SolaredWindows(timelines, input_steps=10)
        assert len(windows) == len(expected)
        for index in (0, 28, 29, len(windows) - 1):
            for name, value in expected[index].items():
                np.testing.assert_array_equal(windows[index][name], value)


def test_plain_torch_loader_makes_batches(make_timeline):
    windows = SolaredWindows(make_timeline(90001, steps=60), input_steps=10)
    batch = next(iter(DataLoader(windows, batch_size=4)))
    assert batch["past_values"].shape == (4, 10, 6, NUM_TILES)
    assert batch["future_values"].shape == (4, NUM_TILES)
    assert batch["target_time"].tolist() == windows.target_times[:4].astype(int).tolist()


def assert_same_bits(given: dict, expected: dict):
    assert given.keys() == expected.keys()
    for name, tensor in expected.items():
        assert given[name].dtype == tensor.dtype, name
        bits = torch.uint8 if tensor.dtype == torch.bool else torch.int32
        assert torch.equal(given[name].view(bits), tensor.view(bits)), name


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("require_target", [True, False])
@pytest.mark.parametrize("trajectory_steps", [None, 6])
@pytest.mark.parametrize("nan_policy", ["zero", "interpolate", "drop"])
def test_batch_equals_the_stacked_items(make_timeline, nan_policy, trajectory_steps, require_target, normalised):
    first = make_timeline(90001, steps=50, missing=[25, 26])
    first.values[12, 2, 30] = first.values[33:36, 5, 7] = np.nan
    last = make_timeline(90003, steps=40, seed=1)
    last.values[:, 0, 3] = np.nan if nan_policy != "drop" else 1
    timelines = [first, make_timeline(90002, steps=5), last]
    processor = SolaredProcessor.fit([first.values], CHANNELS) if normalised else None
    windows = SolaredWindows(
        timelines, 8, 4 * HOUR, ["continuum_intensity", "power_4_5mhz", "power_2_3mhz"], nan_policy, processor,
        require_target, trajectory_steps,
    )  # fmt: skip
    everything = np.arange(len(windows))
    random = np.random.default_rng(0).integers(-len(windows), len(windows), 50)
    for indices in (everything, everything[::-1], random, [3], [len(windows) - 1, 0, 0]):
        expected = default_collate([windows[index] for index in indices])
        del expected["ar_number"], expected["target_time"]
        assert_same_bits(windows.batch(indices), expected)
    # The cases do occur: unknown values, and windows with NaN.
    batch = windows.batch(everything)
    assert batch["past_observed_mask"].all() == (nan_policy == "drop")
    assert batch["future_values"].isnan().any() == (not require_target)
    assert batch.get("future_trajectory", torch.tensor(torch.nan)).isnan().any()


def test_batch_is_a_copy_and_item_is_a_view(make_timeline):
    windows = SolaredWindows(make_timeline(90001, steps=60), input_steps=10)
    windows.batch([4, 5])["past_values"][:] = -1
    assert (windows[4]["past_values"] != -1).all()
    assert windows[4]["past_values"][1:].data_ptr() == windows[5]["past_values"].data_ptr()
    with pytest.raises(IndexError):
        windows.batch([0, len(windows)])


def test_loaders_gather_batches_of_indices_and_of_references(make_timeline):
    windows = [SolaredWindows(make_timeline(90001, steps=40 + i, seed=i), input_steps=10) for i in range(2)]
    for one in windows:
        numbers = DataLoader(range(len(one)), batch_size=8, collate_fn=one.batch)
        # One collator for both.
        references = DataLoader(one.references(), batch_size=8, collate_fn=batch_of)
        assert len(numbers) == len(references) == 3
        for first, batch, other in zip((0, 8, 16), numbers, references, strict=True):
            assert_same_bits(batch, one.batch(range(first, min(first + 8, len(one)))))
            assert_same_bits(other, batch)


def test_processor_normalises_and_gives_the_window_settings(make_timeline):
    timeline = make_timeline(90001, steps=60)
    timeline.values[12, 2, 30] = np.nan
    processor = SolaredProcessor.fit(
        [timeline.values], CHANNELS, input_channels=["unsigned_magnetic_flux", "power_4_5mhz"], input_steps=8,
        horizon_hours=3.0,
    )  # fmt: skip
    windows = SolaredWindows(timeline, processor=processor)
    window = windows[10]
    assert windows.horizon == 3 * HOUR
    assert window["past_values"].shape == (8, 2, NUM_TILES)
    flux, power = timeline.values[10:18, 4], timeline.values[10:18, 2]
    low, high = np.nanmin(timeline.values[:, 4]), np.nanmax(timeline.values[:, 4])
    np.testing.assert_allclose(window["past_values"][:, 0], (flux - low) / (high - low), rtol=1e-5, atol=1e-6)
    # A missing value is set to 0 in physical units, and then normalised.
    low, high = np.nanmin(timeline.values[:, 2]), np.nanmax(timeline.values[:, 2])
    expected = (np.nan_to_num(power) - low) / (high - low)
    np.testing.assert_allclose(window["past_values"][:, 1], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        processor.inverse(window["future_values"].numpy()), timeline.values[20, 5], rtol=1e-4, atol=1e-2
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nan_policy": "mean"}, "Unknown NaN policy 'mean'. Choose one of zero, interpolate, drop"),
        ({"input_channels": ["flux"]}, "Unknown input channels.*flux.*power_2_3mhz"),
        ({"input_channels": []}, "At least one input channel"),
        ({"input_steps": 0}, "at least one input step"),
        ({"horizon": timedelta(0)}, "The horizon must be above 0"),
        ({"horizon": 12}, r"The horizon must be a timedelta, but got 12. Try timedelta\(hours=12\)"),
        ({"input_channels": "continuum_intensity"}, "a list of different names, but got 'continuum_intensity'"),
        ({"input_channels": ["power_2_3mhz", "power_2_3mhz"]}, "a list of different names"),
    ],
)
def test_impossible_arguments_are_refused(make_timeline, arguments, message):
    with pytest.raises(SolaredError, match=message):
        SolaredWindows(make_timeline(90001, steps=150), **arguments)


def test_data_of_another_type_or_cadence_are_refused(make_timeline):
    with pytest.raises(SolaredError, match="Load timelines with `load_dataset`"):
        SolaredWindows("runs/dataset")
    with pytest.raises(SolaredError, match="Load timelines with `load_dataset`"):
        SolaredWindows(np.zeros((3, 6, 63)))
    hourly = make_timeline(90001, steps=60)
    processor = SolaredProcessor.fit([hourly.values], CHANNELS, input_steps=10, cadence_minutes=60.0)
    assert len(SolaredWindows(hourly, processor=processor)) == 39
    fast = make_timeline(90001, steps=200, cadence=timedelta(minutes=12))
    with pytest.raises(SolaredError, match=r"AR90001 has a step every 0:12:00, .*fitted on a step every 1:00:00"):
        SolaredWindows(fast, processor=processor)


def test_values_are_split_by_region_even_if_one_has_no_windows(make_timeline):
    timelines = [make_timeline(90001, steps=14), make_timeline(90002, steps=5), make_timeline(90003, steps=12)]
    windows = SolaredWindows(timelines, input_steps=10, horizon=HOUR)
    assert [part.tolist() for part in windows.by_region(windows.ar_numbers)] == [[90001] * 4, [], [90003] * 2]
    with pytest.raises(SolaredError, match=r"6 windows, but forecasts of 5. Give the windows of the forecasts"):
        windows.by_region(np.zeros((5, NUM_TILES)))


def test_cadence_of_all_regions_with_windows(make_timeline):
    half_hourly = make_timeline(90002, steps=15, cadence=HOUR / 2)
    windows = SolaredWindows([make_timeline(90001, steps=15), make_timeline(90003, 1)], input_steps=10, horizon=HOUR)
    assert (windows.cadence, windows.horizon_steps) == (HOUR, 1)
    windows = SolaredWindows(half_hourly, input_steps=10, horizon=HOUR)
    assert (windows.cadence, windows.horizon_steps) == (HOUR / 2, 2)
    mixed = SolaredWindows([make_timeline(90001, steps=15), half_hourly], input_steps=10, horizon=HOUR)
    for ask in ("cadence", "horizon_steps"):
        with pytest.raises(SolaredError, match=r"different cadences. Forecast each region separately\.$"):
            getattr(mixed, ask)


def test_trajectory_ends_at_a_gap_or_at_the_last_step(make_timeline):
    timeline = make_timeline(90001, steps=40, missing=[25])
    timeline.values[14, 5, 3] = np.nan
    windows = SolaredWindows(timeline, input_steps=10, horizon=2 * HOUR, trajectory_steps=6, require_target=False)
    for item, start in zip(windows, windows.regions[0].starts, strict=True):
        expected = np.full((6, NUM_TILES), np.nan, np.float32)
        following = timeline.values[start + 10 : start + 16, 5]
        # The step that is missing was the 25th, so the gap lies before what is now step 25.
        known = following[: 25 - (start + 10)] if start + 10 <= 25 else following
        expected[: len(known)] = known
        np.testing.assert_array_equal(item["future_trajectory"], expected)
    assert "future_trajectory" not in SolaredWindows(timeline, input_steps=10, horizon=2 * HOUR)[0]


@pytest.fixture
def processor_of():
    def fit(timeline, **settings):
        return SolaredProcessor.fit([timeline.values], CHANNELS, **settings)

    return fit


def test_windows_for_another_model_have_its_input_and_the_same_targets(make_timeline, processor_of):
    timeline = make_timeline(90001, steps=60)
    windows = SolaredWindows(timeline, input_steps=20, horizon=3 * HOUR)
    processor = processor_of(
        timeline, input_channels=["continuum_intensity", "power_3_4mhz"], input_steps=8, horizon_hours=5.0
    )
    seen = windows.as_seen_by(processor, 5 * HOUR)
    assert len(seen) == len(windows)
    np.testing.assert_array_equal(seen.target_times, windows.target_times)
    np.testing.assert_array_equal(seen.observed_targets, windows.observed_targets)
    np.testing.assert_array_equal(seen.last_input_times, windows.last_input_times - np.timedelta64(2, "h"))
    # Of steps 7..26 the newest two are withheld from a model that forecasts 5 h ahead and uses 8 steps.
    expected = processor.normalise(timeline.values[17:25][:, [5, 1]], processor.input_channels)
    np.testing.assert_array_equal(seen[7]["past_values"], expected)
    assert windows[7]["past_values"].shape == (20, 6, NUM_TILES)
    np.testing.assert_array_equal(seen.batch([7])["past_values"][0], expected)


def test_model_with_a_longer_input_gets_all_steps(make_timeline, processor_of):
    timeline = make_timeline(90001, steps=60)
    windows = SolaredWindows(timeline, input_steps=20, horizon=3 * HOUR)
    assert windows.as_seen_by(processor_of(timeline, input_steps=50))[0]["past_values"].shape[0] == 20


@pytest.mark.parametrize("hours", [2, 23, 3.5])
def test_model_with_an_unsuitable_horizon_is_refused(make_timeline, processor_of, hours):
    timeline = make_timeline(90001, steps=60)
    windows = SolaredWindows(timeline, input_steps=20, horizon=3 * HOUR)
    with pytest.raises(SolaredError, match=r"cannot forecast these windows|not a multiple of the cadence"):
        windows.as_seen_by(processor_of(timeline), timedelta(hours=hours))


def test_windows_with_nan_are_refused_for_a_model_that_drops_nan(make_timeline, processor_of):
    timeline = make_timeline(90001, steps=60)
    timeline.values[25, 0, 7] = np.nan
    windows = SolaredWindows(timeline, input_steps=20, horizon=3 * HOUR)
    with pytest.raises(SolaredError, match="AR90001 have NaN, which the processor of this model drops"):
        windows.as_seen_by(processor_of(timeline, nan_policy="drop"))
