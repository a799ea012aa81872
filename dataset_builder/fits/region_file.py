"""The layout of a folder of raw observations, and the file that says where a region is.

    RAW/AR<number>/region.json       where the region is, and what NOAA says of it
    RAW/AR<number>/dopplergram/      velocity, m/s
    RAW/AR<number>/magnetogram/      line-of-sight field, G
    RAW/AR<number>/continuum/        continuum intensity, HMI DN

The folders hold FITS files of any name; times, order and quality come from their headers.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

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
    """What `region.json` says.

    Args:
        ar_number: NOAA active region number.
        trajectory: where the centre of the patch is at any time.
        noaa: the NOAA facts of the dataset's catalog, by column (see `schema.catalog_features`), as far as known;
            `noaa_emergence_time` is ISO 8601, UTC.
    """

    ar_number: int
    trajectory: Trajectory
    noaa: dict[str, float | int | str] = field(default_factory=dict)


def write_region_file(folder: Path | str, region: RegionFile) -> None:
    """Write `region.json` into the region's folder.

    Args:
        folder: of the region, `AR<number>`; made if it is not there.
        region: what the file shall say.

    Raises:
        SolaredError: the folder cannot be written.
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
    """What `region.json` in the region's folder says, or None where there is none.

    Raises:
        SolaredError: the file cannot be read or says something else.
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
            raise SolaredError(f"{path} is a link to what is not there; mount its storage, or remove it.") from error
        return None
    except OSError as error:
        raise SolaredError(
            f"{path} cannot be read ({error.strerror or error}); see that its storage is there and may be read."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SolaredError(
            f"{path} does not say where the region is ({error}); give it ar_number, carrington_longitude and latitude "
            "in degrees, t0_tai in ISO 8601, and no more than NOAA facts by their names in the catalog."
        ) from error
    return region


def _check_fact(name: str, value: float | int | str) -> None:
    """Refuse what the catalog could not hold; it is written last, after all that takes long.

    Raises:
        ValueError: the value is none of its column.
    """
    column = NOAA_FACTS[name].pa_type
    if pa.types.is_timestamp(column):
        np.datetime64(value, "ms")
    elif isinstance(value, str) != pa.types.is_string(column) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} is {value!r}")
