"""One copy of the data for all processes of a node that train together, instead of one for each."""

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

_ALIGNMENT = 64  # bytes; more than any type of ours asks for


def share_between_processes(windows: Iterable[SolaredWindows]) -> None:
    """Put the arrays of windows, and their timelines' values, where all processes of the node read the same memory.

    Every process of a distributed run calls it, with windows that are alike; its own arrays are free to go then. With
    one process nothing happens. What a process writes into its arrays stays its own.

    Raises:
        SolaredError: the folder for temporary files has no room.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    windows = list(windows)
    arrays = []
    for one in windows:
        arrays += [one.values.numpy(), one.observed.numpy(), one.target.numpy()]
        arrays += [region.timeline.values for region in one.regions]
    shared = iter(_in_one_file(arrays, state))
    for one in windows:
        one.values, one.observed, one.target = (torch.from_numpy(next(shared)) for _ in range(3))
        one.regions = [
            replace(region, timeline=replace(region.timeline, values=next(shared))) for region in one.regions
        ]


def _in_one_file(arrays: Sequence[np.ndarray], state: PartialState) -> list[np.ndarray]:
    """The arrays as parts of a file that the node's main process writes and all its processes map.

    The file has no name any more when this returns, so it is gone with the last process, however that ends.
    """
    sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]
    starts = np.cumsum([0, *sizes]).tolist()
    # The nodes may share the folder: each has a file of its own, numbered by its first process.
    name = broadcast_object_list([f"solared-arrays-{uuid4().hex}"])[0]
    path = Path(tempfile.gettempdir()) / f"{name}-{state.process_index - state.local_process_index}"
    try:
        with state.local_main_process_first():
            if state.is_local_main_process:
                _write(path, arrays, starts)
            # Copied on writing: a slip in one process would change what the others learn from.
            memory = np.asarray(np.memmap(path, np.uint8, mode="c"))
        state.wait_for_everyone()
    finally:
        if state.is_local_main_process:
            path.unlink(missing_ok=True)
    state.wait_for_everyone()  # or another process would return before the name is gone
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
            f"The processes could not share the data, {starts[-1]:,} bytes, in {path.parent} ({error.strerror}); name "
            "a folder with more room in the environment variable TMPDIR."
        ) from error
