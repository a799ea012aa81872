"""No fault of workers or of their scheduler makes a build wait for ever, and finished regions are kept."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import dask
import psutil
import pytest
from distributed import LocalCluster

from dataset_builder import FitsSource, build_dataset
from dataset_builder.fits import cluster as clusters
from dataset_builder.simulation import write_observations
from solared_hf import SolaredError
from tests.processes import kill, wait_until

# The second region is not finished before the test opens the gate.
FIRST, SECOND = 90001, 90007

# A healthy scheduler of a busy machine may be silent for some seconds.
BUSY_S = 15

# Workers run this first: the second region waits at the gate.
GATED = """
import os, time
from dataset_builder.fits import source as fits_source
from dataset_builder.fits.reduction import reduce_segment

def gated(segment, report):
    if "AR{SECOND}" in str(next(iter(segment.velocity.values())).file.path):
        while not os.path.exists("{GATE}"):
            time.sleep(0.02)
    return reduce_segment(segment, report)

fits_source.reduce_segment = gated
"""

SCHEDULER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", preload=[sys.argv[1]]) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.readline()
        cluster.scale(0)
        sys.stdin.readline()
"""

# Every Python process runs this first. Processes that Dask starts obey the file `fault`, as long as it exists.
SITE_CUSTOMIZE = """
import os, sys, time
fault = os.path.join(os.path.dirname(__file__), "fault")
if "--multiprocessing-fork" in sys.orig_argv:
    while os.path.exists(fault):
        if open(fault).read() == "exit":
            os._exit(1)
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_observations(folder, (FIRST, SECOND), steps=2)
    return folder


@pytest.fixture(scope="module")
def healthy(raw, cluster, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    build_dataset(FitsSource(raw, scheduler=cluster), folder)
    return folder


@pytest.fixture
def preload(tmp_path) -> Path:
    script = tmp_path / "gated.py"
    script.write_text(GATED.replace("{SECOND}", str(SECOND)).replace("{GATE}", str(tmp_path / "gate")))
    return script


@pytest.fixture
def gate(preload, tmp_path) -> Iterator[Path]:
    """Give the path of a file for which the workers wait before they compute the second region."""
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        yield tmp_path / "gate"
        (tmp_path / "gate").touch()


def wait_during(build: Future, condition: Callable[[], object]) -> None:
    """Wait until a condition holds, and fail if the build ends before."""

    def holds() -> bool:
        if condition():
            return True
        assert not build.done(), build.exception()
        return False

    wait_until(holds)


def worker_processes() -> set[psutil.Process]:
    """Return the processes that Dask started from this process."""
    found = set()
    for child in psutil.Process().children():
        try:
            if "--multiprocessing-fork" in child.cmdline():
                found.add(child)
        except psutil.Error:  # the process has just ended
            continue
    return found


def cut_connections(workers: set[psutil.Process]) -> int:
    """Cut every connection of this process with the workers, and return how many there were."""
    theirs = {link.laddr for worker in workers for link in worker.net_connections("tcp")}
    count = 0
    for link in psutil.Process().net_connections("tcp"):
        # The connection may end meanwhile, and another connection may get its number.
        with suppress(OSError), socket.socket(fileno=os.dup(link.fd)) as connection:
            if connection.getpeername() in theirs:
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


def in_thread(function: Callable, *arguments) -> Future:
    """Run a function in a daemon thread and return the future of the result."""
    future = Future()

    def work():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


@contextmanager
def building(raw: Path, output: Path, **options) -> Iterator[tuple[Future, set[psutil.Process]]]:
    """Give a build in a thread, after the first region is finished, and its worker processes."""
    others = worker_processes()
    build = in_thread(build_dataset, FitsSource(raw, **options), output)
    wait_during(build, lambda: list(output.rglob("*.parquet")))
    yield build, worker_processes() - others


@contextmanager
def scheduler_process(preload: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Give the address and the process of an independent scheduler with one worker."""
    command = [sys.executable, "-c", SCHEDULER, str(preload)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip(), process
        finally:
            kill(process)


@pytest.fixture
def fault(tmp_path, monkeypatch) -> Path:
    """Return the path of a file that, while it exists, makes new Dask processes hang, or end if it says "exit"."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder / "fault"


@pytest.mark.parametrize(("count", "blow"), [(2, cut_connections), (1, "SIGKILL"), (1, "SIGSTOP")])
def test_lost_workers_of_this_machine_are_replaced(
    raw, healthy, gate, tmp_path, assert_same_dataset, monkeypatch, count, blow
):
    monkeypatch.setattr(clusters, "_CHECKS_STOPPED", 2)
    with building(raw, tmp_path / "out", workers=count) as (build, workers):
        assert len(workers) == count
        if blow is cut_connections:
            assert cut_connections(workers) >= count
        else:
            for worker in workers:
                worker.send_signal(getattr(signal, blow))
        psutil.wait_procs(workers)
        gate.touch()
        assert build.result().written == 2
    assert_same_dataset(tmp_path / "out", healthy)


def test_a_worker_that_its_nanny_cannot_restart_is_replaced(
    raw, healthy, gate, tmp_path, assert_same_dataset, monkeypatch, fault
):
    monkeypatch.setattr(clusters, "_CHECKS_TO_START_AGAIN", 2)
    with building(raw, tmp_path / "out", workers=1) as (build, workers):
        others = worker_processes() - workers
        fault.write_text("exit")
        (worker,) = workers
        worker.kill()
        wait_during(build, lambda: worker_processes() - workers - others)
        psutil.wait_procs(worker_processes() - others)
        fault.unlink()
        gate.touch()
        assert build.result().written == 2
    assert_same_dataset(tmp_path / "out", healthy)


def test_a_build_ends_if_workers_of_this_machine_never_come_back(raw, gate, tmp_path, shards, monkeypatch, fault):
    monkeypatch.setattr(clusters, "_SECONDS_TO_CLOSE", 1)
    with building(raw, tmp_path / "out", workers=1, worker_timeout_s=BUSY_S) as (build, workers):
        others = worker_processes() - workers
        fault.touch()
        for worker in workers:
            worker.kill()
        with pytest.raises(SolaredError, match=r"are gone, and no new ones came within 15 s\. .* Finished regions"):
            build.result()
    assert [Path(name).stem for name in shards(tmp_path / "out")] == [f"AR{FIRST}"]
    wait_until(lambda: worker_processes() <= others)


def test_a_build_ends_if_processes_do_not_start(raw, tmp_path, monkeypatch, solared, fault):
    monkeypatch.setattr(clusters, "_SECONDS_TO_START", 3)
    fault.touch()
    others = worker_processes()
    arguments = ("--source", "fits", "--input", raw, "--output", tmp_path / "out", "--workers", 2)
    code, _, errors = solared("build", *arguments)
    assert code == 2
    assert "The processes of the build did not start within 3 s. Run" in errors.splitlines()[-1]
    wait_until(lambda: worker_processes() <= others)


def test_a_build_ends_if_a_scheduler_has_no_workers(raw, tmp_path, solared):
    with LocalCluster(n_workers=0, dashboard_address=":0") as empty:
        arguments = ("--input", raw, "--output", tmp_path / "out", "--scheduler", empty.scheduler_address)
        code, _, errors = solared("build", "--source", "fits", *arguments, "--worker-timeout", 2)
    assert code == 2
    assert "waiting for workers, 2 s at most" in errors
    assert f"{empty.scheduler_address} has had no worker for 2 s. Start workers" in errors.splitlines()[-1]


def test_a_build_waits_for_late_workers(raw, healthy, tmp_path, assert_same_dataset):
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0") as late:
        build = in_thread(build_dataset, FitsSource(raw, scheduler=late.scheduler_address), tmp_path / "out")
        wait_during(build, lambda: late.scheduler.unrunnable or late.scheduler.queued)
        late.scale(1)
        assert build.result().written == 2
    assert_same_dataset(tmp_path / "out", healthy)


@pytest.mark.parametrize(
    ("blow", "message"),
    [
        ("workers", "has had no worker for 15 s. Start workers"),
        ("SIGKILL", r"The connection to the Dask scheduler at .* was lost. Check"),
        ("SIGSTOP", r"The Dask scheduler at .* has not answered for 15 s. Check"),
    ],
)
def test_a_build_ends_if_the_scheduler_is_lost(
    raw, healthy, preload, tmp_path, assert_same_dataset, shards, cluster, blow, message
):
    output = tmp_path / "out"
    with (
        scheduler_process(preload) as (address, process),
        building(raw, output, scheduler=address, worker_timeout_s=BUSY_S) as (build, _),
    ):
        if blow == "workers":
            print(file=process.stdin, flush=True)
        else:
            process.send_signal(getattr(signal, blow))
        with pytest.raises(SolaredError, match=message) as caught:
            build.result()
        assert "\n" not in str(caught.value)
    assert [Path(name).stem for name in shards(output)] == [f"AR{FIRST}"]
    report = build_dataset(FitsSource(raw, scheduler=cluster), output)
    assert (report.written, report.kept) == (1, 1)
    assert_same_dataset(output, healthy)
