"""`load_dataset` of what was pushed: whole and streaming, by split, config, tag and region, with `datasets` alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from dataset_builder import build_dataset
from dataset_builder.dataset_folder import dataset_to_push
from dataset_builder.published import PublishedSource
from dataset_builder.simulation import write_simulated
from solared_hf import SolaredError, SolaredWindows, Timeline, load_timelines, open_dataset
from solared_hf.data.timelines import timelines_from_dataset
from solared_hf.evaluation import score_on_split
from solared_hf.forecasters import Persistence
from solared_hf.hub import push
from solared_hf.schema import catalog_features, timeline_features
from solared_hf.splits import SPLITS
from tests.hub.loopback import READER_TOKEN, TOKEN
from tests.hub.stranger import WITHOUT_OUR_PACKAGES
from tests.processes import run

STRANGER = """
import sys

from datasets import load_dataset

repository = sys.argv[1]
whole = load_dataset(repository)
print({split: rows.num_rows for split, rows in whole.items()})
print(next(iter(load_dataset(repository, split="test", streaming=True)))["ar_number"])
print(load_dataset(repository, "catalog", split="regions").num_rows)
"""


@pytest.fixture(scope="module")
def folders(simulated_dataset, tmp_path_factory) -> dict[str, Path]:
    """Two states of a dataset, by the tag and the branch that they are pushed to."""
    sun, later = tmp_path_factory.mktemp("sun"), tmp_path_factory.mktemp("later") / "dataset"
    write_simulated(sun, (90001, 90007, 90009), steps=60, seed=1)
    build_dataset(PublishedSource(sun), later)
    return {"v1.0": simulated_dataset, "main": later}


@pytest.fixture(scope="module")
def repository(folders) -> str:
    name = "solared-team/datasets"
    for revision, folder in folders.items():
        with dataset_to_push(folder, name) as content:
            push(content, name, tag=None if revision == "main" else revision, token=TOKEN)
    return name


def assert_same(actual: list[Timeline], expected: list[Timeline]) -> None:
    assert [timeline.ar_number for timeline in actual] == [timeline.ar_number for timeline in expected]
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(ours.times, theirs.times)
        np.testing.assert_array_equal(ours.values, theirs.values)


@pytest.mark.parametrize("revision", ["v1.0", "main"])
@pytest.mark.parametrize("streaming", [False, True])
def test_every_split_is_what_was_built(repository, folders, revision, streaming):
    splits = load_dataset(repository, revision=revision, streaming=streaming)
    assert tuple(splits) == SPLITS
    for split, rows in splits.items():
        assert rows.features == timeline_features()
        expected = load_timelines(folders[revision], split)
        assert_same(timelines_from_dataset(rows), expected)
        assert len(SolaredWindows(rows, input_steps=12)) == len(SolaredWindows(expected, input_steps=12))


@pytest.mark.parametrize("streaming", [False, True])
def test_one_region_by_its_number(repository, streaming):
    one = load_dataset(
        repository, split="train", revision="v1.0", filters=[("ar_number", "==", 90003)], streaming=streaming
    )
    assert_same(timelines_from_dataset(one), [open_dataset(repository, "v1.0").region(90003)])
    windows = SolaredWindows(one, input_steps=12)
    assert set(windows.ar_numbers.tolist()) == {90003}


def test_catalog(repository):
    catalog = load_dataset(repository, "catalog", split="regions")
    assert catalog.features == catalog_features()
    assert catalog["ar_number"][:] == [90001, 90007, 90009]
    assert catalog["split"][:] == ["train", "validation", "test"]
    assert catalog["steps"][:] == [60, 60, 60]


def test_datasets_alone_is_enough(repository):
    finished = run(
        [sys.executable, "-c", WITHOUT_OUR_PACKAGES + STRANGER, repository],
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == ["{'train': 60, 'validation': 60, 'test': 60}", "90009", "3"]


def test_what_a_repository_is(repository, hub, folders):
    identity = open_dataset(repository, "v1.0").identity
    assert identity["dataset"] == repository
    assert identity["revision"] == hub.commits(repository, "dataset", "v1.0")[0].oid
    assert identity["revision"] != open_dataset(repository).identity["revision"]
    assert identity["simulated"] is True


def test_a_reader_sees_the_revision_it_began_with(folders, hub, repo_id, token):
    def push_dataset(revision: str) -> None:
        with dataset_to_push(folders[revision], repo_id) as content:
            push(content, repo_id)

    def push_after_the_list_of_files(method, path):
        if "/resolve/" in path:
            hub.before = None
            push_dataset("main")

    push_dataset("v1.0")
    hub.before = push_after_the_list_of_files
    assert_same(load_timelines(repo_id, "train"), load_timelines(folders["v1.0"], "train"))
    assert len(hub.commits(repo_id, "dataset")) == 3
    assert_same(load_timelines(repo_id, "train"), load_timelines(folders["main"], "train"))


def test_an_opened_dataset_resolves_its_revision_once(repository, hub, folders):
    hub.requests.clear()
    dataset = open_dataset(repository, "v1.0")
    assert dataset.revision == hub.commits(repository, "dataset", "v1.0")[0].oid
    asked = len(hub.requests)
    assert [path for _, path, _ in hub.requests if "/revision/" in path] == [
        f"/api/datasets/{repository}/revision/v1.0"
    ]
    hub.down = True
    expected = open_dataset(folders["v1.0"])
    assert dataset.splits == expected.splits
    for split in dataset.splits:
        assert_same(dataset.timelines(split), expected.timelines(split))
    assert_same(dataset.timelines(), expected.timelines())
    assert_same([dataset.region(90003)], [expected.region(90003)])
    assert dataset.catalog == expected.catalog
    assert dataset.identity["revision"] == dataset.revision
    scores = score_on_split(Persistence(), dataset, "test")
    assert (scores.dataset, scores.dataset_revision) == (repository, dataset.revision)
    assert open_dataset(dataset) is dataset
    assert len(hub.requests) == asked


def test_an_opened_dataset_stays_at_its_commit(folders, hub, repo_id, token):
    with dataset_to_push(folders["v1.0"], repo_id) as content:
        push(content, repo_id)
    dataset = open_dataset(repo_id)
    with dataset_to_push(folders["main"], repo_id) as content:
        push(content, repo_id)
    assert_same(dataset.timelines("train"), load_timelines(folders["v1.0"], "train"))
    assert_same(open_dataset(repo_id).timelines("train"), load_timelines(folders["main"], "train"))


@pytest.mark.parametrize(
    ("name", "revision", "sentence"),
    [
        (
            "solared-team/nowhere",
            None,
            "There is no solared-team/nowhere on the Hub that you can read. Check the name",
        ),
        ("solared-team/datasets", "v9", "solared-team/datasets has no revision v9. Name a branch, tag or commit"),
        ("nowhere", None, "There is no SOLARED dataset at nowhere: .* Name a folder"),
    ],
)
def test_what_is_not_there_is_one_sentence(repository, name, revision, sentence):
    with pytest.raises(SolaredError, match=sentence):
        load_timelines(name, "train", revision)


def test_a_private_dataset_is_for_those_who_may_see_it(folders, hub, repo_id, token, monkeypatch):
    with dataset_to_push(folders["main"], repo_id) as content:
        push(content, repo_id, private=True)
    with monkeypatch.context() as patch:
        patch.setenv("HF_TOKEN", READER_TOKEN)
        with pytest.raises(SolaredError, match="that you can read"):
            load_timelines(repo_id, "train")
    assert len(load_timelines(repo_id, "train")) == 1
