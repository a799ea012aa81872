"""Build a dataset folder for the Hub from observations or from the published files.

The packages in the order of the data: `noaa` selects regions, `jsoc` downloads the observations, `fits` turns FITS
files into timelines (or `published` reads the published timelines), and `build` writes one shard for each region
(`shards`) and the description of the folder (`description`). `simulation` makes a small simulated Sun to try it on.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .build import BuildReport as BuildReport
    from .build import build_dataset as build_dataset
    from .fits import FitsSource as FitsSource
    from .hub_import import import_repository as import_repository
    from .noaa import read_reports as read_reports
    from .noaa import select_regions as select_regions
    from .noaa import write_selection as write_selection
    from .published import PublishedSource as PublishedSource

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "build": ["BuildReport", "build_dataset"],
        "fits": ["FitsSource"],
        "hub_import": ["import_repository"],
        "published": ["PublishedSource"],
        "noaa": ["read_reports", "select_regions", "write_selection"],
    },
)
