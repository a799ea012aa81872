"""However a dataset is named, it is found, or the error says what is there instead."""

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

CURE = "name a folder written by `solared build`, or a dataset repository on the Hub"


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
def test_a_folder_may_have_any_name(simulated_dataset, tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.symlink_to(simulated_dataset)
    assert_readable(folder, simulated_dataset)
    # A name that is a folder is never asked of the Hub, even if it looks like a repository.
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / name).symlink_to(simulated_dataset)
    monkeypatch.chdir(tmp_path)
    assert_readable(f"owner/{name}", simulated_dataset)
    monkeypatch.chdir(folder)
    assert_readable(".", simulated_dataset)


def test_the_home_folder_and_relative_names(simulated_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sun").symlink_to(simulated_dataset)
    monkeypatch.chdir(tmp_path)
    for name in ("~/sun", Path("~/sun"), "sun", "sun/", "./sun", "sun/data/.."):
        assert local_folder(name) is not None
        assert_readable(name, simulated_dataset)
    assert open_dataset("~/sun").identity["dataset"] == simulated_dataset.name


def test_the_home_folder_in_yaml(tmp_path, monkeypatch, solared):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "train.yaml"
    config.write_text("dataset: ~/nowhere\noutput_dir: ~/run\nmodel_type: spatio_temporal_attention\n")
    monkeypatch.chdir(tmp_path)
    code, _, errors = solared("train", "--config", config)
    assert code == 2
    assert errors.startswith(f"solared: There is no SOLARED dataset at {tmp_path}/nowhere (the folder does not exist)")
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
        (lambda folder, dataset: None, rf"\(the folder does not exist\); {CURE}"),
        (lambda folder, dataset: folder.mkdir(), r"\(the folder is empty\)"),
        (lambda folder, dataset: folder.touch(), r"\(it is a file\); name the folder that holds the whole dataset"),
        (lambda folder, dataset: folder.symlink_to("gone"), r"\(it is a link to nothing\)"),
        (saved_to_disk, r"\(it was written by `save_to_disk`\); open it with `datasets.load_from_disk`"),
        (with_a_dataset_inside, r"\(the folder has no manifest.json\); name .*/it/dataset\."),
        (
            with_published_files,
            r"\(it holds published npz files\); make a dataset .*`solared build --source pub",
        ),
        (with_a_model, r"\(it holds a model\)"),
        (without_a_card, r"README.md"),
        (with_a_damaged_manifest, r"\(manifest.json cannot be read: .*\); build it again"),
    ],
)
def test_what_is_there_instead_is_said(simulated_dataset, tmp_path, make, cause):
    folder = tmp_path / "it"
    make(folder, simulated_dataset)
    for name in (folder, str(folder)):
        with pytest.raises(SolaredError, match=rf"^There is no SOLARED dataset at .*/it .*{cause}") as refused:
            load_timelines(name, "test")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            without_a_shard,
            r"^Of the dataset .*/it, data/test/AR900.*parquet is missing, one of 1 files; build it again",
        ),
        (with_a_damaged_shard, r"^.*/it/data/test/AR900.*parquet could not be read .*; build the dataset again"),
    ],
)
def test_a_dataset_that_is_not_whole_is_refused(simulated_dataset, tmp_path, make, message):
    make(tmp_path / "it", simulated_dataset)
    with pytest.raises(SolaredError, match=message):
        load_timelines(tmp_path / "it", "test")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_said(simulated_dataset, tmp_path):
    folder = shutil.copytree(simulated_dataset, tmp_path / "it")
    folder.chmod(0)
    try:
        with pytest.raises(
            SolaredError, match=r"the folder cannot be opened: Permission denied\); check its name and"
        ):
            load_timelines(folder, "test")
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("name", ["", " ", None, "a\0b", "~nobody-of-this-name/sun", "x" * 300])
def test_what_is_no_name_is_refused_in_a_sentence(name):
    with pytest.raises(SolaredError, match=r"No dataset is named|There is no SOLARED dataset at"):
        load_timelines(name, "test")


def test_an_inner_folder_is_told_the_outer_one(simulated_dataset):
    with pytest.raises(SolaredError, match=rf"has no manifest.json\); name {simulated_dataset.resolve()}\."):
        load_timelines(simulated_dataset / "data" / "test", "test")
    with pytest.raises(SolaredError, match=r"\(it is a file\); name the folder"):
        open_dataset(simulated_dataset / CATALOG_PATH)


def test_a_part_without_a_manifest_is_read(simulated_dataset, tmp_path):
    part = shutil.copytree(simulated_dataset, tmp_path / "part", ignore=shutil.ignore_patterns(MANIFEST_NAME, "train"))
    assert len(load_timelines(part, "test")) == len(load_timelines(simulated_dataset, "test"))
    with pytest.raises(SolaredError, match=r"has no split 'train', only test, validation; choose a split it has"):
        load_timelines(part, "train")
    with pytest.raises(SolaredError, match=r"There is no SOLARED dataset at .* manifest\.json"):
        _ = open_dataset(part).identity


def test_reading_changes_nothing_and_asks_nobody(simulated_dataset, hub):
    """Local Parquet is read without the Hub's machinery, from several threads at once."""
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
