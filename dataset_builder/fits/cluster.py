"""The Dask cluster that a build runs on: processes of this machine, or anyone's scheduler.

Dask itself waits for ever: for workers that never come, for a scheduler that does not answer, for processes of this
machine that lost their connections and are not started again. A `Cluster` looks after its workers while it waits for
results, replaces those of this machine, and gives up after a stated time.
"""

import asyncio
import logging
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from concurrent.futures import Future as Answer
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Timer
from typing import Any

import psutil
from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, Nanny, Status
from distributed.system import MEMORY_LIMIT
from distributed.utils import silence_logging_cmgr

from solared_hf.errors import SolaredError

WORKER_TIMEOUT_S = 600.0
_SECONDS_TO_CONNECT = 20
# On a busy machine a process that imports Dask may take a minute.
_SECONDS_TO_START = 300
_SECONDS_TO_CLOSE = 20
# Waiting is counted in looks of about a second, not by the clock: a computer that slept has not waited.
_SECONDS_BETWEEN_LOOKS = 1.0
# How long the scheduler may not know a worker: whose process is there or was never seen, since a busy machine takes
# minutes; whose nanny should start another; whose nanny does not. And how long a process may be stopped.
_LOOKS_TO_START = _SECONDS_TO_START
_LOOKS_TO_START_AGAIN = 60
_LOOKS_WITHOUT_NANNY = 5
_LOOKS_STOPPED = 60
# Dask ends a worker that is silent for five minutes. On a busy machine a healthy one has been silent for three.
_SILENCE = "30 minutes"
# A worker takes up to 2 GB for patches of 512 x 512 pixels; Dask ends one at 95 % of its share.
_WORKER_MEMORY = 2.5e9
_KEPT = "Finished regions are kept: run the same command again."


class ClusterLost(SolaredError):
    """No task can be finished on this cluster any more."""


