"""Plan the download of the regions of a catalog: which frames are needed, which are missing, and their cutouts."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.time import Time
from sunpy.coordinates import get_earth, sun
from tqdm import tqdm

from dataset_builder.fits.region_file import RegionFile
from dataset_builder.fits.times import SLOT_SECONDS, WINDOW_FRAMES, format_time, parse_time, slot_of, slot_time
from dataset_builder.fits.tracking import HMI_SOLAR_RADIUS, PatchMapper, Pointing, Trajectory
from dataset_builder.jsoc.failures import Failures, RegionFailed
from dataset_builder.jsoc.server import SERIES, Jsoc, chunks
from dataset_builder.jsoc.without_image import frames_without_image
from dataset_builder.noaa.selection import selection_features
from solared_hf.errors import SolaredError

DAYS = 10
# The first regular observations of HMI, TAI.
HMI_BEGINS = np.datetime64("2010-05-01", "ms")

_HOUR = 3600 // SLOT_SECONDS
_DAY = 24 * _HOUR
# Half the side of the patch, and the margin of a cutout around it: for the interpolation kernel, and because the
# images are not aligned exactly to north.
_PATCH_HALF_SIDE_DEGREES = 15.36
_MARGIN_ARCSEC = 20.0
# HMI values, to estimate sizes. The bytes are those of a full image as JSOC compresses it, nearly all for the disk.
_ARCSEC_A_PIXEL = 0.504
_PIXELS_ON_DISK = 11_300_000
_USUAL_BYTES = 15e6


@dataclass(frozen=True)
class RegionPlan:
    """The files to download for a region.

    Args:
        region: the content of its `region.json`.
        slots: the 45 s slots of its time span.
        wanted: for each observable, the slots of the good frames that the pipeline needs, ascending int64.
        missing: for each observable, the wanted slots that are not in the folder yet.
        bad: number of records that JSOC marks as bad or whose QUALITY is missing.
        without_image: number of records that lacked an image in earlier downloads.
        absent: number of times without a record.
        bytes: estimated size of the missing files.
        stated: True if the estimate uses sizes that the server states.
    """

    region: RegionFile
    slots: range
    wanted: dict[str, np.ndarray]
    missing: dict[str, np.ndarray]
    bad: int
    without_image: int
    absent: int
    bytes: float
    stated: bool

    @property
    def files(self) -> int:
        """Number of files that the region will have."""
        return sum(map(len, self.wanted.values()))

    @property
    def files_missing(self) -> int:
        """Number of files to download."""
        return sum(map(len, self.missing.values()))

    def __str__(self) -> str:
        return (
            f"AR{self.region.ar_number}, {_span_text(self.slots)}: {self.files:,} files, "
            f"{self.files - self.files_missing:,} of them here, {_to_download(self.files_missing, self.bytes)}; "
            f"{self.bad:,} records are bad or without a QUALITY, {self.without_image:,} hold no image, "
            f"{self.absent:,} times have none"
        )


def plan_regions(
    jsoc: Jsoc,
    regions: Sequence[RegionFile],
    output: Path,
    cadence: int,
    full_disk: bool,
    say: Callable[[str], None],
    progress: Callable[..., tqdm],
    failures: Failures,
) -> tuple[RegionPlan, ...]:
    """Plan the download of some regions and report it; regions without a good frame are left out.

    Args:
        jsoc: the server.
        regions: regions of the catalog.
        output: folder that holds the files of earlier downloads, see `frame_path`.
        cadence: number of slots from step to step.
        full_disk: True for whole images instead of cutouts.
        say: called with a line for each region and a line for all regions.
        progress: makes a progress bar, like `tqdm`.
        failures: records the regions for which the server answers with an error; they are left out.

    Raises:
        SolaredError: If the server does not answer, or lacks good frames of all regions.
    """
    asked = []
    with progress(regions, desc="asking JSOC", unit="region") as bar:
        for region in bar:
            with failures.of(region.ar_number):
                asked.append(_plan_region(jsoc, region, output, cadence, full_disk))
    for plan in asked:
        skipped = f"AR{plan.region.ar_number}, {_span_text(plan.slots)}: no good HMI observations at JSOC; skipped"
        say(str(plan) if plan.files else skipped)
    plans = tuple(plan for plan in asked if plan.files)
    if not plans:
        failures.tell()
        raise SolaredError(f"{jsoc.address} has no good observations of these regions. Choose other regions.")
    files, size = sum(plan.files_missing for plan in plans), sum(plan.bytes for plan in plans)
    stated = any(plan.stated for plan in plans)
    basis = "the sizes that JSOC states" if stated else f"{_readable(_USUAL_BYTES)} a full image"
    estimated = f", estimated from {basis}" if files else ""
    there = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    say(
        f"in all {sum(plan.files for plan in plans):,} files, {_to_download(files, size)}{estimated}; "
        f"{_readable(shutil.disk_usage(there).free)} are free for {output}"
    )
    return plans


def read_catalog(path: Path, ar_numbers: Sequence[int] = ()) -> list[RegionFile]:
    """Return the selected regions of a catalog.

    Args:
        path: file that `solared select` wrote.
        ar_numbers: return only these regions; all selected regions if empty.

    Raises:
        SolaredError: If the file is not such a catalog, or the requested regions are not selected in it.
    """
    if not path.is_file():
        raise SolaredError(f"The file {path} does not exist. Name the Parquet file that `solared select` wrote.")
    schema = selection_features().arrow_schema
    # Older catalogs lack the column notes.
    schema = schema.remove(schema.get_field_index("notes"))
    try:
        rows = pq.read_table(path, columns=schema.names, partitioning=None).cast(schema).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SolaredError(
            f"{path} is not a catalog of regions ({str(error).splitlines()[0].rstrip('.')}). Name the Parquet file "
            "that `solared select` wrote."
        ) from error
    by_number = {row["ar_number"]: row for row in rows}
    for number in ar_numbers:
        if number not in by_number:
            raise SolaredError(f"AR{number} is not in {path}. Name regions that `solared select` printed.")
        if not by_number[number]["selected"]:
            raise SolaredError(
                f"AR{number} is not selected in {path}: {by_number[number]['reason']}. Name selected regions."
            )
    chosen = [by_number[number] for number in dict.fromkeys(ar_numbers)] or [row for row in rows if row["selected"]]
    if not chosen:
        raise SolaredError(f"No region is selected in {path}. Run `solared select` on more reports.")
    return [_region(row, path) for row in chosen]


def observed_regions(
    regions: Sequence[RegionFile], say: Callable[[str], None], failures: Failures
) -> list[RegionFile]:
    """Return the regions whose time span does not end before the observations of HMI begin.

    Args:
        regions: regions of the catalog.
        say: called with a line for each skipped region.
        failures: records the regions with a wrong position; they are left out.

    Raises:
        SolaredError: If HMI did not observe any of the regions.
    """
    observed = []
    for region in regions:
        with failures.of(region.ar_number):
            slots = region_slots(region.trajectory)
            if slots[-1] < slot_of(HMI_BEGINS):
                say(f"AR{region.ar_number}, {_span_text(slots)}: no HMI observations; they begin in May 2010; skipped")
            else:
                observed.append(region)
    if not observed:
        failures.tell()
        raise SolaredError(
            "There are no HMI observations of these regions: they begin in May 2010. Choose later regions."
        )
    return observed


def region_slots(trajectory: Trajectory) -> range:
    """Return the 45 s slots of the timeline of a region.

    The slots cover ten days centred on the passage over the central meridian, plus half a window at both ends. The
    first slot is a whole hour TAI. The meridian is that seen from the Earth; for SDO the passage is less than a minute
    and a half earlier or later.

    Raises:
        RegionFailed: If the region is behind the Sun at the time of its position.
    """
    earth = _earth_about(trajectory.t0)
    longitudes = [trajectory.longitude(time) for time in slot_time(earth.slots)]
    # Degrees west of the meridian at each time; they grow by 13.2 degrees a day.
    past = np.unwrap(np.array(longitudes) + 360 * earth.rotation, period=360)
    now = np.interp(slot_of(trajectory.t0), earth.slots, past)
    turns = 360 * round(now / 360)
    if abs(now - turns) > 90:
        raise RegionFailed(
            f"Carrington longitude {trajectory.carrington_longitude:g} is behind the Sun at {trajectory.t0} TAI, when "
            "the catalog says that a region emerged there. Run `solared select` again."
        )
    length = DAYS * _DAY + WINDOW_FRAMES
    first = round((np.interp(turns, past, earth.slots) - length / 2) / _HOUR) * _HOUR
    return range(first, first + length)


def cutout(trajectory: Trajectory, slots: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the process `im_patch` for some slots: a rectangle at a fixed Carrington position that holds the patch.

    Width and height are in arcsec, `x` and `y` in degrees of Carrington longitude and latitude. The parameters are
    those of JSOC's im_patch.c: with t, r and c at 0, tracking is on, registration and cropping at the limb are off.

    Args:
        trajectory: trajectory of the region.
        slots: (n,) int64, ascending slots of the timeline.
    """
    earth = _earth_about(trajectory.t0)
    middle = (int(slots[0]) + int(slots[-1])) // 2
    centre = trajectory.longitude(slot_time(middle))
    # The outermost points of this grid are on the edges of the patch, and its middle is the region's centre.
    mapper = PatchMapper(trajectory, size=33, degrees_per_pixel=_PATCH_HALF_SIDE_DEGREES / 16)
    half_width = half_height = 0.0
    for slot in np.linspace(slots[0], slots[-1], 9):
        time, distance = slot_time(round(slot)), np.interp(slot, earth.slots, earth.distance)
        places = mapper.pixel_coordinates(
            Pointing(
                shape=(1, 1),
                reference_pixel=(1.0, 1.0),
                reference_value=(0.0, 0.0),
                scale=((1.0, 0.0), (0.0, 1.0)),  # pixels of one arcsec
                distance=distance,
                radius=HMI_SOLAR_RADIUS,
                carrington_longitude=-360 * np.interp(slot, earth.slots, earth.rotation),
                latitude=np.interp(slot, earth.slots, earth.latitude),
                time=time,
            )
        )
        drift = np.radians(abs((trajectory.longitude(time) - centre + 180) % 360 - 180))
        drift_arcsec = drift * np.degrees(HMI_SOLAR_RADIUS / distance) * 3600
        reach_west, reach_north = (np.nanmax(abs(place - place[16, 16])) + drift_arcsec for place in places)
        half_width, half_height = max(half_width, reach_west), max(half_height, reach_north)
    return {
        "im_patch": {
            "t": 0,
            "r": 0,
            "c": 0,
            "locunits": "carrlong",
            "boxunits": "arcsec",
            "t_ref": format_time(slot_time(middle)),
            "car_rot": int(np.interp(middle, earth.slots, earth.rotation)),
            "x": round(centre, 4) % 360,
            "y": round(trajectory.latitude, 4),
            "width": float(np.ceil(2 * (half_width + _MARGIN_ARCSEC))),
            "height": float(np.ceil(2 * (half_height + _MARGIN_ARCSEC))),
        }
    }


