"""After a full disk, a kill or a concurrent build, a dataset folder is never half-written."""

import fcntl
import json
import multiprocessing
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataset_builder import build_dataset
from dataset_builder.build import LOCK_NAME, STAGING_NAME
from dataset_builder.published import PublishedSource
from dataset_builder.simulation import SIMULATED_REGIONS, write_simulated
from dataset_builder.simulation.timelines import split_of
from solared_hf import SolaredError, files
from tests.processes import run

COMMAND = (sys.executable, "-m", "solared_hf", "build", "--source", "published")


def test_second_build_at_the_same_time_is_refused(few, tmp_path, tree):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    write_simulated(few, (90002,), steps=20)
    before = tree(output)
    with (output / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # stands in for another process
        with pytest.raises(SolaredError, match="Another build is writing"):
            build_dataset(PublishedSource(few), output)
        assert tree(output) == before
    assert build_dataset(PublishedSource(few), output).written == 1


HOLDER = """
import sys
from pathlib import Path
from solared_hf.files import locked

with locked(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_of_a_stopped_process_is_respected_and_lock_of_a_dead_process_is_released(few, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-c", HOLDER, output / LOCK_NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(SolaredError, match="Another build is writing"):
            build_dataset(PublishedSource(few), output)
        holder.kill()
    assert build_dataset(PublishedSource(few), output).written == 3


def test_full_disk_gives_one_sentence_and_no_partial_file(tmp_path, tree):
    """The limit on file sizes stands in for a full disk: the first region fits, the second does not."""
    write_simulated(tmp_path / "in", (90001,), steps=20)
    write_simulated(tmp_path / "in", (90002,), steps=240)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SolaredError, match=r"Could not write .*AR90002.parquet .*Make room") as caught:
            build_dataset(PublishedSource(tmp_path / "in"), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list(tree(tmp_path / "out")) == ["data/train/AR90001.parquet"]
    assert build_dataset(PublishedSource(tmp_path / "in"), tmp_path / "out").written == 1


def test_an_interrupted_write_leaves_only_a_temporary_file(few, tmp_path, monkeypatch, tree):
    class Killed(BaseException):
        """Stands in for SIGKILL, which cannot be caught."""

    def killed(*_):
        raise Killed

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        with pytest.raises(Killed):
            build_dataset(PublishedSource(few), output)
    (leftover,) = tree(output)
    assert leftover.endswith(".tmp")
    build_dataset(PublishedSource(few), output)
    build_dataset(PublishedSource(few), tmp_path / "clean")
    assert tree(output) == tree(tmp_path / "clean")


def test_full_disk_leaves_the_dataset_as_it_was(few, tmp_path, tree):
    build_dataset(PublishedSource(few), tmp_path / "out")
    before = tree(tmp_path / "out")
    write_simulated(few, (90001,), seed=1, steps=20)
    write_simulated(few, (90002,), steps=240)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SolaredError, match=r"Could not write .*AR90002.parquet .*Make room"):
            build_dataset(PublishedSource(few), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = tree(tmp_path / "out")
    assert after.pop(f"{STAGING_NAME}/data/train/AR90001.parquet")
    assert after == before
    assert build_dataset(PublishedSource(few), tmp_path / "out").written == 1


def test_rebuild_killed_at_any_file_leaves_the_old_dataset_the_new_one_or_no_card(few, tmp_path, monkeypatch, tree):
    """Values, regions and a split change. After each kill the card describes the files beside it, or is missing."""

    class Killed(BaseException):
        """Stands in for SIGKILL, which cannot be caught."""

    build_dataset(PublishedSource(few), tmp_path / "old")
    old = tree(tmp_path / "old")
    write_simulated(few, (90002,), steps=20)
    write_simulated(few, (90007,), seed=1, steps=20)
    arguments = {"split_of": lambda number: "test" if number == 90001 else split_of(number)}
    build_dataset(PublishedSource(few), tmp_path / "new", **arguments)
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
                build_dataset(PublishedSource(few), output, **arguments)
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
            # The next build completes the move first, even if it then fails.
            with pytest.raises(SolaredError, match="1 of 1 regions"):
                build_dataset(PublishedSource(tmp_path / "bad"), output)
            assert tree(output) == new
        build_dataset(PublishedSource(few), output, **arguments)
        assert tree(output) == new
    assert tree(output) == new
    # The states come in this order and are never mixed.
    assert [state for state, following in zip(seen, [*seen[1:], ""], strict=True) if state != following] == [
        "old",
        "none",
    ]


def test_leftovers_are_removed_only_where_the_builder_writes(few, tmp_path, tree):
    output = tmp_path / "out"
    build_dataset(PublishedSource(few), output)
    before = tree(output)
    ours = [output / folder / ".AR1.parquet.x.tmp" for folder in (".", "catalog", "data/train")]
    theirs = output / ".git" / "lfs" / ".object.tmp"
    theirs.parent.mkdir(parents=True)
    for path in (*ours, theirs):
        path.write_bytes(b"x")
    build_dataset(PublishedSource(few), output)
    assert tree(output) == {**before, ".git/lfs/.object.tmp": b"x"}


def assert_whole(folder: Path, found: list[str]) -> int:
    """Read every file with a final name, as a reader may at any moment, and return the number of shards."""
    for name in found:
        assert pq.read_table(folder / "data" / name, partitioning=None).num_rows > 0
    if (folder / "catalog/regions.parquet").exists():
        assert pq.read_table(folder / "catalog/regions.parquet").num_rows == len(SIMULATED_REGIONS)
    if (folder / "manifest.json").exists():
        json.loads((folder / "manifest.json").read_text())
    if (folder / "README.md").exists():
        assert (folder / "README.md").read_text() == (folder.parent / "clean/README.md").read_text()
    return len(found)


def test_killed_at_any_moment_then_resumed(simulated_published, simulated_dataset, tmp_path, tree, shards):
    """A process is killed with SIGKILL while a reader polls. Each rerun gives the files of an undisturbed build."""
    (tmp_path / "clean").mkdir()
    shutil.copy(simulated_dataset / "README.md", tmp_path / "clean")
    expected = tree(simulated_dataset)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dataset_builder.build"])
    chance = random.Random(0)
    seen = []
    for round_number, kill_after in enumerate((0, 1, 3, 5, 7, 9, 10)):
        output = tmp_path / f"out{round_number}"
        arguments = PublishedSource(simulated_published), output
        process = context.Process(target=build_dataset, args=arguments, daemon=True)
        process.start()
        while not (output / LOCK_NAME).exists() and process.is_alive():
            time.sleep(0.001)
        while assert_whole(output, shards(output)) < kill_after and process.is_alive():
            pass
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.join()
        seen.append(assert_whole(output, shards(output)))
        report = build_dataset(PublishedSource(simulated_published), output)
        # Finished shards are not built again.
        assert (report.written, report.kept) == (len(SIMULATED_REGIONS) - seen[-1], seen[-1])
        assert tree(output) == expected
    assert any(0 < count < len(SIMULATED_REGIONS) for count in seen)


def test_command_on_a_full_disk(simulated_published, tmp_path, tree):
    """`ulimit -f` counts blocks of 1024 bytes. A shard has about 320 blocks."""
    limited = 'ulimit -f 200; exec "$@"'
    result = run(
        ["bash", "-c", limited, "bash", *COMMAND, "--input", simulated_published, "--output", tmp_path / "out"],
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    message = result.stderr.splitlines()[-1]
    assert "Could not write" in message
    assert "Make room" in message
    assert tree(tmp_path / "out") == {}
