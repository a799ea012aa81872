"""The timeline of a region, and its conversion to and from rows of `datasets` objects."""

import warnings
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset
from datasets.distributed import split_dataset_by_node

from dataset_builder.simulation import simulate_region
from solared_hf import SolaredError, SolaredWindows, Timeline
from solared_hf.data.timelines import timelines_from_dataset, timelines_from_table
from solared_hf.schema import CHANNELS, NUM_TILES, timeline_features


def dataset_of(*timelines: Timeline) -> Dataset:
    tables = [timeline.to_table() for timeline in timelines]
    return Dataset.from_list([row for table in tables for row in table.to_pylist()], features=timeline_features())


def assert_same(actual: Timeline, expected: Timeline) -> None:
    assert actual.ar_number == expected.ar_number
    np.testing.assert_array_equal(actual.times, expected.times)
    np.testing.assert_array_equal(actual.values, expected.values)


def test_conversion_to_rows_and_back_is_exact(make_timeline):
    first, second = make_timeline(90001, steps=7), make_timeline(90002, steps=5, seed=2)
    first.values[3, 1, 40] = np.nan
    table = first.to_table()
    assert table.schema.equals(timeline_features().arrow_schema)
    assert table.column("step").to_pylist() == list(range(7))
    back = timelines_from_dataset(dataset_of(first, second))
    assert_same(back[0], first)
    assert_same(back[1], second)


def test_streaming_and_map_style_give_the_same(make_timeline):
    dataset = dataset_of(make_timeline(90002, steps=6, seed=2), make_timeline(90001, steps=4))
    stream = dataset.to_iterable_dataset(num_shards=2)
    assert isinstance(stream, IterableDataset)
    for streamed, mapped in zip(timelines_from_dataset(stream), timelines_from_dataset(dataset), strict=True):
        assert_same(streamed, mapped)


def test_row_order_filters_and_selections_do_not_matter(make_timeline):
    first, second = make_timeline(90001, steps=9), make_timeline(90002, steps=8, seed=2)
    dataset = dataset_of(first, second)
    shuffled = timelines_from_dataset(dataset.shuffle(seed=1))
    assert_same(shuffled[0], first)
    assert_same(shuffled[1], second)
    (only,) = timelines_from_dataset(dataset.filter(lambda row: row["ar_number"] == 90002))
    assert_same(only, second)


@pytest.fixture
def regions_in_files(tmp_path, make_timeline):
    """Return a function that opens 7 regions with a gap each, one region per file."""
    for number in range(90001, 90008):
        timeline = make_timeline(number, 12, missing=[4, 5], seed=number)
        pq.write_table(timeline.to_table(), tmp_path / f"AR{number}.parquet")

    def open_dataset(streaming: bool):
        return load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), split="train", streaming=streaming,
                            cache_dir=str(tmp_path / "cache"))  # fmt: skip

    return open_dataset


ROWS_REMOVED = r"^AR90001 has step {} and then step {}: in all, \d+ of its rows were removed.*Give whole regions"


@pytest.mark.parametrize("streaming", [False, True])
def test_removed_rows_inside_a_region_are_refused(regions_in_files, streaming):
    dataset = regions_in_files(streaming)
    assert [len(timeline) for timeline in timelines_from_dataset(dataset)] == [10] * 7  # the true gap is no fault
    for changed, step, following in (
        (dataset.filter(lambda row: row["step"] % 12 != 3), 2, 4),
        (dataset.filter(lambda row: row["step"] % 3 == 0), 0, 3),
    ):
        with pytest.raises(SolaredError, match=ROWS_REMOVED.format(step, following)):
            timelines_from_dataset(changed)


