"""Compare the positions in the reports, because each row states the longitude twice and each day states it again.

A row states the latitude and the longitude from the central meridian (`N12E04`), and the Carrington longitude (`Lo`).
The two longitudes differ by the longitude L0 of the central meridian, and a region stays within a few degrees of its
place. So a typing error contradicts the other statements, and is corrected if most of them agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.time import Time
from sunpy.coordinates import sun

if TYPE_CHECKING:
    from dataset_builder.noaa.selection import ReportedRegion

# Both longitudes of a row are rounded to whole degrees.
ROUNDING_DEGREES = 2.0
# How far a region moves and grows within the compared days, which is how far its rows may disagree.
REGION_DEGREES = 10.0
COMPARED_DAYS = 5
# A contradiction between `ROUNDING_DEGREES` and this that cannot be resolved is noted, but the row is used.
SMALL_DEGREES = 5.0
LATITUDE_DEGREES = 5.0
# An area is a spike if it is more than this factor times the areas of the days around it. Smaller areas than the
# second value, in millionths of a hemisphere, do not matter for the selection.
SPIKE_FACTOR, SPIKE_AREA = 5.0, 200.0

Rows = Sequence[tuple[date, "ReportedRegion"]]


def central_meridian(days: Sequence[date]) -> dict[date, float]:
    """Return L0, the Carrington longitude of the central meridian from the Earth, in degrees, at 0 UT of each day."""
    if not days:
        return {}
    return dict(zip(days, sun.L0(Time([day.isoformat() for day in days])).deg.tolist(), strict=True))


def reconcile(history: Rows, meridian: Mapping[date, float]) -> tuple[list, list[str], set[date]]:
    """Compare the positions of one region from day to day, and correct clear typing errors.

    Args:
        history: the rows of the region by ascending day. Rows without both longitudes are kept unchanged.
        meridian: L0 of the days of the rows, in degrees.

    Returns:
        The rows, in the same form, without rows that clearly belong to another region; a sentence for each
        contradiction; and the days whose row is wrong by more than a few degrees in a way that cannot be resolved.
    """
    kept, notes, doubtful = [], [], set()
    for day, row in history:
        longitudes = _carrington_longitudes(row, meridian[day])
        if longitudes is None:
            kept.append((day, row))
            continue
        others = [(other_day, other) for other_day, other in history if other_day != day]
        verdict = _judge_longitudes(day, longitudes, others, meridian)
        latitude_verdict = _judge_latitude(row.latitude, others)
        for judged in (verdict, latitude_verdict):
            if judged.note:
                notes.append(f"{day}: {judged.note}")
            if judged.doubtful:
                doubtful.add(day)
        if not verdict.other_region:
            kept.append((day, replace(row, **verdict.corrections, **latitude_verdict.corrections)))
    return kept, notes, doubtful


def shared_offset(rows: Sequence["ReportedRegion"], meridian: float) -> float | None:
    """Return by how many degrees the two longitudes of all rows of a report differ alike, or None if they do not.

    A shared offset means that the report is of another day, because L0 falls by 13.2 degrees a day.

    Args:
        rows: the rows of the report. At least two rows need both longitudes.
        meridian: L0 of the day of the report, in degrees.
    """
    longitudes = (_carrington_longitudes(row, meridian) for row in rows)
    offsets = [_apart(*pair) for pair in longitudes if pair is not None]
    if len(offsets) < 2:
        return None
    first = offsets[0]
    alike = all(abs(_apart(offset, first)) <= 2 * ROUNDING_DEGREES for offset in offsets)
    return first if alike and min(map(abs, offsets)) > SMALL_DEGREES else None


def is_spike(areas: Sequence[tuple[date, float]], index: int) -> bool:
    """Return True if an area is many times the areas of the previous and the next report, at most two days away.

    Args:
        areas: day and area in millionths of a hemisphere, by ascending day.
        index: index of the area to judge.
    """
    if not 0 < index < len(areas) - 1 or areas[index][1] < SPIKE_AREA:
        return False
    day, area = areas[index]
    around = [areas[index - 1], areas[index + 1]]
    near = all(abs((other - day).days) <= 2 for other, _ in around)
    return near and area > SPIKE_FACTOR * max(other for _, other in around)


class _Verdict:
    """Result of judging a row.

    Args:
        note: a sentence about a contradiction, or empty.
        doubtful: True if the position cannot be trusted.
        other_region: True if the row belongs to another region.
        corrections: corrected fields of the row.
    """

    def __init__(self, note: str = "", doubtful: bool = False, other_region: bool = False, **corrections: Any):
        self.note, self.doubtful, self.other_region, self.corrections = note, doubtful, other_region, corrections


def _carrington_longitudes(row: "ReportedRegion", meridian: float) -> tuple[float, float] | None:
    """Return the Carrington longitudes by `Lo` and by the location, in degrees, or None if the row lacks one."""
    if row.carrington_longitude is None or row.longitude is None:
        return None
    return row.carrington_longitude, (row.longitude + meridian) % 360


def _judge_longitudes(
    day: date, longitudes: tuple[float, float], others: Rows, meridian: Mapping[date, float]
) -> _Verdict:
    near = [
        pair
        for other_day, other in others
        if abs((other_day - day).days) <= COMPARED_DAYS
        and (pair := _carrington_longitudes(other, meridian[other_day])) is not None
    ]
    stated = [longitude for pair in near for longitude in pair]
    by_lo, by_location = longitudes
    difference = abs(_apart(by_lo, by_location))
    if difference <= ROUNDING_DEGREES:
        return _judge_place(by_lo, len(near), stated)
    contradiction = (
        f"Lo {by_lo:03.0f} and longitude {_apart(by_location, meridian[day]):+.0f} contradict each other by "
        f"{difference:.0f} degrees"
    )
    for_lo, for_location = (_distances_of_close(place, stated) for place in longitudes)
    # The longitude with more supporting statements is right, or else the one that is closer to them in degrees.
    balance: float = len(for_lo) - len(for_location)
    if balance == 0 and for_lo:
        balance = abs(float(np.mean(for_location))) - abs(float(np.mean(for_lo)))
    if abs(balance) < 1:
        return _Verdict(contradiction, doubtful=difference > SMALL_DEGREES)
    if balance < 0:
        right = round(by_location) % 360
        return _Verdict(f"{contradiction}; by the other days, Lo is {right:03}", carrington_longitude=float(right))
    right = round(_apart(by_lo, meridian[day]))
    return _Verdict(f"{contradiction}; by the other days, the longitude is {right:+}", longitude=float(right))


def _judge_place(place: float, near: int, stated: Sequence[float]) -> _Verdict:
    """Judge a row whose two longitudes agree.

    Args:
        place: Carrington longitude of the row, in degrees.
        near: number of rows of other days that are compared.
        stated: the Carrington longitudes that these rows state, in degrees.
    """
    elsewhere = [longitude for longitude in stated if abs(_apart(longitude, place)) > 1.5 * REGION_DEGREES]
    against = max((len(_distances_of_close(longitude, elsewhere)) for longitude in elsewhere), default=0)
    in_favour = 2 + len(stated) - len(elsewhere)
    if against < in_favour:
        return _Verdict()
    note = f"the Carrington longitude {place:03.0f} contradicts that of other days"
    if against > in_favour and near > 1:
        return _Verdict(f"{note}; the row is left out because it belongs to another region", other_region=True)
    return _Verdict(note, doubtful=True)


def _judge_latitude(latitude: float | None, others: Rows) -> _Verdict:
    latitudes = [other.latitude for _, other in others if other.latitude is not None]
    if latitude is None or not latitudes:
        return _Verdict()
    median = float(np.median(latitudes))
    agree = [other for other in latitudes if abs(other - median) <= LATITUDE_DEGREES]
    if abs(latitude - median) <= LATITUDE_DEGREES:
        return _Verdict()
    contradiction = f"the latitude {latitude:+.0f} contradicts that of other days, {median:+.0f}"
    if len(agree) < 2 or len(agree) <= len(latitudes) / 2:
        return _Verdict(contradiction, doubtful=True)
    # A wrong sign, swapped digits, or both.
    tens, ones = divmod(abs(latitude), 10)
    sign = 1 if latitude >= 0 else -1
    slips = (-latitude, sign * (10 * ones + tens), -sign * (10 * ones + tens))
    right = next((slip for slip in slips if abs(slip - median) <= LATITUDE_DEGREES), median)
    return _Verdict(f"{contradiction}; {right:+.0f} is used", latitude=float(round(right)))


def _distances_of_close(place: float, longitudes: Sequence[float]) -> list[float]:
    """Return how far west of `place` the longitudes within `REGION_DEGREES` of it are, in degrees."""
    return [apart for longitude in longitudes if abs(apart := _apart(longitude, place)) <= REGION_DEGREES]


def _apart(longitude: float, other: float) -> float:
    """Return how far `longitude` is west of `other`, -180 to 180 degrees."""
    return (longitude - other + 180) % 360 - 180
