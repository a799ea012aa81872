"""Raw observations of the simulated Sun as FITS files, in every form that `solared build --source fits` reads.

Pixels are int16 with BSCALE and BZERO as HMI stores them, or float32 in cubes; each HDU carries DATASUM and CHECKSUM.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits

from dataset_builder.fits.band_transform import CADENCE_S
from dataset_builder.fits.region_file import OBSERVABLES, RegionFile, write_region_file
from dataset_builder.fits.times import WINDOW_FRAMES, format_time
from dataset_builder.simulation.observations import (
    CENTRE_TILES,
    FIELD_FRAME,
    FRAMES_PER_STEP,
    OBSERVER_LATITUDE,
    TILE_DEGREES,
    SimulatedObservations,
    simulate_observations,
)
from dataset_builder.simulation.timelines import SIMULATED_REGIONS, disk_longitude, start_time
from solared_hf.files import write_atomically
from solared_hf.schema import PATCH_ROWS

# BSCALE, BZERO, unit and JSOC series of the observables.
_SCALING = {
    "dopplergram": (0.5, 0.0, "m/s", "hmi.V_45s"),
    "magnetogram": (0.1, 0.0, "Gauss", "hmi.M_45s"),
    "continuum": (3.0, 98304.0, "DN/s", "hmi.Ic_45s"),
}
_BLANK = -32768
# As a signed number of 32 bits, because FITS files store QUALITY so.
_BAD_QUALITY = 0x80000000 - 2**32
# The pixels of a bad frame, so far off that a test notices if the frame is used.
_BAD_RAW_VALUE = 16_000

_DAY = np.timedelta64(1, "D")
_FRAME_SPACING = np.timedelta64(round(1000 * CADENCE_S), "ms")

# The observer, as HMI is in January: CROTA2 is near 180, and the centre of the Sun near that of the image.
_IMAGE_PIXELS, _ARCSEC_PER_PIXEL = 256, 8.0
# HMI compresses row by row; for such small images, stripes of rows take a third less time.
_ROWS_PER_STRIPE = 16
_REFERENCE_PIXEL, _ROTATION_DEGREES = (127.3, 129.1), 179.93
_DISTANCE_M, _SOLAR_RADIUS_M, _ASTRONOMICAL_UNIT_M, _LIGHT_M_PER_S = 1.4712e11, 6.96e8, 1.495978707e11, 299792458.0
# T_REC is the time of an observer at 1 au; light reaches this observer earlier.
_LIGHT_ARRIVES = np.timedelta64(round(1000 * (_DISTANCE_M - _ASTRONOMICAL_UNIT_M) / _LIGHT_M_PER_S), "ms")

_Files = Iterator[tuple[np.datetime64, fits.PrimaryHDU | fits.CompImageHDU]]


def write_observations(
    folder: Path | str,
    regions: Iterable[int] = SIMULATED_REGIONS,
    seed: int = 0,
    steps: int = 240,
    pixels: int = 27,
    form: str = "sequence",
) -> None:
    """Write simulated regions into `folder` as raw observations, with a `region.json` for each.

    The forms are

    - `sequence`: tracked patches, a day of frames per file; a missing frame is a plane of BLANK;
    - `frames`: a tracked patch per file; a missing frame has no file, or a file that QUALITY marks as bad;
    - `cubes`: for each step 640 planes with MIDTIME, as `mtrack` makes them; the planes of magnetograms and continuum
      images repeat the hourly image nearest in time;
    - `full_disk`: images of the Sun, 256 pixels a side, Rice-compressed except dopplergrams, on which the region is
      painted where the trajectory puts it at T_OBS; outside the patch the image continues the patch's edge. At 60
      degrees from the disk centre, tracked patches of 9 pixels keep at least nine tenths of the power, patches of 27
      pixels three quarters.

    Args:
        folder: receives AR<number>/{region.json,dopplergram,magnetogram,continuum}; files of another form stay there.
        regions, seed, steps, pixels: see `simulate_observations`; the same arguments give the same bytes.
        form: one of the four forms.

    Raises:
        SolaredError: If a number is that of a real region, or the folder cannot be written.
        ValueError: If the form is unknown, or there are too few steps or pixels.
    """
    for ar_number in regions:
        observations = simulate_observations(ar_number, seed, steps, pixels)
        region_folder = Path(folder) / f"AR{ar_number}"
        write_region_file(region_folder, RegionFile(ar_number, observations.trajectory))
        for observable in OBSERVABLES:
            for name, content in fits_files(observations, observable, form):
                write_atomically(region_folder / observable / name, content)


def fits_files(observations: SimulatedObservations, observable: str, form: str) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files of one observable, in order of time.

    Args:
        observations: the observations of a region.
        observable: one of `region_file.OBSERVABLES`.
        form: see `write_observations`.

    Raises:
        ValueError: If the form is unknown.
    """
    if form not in _FORMS:
        raise ValueError(f"form={form!r} must be one of {', '.join(_FORMS)}.")
    for time, hdu in _FORMS[form](observations, observable):
        stamp = format_time(time).replace(".", "").replace(":", "")
        yield f"{observable}.{stamp}.fits", _fits_bytes(hdu)