def test_every_second_row_for_each_node_is_refused(regions_in_files):
    stream = regions_in_files(True)
    # 7 files cannot be divided between 2 nodes.
    with pytest.raises(SolaredError, match=ROWS_REMOVED.format(0, 2)):
        timelines_from_dataset(split_dataset_by_node(stream, 0, 2))
    with pytest.raises(SolaredError, match=r"AR90001 has step 1 and then step 3"):
        SolaredWindows(split_dataset_by_node(stream, 1, 2), input_steps=2)
    dataset = regions_in_files(False)
    with pytest.raises(SolaredError, match=ROWS_REMOVED.format(0, 2)):
        timelines_from_dataset(dataset.select(range(0, len(dataset), 2)))
    with pytest.raises(SolaredError, match="rows were removed"):
        timelines_from_dataset(dataset.shuffle(seed=0).take(40))
    with pytest.raises(SolaredError, match="rows were removed"):
        timelines_from_dataset(stream.shuffle(seed=0, buffer_size=20).skip(20))
    # Whole files for each node are whole regions.
    shared = [timelines_from_dataset(split_dataset_by_node(stream, rank, 7)) for rank in (0, 6)]
    assert [[timeline.ar_number for timeline in each] for each in shared] == [[90001], [90007]]


@pytest.mark.parametrize("streaming", [False, True])
def test_region_can_end_earlier_and_a_later_beginning_gives_a_warning(regions_in_files, streaming):
    dataset = regions_in_files(streaming)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(timeline) for timeline in timelines_from_dataset(dataset.take(17))] == [10, 7]
        assert len(timelines_from_dataset(dataset.shuffle(seed=0))) == 7
    with pytest.warns(UserWarning, match=r"^The rows before step 3 of AR90001 were removed"):
        skipped = timelines_from_dataset(dataset.skip(3))
    assert [len(timeline) for timeline in skipped[:2]] == [7, 10]


def test_repeated_step_is_refused(make_timeline):
    timeline = make_timeline(90001, steps=4)
    with pytest.raises(SolaredError, match="AR90001 has a step twice"):
        timelines_from_dataset(dataset_of(timeline, timeline))


def test_dictionary_of_splits_is_refused_with_their_names(make_timeline):
    splits = DatasetDict({"train": dataset_of(make_timeline(90001, steps=4))})
    with pytest.raises(SolaredError, match=r"Choose one split.*It has train"):
        timelines_from_dataset(splits)


def test_error_for_another_dataset_names_the_missing_columns(make_timeline):
    dataset = dataset_of(make_timeline(90001, steps=4)).remove_columns(["step", "power_2_3mhz"])
    with pytest.raises(SolaredError, match="no column step, power_2_3mhz"):
        timelines_from_dataset(dataset)


def test_intensity_is_a_view_of_the_values(make_timeline):
    timeline = make_timeline(90001, steps=4)
    timeline.values[2, CHANNELS.index("continuum_intensity"), 7] = -300
    assert timeline.intensity.shape == (4, NUM_TILES)
    assert timeline.intensity[2, 7] == -300
    assert np.shares_memory(timeline.intensity, timeline.values)


def test_cadence_gaps_and_nan_are_read_from_times_and_values(make_timeline):
    timeline = make_timeline(90001, steps=10, cadence=timedelta(minutes=12), missing=[4, 5, 8])
    timeline.values[2, 0, 0] = np.nan
    timeline.values[2, 5, 62] = np.nan
    assert timeline.cadence == timedelta(minutes=12)
    assert len(timeline) == 7
    assert np.flatnonzero(timeline.breaks).tolist() == [3, 5]
    assert timeline.missing_steps == 3
    assert timeline.nan_steps == 1


@pytest.mark.parametrize(
    ("times", "shape", "message"),
    [
        ([0, 2, 1], (3, 6, 63), "time does not increase from step 1"),
        ([0, 1, 1], (3, 6, 63), "time does not increase from step 1"),
        ([0, 1, 2], (3, 6, 81), r"shape \(3, 6, 81\) do not fit 3 times"),
        ([], (0, 6, 63), "at least one step"),
    ],
)
def test_impossible_timelines_are_refused(times, shape, message):
    with pytest.raises(SolaredError, match=f"AR90001: .*{message}"):
        Timeline(90001, np.array(times, "datetime64[h]"), np.zeros(shape, np.float32))


