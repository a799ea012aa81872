"""`solared build --source fits` on a Slurm cluster, through dask-jobqueue (`pip install 'solared-hf[slurm]'`).

The Dask scheduler runs in this process, on a login or service node, and its workers run in Slurm jobs. In addition to
the options below, it accepts the options of `solared build`:

    python scripts/slurm/build.py --jobs 8 --cores 32 --memory 96GB --input RAW --output OUT

Input and output must be on storage that all nodes see. When a job ends early, other jobs take its segments. When this
process ends early, the same command continues with the remaining regions. The build waits up to a day for the first
job, because jobs may wait in the queue. `--worker-timeout` changes this time.
"""

import asyncio
import sys
from typing import Annotated

import typer
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed import Status

from solared_hf import SolaredError
from solared_hf.cli import main

_SECONDS_IN_QUEUE = 24 * 3600
_SECONDS_FOR_A_COMMAND = 300


class _Job(SLURMJob):
    # Slurm's commands can hang when its controller does.
    submit_command = f"timeout {_SECONDS_FOR_A_COMMAND} {SLURMJob.submit_command}"
    cancel_command = f"timeout {_SECONDS_FOR_A_COMMAND} {SLURMJob.cancel_command}"


def build(
    context: typer.Context,
    jobs: Annotated[int, typer.Option(help="Slurm jobs to keep running.")] = 4,
    cores: Annotated[int, typer.Option(help="Cores of a job; each runs one worker.")] = 16,
    memory: Annotated[str, typer.Option(help="Memory of a job; 3 GB for each worker.")] = "48GB",
    walltime: Annotated[str, typer.Option(help="Longest time of a job.")] = "04:00:00",
    partition: Annotated[str | None, typer.Option(help="Slurm partition.")] = None,
) -> None:
    """Build a dataset folder from FITS files with workers in Slurm jobs."""
    with SLURMCluster(
        job_cls=_Job,
        queue=partition,
        cores=cores,
        processes=cores,
        memory=memory,
        walltime=walltime,
        scheduler_options={"dashboard_address": None},
    ) as cluster:
        cluster.scale(jobs=jobs)
        try:
            cluster.sync(_submitted, cluster, jobs)
        except SolaredError as error:
            print(f"build.py: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        # If an option is given twice, the last value counts.
        patience = ["--worker-timeout", str(_SECONDS_IN_QUEUE), *context.args]
        main(["build", "--source", "fits", *patience, "--scheduler", cluster.scheduler_address])


async def _submitted(cluster: SLURMCluster, jobs: int) -> None:
    """Wait until Slurm has accepted the jobs. dask-jobqueue does not report a failure, and would wait without end.

    Raises:
        SolaredError: If Slurm rejects a job twice.
    """
    while len(cluster.workers) < jobs:
        await asyncio.sleep(0.1)
    for job in list(cluster.workers.values()):
        try:
            # Submits the job again if the first submission failed.
            await job
        except (OSError, RuntimeError, ValueError) as error:
            # The cluster cannot be closed while it expects that a job will still be submitted.
            for other in cluster.workers.values():
                other.status = Status.failed if other.status == Status.created else other.status
            raise SolaredError(
                f"Slurm rejected the job. Correct the cause and run the command again: {error}"
            ) from error


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(build)
    app()
