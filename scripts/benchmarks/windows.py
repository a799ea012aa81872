"""Windows a second: views into one array a region, against one HDF5 group a window as the original stores them.

Both give the same tensors for the same random indices, one window at a time and in one process; the two take turns, so
that a busy machine slows both. What bounds ours is Python: a window is two tensor slices and a dictionary.
"""

import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset

from dataset_builder.simulate import SIMULATED_REGIONS, simulate_region
from solared_hf.windows import SolaredWindows

ROUNDS = 7
HDF5_WINDOWS = 500
INDICES = 50_000


class HDF5Windows(Dataset):
    """One group a window, read and converted at every access."""

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


def main() -> None:
    windows = SolaredWindows([simulate_region(number) for number in SIMULATED_REGIONS])
    random = np.random.default_rng(0)
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


if __name__ == "__main__":
    main()
