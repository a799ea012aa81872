"""The builder: from observations, or from the published files, to a dataset folder that is ready for the Hub.

Follow the data to meet the packages in order: `noaa` selects regions, `jsoc` downloads their observations, `fits`
turns FITS files into timelines (or `published` reads the published timelines), and `build` writes a shard for each
region (`shards`) and the description of the folder (`description`). `simulation` makes a small Sun to try it on.
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