def _sequence(observations: SimulatedObservations, observable: str) -> _Files:
    times, images, _ = _series(observations, observable)
    spacing = times[1] - times[0] if len(times) > 1 else _FRAME_SPACING
    planes = max(1, int(_DAY / spacing))
    for first in range(0, len(times), planes):
        hdu = _scaled(images[first : first + planes], observable)
        _describe_patch(hdu.header, observations, times[first])
        hdu.header["T_REC"] = format_time(times[first])
        _describe_planes(hdu.header, spacing)
        yield times[first], hdu


def _frames(observations: SimulatedObservations, observable: str) -> _Files:
    for time, hdu in _single_images(observations, observable, lambda image, time: _scaled(image, observable)):
        _describe_patch(hdu.header, observations, time)
        yield time, hdu


def _cubes(observations: SimulatedObservations, observable: str) -> _Files:
    steps = len(observations.magnetogram)
    for step in range(steps):
        frames = FRAMES_PER_STEP * step + np.arange(WINDOW_FRAMES)
        if observable == "dopplergram":
            cube = observations.velocity[frames]
        else:
            hourly = np.rint((frames - FIELD_FRAME) / FRAMES_PER_STEP).astype(int).clip(0, steps - 1)
            cube = getattr(observations, observable)[hourly]
        middle = observations.times[frames[0]] + (WINDOW_FRAMES - 1) * _FRAME_SPACING // 2
        hdu = fits.PrimaryHDU(cube)
        hdu.header["BUNIT"] = _SCALING[observable][2]
        _describe_patch(hdu.header, observations, middle)
        hdu.header["MIDTIME"] = format_time(middle, digits=3)
        _describe_planes(hdu.header, _FRAME_SPACING)
        yield middle, hdu


def _full_disk(observations: SimulatedObservations, observable: str) -> _Files:
    def paint(image: np.ndarray, time: np.datetime64) -> fits.PrimaryHDU | fits.CompImageHDU:
        observed = time + _LIGHT_ARRIVES
        centre, observer = _longitudes(observations, observed)
        rows, columns, on_disk = _places_on_patch(centre - observer, observations.trajectory.latitude, len(image))
        sun = np.full((_IMAGE_PIXELS, _IMAGE_PIXELS), np.nan, dtype=np.float32)
        sun[on_disk] = image[rows, columns]
        # The many dopplergrams are not compressed, because compressing takes 25 ms an image.
        return _scaled(sun, observable, compressed=observable != "dopplergram")

    for time, hdu in _single_images(observations, observable, paint):
        _, observer = _longitudes(observations, time + _LIGHT_ARRIVES)
        angular_radius = np.degrees(np.arcsin(_SOLAR_RADIUS_M / _DISTANCE_M)) * 3600
        hdu.header.extend(
            [
                ("CTYPE1", "HPLN-TAN"),
                ("CTYPE2", "HPLT-TAN"),
                ("CUNIT1", "arcsec"),
                ("CUNIT2", "arcsec"),
                ("CRPIX1", _REFERENCE_PIXEL[0]),
                ("CRPIX2", _REFERENCE_PIXEL[1]),
                ("CRVAL1", 0.0),
                ("CRVAL2", 0.0),
                ("CDELT1", _ARCSEC_PER_PIXEL),
                ("CDELT2", _ARCSEC_PER_PIXEL),
                ("CROTA2", _ROTATION_DEGREES),
                ("CRLN_OBS", observer % 360),
                ("CRLT_OBS", OBSERVER_LATITUDE),
                ("DSUN_OBS", _DISTANCE_M),
                ("DSUN_REF", _ASTRONOMICAL_UNIT_M),
                ("RSUN_REF", _SOLAR_RADIUS_M),
                ("RSUN_OBS", angular_radius),
            ]
        )
        yield time, hdu