def largest_side(process: dict[str, dict[str, Any]]) -> float:
    """Return the larger of width and height of a `cutout`, in arcsec."""
    return max(process["im_patch"]["width"], process["im_patch"]["height"])


def frame_path(output: Path, ar_number: int, observable: str, slot: int) -> Path:
    """Return the path of the file of a frame, named by the convention of JSOC for any name that the server uses."""
    series, segment = SERIES[observable]
    time = format_time(slot_time(slot)).replace(".", "").replace(":", "")
    return output / f"AR{ar_number}" / observable / f"{series}.{time}.{segment}.fits"


def without_file(output: Path, ar_number: int, observable: str, slots: np.ndarray) -> np.ndarray:
    """Return the slots whose frame is not in the folder yet: (m,) int64 of the (n,) int64 slots, in order."""
    here = [frame_path(output, ar_number, observable, slot).exists() for slot in slots.tolist()]
    return slots[~np.array(here, dtype=bool)]


def _region(row: dict, path: Path) -> RegionFile:
    needed = ("carrington_longitude", "noaa_latitude", "noaa_emergence_time")
    lacking = next((name for name in needed if row[name] is None), None)
    if lacking:
        raise SolaredError(f"AR{row['ar_number']} in {path} has no {lacking}. Run `solared select` again.")
    emergence = row["noaa_emergence_time"].isoformat()
    # The values are float32, so the digits beyond the sixth are noise.
    facts = {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in row.items()
        if name.startswith("noaa_") and value is not None
    }
    return RegionFile(
        ar_number=row["ar_number"],
        trajectory=Trajectory(row["carrington_longitude"], facts["noaa_latitude"], parse_time(emergence)),
        noaa={**facts, "noaa_emergence_time": emergence},
    )


