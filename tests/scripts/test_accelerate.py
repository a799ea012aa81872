"""The files for `accelerate launch --config_file`: what accelerate reads in them, and what it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tests.processes import finish

CONFIGS = Path(__file__).parents[2] / "scripts" / "configs" / "accelerate"

# In place of the training script, which takes seconds to import: writes down where in the run its process is.
WHERE = """
import json, os, sys
names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION")
where = {name: os.environ.get(name) for name in names}
with open(os.path.join(sys.argv[1], where["RANK"] or "alone"), "w") as file:
    json.dump(where, file)
"""


@pytest.mark.parametrize(
    ("name", "kind", "machines", "processes"),
    [
        ("one_gpu", "NO", 1, 1),
        ("eight_gpus", "MULTI_GPU", 1, 8),
        ("two_nodes", "MULTI_GPU", 2, 16),
        ("fsdp", "FSDP", 1, 8),
    ],
)
def test_accelerate_reads_every_configuration(name, kind, machines, processes):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type.value == kind
    assert (config.num_machines, config.num_processes) == (machines, processes)
    # A precision that is set here would be missing in metrics.json and on the card.
    assert config.mixed_precision == "no"


def test_there_is_no_configuration_that_is_not_tested():
    assert {path.stem for path in CONFIGS.iterdir()} == {"one_gpu", "eight_gpus", "two_nodes", "fsdp"}


def test_one_process_a_gpu_is_started(tmp_path):
    script = tmp_path / "where.py"
    script.write_text(WHERE)
    launches = {}
    for name in ("one_gpu", "eight_gpus"):
        (tmp_path / name).mkdir()
        accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
        launches[name] = subprocess.Popen(
            [*accelerate, "--config_file", str(CONFIGS / f"{name}.yaml"), str(script), str(tmp_path / name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    for launch in launches.values():
        output, _ = finish(launch)
        assert launch.returncode == 0, output[-4000:]
    alone, eight = ([json.loads(path.read_text()) for path in (tmp_path / name).iterdir()] for name in launches)
    assert [(one["RANK"], one["WORLD_SIZE"]) for one in alone] == [(None, None)]
    assert sorted(one["RANK"] for one in eight) == list("01234567")
    assert {(one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"]) for one in eight} == {("8", "8")}
    assert {one["ACCELERATE_MIXED_PRECISION"] for one in (*alone, *eight)} == {"no"}
