"""A build does not keep values in memory, and a rerun does not read unchanged shards."""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from dataset_builder import build_dataset
from dataset_builder.description import FACTS_VERSION, overlaps, region_facts
from dataset_builder.inventory import shard_facts
from dataset_builder.published import PublishedSource
from dataset_builder.shards import Shard, encode_shard
from dataset_builder.simulation import simulate_region, write_simulated
from dataset_builder.simulation.timelines import start_time
from dataset_builder.sources import RegionResult
from solared_hf import Timeline
from solared_hf.schema import CHANNELS, NUM_TILES


class ManyRegions:
    """A source of `count` regions that makes each timeline when the build reaches it."""

    name = "published"
    steps = 60

    def __init__(self, folder: Path, count: int):
        self.folder = folder
        self.shared_settings: dict = {}
        self._numbers = range(90_001, 90_001 + count)
        self._alike = simulate_region(90_001, steps=self.steps)

    def regions(self) -> list[Path]:
        return [self.folder / f"AR{number}" for number in self._numbers]

    def build_regions(self, is_finished, progress):
        for number in self._numbers:
            if is_finished(number, "key"):
                yield RegionResult(number)
                continue
            later = start_time(number) - start_time(90_001)
            timeline = replace(
                self._alike, ar_number=number, times=self._alike.times + later, values=self._alike.values.copy()
            )
            yield RegionResult(number, shard=Shard(timeline, "key", {"source": self.name}))


