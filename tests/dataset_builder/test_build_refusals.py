"""Builds that are refused leave existing files unchanged."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import load_dataset

from dataset_builder import build_dataset
from dataset_builder.build import STAGING_NAME, split_of_region
from dataset_builder.published import PublishedSource
from dataset_builder.simulation import write_simulated
from solared_hf import SolaredError
from solared_hf.schema import CATALOG_PATH, SCHEMA_VERSION
from solared_hf.splits import SPLITS


def test_all_bad_regions_are_named_and_the_dataset_is_unchanged(few, tmp_path, tree):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    before = tree(output)
    write_simulated(few, (90002, 90003, 90004), steps=20)
    write_simulated(few, (90007,), seed=1, steps=20)
    (few / "AR90002" / "mean_int90002_flat.npz").unlink()
    (few / "AR90003" / "mean_mag90003_flat.npz").write_bytes(b"no zip")
    with pytest.raises(SolaredError) as caught:
        build_dataset(PublishedSource(few), output)
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
    # The two finished regions are not built again.
    assert build_dataset(PublishedSource(few), output).written == 2
    build_dataset(PublishedSource(few), tmp_path / "clean")
    assert tree(output) == tree(tmp_path / "clean")
    assert not (output / STAGING_NAME).exists()


def test_staged_shards_are_deleted_when_the_source_is_changed_back(few, tmp_path, tree):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    before = tree(output)
    write_simulated(few, (90001, 90007), seed=1, steps=20)
    (few / "AR90009" / "mean_int90009_flat.npz").unlink()
    with pytest.raises(SolaredError, match="1 of 3 regions"):
        build_dataset(PublishedSource(few), output)
    write_simulated(few, (90001, 90007, 90009), steps=20)
    # The state that a full disk leaves before the card is written.
    (output / STAGING_NAME / "catalog").mkdir()
    (output / STAGING_NAME / CATALOG_PATH).write_bytes(b"of other shards")
    report = build_dataset(PublishedSource(few), output)
    assert (report.written, report.kept) == (0, 3)
    assert tree(output) == before


def test_first_build_with_a_bad_region_leaves_shards_and_no_card(few, tmp_path, tree):
    (few / "AR90001" / "mean_int90001_flat.npz").unlink()
    with pytest.raises(SolaredError, match="1 of 3 regions"):
        build_dataset(PublishedSource(few), tmp_path / "out")
    assert sorted(tree(tmp_path / "out")) == ["data/test/AR90009.parquet", "data/validation/AR90007.parquet"]


def test_region_of_a_single_step_is_refused_before_anything_is_written(tmp_path, tree):
    write_simulated(tmp_path / "in", (90001,), steps=1)
    with pytest.raises(SolaredError, match="single step"):
        build_dataset(PublishedSource(tmp_path / "in"), tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_simulated_and_real_regions_never_mix(few, tmp_path, tree):
    build_dataset(PublishedSource(few), tmp_path / "out")
    shutil.move(few / "AR90001", few / "AR11130")
    for path in (few / "AR11130").iterdir():
        path.rename(path.with_name(path.name.replace("90001", "11130")))
    with pytest.raises(SolaredError, match=r"AR90007 is simulated and .*AR11130 is not. Build simulated regions in"):
        build_dataset(PublishedSource(few), tmp_path / "both")
    for name in ("AR90007", "AR90009"):
        shutil.rmtree(few / name)
    before = tree(tmp_path / "out")
    with pytest.raises(SolaredError, match=r"AR90009.parquet is simulated and .*AR11130 is not"):
        build_dataset(PublishedSource(few), tmp_path / "out")
    assert tree(tmp_path / "out") == before
    # Without simulated regions the build accepts it.
    assert build_dataset(PublishedSource(few), tmp_path / "alone").regions == 1
    assert split_of_region(11130) == "train"


def test_output_folder_with_other_files_is_unchanged(few, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    cases = {"README.md": "# My own", "notes.txt": "notes", "manifest.json": "{}", "data/photo.jpg": "x"}
    for name, content in cases.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
        with pytest.raises(SolaredError, match="a new or an empty folder"):
            build_dataset(PublishedSource(few), folder)
        assert [path.name for path in folder.rglob("*") if path.is_file()] == [Path(name).name]
        shutil.rmtree(folder)
        folder.mkdir()
    (folder / ".gitattributes").write_text("")  # a fresh clone from the Hub
    assert build_dataset(PublishedSource(few), folder).regions == 3


def test_output_that_is_a_file_or_holds_the_input(few, tmp_path, tree):
    (tmp_path / "file").write_text("")
    for output, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "below", "Could not write"),
        (few, "holds the input"),
    ):
        with pytest.raises(SolaredError, match=words):
            build_dataset(PublishedSource(few), output)
    shutil.copytree(few, tmp_path / "root" / "data")
    for output in (tmp_path / "root", tmp_path / "root" / "data"):
        with pytest.raises(SolaredError, match="holds the input"):
            build_dataset(PublishedSource(tmp_path / "root"), output)
    assert len(tree(few)) == len(tree(tmp_path / "root")) == 9


def test_newer_schema_is_not_overwritten(few, tmp_path, tree):
    build_dataset(PublishedSource(few), tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.json"
    facts = json.loads(manifest.read_text())
    assert facts["schema_version"] == SCHEMA_VERSION
    manifest.write_text(json.dumps({**facts, "schema_version": SCHEMA_VERSION + 1}))
    before = tree(tmp_path / "out")
    with pytest.raises(SolaredError, match=rf"schema version {SCHEMA_VERSION + 1}, .* --upgrade"):
        build_dataset(PublishedSource(few), tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_foreign_shard_is_named(few, tmp_path):
    build_dataset(PublishedSource(few), tmp_path / "out")
    shutil.copy(tmp_path / "out/catalog/regions.parquet", tmp_path / "out/data/train/AR90005.parquet")
    with pytest.raises(SolaredError, match=r"AR90005.parquet is damaged or is not a shard"):
        build_dataset(PublishedSource(few), tmp_path / "out")
    (tmp_path / "out/data/train/AR90005.parquet").unlink()
    shutil.copy(tmp_path / "out/data/test/AR90009.parquet", tmp_path / "out/data/train/AR90010.parquet")
    with pytest.raises(SolaredError, match=r"holds AR90009 as data/test/AR90009.parquet and data/train/AR90010"):
        build_dataset(PublishedSource(few), tmp_path / "out")
