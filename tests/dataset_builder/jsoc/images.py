"""The images that the small JSOC of the tests holds: 45 s images of a Sun seen in pixels of 4 arcsec."""

import hashlib
import io
from datetime import datetime, timedelta
from functools import cache

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.time import Time
from sunpy.coordinates import sun

EPOCH = datetime(1993, 1, 1)
SEGMENTS = {"hmi.v_45s": "Dopplergram", "hmi.m_45s": "magnetogram", "hmi.ic_45s": "continuum"}
SIZE, ARCSEC_A_PIXEL, ROLL = 512, 4.032, 179.92


def slot_of(text: str) -> int:
    """The slot of a time in TAI, such as 2013.04.15_11:00:00_TAI."""
    return round((datetime.strptime(text, "%Y.%m.%d_%H:%M:%S_TAI") - EPOCH).total_seconds() / 45)


def time_of(slot: int) -> str:
    """When a slot is."""
    return f"{EPOCH + timedelta(seconds=45 * slot):%Y.%m.%d_%H:%M:%S}_TAI"


def file_name(series: str, slot: int) -> str:
    """What the server calls the file of a frame."""
    return f"{series}.{time_of(slot).replace('.', '').replace(':', '')}.2.{SEGMENTS[series]}.fits"


@cache
def fits_file(series: str, slot: int, process: tuple = ()) -> bytes:
    """A frame as JSOC exports it: compressed, with keywords and checksums; cut out if there is a process."""
    header, pixels = image(series, slot)
    if process:
        header, pixels = im_patch(header, pixels, dict(process))
    file = io.BytesIO()
    hdu = fits.CompImageHDU(pixels, header, compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file, checksum=True)
    return file.getvalue()


def header_alone(series: str, slot: int) -> bytes:
    """The file of a record without an image: keywords, one of which says so, and no pixels."""
    header, _ = image(series, slot)
    header["QUALITY"] = -(2**31)
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(None, header)]).writeto(file, checksum=True)
    return file.getvalue()


def image(series: str, slot: int) -> tuple[fits.Header, np.ndarray]:
    """A whole image of the Sun, with north down as HMI takes them; smooth, and different from frame to frame."""
    time = EPOCH + timedelta(seconds=45 * slot)
    header = fits.Header(
        {
            "TELESCOP": "SDO/HMI",
            "INSTRUME": "HMI_FRONT2",
            "CONTENT": SEGMENTS[series].upper(),
            "T_REC": time_of(slot),
            "T_OBS": f"{time + timedelta(seconds=1.4):%Y.%m.%d_%H:%M:%S.%f}"[:-3] + "_TAI",
            "QUALITY": 0,
            "CTYPE1": "HPLN-TAN",
            "CTYPE2": "HPLT-TAN",
            "CUNIT1": "arcsec",
            "CUNIT2": "arcsec",
            "CRPIX1": SIZE / 2 + 0.7,
            "CRPIX2": SIZE / 2 - 0.4,
            "CRVAL1": 0.0,
            "CRVAL2": 0.0,
            "CDELT1": ARCSEC_A_PIXEL,
            "CDELT2": ARCSEC_A_PIXEL,
            "CROTA2": ROLL,
            "RSUN_REF": 696000000.0,
            **geometry(slot),
        }
    )
    row, column = np.mgrid[:SIZE, :SIZE]
    seed = int(hashlib.sha256(f"{series} {slot}".encode()).hexdigest()[:4], 16)
    pixels = 1500 * np.sin(row / 9 + seed) + 900 * np.cos(column / 7 + seed)
    return header, pixels.round().astype(np.int16)


@cache
def geometry(slot: int) -> dict[str, float | int]:
    """Where SDO is: near the Earth."""
    time = Time((EPOCH + timedelta(seconds=45 * slot)).isoformat(), scale="tai")
    return {
        "CRLN_OBS": sun.L0(time).deg + 0.005,
        "CRLT_OBS": sun.B0(time).deg,
        "CAR_ROT": int(sun.carrington_rotation_number(time)),
        "DSUN_OBS": sun.earth_distance(time).to_value(u.m),
    }


def im_patch(header: fits.Header, pixels: np.ndarray, process: dict[str, str]) -> tuple[fits.Header, np.ndarray]:
    """A cutout as JSOC's im_patch makes it: its centre follows a Carrington position, and north is turned up."""
    assert (process["locunits"], process["boxunits"]) == ("carrlong", "arcsec")
    assert (process["t"], process["r"], process["c"]) == ("0", "0", "0")
    assert 0 <= float(process["x"]) < 360
    assert abs(int(process["car_rot"]) - header["CAR_ROT"]) <= 1
    assert process["t_ref"].endswith("_TAI")
    longitude = np.radians(float(process["x"]) - header["CRLN_OBS"])
    latitude, tilt = np.radians(float(process["y"])), np.radians(header["CRLT_OBS"])
    radii = header["DSUN_OBS"] / header["RSUN_REF"]
    toward = np.sin(latitude) * np.sin(tilt) + np.cos(latitude) * np.cos(tilt) * np.cos(longitude)
    west = np.cos(latitude) * np.sin(longitude) / (radii - toward)
    north = np.sin(latitude) * np.cos(tilt) - np.cos(latitude) * np.sin(tilt) * np.cos(longitude)
    arcsec = np.degrees([west, north / (radii - toward)]) * 3600
    roll = np.radians(header["CROTA2"])
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    centre = turn @ arcsec / header["CDELT1"] + [header["CRPIX1"] - 1, header["CRPIX2"] - 1]
    half = np.array([float(process["width"]), float(process["height"])]) / 2 / header["CDELT1"]
    first = np.round(centre - half).astype(int)
    width, height = (1 + 2 * half).astype(int)
    column, row = np.arange(first[0], first[0] + width), np.arange(first[1], first[1] + height)
    inside = np.ix_((row >= 0) & (row < SIZE), (column >= 0) & (column < SIZE))
    patch = np.zeros((height, width), pixels.dtype)
    patch[inside] = pixels[np.ix_(row[(row >= 0) & (row < SIZE)], column[(column >= 0) & (column < SIZE)])]
    header = header.copy()
    header["CRPIX1"] = column[-1] + 1 - (header["CRPIX1"] - 1)
    header["CRPIX2"] = row[-1] + 1 - (header["CRPIX2"] - 1)
    header["CROTA2"] -= 180
    return header, patch[::-1, ::-1]