def _peak(call) -> int:
    """Return the peak memory in bytes of Python and numpy during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_a_build_and_a_rerun_does_not_grow_with_the_regions(tmp_path):
    values = ManyRegions.steps * len(CHANNELS) * NUM_TILES * 4
    few, many = 10, 60
    peaks = {}
    for count in (few, many):
        source = ManyRegions(tmp_path / "in", count)
        for run in ("new", "old"):
            peaks[run, count] = _peak(lambda: build_dataset(source, tmp_path / str(count)))  # noqa: B023
        (tmp_path / str(count) / "manifest.json").unlink()
        (tmp_path / str(count) / "README.md").unlink()
        peaks["forgotten", count] = _peak(lambda: build_dataset(source, tmp_path / str(count)))  # noqa: B023
    for run in ("new", "old", "forgotten"):
        grown = (peaks[run, many] - peaks[run, few]) / (many - few)
        assert grown < values / 3, f"{run}: {grown:,.0f} bytes a region, whose values take {values:,}"


def _rebuild(source: Path, output: Path, connection) -> None:
    """Build in this process and send the report and the names of the shards that were opened."""
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    report = build_dataset(PublishedSource(source), output)
    shards = sorted({Path(name).name for name in opened if name.startswith(str(output)) and "/data/" in name})
    connection.send((report.written, report.kept, shards))


def _shards_read(source: Path, output: Path) -> tuple[int, int, list[str]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dataset_builder.build"])
    ours, theirs = context.Pipe()
    process = context.Process(target=_rebuild, args=(source, output, theirs))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def test_a_rerun_reads_only_changed_shards(few, tmp_path, tree):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    whole = tree(output)
    assert _shards_read(few, output) == (0, 3, [])

    # After one region is added, the statistics of its split include all regions, but the old shards are not read.
    write_simulated(few, (90002,), steps=20)
    written, kept, read = _shards_read(few, output)
    assert (written, kept) == (1, 3)
    assert not {"AR90001.parquet", "AR90007.parquet", "AR90009.parquet"} & set(read)
    build_dataset(PublishedSource(few), tmp_path / "at_once")
    assert tree(output) == tree(tmp_path / "at_once") != whole


def test_a_changed_shard_with_an_old_modification_time_is_built_again(few, tmp_path, tree):
    """The file has the same size and an older modification time, like a file from a backup."""
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    whole = tree(output)
    path = output / "data/test/AR90009.parquet"
    content = bytearray(path.read_bytes())
    content[5_000] ^= 1
    path.write_bytes(content)
    os.utime(path, (1, 1))
    assert build_dataset(PublishedSource(few), output).written == 1
    assert tree(output) == whole


def test_a_copied_folder_is_not_built_again(few, tmp_path, tree):
    """The files of a copy may be newer than the manifest of the copy."""
    build_dataset(PublishedSource(few), tmp_path / "out")
    whole = tree(tmp_path / "out")
    for name in sorted(whole, reverse=True):
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tmp_path / "out" / name, tmp_path / "copy" / name)
    report = build_dataset(PublishedSource(few), tmp_path / "copy")
    assert (report.written, report.kept) == (0, 3)
    assert tree(tmp_path / "copy") == whole


def _before_facts_had_versions(manifest: dict) -> None:
    """Turn a manifest into one from before manifests held the statistics of each region."""
    del manifest["facts_version"]
    for region in manifest["regions"]:
        del region["statistics"]


def _other_facts(manifest: dict) -> None:
    manifest["facts_version"] -= 1
    for region in manifest["regions"]:
        region["nan_steps"] = 17


@pytest.mark.parametrize("older", [_before_facts_had_versions, _other_facts])
def test_a_folder_of_an_older_version_gets_the_description_of_today(few, tmp_path, tree, older):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    whole = tree(output)
    manifest = json.loads(whole["manifest.json"])
    older(manifest)
    (output / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    assert build_dataset(PublishedSource(few), output).written == 0
    assert tree(output) == whole


def test_facts_of_a_shard_are_those_of_this_version():
    """If this fails, new manifests get other facts than old ones: raise FACTS_VERSION and pin the new digest.

    The values are small whole numbers plus one fraction, so the facts do not depend on the machine.
    """
    times = np.datetime64("2001-01-01T00:59:37.500", "ms") + np.delete(np.arange(22), [7, 8]) * np.timedelta64(1, "h")
    values = (np.arange(20 * len(CHANNELS) * NUM_TILES, dtype=np.float32) % 4096 + 0.1).reshape(20, len(CHANNELS), -1)
    values[3, 2, 5] = values[:2, 1, ::9] = np.nan
    shard = Shard(Timeline(90001, times, values), "key", {"source": "published"})
    facts = shard_facts(shard, b"content")
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    assert (FACTS_VERSION, digest) == (1, "6f90ccc3442709fe2708a390080f3a39270813aa44e8d2787267e26770ce108e")


def test_the_mean_and_the_deviation_of_a_channel_are_exact_to_many_digits(tmp_path):
    """The values are far from zero and close together, where a sum of squares would lose all digits."""
    timeline = simulate_region(90_001, steps=30)
    random = np.random.default_rng(0)
    timeline.values[:, 5] = 60_000 + random.standard_normal((30, NUM_TILES), np.float32)
    facts = shard_facts(Shard(timeline, "key", {}), encode_shard(Shard(timeline, "key", {})))["statistics"]
    values = [Fraction(float(value)) for value in timeline.values[:, 5].ravel()]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    assert facts[CHANNELS[5]]["mean"] == pytest.approx(float(mean), rel=1e-12)
    assert facts[CHANNELS[5]]["std"] == pytest.approx(float(variance) ** 0.5, rel=1e-9)


def test_overlaps_are_all_pairs_observed_at_the_same_time():
    random = np.random.default_rng(0)
    regions = []
    for number in random.permutation(60).tolist():
        start = np.datetime64("2011-01-01T00:00:00.000") + np.timedelta64(int(random.integers(2_000)), "h")
        end = start + np.timedelta64(int(random.integers(1, 300)), "h")
        regions.append({"ar_number": number, "start_tai": str(start), "end_tai": str(end)})
    expected = []
    for first, second in combinations(sorted(regions, key=lambda region: region["ar_number"]), 2):
        start, end = max(first["start_tai"], second["start_tai"]), min(first["end_tai"], second["end_tai"])
        if start <= end:
            hours = (np.datetime64(end) - np.datetime64(start)) / np.timedelta64(1, "h")
            expected.append((first["ar_number"], second["ar_number"], hours))
    found = [(pair["first"]["ar_number"], pair["second"]["ar_number"], pair["hours"]) for pair in overlaps(regions)]
    assert found == expected
    assert len(found) > 60


def test_facts_of_one_region_are_ready_for_json():
    facts = shard_facts(Shard(simulate_region(90_003, steps=40), "key", {"source": "published"}), b"")
    assert json.loads(json.dumps(facts)) == facts
    assert facts.items() > region_facts(simulate_region(90_003, steps=40)).items()
