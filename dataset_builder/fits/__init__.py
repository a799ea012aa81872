"""FITS files of HMI in, timelines out: tracking, acoustic power and tile means, on Dask.

Pure functions of arrays: `tracking`, `interpolation`, `acoustic_power`, `tiles`. What files hold, when and how good:
`observations`, `times`, `quality`, `region_file`. Which steps follow: `plan`; all of it for some steps: `reduction`;
many runs at once: `cluster`; the source that a build takes: `source`.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .acoustic_power import BAND_EDGES_MHZ as BAND_EDGES_MHZ
    from .acoustic_power import SlidingBandPower as SlidingBandPower
    from .acoustic_power import band_power as band_power
    from .interpolation import interpolate_missing as interpolate_missing
    from .observations import collect as collect
    from .observations import find_files as find_files
    from .observations import read_image as read_image
    from .observations import read_planes as read_planes
    from .observations import scan_files as scan_files
    from .region_file import OBSERVABLES as OBSERVABLES
    from .region_file import RegionFile as RegionFile
    from .region_file import read_region_file as read_region_file
    from .region_file import write_region_file as write_region_file
    from .source import FitsSource as FitsSource
    from .tiles import keep_tiles as keep_tiles
    from .tiles import remove_latitude_background as remove_latitude_background
    from .tiles import tile_means as tile_means
    from .times import WINDOW_FRAMES as WINDOW_FRAMES
    from .times import format_time as format_time
    from .times import slot_of as slot_of
    from .tracking import PatchMapper as PatchMapper
    from .tracking import Pointing as Pointing
    from .tracking import Trajectory as Trajectory

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "acoustic_power": ["BAND_EDGES_MHZ", "SlidingBandPower", "band_power"],
        "interpolation": ["interpolate_missing"],
        "observations": ["collect", "find_files", "read_image", "read_planes", "scan_files"],
        "region_file": ["OBSERVABLES", "RegionFile", "read_region_file", "write_region_file"],
        "source": ["FitsSource"],
        "tiles": ["keep_tiles", "remove_latitude_background", "tile_means"],
        "times": ["WINDOW_FRAMES", "format_time", "slot_of"],
        "tracking": ["PatchMapper", "Pointing", "Trajectory"],
    },
)
