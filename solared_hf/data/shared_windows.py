"""Send windows to another process, such as a worker of a `DataLoader`, with shared memory instead of a copy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from solared_hf.data.region_windows import Region
from solared_hf.data.timelines import Timeline


def for_another_process(windows) -> tuple[Callable, tuple]:
    """Return what the pickler of multiprocessing sends of a `SolaredWindows`: tensors, whose memory torch shares.

    The first call moves the values of the timelines into shared memory, and the windows read them there from then on.
    So there is one copy for any number of workers.
    """
    windows.values  # noqa: B018 - computed here once, instead of in every worker
    parts = [
        (region.timeline.ar_number, region.timeline.times, region.starts, region.target_steps, region.report)
        for region in windows.regions
    ]
    if windows.shared_values is None:
        values = np.concatenate([region.timeline.values for region in windows.regions])
        windows.shared_values = torch.from_numpy(values).share_memory_()
        windows.regions = _regions(parts, windows.shared_values)
    return _rebuild, (type(windows), vars(windows) | {"regions": None}, parts)


def _rebuild(kind: type, state: dict, parts: Sequence[tuple]):
    windows: Any = object.__new__(kind)
    vars(windows).update(state)
    windows.regions = _regions(parts, windows.shared_values)
    return windows


def _regions(parts: Sequence[tuple], values: torch.Tensor) -> list[Region]:
    """Return regions whose timelines are views of the (T, 6, 63) values of all regions."""
    stops = np.cumsum([len(times) for _, times, *_ in parts])
    views = np.split(values.numpy(), stops[:-1])
    return [
        Region(Timeline(ar_number, times, view), *rest)
        for (ar_number, times, *rest), view in zip(parts, views, strict=True)
    ]
