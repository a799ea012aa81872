"""A machine without the Hub: what a cache holds is read, and what it lacks is said with how to get it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from dataset_builder.dataset_folder import dataset_to_push
from solared_hf import SolaredError, load_timelines, open_dataset
from solared_hf.hub import push
from tests.hub.loopback import TOKEN

READ = """
import json, sys, warnings
from solared_hf import SolaredError, open_dataset

def told(read, *arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = read(*arguments)
        except SolaredError as error:
            return str(error)
    return [found, *(str(one.message) for one in caught if "removed" not in str(one.message))]

def from_opened(read):
    # A refusal to open is the answer to every question; a warning while opening stands beside every answer.
    if isinstance(opened, str):
        return opened
    dataset, *notes = opened
    answer = told(read, dataset)
    return answer if isinstance(answer, str) else answer + notes

# Opened once, because a Hub that cannot be reached is asked for half a minute.
opened = told(open_dataset, sys.argv[1], sys.argv[2] or None)
print(json.dumps({
    "train": from_opened(lambda dataset: [timeline.ar_number for timeline in dataset.timelines("train")]),
    "tset": from_opened(lambda dataset: dataset.timelines("tset")),
    "region": from_opened(lambda dataset: len(dataset.region(90009))),
    "unknown": from_opened(lambda dataset: dataset.region(5)),
    "catalog": from_opened(lambda dataset: [row["ar_number"] for row in dataset.catalog]),
    "revision": from_opened(lambda dataset: dataset.revision),
    "identity": from_opened(lambda dataset: dataset.identity),
}))
"""


@pytest.fixture(scope="module")
def pushed(simulated_dataset) -> tuple[str, str]:
    """A repository and its commit."""
    name = "solared-team/offline"
    with dataset_to_push(simulated_dataset, name) as content:
        return name, push(content, name, token=TOKEN).commit


@pytest.fixture
def home(tmp_path) -> Path:
    """A cache of its own, for processes and for the clients of this one."""
    return tmp_path / "home"


def run(home: Path, code: str, *arguments: str, offline: bool) -> str:
    environment = os.environ | {"HF_HOME": str(home)} | ({"HF_HUB_OFFLINE": "1"} if offline else {})
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def answers(home: Path, name: str, revision: str = "", offline: bool = True) -> dict:
    return json.loads(run(home, READ, name, revision, offline=offline).splitlines()[-1])


LOAD_DATASET = """
import sys
from datasets import load_dataset

load_dataset(sys.argv[1])
load_dataset(sys.argv[1], "catalog")
"""


def test_rows_in_the_cache_of_datasets_are_read_without_the_hub(pushed, simulated_dataset, hub, home):
    name, commit = pushed
    run(home, LOAD_DATASET, name, offline=False)
    hub.down = True
    note = (
        f"This machine lacks manifest.json of {name}. Connect to the Hub and run the same command again, or "
        f"download everything with `hf download {name} --repo-type dataset`."
    )
    since = f"{note} Until then, rows of commit {commit[:8]} are read from the cache of `datasets`."
    train = [timeline.ar_number for timeline in load_timelines(simulated_dataset, "train")]
    for revision, offline in (("", True), (commit, False)):  # told so, or finding nobody there
        told = answers(home, name, revision, offline=offline)
        assert told["train"] == [train, since]
        assert told["region"] == [len(open_dataset(simulated_dataset).region(90009)), since]
        assert told["catalog"] == [list(range(90001, 90011)), since]
        assert told["revision"] == [commit, since]
        assert told["identity"] == note
        assert told["tset"].startswith(f"The dataset {name} has no split 'tset'. Choose one of ")
        assert told["unknown"].startswith(f"The dataset {name} has no region AR5. It has 90001, 90002")
    # Another revision is never given in its place.
    other = answers(home, name, "v1.0")
    assert other["train"] == other["revision"]
    assert other["train"].startswith(f"{name} is not complete on this machine, and HF_HUB_OFFLINE is set.")


def test_what_was_read_once_is_read_without_the_hub(pushed, simulated_dataset, hub, home):
    name, commit = pushed
    online = answers(home, name, offline=False)
    hub.down = True
    for revision, offline in (("", True), (commit, False)):
        assert answers(home, name, revision, offline=offline) == online
    assert online["identity"][0]["revision"] == commit
    # What is left of a download that was cut off is not taken for the whole.
    next(home.glob("hub/*/snapshots/*/data/test/*.parquet")).unlink()
    assert answers(home, name)["train"].startswith(("This machine lacks data/test/AR900", f"{name} is not complete"))


def test_a_machine_that_has_nothing_is_told_how_to_get_it(pushed, hub, home):
    name, _ = pushed
    hub.down = True
    offline = answers(home, name)
    assert offline["train"] == (
        f"{name} is not complete on this machine, and HF_HUB_OFFLINE is set. Unset HF_HUB_OFFLINE, or run "
        f"`hf download` on a machine with a network and copy {home}/hub."
    )
    assert len({told if isinstance(told, str) else "" for told in offline.values()}) == 1
    assert answers(home, name, offline=False)["train"].startswith(f"{name} could not be read from the Hub (")


@pytest.mark.parametrize(
    ("files", "cure"),
    [
        (["README.md"], "Name a repository that `solared push` wrote, or another revision"),
        (["README.md", "data/AR11130/mean_int11130_flat.npz"], "It holds published npz files: .*`solared import {}`"),
    ],
)
def test_a_repository_of_something_else_is_said(hub, repo_id, token, files, cure):
    api = HfApi(token=token)
    api.create_repo(repo_id, repo_type="dataset")
    for path in files:
        commit = api.upload_file(path_or_fileobj=b"x", path_in_repo=path, repo_id=repo_id, repo_type="dataset").oid
    cause = f"commit {commit[:8]} of the repository has no manifest.json"
    for read in (lambda: load_timelines(repo_id, "test"), lambda: open_dataset(repo_id)):
        expected = rf"^There is no SOLARED dataset at {repo_id}: {cause}. {cure.format(repo_id)}"
        with pytest.raises(SolaredError, match=expected):
            read()


def test_a_name_that_may_be_a_folder_is_looked_for_in_both_places(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SolaredError, match=r"^There is no runs/set on the Hub .* There is no folder runs/set here either"
    ):
        load_timelines("runs/set", "test")
