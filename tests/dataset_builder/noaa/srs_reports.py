"""Write Solar Region Summaries in the form of NOAA."""

import re
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path

from astropy.time import Time
from sunpy.coordinates import sun

HEADER = """\
:Product: {day:%m%d}SRS.txt
:Issued: {issued:%Y %b %d %H%M} UTC
# Prepared jointly by the U.S. Dept. of Commerce, NOAA,
# Space Weather Prediction Center and the U.S. Air Force.
#
Joint USAF/NOAA Solar Region Summary
{corrected}SRS Number {day_of_year} Issued at 0030Z on {day:%d %b %Y}
Report compiled from data received at SWO on {before:%d %b}
I.  Regions with Sunspots.  Locations Valid at {before:%d}/2400Z 
Nmbr Location  Lo  Area  Z   LL   NN Mag Type
{spots}
IA. H-alpha Plages without Spots.  Locations Valid at {before:%d}/2400Z {before:%b}
Nmbr  Location  Lo
{plages}
II. Regions Due to Return {day:%d %b} to {last:%d %b}
Nmbr Lat    Lo
{due}
"""  # noqa: W291, NOAA writes the trailing space


# Placeholder for the Carrington longitude that follows from the longitude and the day of the report.
LO = "LO?"


def spots(number: int, place: str = "N05W10", area: int = 250, hale: str = "Beta", lo: str = LO) -> str:
    return f"{number % 10_000:04} {place}   {lo}  {area:04} Cao  10   09 {hale}"


def plage(number: int, place: str = "N05W14") -> str:
    return f"{number % 10_000:04}  {place}   {LO}"


def due(number: int, latitude: str = "N05") -> str:
    return f"{number % 10_000:04} {latitude}    185"


def moved(place: str, days: int) -> str:
    """Return the place of a region some days later, after the Sun has rotated."""
    latitude, east_or_west, longitude = re.fullmatch(r"([NS]\d\d)([EW])(\d\d)", place).groups()
    west = round((1 if east_or_west == "W" else -1) * int(longitude) + 13.2 * days)
    return f"{latitude}{'W' if west >= 0 else 'E'}{abs(west):02}"


def daily(number: int, days, place: str = "N05W10", **options) -> dict[int, str]:
    """Return the rows of a region by day of the month; `place` is the place on the first day."""
    return {day: spots(number, moved(place, day - days[0]), **options) for day in days}


@cache
def meridian(day: date) -> float:
    """Return the Carrington longitude of the central meridian at 0 UT, in degrees."""
    return sun.L0(Time(day.isoformat())).deg


def with_lo(row: str, day: date) -> str:
    """Return a row with the Carrington longitude of its place on a day."""
    match = re.search(r"([EW])(\d+)\s+" + re.escape(LO), row)
    if not match:
        return row
    longitude = round(meridian(day) + (1 if match[1] == "W" else -1) * int(match[2])) % 360
    return row.replace(LO, f"{longitude:03}")


def report_text(day: date, rows=(), issued: datetime | None = None, corrected: bool = False) -> str:
    """Return the text of a report for `day`; the form of a row decides its section."""
    rows = [with_lo(row, day) for row in rows]
    sections = {length: [row for row in rows if len(row.split()) == length] for length in (8, 3)}
    returning = [row for row in sections[3] if len(row.split()[1]) == 3]
    plages = [row for row in sections[3] if row not in returning]
    return HEADER.format(
        day=day,
        day_of_year=day.timetuple().tm_yday,
        before=day - timedelta(days=1),
        last=day + timedelta(days=2),
        issued=issued or datetime(day.year, day.month, day.day, 0, 30),
        corrected="::::::::::Corrected Copy::::::::::\n" if corrected else "",
        spots="\n".join(sections[8]) or "None",
        plages="\n".join(plages) or "None",
        due="\n".join(returning) or "None",
    )


def write_report(folder: Path, day: date, rows=(), name: str = "", **options) -> Path:
    path = folder / f"{day:%Y}" / f"{day:%Y%m%d}{name}SRS.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_text(day, rows, **options))
    return path


def write_lives(folder: Path, lives: dict[int, dict[int, str]], days, start: date = date(2013, 4, 1)) -> None:
    """Write a report for each of `days` of the month; `lives` holds the rows of each region by day."""
    for day in days:
        write_report(folder, start.replace(day=day), [life[day] for life in lives.values() if day in life])
