"""A dataset folder is exact, finished or unfinished but never half-written, and the same whoever builds it."""

import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from dataset_builder import build
from dataset_builder.build import LOCK_NAME, SOURCES, STAGING_NAME, build_dataset, split_of_region
from dataset_builder.publish import CATALOG_PATH
from dataset_builder.published import FILE_CHANNELS, find_regions, parse_timeline, read_timeline, write_published
from dataset_builder.simulate import SIMULATED_REGIONS, simulate_region, split_of, write_simulated
from solared_hf import files
from solared_hf.errors import SolaredError
from solared_hf.loading import load_timelines
from solared_hf.schema import CHANNELS, SCHEMA_VERSION, catalog_features, timeline_features
from solared_hf.splits import SPLITS, published_split
from solared_hf.timelines import timelines_from_dataset, timelines_from_table

COMMAND = (sys.executable, "-m", "solared_hf", "build", "--source", "simulated")


@pytest.fixture(scope="module")
def published_dataset(published_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published_dataset")
    build_dataset("published", published_dir, folder)
    return folder


@pytest.fixture
def few(tmp_path) -> Path:
    """Three small simulated regions, one of each split, in the published format; tests spoil them."""
    write_simulated(tmp_path / "few", (90001, 90007, 90009), steps=20)
    return tmp_path / "few"


def tree(folder: Path) -> dict[str, bytes]:
    """Contents of a dataset folder, without the lock, which carries nothing."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def times_of(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in tree(folder)}


def shards(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder / "data").as_posix() for path in (folder / "data").rglob("*.parquet"))


def numpy_values(folder: Path, ar_number: int) -> np.ndarray:
    """(T, 6, 63) float32 straight from the files, which are trusted here."""
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


def test_folder_takes_at_most_half_of_the_published_bytes(published_dir, published_dataset):
    source = sum(path.stat().st_size for path in published_dir.rglob("*.npz"))
    assert sum(map(len, tree(published_dataset).values())) < 0.4 * source


def test_rerun_of_the_published_build_changes_nothing(published_dir, published_dataset):
    contents, times = tree(published_dataset), times_of(published_dataset)
    report = build_dataset("published", published_dir, published_dataset)
    assert (report.written, report.kept) == (len(shards(published_dataset)), 0)[::-1]
    assert tree(published_dataset) == contents
    assert times_of(published_dataset) == times


def test_every_way_of_loading(simulated_dataset, simulated_published):
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


def test_catalog_says_what_the_timelines_are(simulated_dataset, simulated_published):
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


def test_same_input_same_bytes_wherever_it_is_built(few, tmp_path, monkeypatch):
    build_dataset("simulated", few, tmp_path / "a")
    shutil.move(few, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    build_dataset("simulated", "elsewhere", "b/c")
    assert tree(tmp_path / "a") == tree(tmp_path / "b" / "c")
    text = (tmp_path / "a" / "README.md").read_text() + (tmp_path / "a" / "manifest.json").read_text()
    for place in (str(tmp_path), str(Path.home()), "elsewhere", str(Path.cwd())):
        assert place not in text


def test_only_what_changed_is_built_again(few, tmp_path):
    output = tmp_path / "out"
    build_dataset("simulated", few, output)
    before = times_of(output)
    write_simulated(few, (90007,), seed=1, steps=20)
    report = build_dataset("simulated", few, output)
    assert (report.written, report.kept) == (1, 2)
    changed = {name for name, time in times_of(output).items() if time != before[name]}
    # The catalog's facts of that region are the same under another seed.
    assert changed == {"data/validation/AR90007.parquet", "manifest.json", "README.md"}
    expected = read_timeline(few / "AR90007").values
    np.testing.assert_array_equal(load_timelines(output, "validation")[0].values, expected)


def test_damaged_shard_is_built_again(few, tmp_path):
    output = tmp_path / "out"
    build_dataset("simulated", few, output)
    whole = tree(output)
    for position, damage in ((5_000, "bit"), (100, "cut"), (0, "empty")):
        content = bytearray(whole["data/test/AR90009.parquet"])
        content[position] ^= 1
        (output / "data/test/AR90009.parquet").write_bytes(content if damage == "bit" else content[:position])
        assert build_dataset("simulated", few, output).written == 1
        assert tree(output) == whole


def test_region_moves_when_its_split_changes(few, tmp_path):
    output = tmp_path / "out"
    build_dataset("simulated", few, output)
    assert shards(output) == ["test/AR90009.parquet", "train/AR90001.parquet", "validation/AR90007.parquet"]
    build_dataset("simulated", few, output, split_of=lambda number: "train" if number == 90007 else split_of(number))
    assert shards(output) == ["test/AR90009.parquet", "train/AR90001.parquet", "train/AR90007.parquet"]
    # A split without regions is not declared, so the folder still loads.
    assert {split: len(rows) for split, rows in load_dataset(str(output)).items()} == {"train": 40, "test": 20}
    with pytest.raises(SolaredError, match=r"AR90001 was given the split 'dev-1'; choose one of train"):
        build_dataset("simulated", few, output, split_of=lambda number: "dev-1")


def test_regions_can_come_in_several_runs(few, tmp_path):
    write_simulated(tmp_path / "more", (90002,), steps=20)
    build_dataset("simulated", few, tmp_path / "in_two")
    report = build_dataset("simulated", tmp_path / "more", tmp_path / "in_two")
    assert (report.regions, report.rows, report.written) == (4, 80, 1)
    shutil.copytree(tmp_path / "more", few, dirs_exist_ok=True)
    build_dataset("simulated", few, tmp_path / "at_once")
    assert tree(tmp_path / "in_two") == tree(tmp_path / "at_once")


def test_bad_regions_are_all_named_and_leave_the_dataset_as_it_was(few, tmp_path):
    output = tmp_path / "out"
    build_dataset("simulated", few, output)
    before = tree(output)
    write_simulated(few, (90002, 90003, 90004), steps=20)
    write_simulated(few, (90007,), seed=1, steps=20)
    (few / "AR90002" / "mean_int90002_flat.npz").unlink()
    (few / "AR90003" / "mean_mag90003_flat.npz").write_bytes(b"no zip")
    with pytest.raises(SolaredError) as caught:
        build_dataset("simulated", few, output)
    summary, *sentences = str(caught.value).splitlines()
    assert summary.startswith("2 of 6 regions could not be built")
    assert len(sentences) == 2
    assert "mean_int90002_flat.npz is missing" in sentences[0]
    assert "mean_mag90003_flat.npz is damaged" in sentences[1]
    staged = {f"{STAGING_NAME}/data/{name}.parquet" for name in ("train/AR90004", "validation/AR90007")}
    assert tree(output).keys() - before.keys() == staged
    assert {name: content for name, content in tree(output).items() if name not in staged} == before
    fresh = load_dataset(str(output), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in fresh.items()} == dict.fromkeys(SPLITS, 20)

    write_simulated(few, (90002, 90003), steps=20)
    # The two that were finished are not built again.
    assert build_dataset("simulated", few, output).written == 2
    build_dataset("simulated", few, tmp_path / "clean")
    assert tree(output) == tree(tmp_path / "clean")
    assert not (output / STAGING_NAME).exists()


def test_what_was_staged_is_forgotten_when_the_source_is_as_before(few, tmp_path):
    output = tmp_path / "out"
    build_dataset("simulated", few, output)
    before = tree(output)
    write_simulated(few, (90001, 90007), seed=1, steps=20)
    (few / "AR90009" / "mean_int90009_flat.npz").unlink()
    with pytest.raises(SolaredError, match="1 of 3 regions"):
        build_dataset("simulated", few, output)
    write_simulated(few, (90001, 90007, 90009), steps=20)
    # As a disk that is full before the card leaves it.
    (output / STAGING_NAME / "catalog").mkdir()
    (output / STAGING_NAME / CATALOG_PATH).write_bytes(b"of other shards")
    report = build_dataset("simulated", few, output)
    assert (report.written, report.kept) == (0, 3)
    assert tree(output) == before


def test_first_build_with_a_bad_region_leaves_shards_and_no_card(few, tmp_path):
    (few / "AR90001" / "mean_int90001_flat.npz").unlink()
    with pytest.raises(SolaredError, match="1 of 3 regions"):
        build_dataset("simulated", few, tmp_path / "out")
    assert sorted(tree(tmp_path / "out")) == ["data/test/AR90009.parquet", "data/validation/AR90007.parquet"]


def test_single_step_is_refused_before_anything_is_written(tmp_path):
    write_simulated(tmp_path / "in", (90001,), steps=1)
    with pytest.raises(SolaredError, match="single step"):
        build_dataset("simulated", tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_simulated_and_published_never_mix(few, tmp_path):
    with pytest.raises(SolaredError, match=r"AR90001 is simulated, and the source to build is published"):
        build_dataset("published", few, tmp_path / "out")
    build_dataset("simulated", few, tmp_path / "out")
    shutil.move(few / "AR90001", few / "AR11130")
    for path in (few / "AR11130").iterdir():
        path.rename(path.with_name(path.name.replace("90001", "11130")))
    for name in ("AR90007", "AR90009"):
        shutil.rmtree(few / name)
    before = tree(tmp_path / "out")
    with pytest.raises(SolaredError, match=r"AR90009.parquet is simulated, and the source to build is published"):
        build_dataset("published", few, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    # Alone it is as good as a real one.
    assert build_dataset("published", few, tmp_path / "alone").regions == 1
    assert split_of_region(11130) == "train"


def test_output_that_is_not_ours_is_left_alone(few, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    cases = {"README.md": "# My own", "notes.txt": "notes", "manifest.json": "{}", "data/photo.jpg": "x"}
    for name, content in cases.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
        with pytest.raises(SolaredError, match="a new or an empty folder"):
            build_dataset("simulated", few, folder)
        assert [path.name for path in folder.rglob("*") if path.is_file()] == [Path(name).name]
        shutil.rmtree(folder)
        folder.mkdir()
    (folder / ".gitattributes").write_text("")  # a fresh clone from the Hub
    assert build_dataset("simulated", few, folder).regions == 3


def test_output_that_cannot_be(few, tmp_path):
    (tmp_path / "file").write_text("")
    for output, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "below", "Could not write"),
        (few, "holds the input"),
    ):
        with pytest.raises(SolaredError, match=words):
            build_dataset("simulated", few, output)
    shutil.copytree(few, tmp_path / "root" / "data")
    for output in (tmp_path / "root", tmp_path / "root" / "data"):
        with pytest.raises(SolaredError, match="holds the input"):
            build_dataset("simulated", tmp_path / "root", output)
    assert len(tree(few)) == len(tree(tmp_path / "root")) == 9


def test_unknown_source(few, tmp_path):
    with pytest.raises(SolaredError, match=f"Unknown source 'hdf5'; choose one of {', '.join(SOURCES)}"):
        build_dataset("hdf5", few, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_newer_schema_is_not_overwritten(few, tmp_path):
    build_dataset("simulated", few, tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.json"
    facts = json.loads(manifest.read_text())
    assert facts["schema_version"] == SCHEMA_VERSION
    manifest.write_text(json.dumps({**facts, "schema_version": SCHEMA_VERSION + 1}))
    before = tree(tmp_path / "out")
    with pytest.raises(SolaredError, match=rf"schema version {SCHEMA_VERSION + 1}, .* upgrade"):
        build_dataset("simulated", few, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_foreign_shard_is_named(few, tmp_path):
    build_dataset("simulated", few, tmp_path / "out")
    shutil.copy(tmp_path / "out/catalog/regions.parquet", tmp_path / "out/data/train/AR90005.parquet")
    with pytest.raises(SolaredError, match=r"AR90005.parquet is damaged or no shard of ours"):
        build_dataset("simulated", few, tmp_path / "out")
    (tmp_path / "out/data/train/AR90005.parquet").unlink()
    shutil.copy(tmp_path / "out/data/test/AR90009.parquet", tmp_path / "out/data/train/AR90010.parquet")
    with pytest.raises(SolaredError, match=r"holds AR90009 as data/test/AR90009.parquet and data/train/AR90010"):
        build_dataset("simulated", few, tmp_path / "out")


def test_second_build_at_the_same_time_is_refused(few, tmp_path):
    output = tmp_path / "out"
    build_dataset("simulated", few, output)
    write_simulated(few, (90002,), steps=20)
    before = tree(output)
    with (output / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process holds it
        with pytest.raises(SolaredError, match="Another build is writing"):
            build_dataset("simulated", few, output)
        assert tree(output) == before
    assert build_dataset("simulated", few, output).written == 1


def test_full_disk_is_one_sentence_and_no_half_file(tmp_path):
    """The limit on file sizes stands in for a full disk: the first region fits below it, the second does not."""
    write_simulated(tmp_path / "in", (90001,), steps=20)
    write_simulated(tmp_path / "in", (90002,), steps=240)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SolaredError, match=r"Could not write .*AR90002.parquet .*make room") as caught:
            build_dataset("simulated", tmp_path / "in", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list(tree(tmp_path / "out")) == ["data/train/AR90001.parquet"]
    assert build_dataset("simulated", tmp_path / "in", tmp_path / "out").written == 1


def test_a_write_that_never_ends_leaves_nothing_under_the_name(few, tmp_path, monkeypatch):
    class Killed(BaseException):
        """Nobody catches it, as nobody catches SIGKILL."""

    def killed(*_):
        raise Killed

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        with pytest.raises(Killed):
            build_dataset("simulated", few, output)
    (leftover,) = tree(output)
    assert leftover.endswith(".tmp")
    build_dataset("simulated", few, output)
    build_dataset("simulated", few, tmp_path / "clean")
    assert tree(output) == tree(tmp_path / "clean")


def test_full_disk_leaves_the_dataset_as_it_was(few, tmp_path):
    build_dataset("simulated", few, tmp_path / "out")
    before = tree(tmp_path / "out")
    write_simulated(few, (90001,), seed=1, steps=20)
    write_simulated(few, (90002,), steps=240)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SolaredError, match=r"Could not write .*AR90002.parquet .*make room"):
            build_dataset("simulated", few, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = tree(tmp_path / "out")
    assert after.pop(f"{STAGING_NAME}/data/train/AR90001.parquet")
    assert after == before
    assert build_dataset("simulated", few, tmp_path / "out").written == 1


def test_rebuild_killed_at_any_file_is_the_old_dataset_or_the_new_or_none(few, tmp_path, monkeypatch):
    """Values, regions and a split change; after each kill a card describes the files beside it, or there is none."""

    class Killed(BaseException):
        """Nobody catches it, as nobody catches SIGKILL."""

    build_dataset("simulated", few, tmp_path / "old")
    old = tree(tmp_path / "old")
    write_simulated(few, (90002,), steps=20)
    write_simulated(few, (90007,), seed=1, steps=20)
    arguments = {"split_of": lambda number: "test" if number == 90001 else split_of(number)}
    build_dataset("simulated", few, tmp_path / "new", **arguments)
    new = tree(tmp_path / "new")
    (tmp_path / "bad" / "AR90003").mkdir(parents=True)
    seen = []
    for allowed in range(1_000):
        output = tmp_path / f"out{allowed}"
        shutil.copytree(tmp_path / "old", output)
        left = allowed

        def dying(operation):
            def run(*args, **options):
                nonlocal left
                if not left:
                    raise Killed
                left -= 1
                return operation(*args, **options)

            return run

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                patch.setattr(Path, name, dying(getattr(Path, name)))
            try:
                build_dataset("simulated", few, output, **arguments)
            except Killed:
                pass
            else:
                break
        visible = {name: content for name, content in tree(output).items() if not name.startswith(".")}
        visible = {name: content for name, content in visible.items() if not Path(name).name.startswith(".")}
        state = (
            "none" if "README.md" not in visible else "old" if visible == old else "new" if visible == new else "mixed"
        )
        seen.append(state)
        if state == "none":
            # Finished first, even if the rerun itself fails.
            with pytest.raises(SolaredError, match="1 of 1 regions"):
                build_dataset("simulated", tmp_path / "bad", output)
            assert tree(output) == new
        build_dataset("simulated", few, output, **arguments)
        assert tree(output) == new
    assert tree(output) == new
    # In this order, and never mixed.
    assert [state for state, following in zip(seen, [*seen[1:], ""], strict=True) if state != following] == [
        "old",
        "none",
    ]


def test_leftovers_are_removed_where_the_builder_writes_and_nowhere_else(few, tmp_path):
    output = tmp_path / "out"
    build_dataset("simulated", few, output)
    before = tree(output)
    ours = [output / folder / ".AR1.parquet.x.tmp" for folder in (".", "catalog", "data/train")]
    theirs = output / ".git" / "lfs" / ".object.tmp"
    theirs.parent.mkdir(parents=True)
    for path in (*ours, theirs):
        path.write_bytes(b"x")
    build_dataset("simulated", few, output)
    assert tree(output) == {**before, ".git/lfs/.object.tmp": b"x"}


def test_loading_never_gives_the_values_of_before(few, tmp_path):
    """`datasets` keeps what it prepared; for a folder it looks at the card, not at the files."""

    def observed(output: Path) -> float:
        return load_dataset(str(output), split="train").with_format("numpy")[10]["continuum_intensity"][30]

    timeline = simulate_region(90001, steps=20)
    for value in (1000.0, 1000.5, 1001.0, 1002.0, 1000.5):
        timeline.values[10, 5, 30] = value
        write_published(few, timeline)
        build_dataset("simulated", few, tmp_path / "out")
        assert observed(tmp_path / "out") == value
    for place, value in (("a", 1000.25), ("b", 1000.75)):
        timeline.values[10, 5, 30] = value
        write_published(few, timeline)
        build_dataset("simulated", few, tmp_path / place / "dataset")
        assert observed(tmp_path / place / "dataset") == value


def test_another_parser_builds_every_shard_again(few, tmp_path, monkeypatch):
    build_dataset("simulated", few, tmp_path / "out")
    monkeypatch.setattr(build, "PARSER_VERSION", build.PARSER_VERSION + 1)
    assert build_dataset("simulated", few, tmp_path / "out").written == 3


def test_parsed_values_are_those_of_this_parser_version(tmp_path):
    """If this fails, finished shards hold other values than new ones would: raise PARSER_VERSION and pin again.

    The files hold exact fractions, which no machine computes differently.
    """
    times = (np.datetime64("2001-01-01T00:59:37.500", "ms") + np.arange(20) * np.timedelta64(1, "h")).astype(object)
    sources, counter = {}, np.arange(9 * 9 * 20, dtype=np.float64).reshape(81, 20)
    for kind, channels in FILE_CHANNELS.items():
        arrays = [(counter - 700) * 1e4 / (3 + len(kind) + index) for index in range(len(channels))]
        for array in arrays:
            array[:9] = array[72:] = 0
            array[9:72:9, :2] = np.nan
        content = io.BytesIO()
        np.savez(content, *arrays, times)
        sources[kind] = content.getvalue()
    timeline = parse_timeline(tmp_path / "AR90001", sources)
    digest = hashlib.sha256(
        timeline.times.astype("<i8").tobytes() + timeline.values.astype("<f4").tobytes()
    ).hexdigest()
    assert (build.PARSER_VERSION, digest) == (1, "e1410a713af75f7f8ac06c7e737140b8c7f3d8faa8fcd81e39dc791ee7c0e083")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("ar_number", pa.array(["90009"] * 20)),
        ("step", pa.array(range(20), pa.int64())),
        ("power_2_3mhz", pa.array([1.0] * 20)),
    ],
)
def test_shard_with_another_type_is_built_again(few, tmp_path, column, values):
    output = tmp_path / "out"
    build_dataset("simulated", few, output)
    whole = tree(output)
    path = output / "data/test/AR90009.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.set_column(table.column_names.index(column), column, values), path)
    assert build_dataset("simulated", few, output).written == 1
    assert tree(output) == whole


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
def test_rows_of_a_type_that_holds_the_same_are_read(column, type):
    timeline = simulate_region(90001, steps=8)
    timeline.values[2, :, 7] = np.nan
    table = timeline.to_table()
    index = table.column_names.index(column)
    table = table.set_column(index, column, table.column(column).cast(type)).slice(2, 5)
    (read,) = timelines_from_table(table)
    assert read.values.tobytes() == timeline.values[2:7].tobytes()
    np.testing.assert_array_equal(read.times, timeline.times[2:7])


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
def test_rows_of_a_type_that_does_not_fit_are_refused_in_a_sentence(column, values):
    table = simulate_region(90001, steps=3).to_table()
    with pytest.raises(SolaredError, match=rf"^Column {column} holds .*; load the config 'timelines' of") as caught:
        timelines_from_table(table.set_column(table.column_names.index(column), column, values))
    assert "\n" not in str(caught.value)


def assert_whole(folder: Path) -> int:
    """Read everything that bears a final name, as a reader at any moment may; how many shards there are."""
    found = shards(folder)
    for name in found:
        assert pq.read_table(folder / "data" / name, partitioning=None).num_rows > 0
    if (folder / "catalog/regions.parquet").exists():
        assert pq.read_table(folder / "catalog/regions.parquet").num_rows == len(SIMULATED_REGIONS)
    if (folder / "manifest.json").exists():
        json.loads((folder / "manifest.json").read_text())
    if (folder / "README.md").exists():
        assert (folder / "README.md").read_text() == (folder.parent / "clean/README.md").read_text()
    return len(found)


def test_killed_at_any_moment_then_resumed(simulated_published, simulated_dataset, tmp_path):
    """Real processes, SIGKILL, a reader that polls all the while; each rerun ends where an undisturbed build does."""
    (tmp_path / "clean").mkdir()
    shutil.copy(simulated_dataset / "README.md", tmp_path / "clean")
    expected = tree(simulated_dataset)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dataset_builder.build"])
    chance = random.Random(0)
    seen = []
    for round_number, kill_after in enumerate((0, 1, 3, 5, 7, 9, 10)):
        output = tmp_path / f"out{round_number}"
        process = context.Process(target=build_dataset, args=("simulated", simulated_published, output))
        process.start()
        while not (output / LOCK_NAME).exists() and process.is_alive():
            time.sleep(0.001)
        while assert_whole(output) < kill_after and process.is_alive():
            pass
        time.sleep(chance.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen.append(assert_whole(output))
        report = build_dataset("simulated", simulated_published, output)
        # What was finished is not built again.
        assert (report.written, report.kept) == (len(SIMULATED_REGIONS) - seen[-1], seen[-1])
        assert tree(output) == expected
    assert any(0 < count < len(SIMULATED_REGIONS) for count in seen)


def test_command(simulated_published, simulated_dataset, tmp_path):
    result = subprocess.run(
        [*COMMAND, "--input", simulated_published, "--output", tmp_path / "out"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "10/10" in result.stderr  # the progress bar
    expected = tree(simulated_dataset)
    size = sum(len(content) for name, content in expected.items() if name.startswith("data/"))
    assert "10 regions, 2,391 rows" in result.stdout
    assert f"{size:,} bytes" in result.stdout
    assert "10 regions written, 0 kept" in result.stdout
    assert tree(tmp_path / "out") == expected


def test_command_on_a_full_disk(simulated_published, tmp_path):
    """`ulimit -f` counts blocks of 1024 bytes; a shard has some 320 of them."""
    limited = 'ulimit -f 200; exec "$@"'
    result = subprocess.run(
        ["bash", "-c", limited, "bash", *COMMAND, "--input", simulated_published, "--output", tmp_path / "out"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    message = result.stderr.splitlines()[-1]
    assert "Could not write" in message
    assert "make room" in message
    assert tree(tmp_path / "out") == {}
