"""Keep one copy of the data for all training processes of a node, instead of one copy for each process."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError

_ALIGNMENT = 64  # bytes, more than any of our types needs


def share_between_processes(windows: Iterable[SolaredWindows]) -> None:
    """Move the arrays of windows and the values of timelines into memory that all processes of the node share.

    Every process of a distributed run must call this function with equal windows. It replaces the arrays of the
    windows, so that the old arrays can be freed. With one process it does nothing. A process that writes into an array
    changes only its own view.

    Raises:
        SolaredError: If the folder for temporary files has no room.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    windows = list(windows)
    arrays = []
    for split in windows:
        arrays += [split.values.numpy(), split.observed.numpy(), split.target.numpy()]
        arrays += [region.timeline.values for region in split.regions]
    shared = iter(_in_one_file(arrays, state))
    for split in windows:
        split.values, split.observed, split.target = (torch.from_numpy(next(shared)) for _ in range(3))
        split.regions = [
            replace(region, timeline=replace(region.timeline, values=next(shared))) for region in split.regions
        ]


def _in_one_file(arrays: Sequence[np.ndarray], state: PartialState) -> list[np.ndarray]:
    """Return the arrays as parts of a file that the main process of the node writes and all its processes map.

    The file is unlinked before this function returns, so it disappears with the last process, even after a crash.
    """
    sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]
    starts = np.cumsum([0, *sizes]).tolist()
    # Nodes may share the folder, so each node has its own file, numbered by its first process.
    name = broadcast_object_list([f"solared-arrays-{uuid4().hex}"])[0]
    path = Path(tempfile.gettempdir()) / f"{name}-{state.process_index - state.local_process_index}"
    try:
        with state.local_main_process_first():
            if state.is_local_main_process:
                _write(path, arrays, starts)
            # Copy on write, because a mistake in one process must not change the data of the others.
            memory = np.asarray(np.memmap(path, np.uint8, mode="c"))
        state.wait_for_everyone()
    finally:
        if state.is_local_main_process:
            path.unlink(missing_ok=True)
    state.wait_for_everyone()  # so that no process returns before the file is unlinked
    return [
        memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        for array, start in zip(arrays, starts, strict=False)
    ]


def _write(path: Path, arrays: Sequence[np.ndarray], starts: Sequence[int]) -> None:
    try:
        with path.open("xb") as file:
            for array, start in zip(arrays, starts, strict=False):
                file.seek(start)
                file.write(np.ascontiguousarray(array).data)
            file.truncate(starts[-1])
    except OSError as error:
        raise SolaredError(
            f"The processes could not share the data, {starts[-1]:,} bytes, in {path.parent} ({error.strerror}). Set "
            "the environment variable TMPDIR to a folder with more room."
        ) from error
