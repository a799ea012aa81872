"""Samples a second that one, two, ... processes train together, and what the exchange of gradients takes of it.

Weak scaling: every process has the same batch. On GPUs one process each, 2, 4, 8, ... up to as many as there are; on a
machine with fewer than two, two processes of one CPU thread each, which exchange by gloo. Everything goes through
`train()` with families of their default size on simulated regions; times are those at which it logs, so imports, data
and the first step are in none.

Two cores share a memory and a clock, so two processes are not twice as fast as one even if they know nothing of each
other. The same processes therefore first train one alone, then all apart, each its own model, then all together. What
together falls short of apart is exchange, and waiting for the slowest.
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

# A process that the script started is told, for it sees one GPU at most.
ON_GPUS = sys.argv[3] == "gpus" if sys.argv[1:] else torch.cuda.device_count() > 1
# By family: steps of input, as in scripts/configs, and the batch of a process, on a CPU and on a GPU.
FAMILIES = {"spatio_temporal_attention": (120, 2, 64), "quantile_trajectory": (72, 16, 64)}
# Steps between two entries of the log, and entries. A CPU needs about a second a step, a GPU some milliseconds.
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
# How torchrun tells a process that it is one of several.
JOINED = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def batch_of(family: str) -> int:
    return FAMILIES[family][2 if ON_GPUS else 1]


def write_dataset(folder: Path) -> Path:
    """Six regions to train on. The one for validation is short, for a run ends with its evaluation."""
    write_simulated(folder / "raw", range(90_001, 90_007))
    write_simulated(folder / "raw", [90_007], steps=140)
    build_dataset(PublishedSource(folder / "raw"), folder / "dataset")
    return folder / "dataset"


def work(dataset: str, output: Path) -> None:
    """What each process does."""
    # Nobody else needs it, and it takes seconds.
    from solared_hf.training import parse_arguments, train

    joined = {name: os.environ.pop(name) for name in JOINED}
    rank, processes = int(joined["RANK"]), int(joined["WORLD_SIZE"])
    for way in ("alone", "apart", "together"):
        if way == "together":
            os.environ.update(joined)
        for family, (input_steps, *_) in FAMILIES.items():
            # All begin at once, and nothing else runs while one trains alone.
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
        # A process that trains apart would take all the GPUs that it sees.
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
    """Sum over the runs in a folder, each of `samples` a step."""
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
