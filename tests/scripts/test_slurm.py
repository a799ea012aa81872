"""The Slurm scripts, with Slurm's commands replaced: by ones that show what they are asked, or run it here."""

import os
import runpy
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dataset_builder.simulation import write_observations
from solared_hf import load_timelines
from tests.processes import run

REPOSITORY = Path(__file__).parents[2]

COMMANDS = {
    # Runs the step once for each node, as srun does with one task a node.
    "srun": 'shift; for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do SLURM_NODEID=$node "$@"; done',
    "scontrol": "echo first-node; echo second-node",
    "accelerate": 'echo "accelerate $*"',
}


@pytest.mark.parametrize(
    ("nodes", "gpus", "expected"),
    [
        (1, 1, ["--num_machines 1 --num_processes 1"]),
        (1, 4, ["--num_machines 1 --num_processes 4 --multi_gpu --machine_rank 0"]),
        (2, 8, [f"--num_machines 2 --num_processes 16 --multi_gpu --machine_rank {rank}" for rank in (0, 1)]),
    ],
)
def test_one_launch_a_node_and_one_process_a_gpu(tmp_path, nodes, gpus, expected):
    for name, body in COMMANDS.items():
        command = tmp_path / name
        command.write_text(f"#!/bin/bash\n{body}\n")
        command.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").touch()
    finished = run(
        ["bash", str(REPOSITORY / "scripts" / "slurm" / "train.sbatch"), "--config", "a folder/sta.yaml"],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "VENV": str(tmp_path),
            "SLURM_SUBMIT_DIR": str(REPOSITORY),
            "SLURM_JOB_ID": "123456",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_GPUS_ON_NODE": str(gpus),
        },
    )
    assert finished.returncode == 0, finished.stderr
    launches = finished.stdout.splitlines()
    assert len(launches) == nodes
    for launch, wanted in zip(launches, expected, strict=True):
        assert launch.startswith(f"accelerate launch {wanted}")
        assert ("--main_process_ip first-node" in launch) == (nodes * gpus > 1)
        assert launch.endswith("scripts/train.py --config a folder/sta.yaml --resume_from_checkpoint last")


def test_dask_workers_in_slurm_jobs_build_a_dataset(tmp_path):
    """Jobs run here, in the background, as a scheduler with a free node would start them."""
    write_observations(tmp_path / "raw", (90001, 90002), steps=3)
    commands = {
        # Like the real one it keeps a copy, for the script is deleted once it is submitted.
        "sbatch": f"""cp "$1" {tmp_path}/job.sh
            setsid bash {tmp_path}/job.sh > {tmp_path}/job.log 2>&1 &
            echo "Submitted batch job $!" """,
        "scancel": 'kill -- "-$1"',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    options = ["--jobs", "1", "--cores", "2", "--memory", "4GB", "--partition", "solar"]
    finished = run(
        [
            sys.executable,
            str(REPOSITORY / "scripts" / "slurm" / "build.py"),
            *options,
            "--input",
            "raw",
            "--output",
            "out",
        ],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert finished.returncode == 0, finished.stderr
    assert "2 regions written" in finished.stdout
    assert [region.ar_number for region in load_timelines(tmp_path / "out", "train")] == [90001, 90002]
    job = (tmp_path / "job.sh").read_text()
    assert "#SBATCH -p solar" in job
    assert "#SBATCH --cpus-per-task=2" in job
    assert "--nworkers 2" in job


def test_what_slurm_says_of_a_job_that_it_does_not_take_is_told(tmp_path):
    (tmp_path / "sbatch").write_text(
        "#!/bin/bash\necho 'sbatch: error: invalid partition specified: moon' >&2; exit 1\n"
    )
    (tmp_path / "sbatch").chmod(0o755)
    command = [
        sys.executable,
        str(REPOSITORY / "scripts" / "slurm" / "build.py"),
        "--jobs",
        "2",
        "--partition",
        "moon",
    ]
    finished = run(
        [*command, "--input", "raw", "--output", "out"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert finished.returncode == 2
    assert "build.py: Slurm rejected the job. Correct the cause and run the command again:" in finished.stderr
    assert "invalid partition specified: moon" in finished.stderr
    assert not (tmp_path / "out").exists()


def test_a_slurm_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/bash\nexec sleep 10000\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    script = runpy.run_path(str(REPOSITORY / "scripts" / "slurm" / "build.py"))
    submit = script["_Job"].submit_command
    assert submit == "timeout 300 sbatch"
    monkeypatch.setattr(script["_Job"], "submit_command", submit.replace("300", "0.2"))
    app = typer.Typer()
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(script["build"])
    result = CliRunner().invoke(app, ["--jobs", "1", "--input", "raw", "--output", "out"])
    assert result.exit_code == 2
    assert "Slurm rejected the job" in result.stderr
    assert "timeout 0.2 sbatch" in result.stderr
