"""Convert times of steps from many types to naive TAI in milliseconds, and find the cadence."""

import re
from collections.abc import Iterable
from datetime import date

import numpy as np

from solared_hf.errors import SolaredError

# There is no gap between two steps if their spacing differs from the cadence by at most this fraction of the cadence.
# Frames are taken within a second of their nominal times, which is 3 % of 45 s and less of a longer cadence.
MOST_JITTER = 0.05

# All observations, and the simulated Sun of 2001, are in these years. Seconds since 1970 that are read as milliseconds
# lie in January 1970.
_FIRST_YEAR, _END_YEAR = 1990, 2100

_MILLISECOND, _HALF_A_MILLISECOND = np.timedelta64(1, "ms"), np.timedelta64(500, "us")
# The end of an ISO 8601 text with a time zone.
_ZONE = re.compile(r"[Zz]$|[T ].*[+-]\d\d:?(\d\d)?$")
# Scales with a fixed difference from TAI. UT1 needs a table, and the difference of local time is unknown.
_TIME_SCALES = ("tai", "utc", "tt", "tcg", "tdb", "tcb")
_CURE = "Give datetime64 or datetime objects in naive TAI, or an astropy `Time`"


def step_times(times: Iterable, owner: str = "The timeline") -> np.ndarray:
    """Return the times as (T,) datetime64[ms], naive TAI, rounded to the nearest millisecond; NaT stays NaT.

    Args:
        times: `datetime64` of any unit, `datetime` objects, pandas timestamps or ISO 8601 text, all in naive TAI;
            whole numbers of milliseconds since 1970-01-01 TAI; or an astropy `Time`, which has a time scale and is
            converted to TAI. A masked time is NaT.
        owner: The name of the timeline in an error.

    Raises:
        SolaredError: If the times have another type, or a time zone.

    >>> step_times(["2013-04-15T00:59:59.9999", "2013-04-15T02:00:00"])
    array(['2013-04-15T01:00:00.000', '2013-04-15T02:00:00.000'],
          dtype='datetime64[ms]')
    """
    if _is_astropy_time(times):
        times = _tai(times, owner)
    try:
        masked: np.ma.MaskedArray = np.ma.asarray(times)
    except ValueError as error:
        raise SolaredError(f"{owner} has times that are not a list ({error}). Give one time for each step.") from error
    array, mask = np.ma.getdata(masked), np.ma.getmask(masked)
    if array.ndim != 1:
        raise SolaredError(f"{owner} has times of shape {array.shape}. Give one time for each step.")
    if array.dtype.kind == "O":
        array = _from_objects(array, owner)
    elif array.dtype.kind in "US":
        array = _from_text(array.astype(str), owner)
    elif array.dtype.kind in "iu":
        array = array.astype(np.int64)
    elif array.dtype.kind != "M" and len(array):
        raise SolaredError(
            f"{owner} has times such as {array[0]!s}, whose unit is unknown. {_CURE}: "
            '`Time(days, format="mjd", scale="tai")`.'
        )
    # numpy truncates to milliseconds, so round first.
    cut = array.astype("datetime64[ms]")
    if array.dtype.kind == "M":
        cut = cut + (array - cut >= _HALF_A_MILLISECOND) * _MILLISECOND
    return np.where(mask, np.datetime64("NaT", "ms"), cut) if np.any(mask) else cut


def check_years(times: np.ndarray, owner: str = "The timeline") -> None:
    """Refuse times in years without observations, because they have another unit or another epoch.

    Args:
        times: (T,) datetime64.
        owner: The name of the timeline in an error.

    Raises:
        SolaredError: If a time is NaT, before 1990 or after 2099.
    """
    unknown = np.flatnonzero(np.isnat(times))
    if len(unknown):
        raise SolaredError(f"{owner} has no time (NaT) for step {unknown[0]}. Give the time, or leave the step out.")
    years = times.astype("datetime64[Y]").astype(np.int64) + 1970
    wrong = np.flatnonzero((years < _FIRST_YEAR) | (years >= _END_YEAR))
    if len(wrong):
        raise SolaredError(
            f"{owner} has step {wrong[0]} at {times[wrong[0]]}, which is before {_FIRST_YEAR} or after "
            f'{_END_YEAR - 1}. Check the unit: seconds since 1970 are `np.array(seconds, "datetime64[s]")`.'
        )