class Cluster:
    """A Dask cluster whose workers are watched while something is waited for.

    Args:
        client: connected to the cluster's scheduler.
        worker_timeout_s: how long the cluster may be without a worker, or its scheduler without an answer.
        local: the processes of this machine, if it is they that do the work.

    Attributes:
        say: told in a few words what is waited for.
    """

    def __init__(self, client: Client, worker_timeout_s: float, local: LocalCluster | None = None):
        self.client = client
        self.say: Callable[[str], None] = lambda words: None
        self._local = local
        self._local_size = len(local.worker_spec) if local is not None else 0
        self._address = client.scheduler.address
        self._timeout_s = worker_timeout_s
        self._asked: Answer | None = None
        self._unanswered = self._without_workers = 0.0
        self._absent: Counter = Counter()
        self._stopped: Counter = Counter()
        self._seen: set = set()
        self._said = ""

    def submit(self, function: Callable, *arguments, **options) -> Future:
        """Hand in a task, as `Client.submit` does.

        Raises:
            ClusterLost: the scheduler is gone.
        """
        self._check_connection()
        return self.client.submit(function, *arguments, pure=False, **options)

    def threads(self) -> int:
        """How many threads all workers have; 0 where there is none.

        Raises:
            ClusterLost: the scheduler is gone or does not answer.
        """
        try:
            return sum(self._watched(self.client.nthreads).values())
        except OSError:
            return 0  # a connection that broke in this moment: whoever waits for results is told

    def gather(self, futures: list[Future]) -> list:
        """Wait for the results of tasks.

        Raises:
            ClusterLost: the scheduler or all workers are gone, and nobody took their place in time.
            Exception: whatever a task raised.
        """
        try:
            return self._watched(self.client.gather, futures)
        except (CancelledError, asyncio.CancelledError) as error:
            raise self._disconnected() from error

    def _watched(self, ask: Callable, *arguments) -> Any:
        """What a method of the client gives; meanwhile the workers are looked after."""
        answer = self._in_background(ask, *arguments)
        try:
            while not wait([answer], timeout=_SECONDS_BETWEEN_LOOKS).done:
                self._look()
            return answer.result()
        finally:
            answer.cancel()

    def _in_background(self, ask: Callable, *arguments) -> Answer:
        async def asking():
            return await ask(*arguments)

        self._check_connection()
        return asyncio.run_coroutine_threadsafe(asking(), self.client.loop.asyncio_loop)

    def _look(self) -> None:
        """Count the workers, replace those of this machine that are gone, and see how long there has been none.

        Raises:
            ClusterLost: for too long.
        """
        if self._asked is None:
            self._asked = self._in_background(self.client.nthreads)
        self._unanswered += _SECONDS_BETWEEN_LOOKS
        if self._asked.done():
            asked, self._asked = self._asked, None
            if asked.exception() is None:
                self._unanswered = 0
                self._count(len(asked.result()))
        if self._unanswered > self._timeout_s:
            raise ClusterLost(
                f"The Dask scheduler at {self._address} has not answered for {self._timeout_s:g} s; see whether it "
                f"still runs, and start it again. {_KEPT}"
            )
        if self._local is not None:
            self._replace_absent()

    def _count(self, workers: int) -> None:
        self._without_workers = 0 if workers else self._without_workers + _SECONDS_BETWEEN_LOOKS
        if workers < self._local_size and self._seen:
            self._tell("building, replacing lost workers")
        else:
            self._tell("building" if workers else f"waiting for workers, {self._timeout_s:g} s at most")
        if self._without_workers <= self._timeout_s:
            return
        if self._local is not None:
            raise ClusterLost(
                f"The worker processes of this build are gone, and no new ones came within {self._timeout_s:g} s; see "
                f"whether the machine has memory left, and give fewer --workers. {_KEPT}"
            )
        raise ClusterLost(
            f"The Dask scheduler at {self._address} has had no worker for {self._timeout_s:g} s; start workers that "
            f"connect to it, or wait longer with --worker-timeout. {_KEPT}"
        )

    def _tell(self, words: str) -> None:
        if words != self._said:
            self._said = words
            self.say(words)

    def _replace_absent(self) -> None:
        """Start new processes for workers that the scheduler has not known for a while, and for stopped ones.

        A nanny that was told that its worker leaves, as after a broken connection, starts no other in its place.
        """
        known = {worker.name for worker in list(self._local.scheduler.workers.values())}
        self._seen |= known
        gone = []
        for name in list(self._local.worker_spec):
            nanny = self._local.workers.get(name)
            self._absent[name] = 0 if name in known else self._absent[name] + 1
            process = _process_of(nanny)
            self._stopped[name] = self._stopped[name] + 1 if _is_stopped(process) else 0
            if self._absent[name] > self._looks_granted(name, nanny):
                gone.append(name)
            elif self._stopped[name] > _LOOKS_STOPPED:
                with suppress(psutil.Error):
                    process.kill()  # the nanny starts another
        for name in gone:
            del self._local.worker_spec[name]
        if gone:
            self._local.scale(self._local_size)  # under new names

    def _looks_granted(self, name: int, nanny: Nanny | None) -> int:
        if name not in self._seen:
            started = nanny is None or nanny.status == Status.running
            return _LOOKS_TO_START if started else _LOOKS_WITHOUT_NANNY
        if nanny is None or nanny.status != Status.running:
            return _LOOKS_WITHOUT_NANNY
        return _LOOKS_TO_START if nanny.is_alive() else _LOOKS_TO_START_AGAIN

    def _check_connection(self) -> None:
        if self.client.status not in ("running", "connecting"):
            raise self._disconnected()

    def _disconnected(self) -> ClusterLost:
        return ClusterLost(
            f"The connection to the Dask scheduler at {self._address} was lost; see whether it still runs. {_KEPT}"
        )


def _process_of(nanny: Nanny | None) -> psutil.Process | None:
    try:
        pid = None if nanny is None else nanny.pid
        return None if pid is None else psutil.Process(pid)
    except psutil.Error:
        return None


