"""The layout of a folder of raw observations, and `region.json`, which says where a region is.

    RAW/AR<number>/region.json       position of the region, and NOAA facts
    RAW/AR<number>/dopplergram/      velocity, m/s
    RAW/AR<number>/magnetogram/      line-of-sight field, G
    RAW/AR<number>/continuum/        continuum intensity, HMI DN

The folders hold FITS files of any name; times, order and quality are read from their headers.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dataset_builder.fits.tracking import Trajectory
from solared_hf.errors import SolaredError
from solared_hf.files import write_atomically
from solared_hf.schema import NOAA_FACTS

OBSERVABLES = ("dopplergram", "magnetogram", "continuum")
REGION_FILE_NAME = "region.json"


@dataclass(frozen=True)
class RegionFile:
    """The content of `region.json`.

    Args:
        ar_number: NOAA active region number.
        trajectory: where the centre of the patch is at any time.
        noaa: known NOAA facts of the dataset's catalog, by column (see `schema.catalog_features`);
            `noaa_emergence_time` is ISO 8601, UTC.
    """

    ar_number: int
    trajectory: Trajectory
    noaa: dict[str, float | int | str] = field(default_factory=dict)


def write_region_file(folder: Path | str, region: RegionFile) -> None:
    """Write `region.json` into the region's folder.

    Args:
        folder: the region's folder, `AR<number>`; created if missing.
        region: what to write.

    Raises:
        SolaredError: If the folder cannot be written.
    """
    content = {
        "ar_number": region.ar_number,
        "carrington_longitude": region.trajectory.carrington_longitude,
        "latitude": region.trajectory.latitude,
        "t0_tai": str(region.trajectory.t0),
        **region.noaa,
    }
    write_atomically(Path(folder) / REGION_FILE_NAME, json.dumps(content, indent=1) + "\n")


def read_region_file(folder: Path | str) -> RegionFile | None:
    """Return the content of `region.json` in the region's folder, or None if the file does not exist.

    Raises:
        SolaredError: If the file cannot be read, or its content is wrong.
    """
    path = Path(folder) / REGION_FILE_NAME
    try:
        content = json.loads(path.read_bytes())
        region = RegionFile(
            ar_number=int(content.pop("ar_number")),
            trajectory=Trajectory(
                carrington_longitude=float(content.pop("carrington_longitude")),
                latitude=float(content.pop("latitude")),
                t0=np.datetime64(content.pop("t0_tai"), "ms"),
            ),
            noaa=content,
        )
        for name, value in content.items():
            if name not in NOAA_FACTS:
                raise ValueError(f"unknown entry {name}")
            _check_fact(name, value)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise SolaredError(
                f"{path} is a broken link. Mount the storage it points to, or remove the link."
            ) from error
        return None
    except OSError as error:
        raise SolaredError(
            f"{path} cannot be read ({error.strerror or error}). Check that the storage is mounted and may be read."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SolaredError(
            f"{path} does not say where the region is ({error}). Give ar_number, carrington_longitude and latitude in "
            "degrees, t0_tai in ISO 8601, and otherwise only NOAA facts, by their names in the catalog."
        ) from error
    return region


def _check_fact(name: str, value: Any) -> None:
    """Refuse a value that the catalog cannot hold, because the catalog is written last, after hours of work.

    Raises:
        ValueError: If the value does not fit the column.
    """
    column = NOAA_FACTS[name].pa_type
    if pa.types.is_timestamp(column):
        np.datetime64(value, "ms")
    elif isinstance(value, str) != pa.types.is_string(column) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} is {value!r}")