def _plan_region(jsoc: Jsoc, region: RegionFile, output: Path, cadence: int, full_disk: bool) -> RegionPlan:
    slots = region_slots(region.trajectory)
    # The middle frame is the first frame of the second half of a window.
    middles = np.arange(slots.start + WINDOW_FRAMES // 2, slots.stop - WINDOW_FRAMES // 2, cadence)
    share = 1.0 if full_disk else _share_of_disk(region.trajectory, slots)
    wanted: dict[str, np.ndarray] = {}
    missing: dict[str, np.ndarray] = {}
    bad, without_image, absent, size, stated = 0, 0, 0, 0.0, False
    for observable in SERIES:
        asked = np.array(slots) if observable == "dopplergram" else middles
        good, marked = jsoc.records(observable, asked)
        bad, absent = bad + len(marked), absent + len(asked) - len(good) - len(marked)
        empty = frames_without_image(output, region.ar_number, observable)
        without_image += np.intersect1d(good, empty).size
        good = np.setdiff1d(good, empty)
        if observable != "dopplergram":
            without = np.setdiff1d(middles, good)
            others = _neighbours(jsoc, observable, without, wanted["dopplergram"], empty, cadence // 2)
            good = np.union1d(good, others)
        full_bytes = jsoc.bytes_a_frame(observable, good) if good.size else None
        stated = stated or full_bytes is not None
        wanted[observable], missing[observable] = good, without_file(output, region.ar_number, observable, good)
        size += missing[observable].size * (full_bytes or _USUAL_BYTES) * share
    return RegionPlan(region, slots, wanted, missing, bad, without_image, absent, size, stated)


def _share_of_disk(trajectory: Trajectory, slots: range) -> float:
    """Return the pixels of a cutout divided by those of the disk, averaged over the orders of the time span."""
    boxes = [cutout(trajectory, chunk)["im_patch"] for chunk in chunks(np.array(slots))]
    return float(np.mean([box["width"] * box["height"] for box in boxes])) / _ARCSEC_A_PIXEL**2 / _PIXELS_ON_DISK


def _neighbours(
    jsoc: Jsoc, observable: str, middles: np.ndarray, dopplergrams: np.ndarray, empty: np.ndarray, reach: int
) -> np.ndarray:
    """Return for each of some slots without a good frame the slot of the nearest good frame, if one is close enough.

    The pipeline accepts frames up to half a cadence, `reach`, from the middle of a window, which is half a slot before
    the slot given here. So at the distance `reach` only the earlier frame is accepted, and of two frames at the same
    distance from the slot the earlier one is nearer. All observables come from the same exposures, so JSOC is asked
    only for slots with a good Dopplergram. `empty` are the slots that are known to lack an image.
    """
    around = np.add.outer(middles, np.arange(-reach, reach))
    good, _ = jsoc.records(observable, np.setdiff1d(np.intersect1d(around, dopplergrams), empty))
    near = ((middle, good[(good >= middle - reach) & (good < middle + reach)]) for middle in middles)
    return np.array([slots[abs(slots - middle).argmin()] for middle, slots in near if slots.size], dtype=np.int64)


@dataclass(frozen=True)
class _Earth:
    """Heliographic position of the Earth at some slots.

    The decimal part of `rotation`, the Carrington rotation number, counts backwards in longitude: the Earth is at
    longitude -360 * rotation. `latitude` is in degrees, `distance` in m.
    """

    slots: np.ndarray
    rotation: np.ndarray
    latitude: np.ndarray
    distance: np.ndarray


@cache
def _earth_about(time: np.datetime64) -> _Earth:
    """Return the Earth every six hours, two weeks before and after a time; linear to a thousandth of a degree."""
    slots = slot_of(time) + 6 * _HOUR * np.arange(-56, 57)
    times = Time(slot_time(slots).astype(str), scale="tai")
    earth = get_earth(times)
    return _Earth(slots, sun.carrington_rotation_number(times), earth.lat.deg, earth.radius.to_value(u.m))


def _span_text(slots: range) -> str:
    return f"{format_time(slot_time(slots[0]))} to {format_time(slot_time(slots[-1]))}"


def _to_download(files: int, size: float) -> str:
    return f"{files:,} to download, about {_readable(size)}" if files else "nothing to download"


def _readable(size: float) -> str:
    return tqdm.format_sizeof(size, "B")
