"""Time and peak memory per region for 50, 500 and 5,000 simulated regions, or for the numbers given as arguments.

Each phase runs in a process of its own, because an allocator keeps the memory that it once had: build a dataset, build
it again with nothing to do, load it, cut it into windows, and evaluate persistence on it. The memory that a process
uses before its phase begins, mostly for libraries, is not counted. All regions are in one split. Time and memory per
region should stay the same or fall as the number of regions grows.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from memory import MEGABYTE, peak_memory

from dataset_builder import build_dataset
from dataset_builder.shards import Shard, source_key
from dataset_builder.simulation import SIMULATED_REGIONS, simulate_region
from dataset_builder.simulation.timelines import FIRST_SIMULATED, start_time
from dataset_builder.sources import RegionResult
from solared_hf import SolaredWindows, Timeline, load_timelines
from solared_hf.evaluation import score_on_split
from solared_hf.forecasters import Persistence

SIZES = (50, 500, 5_000)
SPLIT = "train"
# Regions start one after the other, and timelines must end before the year 2100.
MOST_START_TIMES = 4_000


class SimulatedSource:
    """A source without files: ten simulated regions, repeated with new numbers and times."""

    name = "published"

    def __init__(self, folder: Path, regions: int):
        self.folder = folder
        self.shared_settings: dict = {}
        self._numbers = range(FIRST_SIMULATED, FIRST_SIMULATED + regions)

    def regions(self) -> list[Path]:
        return [self.folder / f"AR{number}" for number in self._numbers]

    def build_regions(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[RegionResult]:
        for number in self._numbers:
            key = source_key({"source": self.name}, {"number": str(number).encode()})
            shard = None if is_finished(number, key) else Shard(region(number), key, {"source": self.name})
            yield RegionResult(number, shard=shard)


@cache
def simulated(number: int) -> Timeline:
    return simulate_region(number)


def region(number: int) -> Timeline:
    alike = simulated(SIMULATED_REGIONS[(number - FIRST_SIMULATED) % len(SIMULATED_REGIONS)])
    as_early = FIRST_SIMULATED + (number - FIRST_SIMULATED) % MOST_START_TIMES
    later = start_time(as_early) - start_time(alike.ar_number)
    return replace(alike, ar_number=number, times=alike.times + later)


def build(folder: Path, regions: int) -> None:
    build_dataset(SimulatedSource(folder, regions), folder / "dataset", split_of=lambda _: SPLIT)


def load(folder: Path, regions: int) -> None:
    assert len(load_timelines(folder / "dataset", SPLIT)) == regions


def windows(folder: Path, regions: int) -> None:
    SolaredWindows(load_timelines(folder / "dataset", SPLIT)).batch(np.arange(64))


def evaluate(folder: Path, regions: int) -> None:
    scores = score_on_split(Persistence(), str(folder / "dataset"), SPLIT)
    assert len(scores.regions) == regions


# In this order: each phase uses the dataset that the first one built.
PHASES = {"build": build, "build again": build, "load": load, "windows": windows, "evaluate": evaluate}


def work(phase: str, folder: Path, regions: int) -> None:
    """Run one phase, and print its seconds and megabytes as JSON."""
    for number in SIMULATED_REGIONS:
        simulated(number)
    start = time.perf_counter()
    megabytes = peak_memory(partial(PHASES[phase], folder, regions))
    print(json.dumps([time.perf_counter() - start, megabytes]))


def run(phase: str, folder: Path, regions: int) -> tuple[float, float]:
    """Run one phase in a new process, and return its seconds and its megabytes at the peak."""
    command = [sys.executable, __file__, phase, str(folder), str(regions)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(f"{phase} of {regions} regions ended with code {finished.returncode}.\n{finished.stderr[-4000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def main(sizes: list[int]) -> None:
    if sys.platform != "linux":
        sys.exit("Peak memory is read from Linux's /proc; run this on Linux.")
    print(f"values of a region: {simulated(FIRST_SIMULATED).values.nbytes / MEGABYTE:.2f} MB")
    print(f"{'regions':>7}  {'':12}{'seconds':>9}{'ms a region':>13}{'MB':>7}{'MB a region':>13}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for phase in PHASES:
                seconds, megabytes = run(phase, Path(folder), size)
                print(
                    f"{size:7,}  {phase:12}{seconds:9.1f}{1000 * seconds / size:13.1f}{megabytes:7,.0f}"
                    f"{megabytes / size:13.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PHASES:
        work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main([int(size) for size in sys.argv[1:]] or list(SIZES))
