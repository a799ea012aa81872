"""A dataset folder is exact and reproducible, and a rerun builds only what changed."""

import hashlib
import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource, read_timeline, write_published
from dataset_builder.published import source as published_source
from dataset_builder.published.files import FILE_CHANNELS, parse_timeline
from dataset_builder.simulation import SIMULATED_REGIONS, simulate_region, write_simulated
from dataset_builder.simulation.timelines import split_of
from dataset_builder.sources import find_regions
from solared_hf import SolaredError, load_timelines
from solared_hf.data.timelines import timelines_from_dataset
from solared_hf.schema import CHANNELS, catalog_features, timeline_features
from solared_hf.splits import SPLITS, published_split
from tests.processes import run

COMMAND = (sys.executable, "-m", "solared_hf", "build", "--source", "published")


@pytest.fixture(scope="module")
def published_dataset(published_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published_dataset")
    build_dataset(PublishedSource(published_dir), folder)
    return folder


def numpy_values(folder: Path, ar_number: int) -> np.ndarray:
    """Return the (T, 6, 63) float32 values as numpy reads them; the files are trusted here."""
    arrays = []
    for kind, channels in (("pmdop", 4), ("mag", 1), ("int", 1)):
        with np.load(folder / f"mean_{kind}{ar_number}_flat.npz", allow_pickle=True) as archive:
            arrays += [archive[f"arr_{i}"][9:72] for i in range(channels)]
    return np.stack(arrays).transpose(2, 0, 1).astype(np.float32)


def test_every_published_value_arrives_bit_for_bit(published_dir, published_dataset):
    """All regions, all channels, NaN included, through `load_dataset`."""
    loaded = load_dataset(str(published_dataset))
    seen = {}
    for split, rows in loaded.items():
        assert rows.features == timeline_features()
        for timeline in timelines_from_dataset(rows):
            assert published_split(timeline.ar_number) == split
            seen[timeline.ar_number] = timeline
    sources = find_regions(published_dir)
    assert sorted(seen) == [int(source.name[2:]) for source in sources]
    nan_regions = 0
    for source in sources:
        timeline = seen[int(source.name[2:])]
        expected = numpy_values(source, timeline.ar_number)
        nan_regions += np.isnan(expected).any()
        assert timeline.values.tobytes() == expected.tobytes()
        with np.load(source / f"mean_int{timeline.ar_number}_flat.npz", allow_pickle=True) as archive:
            assert timeline.times.astype(object).tolist() == archive["arr_1"].tolist()
    assert nan_regions > 0


def test_folder_takes_at_most_half_of_the_published_bytes(published_dir, published_dataset, tree):
    source = sum(path.stat().st_size for path in published_dir.rglob("*.npz"))
    assert sum(map(len, tree(published_dataset).values())) < 0.4 * source


def test_rerun_of_the_published_build_changes_nothing(published_dir, published_dataset, tree, times_of, shards):
    contents, times = tree(published_dataset), times_of(published_dataset)
    report = build_dataset(PublishedSource(published_dir), published_dataset)
    assert (report.written, report.kept) == (len(shards(published_dataset)), 0)[::-1]
    assert tree(published_dataset) == contents
    assert times_of(published_dataset) == times


def test_dataset_loads_whole_by_split_and_streaming(simulated_dataset, simulated_published):
    assert set(load_dataset(str(simulated_dataset))) == set(SPLITS)
    streamed = load_dataset(str(simulated_dataset), split="test", streaming=True)
    assert streamed.features == timeline_features()
    streamed_timelines = timelines_from_dataset(streamed)
    assert [timeline.ar_number for timeline in streamed_timelines] == [90009, 90010]
    for timeline in streamed_timelines:
        expected = read_timeline(simulated_published / f"AR{timeline.ar_number}")
        assert timeline.values.tobytes() == expected.values.tobytes()
        np.testing.assert_array_equal(timeline.times, expected.times)
    first = next(iter(streamed))
    assert list(first) == list(timeline_features())
    assert len(first[CHANNELS[0]]) == 63
    assert [timeline.ar_number for timeline in load_timelines(simulated_dataset, "validation")] == [90007, 90008]


def test_catalog_describes_the_timelines(simulated_dataset, simulated_published):
    catalog = load_dataset(str(simulated_dataset), "catalog", split="regions")
    assert catalog.features == catalog_features()
    assert catalog["ar_number"] == list(SIMULATED_REGIONS)
    for row in catalog:
        timeline = read_timeline(simulated_published / f"AR{row['ar_number']}")
        assert row["split"] == split_of(row["ar_number"])
        assert (row["start_tai"], row["end_tai"]) == (timeline.times[0].item(), timeline.times[-1].item())
        assert (row["steps"], row["cadence_s"], row["gaps"]) == (len(timeline), 3600, int(timeline.breaks.sum()))
        assert (row["missing_steps"], row["nan_steps"]) == (timeline.missing_steps, timeline.nan_steps)
        assert all(value is None for name, value in row.items() if name.startswith("noaa_"))
    assert sum(catalog["gaps"]) == 1
    assert sum(catalog["nan_steps"]) == 3


def test_bytes_do_not_depend_on_where_the_dataset_is_built(few, tmp_path, monkeypatch, tree):
    build_dataset(PublishedSource(few), tmp_path / "a")
    shutil.move(few, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    build_dataset(PublishedSource("elsewhere"), "b/c")
    assert tree(tmp_path / "a") == tree(tmp_path / "b" / "c")
    text = (tmp_path / "a" / "README.md").read_text() + (tmp_path / "a" / "manifest.json").read_text()
    for place in (str(tmp_path), str(Path.home()), "elsewhere", str(Path.cwd())):
        assert place not in text


def test_only_changed_regions_are_built_again(few, tmp_path, times_of):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    before = times_of(output)
    write_simulated(few, (90007,), seed=1, steps=20)
    report = build_dataset(PublishedSource(few), output)
    assert (report.written, report.kept) == (1, 2)
    changed = {name for name, time in times_of(output).items() if time != before[name]}
    # The facts of that region in the catalog do not depend on the seed.
    assert changed == {"data/validation/AR90007.parquet", "manifest.json", "README.md"}
    expected = read_timeline(few / "AR90007").values
    np.testing.assert_array_equal(load_timelines(output, "validation")[0].values, expected)


def test_damaged_shard_is_built_again(few, tmp_path, tree):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    whole = tree(output)
    for position, damage in ((5_000, "bit"), (100, "cut"), (0, "empty")):
        content = bytearray(whole["data/test/AR90009.parquet"])
        content[position] ^= 1
        (output / "data/test/AR90009.parquet").write_bytes(content if damage == "bit" else content[:position])
        assert build_dataset(PublishedSource(few), output).written == 1
        assert tree(output) == whole


def test_region_moves_when_its_split_changes(few, tmp_path, shards):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    assert shards(output) == ["test/AR90009.parquet", "train/AR90001.parquet", "validation/AR90007.parquet"]
    build_dataset(
        PublishedSource(few), output, split_of=lambda number: "train" if number == 90007 else split_of(number)
    )
    assert shards(output) == ["test/AR90009.parquet", "train/AR90001.parquet", "train/AR90007.parquet"]
    # A split without regions is not declared, so the folder still loads.
    assert {split: len(rows) for split, rows in load_dataset(str(output)).items()} == {"train": 40, "test": 20}
    with pytest.raises(SolaredError, match=r"AR90001 was given the split 'dev-1'. Choose one of train"):
        build_dataset(PublishedSource(few), output, split_of=lambda number: "dev-1")


def test_regions_can_be_built_in_several_runs(few, tmp_path, tree):
    write_simulated(tmp_path / "more", (90002,), steps=20)
    build_dataset(PublishedSource(few), tmp_path / "in_two")
    report = build_dataset(PublishedSource(tmp_path / "more"), tmp_path / "in_two")
    assert (report.regions, report.rows, report.written) == (4, 80, 1)
    shutil.copytree(tmp_path / "more", few, dirs_exist_ok=True)
    build_dataset(PublishedSource(few), tmp_path / "at_once")
    assert tree(tmp_path / "in_two") == tree(tmp_path / "at_once")


def test_loading_after_a_rebuild_gives_the_new_values(few, tmp_path):
    """The cache of `datasets` identifies a folder by the card, not by the data files."""

    def observed(output: Path) -> float:
        return load_dataset(str(output), split="train").with_format("numpy")[10]["continuum_intensity"][30]

    timeline = simulate_region(90001, steps=20)
    for value in (1000.0, 1000.5, 1001.0, 1002.0, 1000.5):
        timeline.values[10, 5, 30] = value
        write_published(few, timeline)
        build_dataset(PublishedSource(few), tmp_path / "out")
        assert observed(tmp_path / "out") == value
    for place, value in (("a", 1000.25), ("b", 1000.75)):
        timeline.values[10, 5, 30] = value
        write_published(few, timeline)
        build_dataset(PublishedSource(few), tmp_path / place / "dataset")
        assert observed(tmp_path / place / "dataset") == value


def test_a_new_parser_version_builds_every_shard_again(few, tmp_path, monkeypatch):
    build_dataset(PublishedSource(few), tmp_path / "out")
    monkeypatch.setattr(published_source, "PARSER_VERSION", published_source.PARSER_VERSION + 1)
    assert build_dataset(PublishedSource(few), tmp_path / "out").written == 3


def test_parsed_values_are_those_of_this_parser_version(tmp_path):
    """If this fails, new shards get other values than finished shards: raise PARSER_VERSION and pin the new digest.

    The files hold exact fractions, so the values do not depend on the machine.
    """
    times = (np.datetime64("2001-01-01T00:59:37.500", "ms") + np.arange(20) * np.timedelta64(1, "h")).astype(object)
    contents, counter = {}, np.arange(9 * 9 * 20, dtype=np.float64).reshape(81, 20)
    for kind, channels in FILE_CHANNELS.items():
        arrays = [(counter - 700) * 1e4 / (3 + len(kind) + index) for index in range(len(channels))]
        for array in arrays:
            array[:9] = array[72:] = 0
            array[9:72:9, :2] = np.nan
        content = io.BytesIO()
        np.savez(content, *arrays, times)
        contents[kind] = content.getvalue()
    timeline = parse_timeline(tmp_path / "AR90001", contents)
    digest = hashlib.sha256(
        timeline.times.astype("<i8").tobytes() + timeline.values.astype("<f4").tobytes()
    ).hexdigest()
    assert (published_source.PARSER_VERSION, digest) == (
        1,
        "e1410a713af75f7f8ac06c7e737140b8c7f3d8faa8fcd81e39dc791ee7c0e083",
    )


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("ar_number", pa.array(["90009"] * 20)),
        ("step", pa.array(range(20), pa.int64())),
        ("power_2_3mhz", pa.array([1.0] * 20)),
    ],
)
def test_shard_with_a_wrong_column_type_is_built_again(few, tmp_path, column, values, tree):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    whole = tree(output)
    path = output / "data/test/AR90009.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.set_column(table.column_names.index(column), column, values), path)
    assert build_dataset(PublishedSource(few), output).written == 1
    assert tree(output) == whole


def test_command(simulated_published, simulated_dataset, tmp_path, tree):
    result = run([*COMMAND, "--input", simulated_published, "--output", tmp_path / "out"])
    assert result.returncode == 0, result.stderr
    assert "10/10" in result.stderr  # the progress bar
    expected = tree(simulated_dataset)
    size = sum(len(content) for name, content in expected.items() if name.startswith("data/"))
    assert "10 regions, 2,391 rows" in result.stdout
    assert f"{size:,} bytes" in result.stdout
    assert "10 regions written, 0 kept" in result.stdout
    assert tree(tmp_path / "out") == expected
