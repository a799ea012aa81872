"""Timelines of regions, windows of timelines, and the processor that normalises them.

The modules from the bottom up: `timelines` (one region), `region_windows` (the windows of one region), `windows` (the
windows of many regions), `loading` (datasets by name), `processing_solared` (the normalisation saved with a model).
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .loading import OpenedDataset as OpenedDataset
    from .loading import load_timelines as load_timelines
    from .loading import open_dataset as open_dataset
    from .processing_solared import SolaredProcessor as SolaredProcessor
    from .timelines import Timeline as Timeline
    from .window_references import batch_of as batch_of
    from .windows import SolaredWindows as SolaredWindows

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "loading": ["OpenedDataset", "load_timelines", "open_dataset"],
        "processing_solared": ["SolaredProcessor"],
        "timelines": ["Timeline"],
        "window_references": ["batch_of"],
        "windows": ["SolaredWindows"],
    },
)
