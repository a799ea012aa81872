"""The Dask cluster that a build runs on: processes of this machine, or anyone's scheduler."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT

from solared_hf.errors import SolaredError

_SECONDS_TO_CONNECT = 20
# A worker takes up to 2 GB for patches of 512 x 512 pixels; Dask ends one at 95 % of its share.
_WORKER_MEMORY = 2.5e9


@contextmanager
def connect(workers: int | None = None, scheduler: str | None = None) -> Iterator[Client]:
    """A client of a Dask cluster; a cluster that was started for it ends with it.

    Args:
        workers: processes to start on this machine, by default one a core as far as memory goes.
        scheduler: address of a running scheduler, such as `tcp://host:8786`, instead. Its workers must see the input
            under the same paths and have `solared-hf[builder]` installed.

    Raises:
        SolaredError: both are given, the scheduler does not answer, or the processes do not start.
    """
    if scheduler is not None and workers is not None:
        raise SolaredError("A scheduler has its own workers; give --workers or --scheduler, not both.")
    if workers is not None and workers < 1:
        raise SolaredError(f"{workers} workers can do nothing; give --workers 1 or more.")
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_SECONDS_TO_CONNECT)
        except (OSError, ValueError, TypeError) as error:
            raise SolaredError(
                f"There is no Dask scheduler at {scheduler} ({error}); check the address, or leave --scheduler out to "
                "use this machine."
            ) from error
        with client:
            yield client
        return
    with ExitStack() as stack:
        # What workers spill to disk, which is next to nothing, must not land in the user's folder.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="solared-dask-"))
        try:
            cluster = LocalCluster(
                n_workers=workers or max(1, min(CPU_COUNT, int(MEMORY_LIMIT / _WORKER_MEMORY))),
                threads_per_worker=1,
                dashboard_address=None,
                local_directory=scratch,
            )
        except RuntimeError as error:
            # Each process runs the script again up to here, where Python refuses it processes of its own.
            raise SolaredError(
                "The processes of the build did not start; if a script of yours builds the dataset, put its "
                'statements under `if __name__ == "__main__":`.'
            ) from error
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster))
