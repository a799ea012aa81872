"""The Dask cluster that a build runs on: processes of this machine, or anyone's scheduler.

Dask itself waits for ever: for workers that never come, for a scheduler that does not answer, for processes of this
machine that lost their connections and are not started again. A `Cluster` checks on its workers while it waits for
results, replaces lost workers of this machine, and gives up after a stated time.
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
from multiprocessing.process import BaseProcess
from threading import Event, Timer
from typing import Any, cast

import psutil
from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, Nanny, Status
from distributed.system import MEMORY_LIMIT
from distributed.utils import silence_logging_cmgr
from tornado.platform.asyncio import BaseAsyncIOLoop

from solared_hf.errors import SolaredError

WORKER_TIMEOUT_S = 600.0
_SECONDS_TO_CONNECT = 20
# On a busy machine a process that imports Dask may take a minute.
_SECONDS_TO_START = 300
_SECONDS_TO_CLOSE = 20
# Waiting is counted in checks, about a second apart, and not by the clock, because a computer that slept did not wait.
_SECONDS_BETWEEN_CHECKS = 1.0
# For how many checks a worker may be unknown to the scheduler: if the worker is starting or its process is alive,
# which takes minutes on a busy machine; if its nanny should start another process; if its nanny will not. And for how
# many checks a process may be stopped.
_CHECKS_TO_START = _SECONDS_TO_START
_CHECKS_TO_START_AGAIN = 60
_CHECKS_WITHOUT_NANNY = 5
_CHECKS_STOPPED = 60
# By default Dask ends a worker that is silent for five minutes. On a busy machine healthy workers were silent for
# three.
_SILENCE = "30 minutes"
# A worker takes up to 2 GB for patches of 512 x 512 pixels; Dask ends a worker at 95 % of its share.
_WORKER_MEMORY = 2.5e9
_KEPT = "Finished regions are kept: run the same command again."


class ClusterLost(SolaredError):
    """Raised if no task can be finished on a cluster any more."""


class Cluster:
    """A Dask cluster that checks on its workers while it waits for results.

    Args:
        client: a client connected to the cluster's scheduler.
        worker_timeout_s: how long the cluster may be without a worker, or the scheduler without an answer.
        local: the worker processes of this machine, if they do the work.

    Attributes:
        show_status: called with a few words on what the cluster waits for.
    """

    def __init__(self, client: Client, worker_timeout_s: float, local: LocalCluster | None = None):
        self.client = client
        self.show_status: Callable[[str], None] = lambda status: None
        self._local = local
        self._local_size = len(local.worker_spec) if local is not None else 0
        self._address = client.scheduler.address
        self._timeout_s = worker_timeout_s
        # The request for the number of workers that has no answer yet.
        self._pending_count: Answer | None = None
        self._unanswered = self._without_workers = 0.0
        # By name of a local worker: for how many checks it has been unknown to the scheduler, or its process stopped.
        self._absent: Counter = Counter()
        self._stopped: Counter = Counter()
        # Names of the local workers that the scheduler has ever known.
        self._seen: set = set()
        self._status = ""

    def submit(self, function: Callable, *arguments, **options) -> Future:
        """Submit a task, as `Client.submit` does.

        Raises:
            ClusterLost: If the scheduler is gone.
        """
        self._check_connection()
        return self.client.submit(function, *arguments, pure=False, **options)

    def threads(self) -> int:
        """Return the number of threads of all workers; 0 if there is no worker.

        Raises:
            ClusterLost: If the scheduler is gone or does not answer.
        """
        try:
            return sum(self._wait_for(self.client.nthreads).values())
        except OSError:
            return 0  # the connection broke just now; `gather` will raise

    def gather(self, futures: list[Future]) -> list:
        """Wait for the results of tasks and return them.

        Raises:
            ClusterLost: If the scheduler or all workers are gone, and were not replaced in time.
            Exception: Any error that a task raised.
        """
        try:
            return self._wait_for(self.client.gather, futures)
        except (CancelledError, asyncio.CancelledError) as error:
            raise self._disconnected() from error

    def _wait_for(self, method: Callable, *arguments) -> Any:
        """Return the result of a method of the client, and check on the workers while waiting."""
        answer = self._in_background(method, *arguments)
        try:
            while not wait([answer], timeout=_SECONDS_BETWEEN_CHECKS).done:
                self._check_workers()
            return answer.result()
        finally:
            answer.cancel()

    def _in_background(self, method: Callable, *arguments) -> Answer:
        async def call():
            return await method(*arguments)

        self._check_connection()
        return asyncio.run_coroutine_threadsafe(call(), cast(BaseAsyncIOLoop, self.client.loop).asyncio_loop)

    def _check_workers(self) -> None:
        """Count the workers, replace lost workers of this machine, and note for how long there has been no worker.

        Raises:
            ClusterLost: If there has been no worker, or no answer, for longer than the timeout.
        """
        if self._pending_count is None:
            self._pending_count = self._in_background(self.client.nthreads)
        self._unanswered += _SECONDS_BETWEEN_CHECKS
        if self._pending_count.done():
            count, self._pending_count = self._pending_count, None
            if count.exception() is None:
                self._unanswered = 0
                self._count(len(count.result()))
        if self._unanswered > self._timeout_s:
            raise ClusterLost(
                f"The Dask scheduler at {self._address} has not answered for {self._timeout_s:g} s. Check whether it "
                f"still runs, and start it again. {_KEPT}"
            )
        if self._local is not None:
            self._replace_lost(self._local)

    def _count(self, workers: int) -> None:
        self._without_workers = 0 if workers else self._without_workers + _SECONDS_BETWEEN_CHECKS
        if workers < self._local_size and self._seen:
            self._show("building, replacing lost workers")
        else:
            self._show("building" if workers else f"waiting for workers, {self._timeout_s:g} s at most")
        if self._without_workers <= self._timeout_s:
            return
        if self._local is not None:
            raise ClusterLost(
                f"The worker processes of this build are gone, and no new ones came within {self._timeout_s:g} s. "
                f"Check whether the machine has memory left, and give fewer --workers. {_KEPT}"
            )
        raise ClusterLost(
            f"The Dask scheduler at {self._address} has had no worker for {self._timeout_s:g} s. Start workers that "
            f"connect to it, or wait longer with --worker-timeout. {_KEPT}"
        )

    def _show(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self.show_status(status)

    def _replace_lost(self, local: LocalCluster) -> None:
        """Start new processes for workers that the scheduler has not known for a while, and for stopped workers.

        A nanny does not start another process if it was told that its worker leaves, as after a broken connection.
        """
        known = {worker.name for worker in list(local.scheduler.workers.values())}
        self._seen |= known
        lost = []
        for name in list(local.worker_spec):
            nanny = cast(Nanny | None, local.workers.get(name))
            self._absent[name] = 0 if name in known else self._absent[name] + 1
            process = _process_of(nanny)
            self._stopped[name] = self._stopped[name] + 1 if _is_stopped(process) else 0
            if self._absent[name] > self._checks_allowed(name, nanny):
                lost.append(name)
            elif process is not None and self._stopped[name] > _CHECKS_STOPPED:
                with suppress(psutil.Error):
                    process.kill()  # the nanny starts another process
        for name in lost:
            del local.worker_spec[name]
        if lost:
            local.scale(self._local_size)  # under new names

    def _checks_allowed(self, name: int, nanny: Nanny | None) -> int:
        if name not in self._seen:
            started = nanny is None or nanny.status == Status.running
            return _CHECKS_TO_START if started else _CHECKS_WITHOUT_NANNY
        if nanny is None or nanny.status != Status.running:
            return _CHECKS_WITHOUT_NANNY
        return _CHECKS_TO_START if nanny.is_alive() else _CHECKS_TO_START_AGAIN

    def _check_connection(self) -> None:
        if self.client.status not in ("running", "connecting"):
            raise self._disconnected()

    def _disconnected(self) -> ClusterLost:
        return ClusterLost(
            f"The connection to the Dask scheduler at {self._address} was lost. Check whether it still runs. {_KEPT}"
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
    """Give a Dask cluster; worker processes that were started for the cluster end with it.

    Args:
        workers: processes to start on this machine, by default one per core, as far as memory allows.
        scheduler: address of a running scheduler to use instead, such as `tcp://host:8786`. Its workers must see the
            input under the same paths and have `solared-hf[builder]` installed.
        worker_timeout_s: how long to wait while no worker is connected.

    Raises:
        SolaredError: If both are given, the scheduler does not answer, or the processes do not start.
    """
    if scheduler is not None and workers is not None:
        raise SolaredError("A scheduler has its own workers. Give --workers or --scheduler, not both.")
    if workers is not None and workers < 1:
        raise SolaredError(f"A build cannot run on {workers} workers. Give --workers 1 or more.")
    if not worker_timeout_s > 0:
        raise SolaredError(f"--worker-timeout is {worker_timeout_s:g} s. Give more than 0.")
    with ExitStack() as stack:
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=_SECONDS_TO_CONNECT)
            except (OSError, ValueError, TypeError) as error:
                raise SolaredError(
                    f"There is no Dask scheduler at {scheduler} ({error}). Check the address, or leave --scheduler "
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
    """Start worker processes on this machine, and end them all, without waiting for ever, when the body is left.

    Raises:
        SolaredError: If they do not start, or not in time.
    """
    started_before = set(multiprocessing.active_children())
    # Workers spill next to nothing to disk, and must not do so in the user's folder.
    with tempfile.TemporaryDirectory(prefix="solared-dask-", ignore_cleanup_errors=True) as scratch:
        try:
            with _kill_after(_SECONDS_TO_START, started_before) as late:
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
                    f"The processes of the build did not start within {_SECONDS_TO_START} s. Run the same command "
                    "again when the machine is less busy, or give fewer --workers."
                ) from error
            # Each process imports the script again. If the script builds at import, Python refuses to start more.
            raise SolaredError(
                "The processes of the build did not start. If a script of yours builds the dataset, put its "
                'statements under `if __name__ == "__main__":`.'
            ) from error
        try:
            yield cluster
        finally:
            with _kill_after(_SECONDS_TO_CLOSE, started_before):
                _close(cluster)


def _close(opened: Client | LocalCluster) -> None:
    # An error while closing must not hide the results, nor the error that ended the build.
    with silence_logging_cmgr(logging.CRITICAL), suppress(Exception):
        cast(BaseAsyncIOLoop, opened.loop).asyncio_loop.set_exception_handler(lambda loop, context: None)
        opened.close(timeout=2 * _SECONDS_TO_CLOSE)


@contextmanager
def _kill_after(seconds: float, spared: set[BaseProcess]) -> Iterator[Event]:
    """Kill child processes if the body takes longer than `seconds`; the event that is given is then set.

    Killing helps because Dask waits for processes that hang, but not for dead processes.
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
