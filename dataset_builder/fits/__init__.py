"""From FITS files of HMI to timelines: tracking, acoustic power and tile means, on Dask.

Pure functions of arrays: `tracking`, `interpolation`, `acoustic_power` and `sliding_power`, `tiles`. Reading files and
judging what they hold: `headers`, `pixels`, `observations`, `times`, `quality`, `region_file`. Planning the steps of a
region: `plan`; computing them: `reduction`; on many processes: `cluster`. The source of a build: `source`.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .acoustic_power import band_power as band_power
    from .band_transform import BAND_EDGES_MHZ as BAND_EDGES_MHZ
    from .headers import find_files as find_files
    from .headers import scan_files as scan_files
    from .interpolation import interpolate_missing as interpolate_missing
    from .observations import collect as collect
    from .pixels import read_patch as read_patch
    from .pixels import read_planes as read_planes
    from .plan import ReductionSettings as ReductionSettings
    from .region_file import OBSERVABLES as OBSERVABLES
    from .region_file import RegionFile as RegionFile
    from .region_file import read_region_file as read_region_file
    from .region_file import write_region_file as write_region_file
    from .sliding_power import SlidingBandPower as SlidingBandPower
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
        "acoustic_power": ["band_power"],
        "band_transform": ["BAND_EDGES_MHZ"],
        "headers": ["find_files", "scan_files"],
        "interpolation": ["interpolate_missing"],
        "observations": ["collect"],
        "pixels": ["read_patch", "read_planes"],
        "plan": ["ReductionSettings"],
        "region_file": ["OBSERVABLES", "RegionFile", "read_region_file", "write_region_file"],
        "sliding_power": ["SlidingBandPower"],
        "source": ["FitsSource"],
        "tiles": ["keep_tiles", "remove_latitude_background", "tile_means"],
        "times": ["WINDOW_FRAMES", "format_time", "slot_of"],
        "tracking": ["PatchMapper", "Pointing", "Trajectory"],
    },
)
