"""Windows on their way to another process, such as a worker of a `DataLoader`: memory is shared, not copied."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from solared_hf.data.region_windows import Region
from solared_hf.data.timelines import Timeline


def for_another_process(windows) -> tuple[Callable, tuple]:
    """How multiprocessing's pickler takes a `SolaredWindows` apart: into tensors, whose memory torch shares.

    The first time, the timelines' values move into shared memory, where these windows read them from then on. So there
    is one copy of them, however many workers there are.
    """
    windows.values  # noqa: B018 - read here once, and not by each of the others
    parts = [
        (region.timeline.ar_number, region.timeline.times, region.starts, region.target_steps, region.report)
        for region in windows.regions
    ]
    if windows.shared_values is None:
        values = np.concatenate([region.timeline.values for region in windows.regions])
        windows.shared_values = torch.from_numpy(values).share_memory_()
        windows.regions = _regions(parts, windows.shared_values)
    return _put_together, (type(windows), vars(windows) | {"regions": None}, parts)


def _put_together(kind: type, state: dict, parts: Sequence[tuple]):
    windows = kind.__new__(kind)
    vars(windows).update(state)
    windows.regions = _regions(parts, windows.shared_values)
    return windows


def _regions(parts: Sequence[tuple], values: torch.Tensor) -> list[Region]:
    """The regions again, whose timelines are views of the values of all of them, (T, 6, 63)."""
    stops = np.cumsum([len(times) for _, times, *_ in parts])
    views = np.split(values.numpy(), stops[:-1])
    return [
        Region(Timeline(ar_number, times, view), *rest)
        for (ar_number, times, *rest), view in zip(parts, views, strict=True)
    ]
