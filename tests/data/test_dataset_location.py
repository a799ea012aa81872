"""A dataset is found by any kind of name, or the error says what the name means instead."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict

from solared_hf import SolaredError, load_timelines, open_dataset
from solared_hf.data.dataset_location import local_folder
from solared_hf.schema import CATALOG_PATH, MANIFEST_NAME

CURE = "Name a folder written by `solared build`, or a dataset repository on the Hub"


def assert_readable(dataset: str | Path, expected: Path) -> None:
    found, known = open_dataset(dataset), open_dataset(expected)
    regions = found.timelines("test")
    for ours, theirs in zip(regions, known.timelines("test"), strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)
    number = regions[0].ar_number
    assert found.region(np.int64(number)).ar_number == number
    assert found.catalog == known.catalog
    assert found.revision is None
    assert found.identity["revision"] == known.identity["revision"]


@pytest.mark.parametrize(
    "name", ["set [v1]", "*", "a?b", "**", "{data}", "100%", "#1", "hf:", "ü ☉", "data", ".hidden", "[!x]"]
)
def test_folder_can_have_any_name(simulated_dataset, tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.symlink_to(simulated_dataset)
    assert_readable(folder, simulated_dataset)
    # The Hub is not asked about an existing folder, even if its name looks like a repository.
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / name).symlink_to(simulated_dataset)
    monkeypatch.chdir(tmp_path)
    assert_readable(f"owner/{name}", simulated_dataset)
    monkeypatch.chdir(folder)
    assert_readable(".", simulated_dataset)


def test_home_folder_and_relative_names_are_found(simulated_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sun").symlink_to(simulated_dataset)
    monkeypatch.chdir(tmp_path)
    for name in ("~/sun", Path("~/sun"), "sun", "sun/", "./sun", "sun/data/.."):
        assert local_folder(name) is not None
        assert_readable(name, simulated_dataset)
    assert open_dataset("~/sun").identity["dataset"] == simulated_dataset.name


def test_home_folder_in_yaml_is_expanded(tmp_path, monkeypatch, solared):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "train.yaml"
    config.write_text("dataset: ~/nowhere\noutput_dir: ~/run\nmodel_type: spatio_temporal_attention\n")
    monkeypatch.chdir(tmp_path)
    code, _, errors = solared("train", "--config", config)
    assert code == 2
    assert errors.startswith(f"solared: There is no SOLARED dataset at {tmp_path}/nowhere: the folder does not exist.")
    assert not (tmp_path / "~").exists()


def saved_to_disk(folder: Path, dataset: Path) -> None:
    from datasets import load_dataset

    DatasetDict({"test": load_dataset(str(dataset), split="test")}).save_to_disk(str(folder))


def with_a_dataset_inside(folder: Path, dataset: Path) -> None:
    folder.mkdir()
    shutil.copytree(dataset, folder / "dataset")


def with_published_files(folder: Path, dataset: Path) -> None:
    (folder / "AR11130").mkdir(parents=True)
    (folder / "AR11130" / "mean_int11130_flat.npz").touch()


def with_a_model(folder: Path, dataset: Path) -> None:
    folder.mkdir()
    (folder / "config.json").touch()


def without_a_shard(folder: Path, dataset: Path) -> None:
    shutil.copytree(dataset, folder)
    next(folder.glob("data/test/*.parquet")).unlink()


def with_a_damaged_shard(folder: Path, dataset: Path) -> None:
    shutil.copytree(dataset, folder)
    next(folder.glob("data/test/*.parquet")).write_bytes(b"PAR1")


def without_a_card(folder: Path, dataset: Path) -> None:
    shutil.copytree(dataset, folder)
    (folder / "README.md").unlink()


def with_a_damaged_manifest(folder: Path, dataset: Path) -> None:
    shutil.copytree(dataset, folder)
    (folder / MANIFEST_NAME).write_text("{")


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda folder, dataset: None, rf": the folder does not exist. {CURE}"),
        (lambda folder, dataset: folder.mkdir(), r": the folder is empty"),
        (lambda folder, dataset: folder.touch(), r": it is a file. Name the folder that holds the whole dataset"),
        (lambda folder, dataset: folder.symlink_to("gone"), r": it is a broken link"),
        (saved_to_disk, r": it was written by `save_to_disk`. Open it with `datasets.load_from_disk`"),
        (with_a_dataset_inside, r": the folder has no manifest.json. Name .*/it/dataset\."),
        (
            with_published_files,
            r": it holds published npz files. Make a dataset .*`solared build --source pub",
        ),
        (with_a_model, r": it holds a model"),
        (without_a_card, r"README.md"),
        (with_a_damaged_manifest, r": manifest.json cannot be read: .* Build it again"),
    ],
)
def test_error_says_what_the_folder_holds(simulated_dataset, tmp_path, make, cause):
    folder = tmp_path / "it"
    make(folder, simulated_dataset)
    for name in (folder, str(folder)):
        with pytest.raises(SolaredError, match=rf"^There is no SOLARED dataset at .*/it.*{cause}") as refused:
            load_timelines(name, "test")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            without_a_shard,
            r"^The dataset .*/it lacks 1 of its files, such as data/test/AR900.*parquet. Build it again",
        ),
        (with_a_damaged_shard, r"^.*/it/data/test/AR900.*parquet could not be read .*\. Build the dataset again"),
    ],
)
def test_incomplete_dataset_is_refused(simulated_dataset, tmp_path, make, message):
    make(tmp_path / "it", simulated_dataset)
    with pytest.raises(SolaredError, match=message):
        load_timelines(tmp_path / "it", "test")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can read everything")
def test_unreadable_folder_is_refused(simulated_dataset, tmp_path):
    folder = shutil.copytree(simulated_dataset, tmp_path / "it")
    folder.chmod(0)
    try:
        with pytest.raises(SolaredError, match=r"the folder cannot be opened: Permission denied. Check the name and"):
            load_timelines(folder, "test")
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("name", ["", " ", None, "a\0b", "~nobody-of-this-name/sun", "x" * 300])
def test_invalid_name_is_refused(name):
    with pytest.raises(SolaredError, match=r"No dataset is named|There is no SOLARED dataset at"):
        load_timelines(name, "test")


def test_error_in_an_inner_folder_names_the_outer_folder(simulated_dataset):
    with pytest.raises(SolaredError, match=rf"has no manifest.json. Name {simulated_dataset.resolve()}\."):
        load_timelines(simulated_dataset / "data" / "test", "test")
    with pytest.raises(SolaredError, match=r": it is a file. Name the folder"):
        open_dataset(simulated_dataset / CATALOG_PATH)


def test_part_of_a_dataset_without_a_manifest_is_read(simulated_dataset, tmp_path):
    part = shutil.copytree(simulated_dataset, tmp_path / "part", ignore=shutil.ignore_patterns(MANIFEST_NAME, "train"))
    assert len(load_timelines(part, "test")) == len(load_timelines(simulated_dataset, "test"))
    with pytest.raises(SolaredError, match=r"has no split 'train'. Choose one of test, validation"):
        load_timelines(part, "train")
    with pytest.raises(SolaredError, match=r"There is no SOLARED dataset at .* manifest\.json"):
        _ = open_dataset(part).identity


def test_reading_a_folder_from_two_threads_sends_no_request(simulated_dataset, hub):
    before = len(hub.requests)
    results = []

    def read():
        results.append(len(load_timelines(simulated_dataset, "train")))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert len(hub.requests) == before
