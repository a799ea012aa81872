"""Frames cut into chunks of pixels, each of which one thread works on.

A chunk is small enough to stay in the cache of a core through all operations. The number of threads is the number that
torch may use (`torch.set_num_threads`); the number changes only the rounding of results.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch


class Scratch:
    """Memory for intermediate results, allocated once per thread, because allocating takes as long as the products."""

    def __init__(self, device: str | torch.device):
        self._device = device
        self._memory: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, rows: int, columns: int) -> torch.Tensor:
        """Return a (rows, columns) float32 tensor of any content; the same name gives the same memory again."""
        memory = self._memory.get(name)
        if memory is None or len(memory) < rows * columns:
            memory = self._memory[name] = torch.empty(rows * columns, dtype=torch.float32, device=self._device)
        return memory[: rows * columns].view(rows, columns)


def flatten_frames(frames: np.ndarray, device: str | torch.device) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the frames as a (frames, pixels) float32 tensor, and the shape of a frame.

    Raises:
        ValueError: If there are no frames, or the array does not have three axes.
    """
    frames = np.require(frames, dtype=np.float32, requirements=["C", "W"])
    if frames.ndim != 3 or not frames.size:
        raise ValueError(f"Expected one or more frames, (frames, rows, columns), but got {frames.shape}.")
    return torch.from_numpy(frames.reshape(len(frames), -1)).to(device), frames.shape[1:]


def pixel_chunks(total: int, device: str | torch.device) -> list[slice]:
    """Cut `total` pixels into chunks."""
    # On a CPU, the sums of a chunk and their squares fit the cache of a core. 1040 is not a power of two, because rows
    # a power of two apart compete for the same places of the cache. Other devices need large chunks to stay busy.
    size = 1040 if torch.device(device).type == "cpu" else 65_536
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def run_on_all_cores(work: Callable[[Iterator], None], chunks: list, device: str | torch.device) -> None:
    """Let each thread that torch may use take chunk after chunk, with torch running on that thread alone.

    If the threads shared each of many short operations instead, they would wait for each other most of the time.

    Args:
        work: takes an iterator that all threads share, and works until the iterator is exhausted.
        chunks: what the iterator gives.
        device: on other devices than the CPU one thread does all the work.
    """
    remaining = iter(chunks)
    threads = torch.get_num_threads()
    if threads == 1 or torch.device(device).type != "cpu":
        work(remaining)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for finished in [pool.submit(work, remaining) for _ in range(threads)]:
                finished.result()
    finally:
        # Threads that start later would otherwise take over the 1 that the pool's threads set.
        torch.set_num_threads(threads)
