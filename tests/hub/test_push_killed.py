"""Pushes killed at any moment: readers never see a part, and the next push ends in exactly one complete commit."""

import itertools
import multiprocessing
import random
import signal
import threading
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from huggingface_hub import HfApi
from huggingface_hub.constants import HF_TOKEN_PATH

from dataset_builder.dataset_folder import dataset_to_push
from solared_hf import load_timelines
from solared_hf.cli import main
from solared_hf.data.timelines import timelines_from_dataset
from solared_hf.hub import push
from tests.hub.loopback import TOKEN

KILLS = 20


@pytest.fixture
def logged_in():
    """As after `hf auth login`: the server that makes the processes may be older than this test's environment."""
    Path(HF_TOKEN_PATH).write_text(TOKEN)
    yield
    Path(HF_TOKEN_PATH).unlink()


@pytest.fixture(scope="module")
def start_push():
    """Starts a push in a process of its own, which has the modules loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dataset_builder.dataset_folder", "solared_hf.cli", "solared_hf.hub.push"])

    def start(folder, repo_id, *options):
        process = context.Process(
            target=main, args=(["push", str(folder), "--repo-id", repo_id, *options],), daemon=True
        )
        process.start()
        return process

    return start


@pytest.mark.parametrize("before", [None, "old"])
def test_pushes_killed_at_random_points_end_in_one_complete_commit(
    hub, repo_id, logged_in, start_push, versions, content_of, on_hub, before
):
    def push_here(name: str, repository: str, tag: str | None = None) -> None:
        with dataset_to_push(versions[name], repository) as content:
            push(content, repository, tag=tag)

    def push_and_kill(repository: str, moment: int | None) -> int | None:
        """Push the new version, and kill it when the Hub has taken and answered so many requests; its exit code."""
        counter, started, process = itertools.count(), threading.Event(), None

        def kill(method, path):
            if next(counter) == moment:
                started.wait()
                process.kill()
                wait([process.sentinel])

        if before is not None:
            push_here(before, repository)
        hub.requests.clear()
        hub.before = hub.after = kill
        process = start_push(versions["new"], repository, "--tag", "v1.0")
        started.set()
        process.join()
        hub.before = hub.after = None
        return process.exitcode

    def seen(repository: str) -> str | None:
        """What a reader sees: a version, or None where nothing can be loaded."""
        if not HfApi().repo_exists(repository, repo_type="dataset") or not on_hub(repository):
            return None
        return next(name for name in versions if on_hub(repository) == content_of(versions[name], repository))

    assert push_and_kill(f"{repo_id}-whole", None) == 0
    moments = random.Random(4).sample(range(2 * len(hub.requests) - 1), KILLS // 2)

    outcomes = Counter()
    for moment in moments:
        repository = f"{repo_id}-{moment}"
        assert push_and_kill(repository, moment) == -signal.SIGKILL, moment
        outcomes[seen(repository)] += 1
        push_here("new", repository, tag="v1.0")
        assert on_hub(repository) == content_of(versions["new"], repository) == on_hub(repository, "v1.0")
        commits = hub.commits(repository, "dataset")
        assert len(commits) == (2 if before is None else 3), moment  # the first is the Hub's own
    print(f"{len(moments)} pushes killed at {sorted(moments)}: readers saw {dict(outcomes)}")
    assert set(outcomes) <= {before, "new"}


def test_who_loads_during_a_push_sees_one_whole_revision(hub, repo_id, logged_in, start_push, versions):
    values = {
        name: {timeline.ar_number: timeline.values for timeline in load_timelines(folder, "train")}
        for name, folder in versions.items()
    }

    def version_of(timelines) -> str:
        read = {timeline.ar_number: timeline.values for timeline in timelines}
        matches = [
            name
            for name, whole in values.items()
            if read.keys() == whole.keys() and all(np.array_equal(read[number], whole[number]) for number in whole)
        ]
        assert len(matches) == 1, f"a mixture: {sorted(read)}"
        return matches[0]

    start_push(versions["old"], repo_id).join()
    stop = threading.Event()

    def keep_pushing():
        while not stop.is_set():
            for name in ("new", "old"):
                start_push(versions[name], repo_id).join()

    pusher = threading.Thread(target=keep_pushing, daemon=True)
    pusher.start()
    try:
        seen = []
        # However slowly a busy machine pushes, some loads have to fall between two pushes.
        while len(seen) < 12 or len(hub.commits(repo_id, "dataset")) < 5 or len(set(seen)) < 2:
            seen.append(version_of(load_timelines(repo_id, "train")))
            seen.append(version_of(timelines_from_dataset(load_dataset(repo_id, split="train"))))
            seen.append(version_of(timelines_from_dataset(load_dataset(repo_id, split="train", streaming=True))))
    finally:
        stop.set()
        pusher.join()
    print(f"{len(seen)} loads during {len(hub.commits(repo_id, 'dataset')) - 2} pushes: {Counter(seen)}")
