"""Two processes on one node share one copy of the data, get the right batches and leave no file."""

import json
import os
import sys

from solared_hf import SolaredWindows
from solared_hf.training.shared_arrays import share_between_processes
from tests.processes import run

# Each of two processes reports its memory before and after it shares 60 MB.
SCRIPT = """
import json, os, sys
from pathlib import Path
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from solared_hf import SolaredWindows, Timeline
from solared_hf.training.shared_arrays import share_between_processes

def private_bytes():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024

def file_of(array):
    # Device, inode and name of the file that an array lies in.
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, device, inode, *name = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= array.ctypes.data < high:
            return device, inode, *name

state = PartialState(cpu=True)
windows = {}
for split, seed in (("train", 0), ("validation", 1)):
    values = np.random.default_rng(seed).standard_normal((8300, 6, 63), np.float32)
    values[5, 0, 7] = np.nan
    times = np.datetime64("2013-04-15", "ms") + np.arange(4150) * np.timedelta64(3_600_000, "ms")
    regions = [Timeline(90001 + i, times, part) for i, part in enumerate(np.split(values, 2))]
    windows[split] = SolaredWindows(regions, input_steps=10, trajectory_steps=3)
del values, regions
picked = [0, 4200, 7, 3]
before = {split: (one.batch(picked), one.observed_targets) for split, one in windows.items()}
bytes_before = private_bytes()
share_between_processes(windows.values())
freed = bytes_before - private_bytes()
left = os.listdir(os.environ["TMPDIR"])
for split, one in windows.items():
    batch, targets = before[split]
    for name, expected in batch.items():
        for given, right in ((one.batch(picked)[name], expected), (one[3][name], expected[3])):
            torch.testing.assert_close(given, right, rtol=0, atol=0, equal_nan=True)
    np.testing.assert_array_equal(one.observed_targets, targets)
arrays = []
for one in windows.values():
    arrays += [one.values.numpy(), one.observed.numpy(), one.target.numpy()]
    arrays += [region.timeline.values for region in one.regions]
if state.process_index == 0:
    windows["train"].values[0, 0, 0] = 1e6
state.wait_for_everyone()
found = {
    "processes": state.num_processes,
    "files": sorted({file_of(array) for array in arrays}),
    "bytes": sum(array.nbytes for array in arrays),
    "freed": freed,
    "left": [name for name in left if name.startswith("solared")],
    "first_value": windows["train"].values[0, 0, 0].item(),
}
found = gather_object([found])
if state.process_index == 0:
    Path(sys.argv[1]).write_text(json.dumps(found))
state.destroy_process_group()
"""


def test_two_processes_read_the_same_memory(tmp_path):
    script, output, temporary = tmp_path / "process.py", tmp_path / "found.json", tmp_path / "temporary"
    script.write_text(SCRIPT)
    temporary.mkdir()
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = run(
        [sys.executable, "-m", *launcher, str(script), str(output)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    first, second = found = json.loads(output.read_text())
    assert second["files"] == first["files"]
    (file,) = first["files"]
    assert file[-1].startswith(f"{temporary}/solared-arrays-")
    for process in found:
        assert process["processes"] == 2
        assert process["left"] == []
        assert process["bytes"] > 60e6
        # Each process has freed its own copy.
        assert process["freed"] > 0.85 * process["bytes"]
    # A write in one process is not seen by the other.
    assert first["first_value"] == 1e6
    assert abs(second["first_value"]) < 10


def test_a_single_process_keeps_its_arrays(make_timeline):
    windows = SolaredWindows(make_timeline(90001, steps=60), input_steps=10)
    values, raw = windows.values, windows.regions[0].timeline
    share_between_processes([windows])
    assert windows.values is values
    assert windows.regions[0].timeline is raw
