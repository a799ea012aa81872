"""`solared build --source fits` on a Slurm cluster, through dask-jobqueue (`pip install 'solared-hf[slurm]'`).

The Dask scheduler runs here, on a login or service node, and its workers in Slurm jobs. All options but those below
are those of `solared build`:

    python scripts/slurm/build.py --jobs 8 --cores 32 --memory 96GB --input RAW --output OUT

Input and output must be on storage that all nodes see. When a job ends early, its segments are given to others; when
this process ends early, the same command goes on with the regions that are left. While no job runs, the build waits
for a day, because jobs may stand in the queue; `--worker-timeout` changes that.
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
        # What is given twice counts the last time.
        patience = ["--worker-timeout", str(_SECONDS_IN_QUEUE), *context.args]
        main(["build", "--source", "fits", *patience, "--scheduler", cluster.scheduler_address])


async def _submitted(cluster: SLURMCluster, jobs: int) -> None:
    """Wait until Slurm has taken the jobs: dask-jobqueue tells nobody when it has not, and would wait for ever.

    Raises:
        SolaredError: Slurm does not take a job, the second time neither.
    """
    while len(cluster.workers) < jobs:
        await asyncio.sleep(0.1)
    for job in list(cluster.workers.values()):
        try:
            # Submits it once more if that has failed.
            await job
        except (OSError, RuntimeError, ValueError) as error:
            # The cluster cannot be closed while it takes one of its jobs for still to be submitted.
            for other in cluster.workers.values():
                other.status = Status.failed if other.status == Status.created else other.status
            raise SolaredError(
                f"Slurm does not take the job; mend what it says and run this again. {error}"
            ) from error


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(build)
    app()