HOURS = np.datetime64("2013-04-15T00:59:37.5", "ms") + np.arange(9) * np.timedelta64(1, "h")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.where(np.arange(9) == 3, np.datetime64("NaT"), HOURS), r"no time \(NaT\) for step 3. Give the time"),
        (HOURS.astype("datetime64[s]").astype(int), r"step 0 at 1970-01-16T.* before 1990 .*Check the unit"),
        (HOURS.astype("datetime64[ns]").astype(int), "after 2099. Check the unit"),
        (HOURS + np.timedelta64(90 * 365, "D"), "step 0 at 2103-.* after 2099"),
        (HOURS.astype(float), "whose unit is unknown"),
    ],
)
def test_times_outside_of_the_observed_years_are_refused(times, message):
    with pytest.raises(SolaredError, match=f"^AR90001 has .*{message}"):
        Timeline(90001, times, np.zeros((9, 6, 63), np.float32))


def test_masked_values_are_nan():
    values = np.random.default_rng(0).normal(size=(9, 6, 63))
    mask = np.zeros(values.shape, bool)
    mask[3, 2, 7] = mask[5] = True
    expected = np.where(mask, np.nan, values).astype(np.float32)
    masked = np.ma.masked_array(np.where(mask, 1e20, values), mask)
    for given in (masked, list(masked), masked.astype(np.float32), np.where(mask, None, values)):
        np.testing.assert_array_equal(Timeline(90001, HOURS, given).values, expected)
    # An array without a mask is not copied.
    observed = values.astype(np.float32)
    assert np.shares_memory(Timeline(90001, HOURS, observed).values, observed)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.inf,
            "infinite values, first in power_4_5mhz at step 3, tile 7. Replace values that were not observed with NaN",
        ),
        (-np.inf, "infinite values"),
        (1e300, r"values too large for float32, such as 1e\+300, first in power_4_5mhz at step 3, tile 7"),
    ],
)
def test_infinite_values_are_refused(value, message):
    values = np.zeros((9, 6, 63))
    values[3, 2, 7] = value
    with pytest.raises(SolaredError, match=f"^AR90001 has {message}"):
        Timeline(90001, HOURS, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((9, 6, 81)), r"drop the tiles of the latitude background with `values\[..., 9:72\]`"),
        (np.zeros((6, 9, 63)), r"put the axes in this order with `values.transpose\(1, 0, 2\)`"),
        (np.zeros((6, 63, 9)), r"`values.transpose\(2, 0, 1\)`"),
        (
            np.zeros((9, 5, 63)),
            "the channels power_2_3mhz, .*continuum_intensity, NaN for a channel that was not observed",
        ),
        (np.zeros((8, 6, 63)), r"shape \(8, 6, 63\) do not fit 9 times"),
        (np.zeros(9), r"shape \(9,\) do not fit"),
        (np.zeros((9, 6, 63), complex), "the values have type complex128, not numbers"),
        (np.full((9, 6, 63), "1"), "not numbers"),
        (np.full((9, 6, 63), "x", object), "not an array of numbers"),
        ([[1.0], [2.0, 3.0]], "not an array of numbers"),
    ],
)
def test_error_for_a_wrong_shape_or_type_says_what_to_do(values, message):
    with pytest.raises(SolaredError, match=f"^AR90001: .*{message}"):
        Timeline(90001, HOURS, values)


@pytest.mark.parametrize("number", [0, -1, 11726.0, "11726", True, None])
def test_invalid_region_number_is_refused(number):
    with pytest.raises(SolaredError, match=r"^An AR number must be a whole number of at least 1, but got"):
        Timeline(number, HOURS, np.zeros((9, 6, 63)))


def test_region_number_can_be_a_numpy_integer():
    timeline = Timeline(np.int32(11726), HOURS, np.zeros((9, 6, 63)))
    assert type(timeline.ar_number) is int


