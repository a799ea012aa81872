"""Samples per second that one, two, ... processes train together, and the cost of exchanging gradients.

This is weak scaling: every process has the same batch. With several GPUs, 2, 4, 8, ... processes run, one per GPU. On
other machines, two processes of one CPU thread each exchange gradients with gloo. All of them run `train()` with
families of their default size on simulated regions. The times are those of the log, so imports, data and the first
step are not counted.

Two cores share memory and clock, so even two independent processes are not twice as fast as one. The processes
therefore first train one alone, then all independently with a model each, and then all together. The difference
between the last two is the cost of the exchange, and of waiting for the slowest process.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource
from dataset_builder.simulation import write_simulated

# A process that the script started is told the number of GPUs, because it sees at most one.
ON_GPUS = sys.argv[3] == "gpus" if sys.argv[1:] else torch.cuda.device_count() > 1
# For each family: steps of input, as in its recipe, and the batch of a process on a CPU and on a GPU.
FAMILIES = {"spatio_temporal_attention": (120, 2, 64), "quantile_trajectory": (72, 16, 64)}
# Steps between two log entries, and number of entries. A step takes about a second on a CPU, milliseconds on a GPU.
LOGGED_STEPS, ENTRIES = (20, 12) if ON_GPUS else (1, 12)
SETTINGS = {
    "max_steps": LOGGED_STEPS * ENTRIES,
    "logging_steps": LOGGED_STEPS,
    "report_to": "tensorboard",
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "disable_tqdm": True,
    "use_cpu": not ON_GPUS,
}
# torchrun sets these variables for each of its processes.
JOINED = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def batch_of(family: str) -> int:
    return FAMILIES[family][2 if ON_GPUS else 1]


def write_dataset(folder: Path) -> Path:
    """Write six regions for training and a short one for validation, because a run ends with the evaluation."""
    write_simulated(folder / "raw", range(90_001, 90_007))
    write_simulated(folder / "raw", [90_007], steps=140)
    build_dataset(PublishedSource(folder / "raw"), folder / "dataset")
    return folder / "dataset"


def work(dataset: str, output: Path) -> None:
    """Train in one of the processes."""
    # Imported here, because only the training processes need it, and it takes seconds.
    from solared_hf.training import parse_arguments, train

    joined = {name: os.environ.pop(name) for name in JOINED}
    rank, processes = int(joined["RANK"]), int(joined["WORLD_SIZE"])
    for way in ("alone", "apart", "together"):
        if way == "together":
            os.environ.update(joined)
        for family, (input_steps, *_) in FAMILIES.items():
            # All processes begin at once, and nothing else runs while one process trains alone.
            (output / f"{way}.{family}.{rank}").touch()
            while len(list(output.glob(f"{way}.{family}.*"))) < processes:
                time.sleep(0.05)
            if way == "alone" and rank > 0:
                continue
            settings = {
                **SETTINGS,
                "model_type": family,
                "input_steps": input_steps,
                "dataset": dataset,
                "output_dir": output / way / family / ("all" if way == "together" else str(rank)),
                "per_device_train_batch_size": batch_of(family),
            }
            train(parse_arguments([str(part) for name, value in settings.items() for part in (f"--{name}", value)]))


def run(dataset: Path, output: Path, processes: int) -> None:
    output.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    if ON_GPUS:
        # A process that trains independently would take all GPUs that it sees.
        launcher.append("--virtual-local-rank")
    finished = subprocess.run(
        [*launcher, __file__, str(dataset), str(output), "gpus" if ON_GPUS else "cpus"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise SystemExit(finished.stderr[-4000:])


def samples_a_second(folder: Path, samples: int) -> float:
    """Return the sum over the runs in a folder, of which each step has `samples` samples."""
    total = 0.0
    for events in folder.rglob("events.out.tfevents.*"):
        log = EventAccumulator(str(events))
        log.Reload()
        times = [event.wall_time for event in log.Scalars("train/loss")]
        total += samples * LOGGED_STEPS / statistics.median(after - before for before, after in pairwise(times))
    return total


def main() -> None:
    device = torch.cuda.get_device_name() if ON_GPUS else f"CPU with {os.cpu_count()} cores, one thread a process"
    print(f"{device}; samples/s, medians of {ENTRIES - 1} times {LOGGED_STEPS} step(s)")
    print(f"{'family':25} {'batch':>5} {'processes':>9}", end="")
    print("".join(f" {name:>10}" for name in ("alone", "apart", "together", "speed-up", "efficiency", "exchange")))
    with tempfile.TemporaryDirectory() as temporary:
        dataset = write_dataset(Path(temporary))
        processes = 2
        while processes <= max(torch.cuda.device_count(), 2):
            output = Path(temporary) / str(processes)
            run(dataset, output, processes)
            for family in FAMILIES:
                batch = batch_of(family)
                alone, apart = (samples_a_second(output / way / family, batch) for way in ("alone", "apart"))
                together = samples_a_second(output / "together" / family, processes * batch)
                print(
                    f"{family:25} {batch:5} {processes:9} {alone:10.2f} {apart:10.2f} {together:10.2f}"
                    f" {together / alone:10.2f} {together / alone / processes:10.0%} {1 - together / apart:10.0%}"
                )
            processes *= 2


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
