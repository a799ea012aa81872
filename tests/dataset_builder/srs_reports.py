"""Solar Region Summaries as NOAA writes them."""

from datetime import date, datetime, timedelta
from pathlib import Path

HEADER = """\
:Product: {day:%m%d}SRS.txt
:Issued: {issued:%Y %b %d %H%M} UTC
# Prepared jointly by the U.S. Dept. of Commerce, NOAA,
# Space Weather Prediction Center and the U.S. Air Force.
#
Joint USAF/NOAA Solar Region Summary
{corrected}SRS Number 65 Issued at 0030Z on {day:%d %b %Y}
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
"""  # noqa: W291, as NOAA writes it


def spots(number: int, place: str = "N05W10", area: int = 250, hale: str = "Beta", carrington: int = 342) -> str:
    return f"{number % 10_000:04} {place}   {carrington:03}  {area:04} Cao  10   09 {hale}"


def plage(number: int) -> str:
    return f"{number % 10_000:04}  S08W14   013"


def due(number: int) -> str:
    return f"{number % 10_000:04} S08    185"


def report_text(day: date, rows=(), issued: datetime | None = None, corrected: bool = False) -> str:
    """A report as NOAA writes it for `day`; the form of a row says which section it belongs to."""
    sections = {length: [row for row in rows if len(row.split()) == length] for length in (8, 3)}
    returning = [row for row in sections[3] if len(row.split()[1]) == 3]
    plages = [row for row in sections[3] if row not in returning]
    return HEADER.format(
        day=day,
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
    """A report for each of `days` of the month; `lives` gives the rows of a region by day."""
    for day in days:
        write_report(folder, start.replace(day=day), [life[day] for life in lives.values() if day in life])
