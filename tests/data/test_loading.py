"""Opened datasets: their contents, errors for missing parts, and no stale data after a rebuild."""

import json
import shutil

import numpy as np
import pytest

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource, read_timeline, write_published
from solared_hf import SolaredError, Timeline, load_timelines, open_dataset
from solared_hf.schema import CHANNELS, NUM_TILES


def assert_same(actual: Timeline, expected: Timeline) -> None:
    assert actual.ar_number == expected.ar_number
    np.testing.assert_array_equal(actual.times, expected.times)
    np.testing.assert_array_equal(actual.values, expected.values)


def test_opened_folder_has_splits_catalog_and_timelines(simulated_dataset):
    dataset = open_dataset(simulated_dataset)
    assert dataset.name == str(simulated_dataset)
    assert dataset.revision is None
    assert dataset.splits == ("test", "train", "validation")
    assert {row["ar_number"]: row["split"] for row in dataset.catalog} == {
        timeline.ar_number: split for split in dataset.splits for timeline in dataset.timelines(split)
    }
    assert [timeline.ar_number for timeline in dataset.timelines()] == [
        timeline.ar_number for split in dataset.splits for timeline in load_timelines(simulated_dataset, split)
    ]
    assert repr(dataset) == f"<DatasetFolder {simulated_dataset}: test, train, validation>"


def test_load_timelines_and_region_from_a_folder(simulated_dataset):
    train = load_timelines(simulated_dataset, "train")
    test = load_timelines(simulated_dataset, "test")
    numbers = [timeline.ar_number for timeline in train]
    assert numbers == sorted(numbers)
    assert len(set(numbers) & {timeline.ar_number for timeline in test}) == 0
    assert_same(open_dataset(simulated_dataset).region(test[0].ar_number), test[0])
    assert train[0].values.shape[1:] == (len(CHANNELS), NUM_TILES)


def test_error_for_an_unknown_region_lists_the_known_regions(simulated_dataset):
    known = load_timelines(simulated_dataset, "test")[0].ar_number
    with pytest.raises(SolaredError, match=f"no region AR11726. It has .*{known}"):
        open_dataset(simulated_dataset).region(11726)


def test_error_for_an_unknown_split_lists_the_known_splits(simulated_dataset):
    with pytest.raises(SolaredError, match=r"tset.*train"):
        load_timelines(simulated_dataset, "tset")


def test_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(SolaredError, match="There is no SOLARED dataset at"):
        load_timelines(tmp_path, "train")
    with pytest.raises(SolaredError, match="There is no SOLARED dataset at"):
        load_timelines(tmp_path / "nowhere", "train")


def test_rebuilt_folder_is_read_again(simulated_published, tmp_path):
    raw, folder = tmp_path / "raw", tmp_path / "dataset"
    shutil.copytree(simulated_published / "AR90009", raw / "AR90009")
    timeline = read_timeline(raw / "AR90009")
    identities = set()
    for value in (1000.0, -1000.0, 1001.0):
        timeline.values[7, 5, 30] = value
        write_published(raw, timeline)
        build_dataset(PublishedSource(raw), folder)
        dataset = open_dataset(folder)
        assert dataset.region(90009).values[7, 5, 30] == value
        identities.add(dataset.identity["revision"])
    assert len(identities) == 3


def test_identity_of_a_folder(simulated_dataset, tmp_path):
    identity = open_dataset(simulated_dataset).identity
    assert identity["source"] == "published"
    assert identity["simulated"] is True
    assert identity["schema_version"] == 1
    assert identity["dataset"] == simulated_dataset.name
    assert len(identity["revision"]) == 64
    moved = tmp_path / "moved"
    shutil.copytree(simulated_dataset, moved)
    assert open_dataset(moved).identity["revision"] == identity["revision"]
    manifest = json.loads((moved / "manifest.json").read_text())
    del manifest["source"]
    (moved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SolaredError, match=r"There is no SOLARED dataset at .*source"):
        _ = open_dataset(moved).identity
