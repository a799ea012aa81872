"""Windows per second: views into one array against one HDF5 group per window, like the original's; and batches.

HDF5 returns the same tensors for the same random indices, one window at a time in one process. Python limits our
speed: a window is two tensor slices and a dictionary. A batch is collected at once, which memory limits. It is
compared with torch's default collation of the windows, and with a plain copy of as many bytes. The last figure is the
share of a training step that collecting its batch takes, for the fastest model here. The compared methods take turns,
so that a busy machine slows all of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from dataset_builder.simulation import SIMULATED_REGIONS, simulate_region
from solared_hf import SolaredProcessor, SolaredWindows
from solared_hf.models import QuantileTrajectoryConfig, QuantileTrajectoryForPrediction
from solared_hf.schema import CHANNELS

ROUNDS = 7
HDF5_WINDOWS = 500
INDICES = 50_000
BATCH_SIZE = 64
BATCHES = 40
TRAINING_STEPS = 15
THREADS = 2


class HDF5Windows(Dataset):
    """One group per window, read and converted at every access."""

    def __init__(self, path: Path):
        self.file = h5py.File(path)
        self.names = list(self.file)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        group = self.file[self.names[index]]
        return {name: torch.from_numpy(group[name][:]) for name in ("past_values", "future_values")}


def write_windows(windows: SolaredWindows, path: Path) -> None:
    with h5py.File(path, "w") as file:
        for index in range(HDF5_WINDOWS):
            for name in ("past_values", "future_values"):
                file[f"{index:06d}/{name}"] = windows[index][name].numpy()


def windows_a_second(dataset: Dataset, indices: list[int]) -> float:
    start = time.perf_counter()
    for index in indices:
        dataset[index]
    return len(indices) / (time.perf_counter() - start)


def seconds(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare_with_hdf5(windows: SolaredWindows, random: np.random.Generator) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "windows.h5"
        write_windows(windows, path)
        plain = HDF5Windows(path)
        for name, value in plain[17].items():
            assert torch.equal(value, windows[17][name])
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(windows_a_second(windows, random.integers(len(windows), size=INDICES).tolist()))
            theirs.append(windows_a_second(plain, random.integers(len(plain), size=HDF5_WINDOWS).tolist()))
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    print(f"memory {ours:,.0f} windows/s, one HDF5 group a window {theirs:,.0f} windows/s: {ours / theirs:.0f} times")


def compare_batches(windows: SolaredWindows, random: np.random.Generator) -> None:
    copied = list(windows.batch(range(BATCH_SIZE)).values())
    gigabytes = sum(tensor.nbytes for tensor in copied) / 1e9
    times = {"gathered": [], "collated": [], "copied": []}
    for _ in range(BATCHES):
        indices = random.integers(len(windows), size=BATCH_SIZE).tolist()
        times["gathered"].append(seconds(lambda: windows.batch(indices)))  # noqa: B023
        times["collated"].append(seconds(lambda: default_collate([windows[index] for index in indices])))  # noqa: B023
        times["copied"].append(seconds(lambda: [tensor.clone() for tensor in copied]))
    gathered, collated, copying = (statistics.median(one) for one in times.values())
    print(
        f"batches of {BATCH_SIZE}: gathered {BATCH_SIZE / gathered:,.0f} windows/s, default collate of windows "
        f"{BATCH_SIZE / collated:,.0f} windows/s: {collated / gathered:.1f} times; "
        f"gathered {gigabytes / gathered:.1f} GB/s, a plain copy of the same bytes {gigabytes / copying:.1f} GB/s"
    )


def share_of_training(windows: SolaredWindows, model: torch.nn.Module, random: np.random.Generator) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    feeding, computing = [], []
    for _ in range(TRAINING_STEPS):
        start = time.perf_counter()
        batch = windows.batch(random.integers(len(windows), size=BATCH_SIZE))
        fed = time.perf_counter()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        feeding.append(fed - start)
        computing.append(time.perf_counter() - fed)
    fed, computed = statistics.median(feeding), statistics.median(computing)
    print(
        f"a training step of {model.config.model_type}, batch {BATCH_SIZE}, {THREADS} threads: feeding "
        f"{fed * 1e3:.1f} ms, model and optimizer {computed * 1e3:.0f} ms: feeding is {fed / (fed + computed):.2%}"
    )


def main() -> None:
    torch.set_num_threads(THREADS)
    regions = [simulate_region(number) for number in SIMULATED_REGIONS]
    random = np.random.default_rng(0)
    compare_with_hdf5(SolaredWindows(regions), random)
    config = QuantileTrajectoryConfig()
    processor = SolaredProcessor.fit([region.values for region in regions], CHANNELS, input_steps=config.input_steps)
    windows = SolaredWindows(regions, processor=processor, trajectory_steps=config.forecast_steps)
    compare_batches(windows, random)
    share_of_training(windows, QuantileTrajectoryForPrediction(config).train(), random)


if __name__ == "__main__":
    main()