def cadence_of(times: np.ndarray) -> np.timedelta64:
    """Return the most frequent spacing of (T,) increasing times, T >= 2, as timedelta64[ms].

    Spacings within `MOST_JITTER` of the cadence count as equal. If they differ, the cadence is their median, rounded
    to a whole second.

    >>> cadence_of(np.array(["2013-04-15T00:00:00.3", "2013-04-15T01:00:00", "2013-04-15T02:00:01"], "datetime64[ms]"))
    np.timedelta64(3600000,'ms')
    """
    spacings = np.sort(np.diff(times).astype("timedelta64[ms]").astype(np.int64))
    # Two spacings are alike if both are within one jitter of a cadence.
    ends = np.searchsorted(spacings, spacings * (1 + 2 * MOST_JITTER), side="right")
    first = int(np.argmax(ends - np.arange(len(spacings))))
    alike = spacings[first : ends[first]]
    cadence = int(alike[(len(alike) - 1) // 2])
    second = round(cadence, -3)
    if alike[0] != alike[-1] and abs(second - cadence) <= MOST_JITTER / 5 * cadence:
        cadence = second
    return np.timedelta64(cadence, "ms")


def most_jitter(cadence: np.timedelta64) -> np.timedelta64:
    """Return the largest difference of a spacing from the cadence, timedelta64[ms]."""
    return MOST_JITTER * np.timedelta64(cadence, "ms")


def is_spaced_by(spacings: np.ndarray, cadence: np.timedelta64) -> np.ndarray:
    """Return whether each spacing, timedelta64, differs from the cadence by at most `MOST_JITTER` of the cadence."""
    return np.abs(spacings - cadence) <= most_jitter(cadence)


def nearest_steps(times: np.ndarray, wanted: np.ndarray, cadence: np.timedelta64) -> np.ndarray:
    """Return the (N,) int step at each wanted time, or -1 if no step is within `MOST_JITTER` of a cadence.

    Args:
        times: (T,) datetime64, increasing, T >= 1.
        wanted: (N,) datetime64.
        cadence: timedelta64.
    """
    after = np.searchsorted(times, wanted).clip(max=len(times) - 1)
    before = (after - 1).clip(min=0)
    nearest = np.where(np.abs(wanted - times[before]) < np.abs(wanted - times[after]), before, after)
    return np.where(np.abs(wanted - times[nearest]) <= most_jitter(cadence), nearest, -1)


def _is_astropy_time(value: object) -> bool:
    # astropy may not be installed.
    return any(kind.__module__.startswith("astropy.time") and kind.__name__ == "Time" for kind in type(value).__mro__)


def _tai(times, owner: str) -> np.ndarray:
    """Return an astropy `Time` as datetime64[ns]."""
    if times.scale not in _TIME_SCALES:
        raise SolaredError(
            f"{owner} has times on the scale {times.scale!r}. Give them in TAI, as `times.tai`, or in UTC."
        )
    return np.ma.asarray(times.tai.datetime64)


def _from_text(texts: np.ndarray, owner: str) -> np.ndarray:
    """Return texts as datetime64, with the unit of the most precise text."""
    zoned = next(filter(_ZONE.search, texts.ravel().tolist()), None)
    if zoned is not None:
        raise _zoned(zoned, owner)
    try:
        return texts.astype("datetime64")
    except ValueError as error:
        raise SolaredError(f"{owner} has times that numpy cannot read, such as {texts.flat[0]!s}. {_CURE}.") from error


def _from_objects(items: np.ndarray, owner: str) -> np.ndarray:
    """Return objects as datetime64, with the unit of the most precise object."""
    moments: list[np.datetime64] = []
    for item in items.tolist():
        if getattr(item, "tzinfo", None) is not None:
            raise _zoned(item, owner)
        if _is_astropy_time(item):
            moments.extend([np.datetime64("NaT")] if item.masked else np.atleast_1d(np.ma.getdata(_tai(item, owner))))
        elif hasattr(item, "to_datetime64"):
            moments.append(item.to_datetime64())
        elif isinstance(item, str):
            moments.extend(_from_text(np.array([item]), owner))
        elif isinstance(item, np.datetime64 | date | None):
            moments.append(np.datetime64("NaT" if item is None else item))
        else:
            raise SolaredError(f"{owner} has times such as {item!r:.60}. {_CURE}.")
    return np.array(moments, dtype="datetime64" if moments else "datetime64[ms]")


def _zoned(item: object, owner: str) -> SolaredError:
    return SolaredError(
        f"{owner} has times with a time zone, such as {item}, but the times of steps are naive TAI, 37 s ahead of UTC "
        "since 2017. Give `astropy.time.Time(times)`, which is converted to TAI."
    )