_FORMS: dict[str, Callable[[SimulatedObservations, str], _Files]] = {
    "sequence": _sequence,
    "frames": _frames,
    "cubes": _cubes,
    "full_disk": _full_disk,
}


def _series(observations: SimulatedObservations, observable: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the times, images and frame numbers of one observable."""
    frames = np.arange(len(observations.times))
    if observable == "dopplergram":
        return observations.times, observations.velocity, frames
    images = getattr(observations, observable)
    return observations.field_times, images, frames[FIELD_FRAME::FRAMES_PER_STEP][: len(images)]


def _single_images(
    observations: SimulatedObservations,
    observable: str,
    hdu_of: Callable[[np.ndarray, np.datetime64], fits.PrimaryHDU | fits.CompImageHDU],
) -> _Files:
    """Yield the HDUs of the images that exist, with HMI's keywords: times, quality, the satellite's velocity."""
    for time, image, frame in zip(*_series(observations, observable), strict=True):
        bad = observations.bad[frame]
        if observations.missing[frame] and not bad:
            continue
        hdu = hdu_of(image, time)
        if bad:
            hdu.data[:] = _BAD_RAW_VALUE
        hdu.header.extend(
            [
                ("CONTENT", _SCALING[observable][3]),
                ("T_REC", format_time(time)),
                ("T_OBS", format_time(time + _LIGHT_ARRIVES, digits=3)),
                ("QUALITY", _BAD_QUALITY if bad else 0),
                ("OBS_VR", observations.orbital_velocity[frame]),
            ]
        )
        yield time, hdu


def _scaled(values: np.ndarray, observable: str, compressed: bool = False) -> fits.PrimaryHDU | fits.CompImageHDU:
    """Return an HDU of int16 with keywords that restore `values`; NaN is stored as BLANK."""
    scale, zero, unit, _ = _SCALING[observable]
    unobserved = np.isnan(values)
    raw = np.rint((values - np.float32(zero)) / np.float32(scale))
    raw[unobserved] = _BLANK
    raw = raw.astype(">i2")
    if compressed:
        hdu = fits.CompImageHDU(raw, compression_type="RICE_1", tile_shape=(_ROWS_PER_STRIPE, raw.shape[-1]))
    else:
        hdu = fits.PrimaryHDU(raw)
    # Set afterwards, so that astropy does not scale the pixels.
    hdu.header.update(BSCALE=scale, BZERO=zero, BLANK=_BLANK, BUNIT=unit)
    return hdu


def _describe_patch(header: fits.Header, observations: SimulatedObservations, time: np.datetime64) -> None:
    """Add the keywords of a tracked patch: an azimuthal equidistant map about the patch's centre."""
    pixels_per_tile = observations.velocity.shape[-1] // PATCH_ROWS
    header.extend(
        [
            ("CTYPE1", "CRLN-ARC"),
            ("CTYPE2", "CRLT-ARC"),
            ("CUNIT1", "deg"),
            ("CUNIT2", "deg"),
            ("CRPIX1", CENTRE_TILES * pixels_per_tile + 0.5),
            ("CRPIX2", CENTRE_TILES * pixels_per_tile + 0.5),
            ("CRVAL1", observations.trajectory.longitude(time)),
            ("CRVAL2", observations.trajectory.latitude),
            ("CDELT1", TILE_DEGREES / pixels_per_tile),
            ("CDELT2", TILE_DEGREES / pixels_per_tile),
        ]
    )


def _describe_planes(header: fits.Header, spacing: np.timedelta64) -> None:
    seconds = spacing / np.timedelta64(1, "s")
    header.extend([("CTYPE3", "TIME"), ("CUNIT3", "s"), ("CRPIX3", 1.0), ("CRVAL3", 0.0), ("CDELT3", seconds)])


def _longitudes(observations: SimulatedObservations, time: np.datetime64) -> tuple[float, float]:
    """Return the Carrington longitudes of the patch's centre and of the observer, degrees."""
    hours = (time - start_time(observations.ar_number)) / np.timedelta64(1, "h")
    centre = observations.trajectory.longitude(time)
    return centre, centre - np.degrees(float(disk_longitude(np.asarray(hours))))


def _places_on_patch(longitude: float, latitude: float, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which pixel of the patch, or of the patch's edge, each pixel of the disk shows.

    Args:
        longitude: longitude of the patch's centre, degrees west of the observer's meridian.
        latitude: latitude of the patch's centre, degrees.
        pixels: pixels on a side of the patch.

    Returns:
        Rows and columns in the patch for each pixel of the disk, and a mask of the image's pixels on the disk.
    """
    row, column = np.mgrid[:_IMAGE_PIXELS, :_IMAGE_PIXELS] + 1.0
    along, up = (
        np.radians(_ARCSEC_PER_PIXEL / 3600) * (axis - reference)
        for axis, reference in zip((column, row), _REFERENCE_PIXEL, strict=True)
    )
    turn = np.radians(_ROTATION_DEGREES)
    west, north = along * np.cos(turn) - up * np.sin(turn), along * np.sin(turn) + up * np.cos(turn)
    # The line of sight, (west, north, 1) times its length, meets the sphere of radius 1 about (0, 0, distance).
    distance = _DISTANCE_M / _SOLAR_RADIUS_M
    squared = 1 + west**2 + north**2
    discriminant = distance**2 - squared * (distance**2 - 1)
    on_disk = discriminant > 0
    west, north, squared = west[on_disk], north[on_disk], squared[on_disk]
    length = (distance - np.sqrt(discriminant[on_disk])) / squared
    west, north, toward = length * west, length * north, distance - length
    tilt = np.radians(OBSERVER_LATITUDE)
    axial, meridional = north * np.cos(tilt) + toward * np.sin(tilt), toward * np.cos(tilt) - north * np.sin(tilt)
    # Axes about the patch's centre: east-west, south-north and outwards.
    turn, centre = np.radians(longitude), np.radians(latitude)
    across, inward = west * np.cos(turn) - meridional * np.sin(turn), west * np.sin(turn) + meridional * np.cos(turn)
    up, outward = axial * np.cos(centre) - inward * np.sin(centre), axial * np.sin(centre) + inward * np.cos(centre)
    sine = np.hypot(across, up)
    degrees = np.degrees(np.arctan2(sine, outward)) / np.maximum(sine, 1e-12)
    columns, rows = (
        np.floor((degrees * axis / TILE_DEGREES + CENTRE_TILES) * (pixels // PATCH_ROWS))
        .astype(int)
        .clip(0, pixels - 1)
        for axis in (across, up)
    )
    return rows, columns, on_disk


def _fits_bytes(hdu: fits.PrimaryHDU | fits.CompImageHDU) -> bytes:
    """Return the bytes of the file of one image. The bytes hold no date, because the checksums' comments are empty."""
    if isinstance(hdu, fits.CompImageHDU):
        buffer = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
        # Opened as the table that stores the image, because the checksums are those of the table.
        hdus = fits.open(io.BytesIO(buffer.getvalue()), disable_image_compression=True)
    else:
        hdus = fits.HDUList([hdu])
    hdus[-1].add_checksum(when="")
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    return buffer.getvalue()
