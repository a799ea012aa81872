"""The times that HMI headers state, and the 45 s slots, windows and steps to which they belong; naive TAI
everywhere."""

import re
from typing import overload

import numpy as np

from solared_hf.errors import SolaredError

SLOT_SECONDS = 45
# A step is computed from 640 frames, 8 h, around the time of the step.
WINDOW_FRAMES = 640
# From the first frame of a window to the time of the step, which lies between frames 319 and 320.
HALF_WINDOW = np.timedelta64(1000 * SLOT_SECONDS * (WINDOW_FRAMES - 1) // 2, "ms")
# The cadences of steps by name, in slots.
CADENCES = {"1h": 3600 // SLOT_SECONDS, "12min": 720 // SLOT_SECONDS}

_EPOCH = np.datetime64("1993-01-01", "ms")
_MILLISECOND = np.timedelta64(1, "ms")
_HALF_A_MILLISECOND = np.timedelta64(500, "us")
_SLOT_MILLISECONDS = 1000 * SLOT_SECONDS
# JSOC separates the date by dots and the day from the time by _, FITS by - and T; seconds and time may be left out.
_TIME = re.compile(
    r"([12]\d{3})([.-])(\d\d)\2(\d\d)(?:[_T](\d\d:\d\d(?::(?:[0-5]\d|60)(?:\.\d+)?)?))?_?(TAI|UTC|UT|Z)?", re.ASCII
)


def parse_time(text: str | None) -> np.datetime64:
    """Return a time in the notation of JSOC or FITS as naive TAI in milliseconds.

    A time without a zone is UTC, as in FITS and JSOC.

    Args:
        text: such as `2011.02.15_00:00:05_TAI`, `2011.02.15_00:00:05_UTC` or `2011-02-14T23:59:31.6Z`.

    Raises:
        SolaredError: If the text is not a time, such as JSOC's `MISSING`.

    >>> parse_time("2011.02.15_00:00:05_TAI")
    np.datetime64('2011-02-15T00:00:05.000')
    >>> parse_time("2011-02-15T00:00:05.4")
    np.datetime64('2011-02-15T00:00:39.400')
    """
    match = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    try:
        if match is None:
            raise ValueError("another form")
        year, _, month, day, clock, zone = match.groups()
        iso = f"{year}-{month}-{day}T{clock or '00:00'}"
        if zone != "TAI":
            iso = _utc_to_tai(iso)
        time = np.datetime64(iso, "us")
    except ValueError as error:
        # A file without a readable time has these words in its fingerprint: other words would change finished keys.
        raise SolaredError(
            f"{text!r} is not a time; expected one such as 2011.02.15_00:00:05_TAI or 2011-02-15T00:00:05Z."
        ) from error
    # astype alone would cut digits off instead of rounding.
    return (time + _HALF_A_MILLISECOND).astype("datetime64[ms]")


def format_time(time: np.datetime64, digits: int = 0) -> str:
    """Return naive TAI in the notation of JSOC, the inverse of `parse_time`.

    Args:
        time: digits that are not printed are cut off.
        digits: decimals of the seconds: 0 or 3.

    >>> format_time(np.datetime64("2013-04-15T14:59:37.500"), digits=3)
    '2013.04.15_14:59:37.500_TAI'
    """
    text = str(np.datetime_as_string(time, unit="ms" if digits else "s"))
    return text.replace("-", ".").replace("T", "_") + "_TAI"


@overload
def slot_of(time: np.datetime64) -> int: ...
@overload
def slot_of(time: np.ndarray) -> np.ndarray: ...
def slot_of(time: np.datetime64 | np.ndarray) -> int | np.ndarray:
    """Return the number of the 45 s slot nearest to a time, counted from 1993-01-01T00:00:00 TAI.

    Args:
        time: naive TAI; an array of any shape gives int64 of the same shape.

    >>> slot_of(np.datetime64("1993-01-01T01:00:10"))
    80
    """
    slots = ((time - _EPOCH) / _MILLISECOND + _SLOT_MILLISECONDS / 2) // _SLOT_MILLISECONDS
    return slots.astype(np.int64) if isinstance(slots, np.ndarray) else int(slots)


@overload
def slot_time(slot: int) -> np.datetime64: ...
@overload
def slot_time(slot: np.ndarray) -> np.ndarray: ...
def slot_time(slot: int | np.ndarray) -> np.datetime64 | np.ndarray:
    """Return the time of a slot, naive TAI in milliseconds; an array of any shape gives an array.

    >>> slot_time(80)
    np.datetime64('1993-01-01T01:00:00.000')
    """
    return _EPOCH + np.multiply(slot, _SLOT_MILLISECONDS).astype("timedelta64[ms]")


def _utc_to_tai(iso: str) -> str:
    # The import takes a third of a second, and TAI, the usual form, does not need it.
    from astropy.time import Time

    return Time(iso, scale="utc").tai.isot
