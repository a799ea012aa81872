"""Whether reports agree on where a region is: each row says it twice, and so does every day.

A row states the latitude and the longitude from the central meridian (`N12E04`), and the Carrington longitude (`Lo`).
The two longitudes differ by that of the central meridian, L0, and a region stays within a few degrees of its place. So
a typing error is told from what the other statements agree on, and put right where most of them do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from astropy.time import Time
from sunpy.coordinates import sun

if TYPE_CHECKING:
    from dataset_builder.noaa.selection import ReportedRegion

# Both longitudes of a row are whole degrees.
ROUNDING_DEGREES = 2.0
# What a region moves and grows in the days that are compared, and how far its rows at most disagree.
REGION_DEGREES = 10.0
COMPARED_DAYS = 5
# Between these and `ROUNDING_DEGREES`, two statements that cannot be judged are told and let stand.
SMALL_DEGREES = 5.0
LATITUDE_DEGREES = 5.0
# An area that is so many times that of the days around it, in millionths of a hemisphere, if it would matter.
SPIKE_FACTOR, SPIKE_AREA = 5.0, 200.0

Rows = Sequence[tuple[date, "ReportedRegion"]]


def central_meridian(days: Sequence[date]) -> dict[date, float]:
    """Carrington longitude of the central meridian seen from the Earth, L0, at 0 UT of some days, in degrees."""
    if not days:
        return {}
    return dict(zip(days, sun.L0(Time([day.isoformat() for day in days])).deg.tolist(), strict=True))


def reconcile(history: Rows, meridian: Mapping[date, float]) -> tuple[list, list[str], set[date]]:
    """Compare the positions of one region from day to day, and put right what is clearly a typing error.

    Args:
        history: its rows, by ascending day; those without a position are let be.
        meridian: L0 of the days of the rows with both longitudes, in degrees.

    Returns:
        The rows, in the same form, without those that are clearly of another region; a sentence for each
        contradiction; and the days of the rows that contradict themselves or others by more than a few degrees, where
        it cannot be told which is right.
    """
    kept, notes, doubtful = [], [], set()
    for day, row in history:
        if row.longitude is None or row.carrington_longitude is None:
            kept.append((day, row))
            continue
        others = [(other, one) for other, one in history if other != day]
        longitudes = _judge_longitudes(day, row, others, meridian)
        latitude = _judge_latitude(row, others)
        for judged in (longitudes, latitude):
            if judged.note:
                notes.append(f"{day}: {judged.note}")
            if judged.doubtful:
                doubtful.add(day)
        if not longitudes.elsewhere:
            kept.append((day, replace(row, **longitudes.changes, **latitude.changes)))
    return kept, notes, doubtful


def shared_offset(rows: Sequence["ReportedRegion"], meridian: float) -> float | None:
    """By how many degrees the two longitudes of all rows of a report disagree alike; None if they do not.

    A report in which they do is of another day: L0 falls by 13.2 degrees a day.

    Args:
        rows: of the report; at least two with both longitudes are needed.
        meridian: L0 of the day that the report seems to be of, in degrees.
    """
    offsets = [
        _apart(row.carrington_longitude, row.longitude + meridian)
        for row in rows
        if None not in (row.longitude, row.carrington_longitude)
    ]
    if len(offsets) < 2:
        return None
    middle = offsets[0]
    alike = all(abs(_apart(offset, middle)) <= 2 * ROUNDING_DEGREES for offset in offsets)
    return middle if alike and min(map(abs, offsets)) > SMALL_DEGREES else None


def is_spike(areas: Sequence[tuple[date, float]], index: int) -> bool:
    """Whether an area is many times those of the reports before and after it, each at most two days away.

    Args:
        areas: day and area in millionths of a hemisphere, by ascending day.
        index: which of them.
    """
    if not 0 < index < len(areas) - 1 or areas[index][1] < SPIKE_AREA:
        return False
    day, area = areas[index]
    around = [areas[index - 1], areas[index + 1]]
    near = all(abs((other - day).days) <= 2 for other, _ in around)
    return near and area > SPIKE_FACTOR * max(other for _, other in around)


class _Judged:
    """What is found of a row: fields to change, a sentence, and whether it is doubtful or of another region."""

    def __init__(self, note: str = "", doubtful: bool = False, elsewhere: bool = False, **changes: float):
        self.note, self.doubtful, self.elsewhere, self.changes = note, doubtful, elsewhere, changes


def _judge_longitudes(day: date, row: "ReportedRegion", others: Rows, meridian: Mapping[date, float]) -> _Judged:
    near = [
        (other, one)
        for other, one in others
        if abs((other - day).days) <= COMPARED_DAYS and None not in (one.longitude, one.carrington_longitude)
    ]
    said = [x for other, one in near for x in (one.carrington_longitude, (one.longitude + meridian[other]) % 360)]
    from_lo, from_location = row.carrington_longitude, (row.longitude + meridian[day]) % 360
    own = abs(_apart(from_lo, from_location))
    if own <= ROUNDING_DEGREES:
        return _judge_place(from_lo, near, said)
    contradiction = f"Lo {from_lo:03.0f} and longitude {row.longitude:+.0f} contradict each other by {own:.0f} degrees"
    for_lo, for_location = (_alike(place, said) for place in (from_lo, from_location))
    # How much more speaks for Lo: as many statements, or else as many degrees.
    balance = len(for_lo) - len(for_location)
    if balance == 0 and for_lo:
        balance = abs(float(np.mean(for_location))) - abs(float(np.mean(for_lo)))
    if abs(balance) < 1:
        return _Judged(contradiction, doubtful=own > SMALL_DEGREES)
    if balance < 0:
        right = round(from_location) % 360
        return _Judged(f"{contradiction}; by the other days Lo is {right:03}", carrington_longitude=float(right))
    right = round(_apart(from_lo, meridian[day]))
    return _Judged(f"{contradiction}; by the other days the longitude is {right:+}", longitude=float(right))


def _judge_place(place: float, near: Rows, said: Sequence[float]) -> _Judged:
    """Judge a row that is of one mind, at a Carrington longitude, by what other days have `said`."""
    elsewhere = [one for one in said if abs(_apart(one, place)) > 1.5 * REGION_DEGREES]
    against = max((len(_alike(one, elsewhere)) for one in elsewhere), default=0)
    in_favour = 2 + len(said) - len(elsewhere)
    if against < in_favour:
        return _Judged()
    note = f"it is at Carrington longitude {place:03.0f}, where other days do not have it"
    if against > in_favour and len(near) > 1:
        return _Judged(f"{note}; the row is left out, as one of another region", elsewhere=True)
    return _Judged(note, doubtful=True)


def _judge_latitude(row: "ReportedRegion", others: Rows) -> _Judged:
    latitudes = [one.latitude for _, one in others if one.latitude is not None]
    if not latitudes:
        return _Judged()
    middle = float(np.median(latitudes))
    agree = [latitude for latitude in latitudes if abs(latitude - middle) <= LATITUDE_DEGREES]
    if abs(row.latitude - middle) <= LATITUDE_DEGREES:
        return _Judged()
    contradiction = f"the latitude {row.latitude:+.0f} contradicts that of other days, {middle:+.0f}"
    if len(agree) < 2 or len(agree) <= len(latitudes) / 2:
        return _Judged(contradiction, doubtful=True)
    tens, ones = divmod(abs(row.latitude), 10)
    sign = 1 if row.latitude >= 0 else -1
    slips = (-row.latitude, sign * (10 * ones + tens), -sign * (10 * ones + tens))
    right = next((slip for slip in slips if abs(slip - middle) <= LATITUDE_DEGREES), middle)
    return _Judged(f"{contradiction}; {right:+.0f} is taken", latitude=float(round(right)))


def _alike(place: float, longitudes: Sequence[float]) -> list[float]:
    """How far those of some longitudes are west of a place that are about there, in degrees."""
    return [apart for one in longitudes if abs(apart := _apart(one, place)) <= REGION_DEGREES]


def _apart(one: float, other: float) -> float:
    """How far one longitude is west of another, -180 to 180 degrees."""
    return (one - other + 180) % 360 - 180
