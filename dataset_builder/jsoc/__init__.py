"""Download observations from JSOC, the archive of SDO/HMI data at Stanford, and resume interrupted downloads."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .download import DownloadReport as DownloadReport
    from .download import download_regions as download_regions

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "download": ["DownloadReport", "download_regions"],
    },
)