def test_irregular_steps_are_refused_and_many_gaps_give_a_warning():
    random = np.sort(np.random.default_rng(0).integers(0, 10**9, 60))
    irregular = Timeline(90001, HOURS[0] + random.astype("timedelta64[ms]"), np.zeros((60, 6, 63)))
    with pytest.raises(
        SolaredError, match=r"AR90001: of 59 spacings .* are not a multiple of the most frequent spacing .* 5%"
    ):
        _ = irregular.cadence
    hours = np.cumsum([0, 1, 1, 2, 3, 4, 5]).astype("timedelta64[h]")
    with pytest.warns(UserWarning, match="AR90001: of 6 spacings between steps, 4 are gaps and only 2 are"):
        assert Timeline(90001, HOURS[0] + hours, np.zeros((7, 6, 63))).missing_steps == 10


@pytest.mark.parametrize(
    ("column", "type"),
    [
        ("ar_number", pa.int64()),
        ("step", pa.float64()),
        ("time_tai", pa.timestamp("ns")),
        (CHANNELS[0], pa.list_(pa.float32())),
        (CHANNELS[1], pa.large_list(pa.float32())),
        (CHANNELS[2], pa.list_(pa.float64(), 63)),
        (CHANNELS[5], pa.large_list(pa.float64())),
    ],
)
def test_rows_of_a_compatible_type_are_read(column, type):
    timeline = simulate_region(90001, steps=8)
    timeline.values[2, :, 7] = np.nan
    table = timeline.to_table()
    index = table.column_names.index(column)
    table = table.set_column(index, column, table.column(column).cast(type)).slice(2, 5)
    (read,) = timelines_from_table(table)
    assert read.values.tobytes() == timeline.values[2:7].tobytes()
    np.testing.assert_array_equal(read.times, timeline.times[2:7])


def test_times_more_precise_than_milliseconds_are_rounded():
    timeline = simulate_region(90001, steps=8)
    for unit in ("us", "ns"):
        off = timeline.times.astype(f"datetime64[{unit}]") - np.timedelta64(1, unit)
        table = timeline.to_table()
        (read,) = timelines_from_table(table.set_column(2, "time_tai", pa.array(off)))
        np.testing.assert_array_equal(read.times, timeline.times)
    zoned = pa.array(timeline.times).cast(pa.timestamp("ms", "UTC"))
    with pytest.raises(
        SolaredError, match=r"Column time_tai holds .*the times have the zone UTC instead of naive TAI"
    ):
        timelines_from_table(table.set_column(2, "time_tai", zoned))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("ar_number", pa.array(["90001"] * 3)),
        ("ar_number", pa.array([90001, None, 90001])),
        ("ar_number", pa.array([2**40] * 3)),
        ("step", pa.array([0.0, 0.5, 1.0])),
        ("time_tai", pa.array([1, 2, 3], pa.timestamp("us"))),
        ("time_tai", pa.array(["2001-01-01"] * 3)),
        (CHANNELS[0], pa.array([1.0] * 3)),
        (CHANNELS[0], pa.array([[1.0] * 62] * 3)),
        (CHANNELS[0], pa.array([[0.1] * 63] * 3)),
        (CHANNELS[0], pa.array([[2**24 + 1] * 63] * 3)),
        (CHANNELS[0], pa.array([["1"] * 63] * 3)),
        (CHANNELS[0], pa.array([[1.0] * 63, None, [1.0] * 63])),
        (CHANNELS[0], pa.array([{"tile": 1.0}] * 3)),
    ],
)
def test_rows_of_an_incompatible_type_are_refused(column, values):
    table = simulate_region(90001, steps=3).to_table()
    with pytest.raises(SolaredError, match=rf"^Column {column} holds .* Load the config 'timelines' of") as caught:
        timelines_from_table(table.set_column(table.column_names.index(column), column, values))
    assert "\n" not in str(caught.value)