def _is_stopped(process: psutil.Process | None) -> bool:
    try:
        return process is not None and process.status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


@contextmanager
def connect(
    workers: int | None = None, scheduler: str | None = None, worker_timeout_s: float = WORKER_TIMEOUT_S
) -> Iterator[Cluster]:
    """A Dask cluster; one that was started for it ends with it.

    Args:
        workers: processes to start on this machine, by default one a core as far as memory goes.
        scheduler: address of a running scheduler, such as `tcp://host:8786`, instead. Its workers must see the input
            under the same paths and have `solared-hf[builder]` installed.
        worker_timeout_s: how long to wait while there is no worker at all.

    Raises:
        SolaredError: both are given, the scheduler does not answer, or the processes do not start.
    """
    if scheduler is not None and workers is not None:
        raise SolaredError("A scheduler has its own workers; give --workers or --scheduler, not both.")
    if workers is not None and workers < 1:
        raise SolaredError(f"{workers} workers can do nothing; give --workers 1 or more.")
    if not worker_timeout_s > 0:
        raise SolaredError(f"A --worker-timeout of {worker_timeout_s:g} s is no time to wait; give more than 0.")
    with ExitStack() as stack:
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=_SECONDS_TO_CONNECT)
            except (OSError, ValueError, TypeError) as error:
                raise SolaredError(
                    f"There is no Dask scheduler at {scheduler} ({error}); check the address, or leave --scheduler "
                    "out to use this machine."
                ) from error
            stack.callback(_close, client)
            yield Cluster(client, worker_timeout_s)
            return
        local = stack.enter_context(_processes(workers or max(1, min(CPU_COUNT, int(MEMORY_LIMIT / _WORKER_MEMORY)))))
        client = Client(local)
        stack.callback(_close, client)
        yield Cluster(client, worker_timeout_s, local)


@contextmanager
def _processes(workers: int) -> Iterator[LocalCluster]:
    """Worker processes on this machine. None outlives this, and none is waited for without end.

    Raises:
        SolaredError: they do not start, or not in time.
    """
    ours = set(multiprocessing.active_children())
    # What workers spill to disk, which is next to nothing, must not land in the user's folder.
    with tempfile.TemporaryDirectory(prefix="solared-dask-", ignore_cleanup_errors=True) as scratch:
        try:
            with _kill_after(_SECONDS_TO_START, ours) as late:
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address=":0",
                    local_directory=scratch,
                    scheduler_kwargs={"worker_ttl": _SILENCE},
                )
        except RuntimeError as error:
            if late.is_set():
                raise SolaredError(
                    f"The processes of the build did not start within {_SECONDS_TO_START} s; run the same command "
                    "again when the machine is less busy, or give fewer --workers."
                ) from error
            # Each process runs the script again up to here, where Python refuses it processes of its own.
            raise SolaredError(
                "The processes of the build did not start; if a script of yours builds the dataset, put its "
                'statements under `if __name__ == "__main__":`.'
            ) from error
        try:
            yield cluster
        finally:
            with _kill_after(_SECONDS_TO_CLOSE, ours):
                _close(cluster)


def _close(opened: Client | LocalCluster) -> None:
    # What fails or hangs on the way out takes nothing from what was built, nor from the reason why it was not.
    with silence_logging_cmgr(logging.CRITICAL), suppress(Exception):
        opened.loop.asyncio_loop.set_exception_handler(lambda loop, context: None)
        opened.close(timeout=2 * _SECONDS_TO_CLOSE)


@contextmanager
def _kill_after(seconds: float, spared: set[multiprocessing.Process]) -> Iterator[Event]:
    """Kill the child processes of this one if the body takes longer than some seconds; the event tells that it did.

    Dask waits for processes that hang, but not for dead ones.
    """
    late = Event()

    def kill() -> None:
        late.set()
        for process in set(multiprocessing.active_children()) - spared:
            process.kill()

    timer = Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
