"""Select the active regions that qualify by three rules, from NOAA's daily Solar Region Summaries (SRS).

A region qualifies if it emerged within 30 degrees of the central meridian, lived at least 4 days and grew to at least
200 millionths of a hemisphere. A report lists the regions with spots (I), the plages without (IA) and the regions due
to return from the far side (II); its positions hold for 24 UT of the day before it is issued.

Reports are typed by hand, so repeated statements are compared: dates, positions, and positions from day to day. A
typing error that most statements contradict is corrected and reported in `notes`. A region is rejected if its first
position stays unclear. A report whose day stays unclear is an error.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from sunpy.io.special.srs import read_srs

from dataset_builder.noaa.region_positions import central_meridian, is_spike, reconcile, shared_offset
from dataset_builder.noaa.report_dates import report_day
from solared_hf.errors import SolaredError
from solared_hf.files import write_atomically
from solared_hf.schema import NOAA_FACTS

LARGEST_LONGITUDE = 30.0
SHORTEST_LIFETIME_DAYS = 4
SMALLEST_AREA = 200.0
# A region that is absent from more reports than this has ended. If the number returns, a new life of it begins.
LONGEST_ABSENCE_DAYS = 3
# A region cannot be visible for longer than this at a time, even if reports are missing.
LONGEST_VISIBLE_DAYS = 15

# Why a region does not qualify; the column `reason` joins them with "; ".
NO_SPOTS = "never reported with spots"
SEEN_BEFORE = "reported before its first spots, as a plage or as due to return"
NO_DAY_BEFORE = "no report of the day before its first spots, so its emergence was not observed"
FAR_FROM_CENTRE = f"first spots more than {LARGEST_LONGITUDE:g} degrees from the central meridian"
SHORT_LIVED = f"lifetime below {SHORTEST_LIFETIME_DAYS} days"
CUT_SHORT = f"less than {SHORTEST_LIFETIME_DAYS} days old when the reports end or pause"
CONTRADICTORY = "the reports contradict each other about where its first spots are"
SMALL = f"largest area below {SMALLEST_AREA:g} millionths of a hemisphere"

_DAY = timedelta(days=1)
_HALE_CLASSES = {"Alpha", "Beta", "Gamma", "Delta"}
# Reports give the last four digits of a number. This line through 10000 in June 2002 follows the numbers from 7900 in
# 1996 to 14500 in 2026. An error of up to 5000 does not matter.
_DAY_OF_10000, _REGIONS_A_YEAR = date(2002, 6, 14), 220

_INCOMPLETE = "a header or one of the sections I, IA and II is missing or incomplete"

# The columns of sunpy's table and our names for them.
_COLUMNS = {
    "ID": "kind",
    "Number": "ar_number",
    "Latitude": "latitude",
    "Longitude": "longitude",
    "Carrington Longitude": "carrington_longitude",
    "Area": "area",
    "Mag Type": "hale_class",
}
_TYPES = {"kind": pa.string(), "ar_number": pa.int32(), "hale_class": pa.string()}
_ROW_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in _COLUMNS.values()])


@dataclass(frozen=True)
class ReportedRegion:
    """One row of a report; a value is None if this kind of row does not hold it.

    Args:
        kind: "I" for a region with spots, "IA" for a plage without spots, "II" for a region due to return.
        ar_number: NOAA active region number, in full.
        latitude: degrees, north positive.
        longitude: Stonyhurst longitude in degrees, west positive.
        carrington_longitude: degrees.
        area: millionths of a solar hemisphere.
        hale_class: magnetic class, such as "Beta-Gamma".
    """

    kind: str
    ar_number: int
    latitude: float | None = None
    longitude: float | None = None
    carrington_longitude: float | None = None
    area: float | None = None
    hale_class: str | None = None


@dataclass(frozen=True)
class Report:
    """One Solar Region Summary.

    Args:
        source: the file of the report, for messages.
        issued: time of issue, UTC.
        day: the positions hold at 0 UT of this day, which is usually the day of issue.
        regions: the rows, in the order of the report.
        corrected: True if the report says that it is a corrected copy.
        notes: sentences about wrong dates in the report.
    """

    source: str
    issued: datetime
    day: date
    regions: tuple[ReportedRegion, ...]
    corrected: bool = False
    notes: tuple[str, ...] = ()


def selection_features() -> Features:
    """Return the columns of the file that `solared select` writes: one row per region, null for unknown values.

    `reason` names every failed rule and is empty for a `selected` region. Longitude, latitude and time are those of
    the first spots: Carrington and Stonyhurst degrees, north and west positive, and UTC. `noaa_area` is the largest
    area, in millionths of a solar hemisphere, and the Hale class is the class on that day. The lifetime runs from the
    first to the last report with spots or as a plage, and `reports` counts these reports. A region that is absent from
    more than 3 reports and returns has several lives; the life with the first spots counts. `notes` lists
    contradictions between the reports and the values that are used, and is empty if the reports agree.
    """
    return Features(
        {
            "ar_number": Value("int32"),
            "selected": Value("bool"),
            "reason": Value("string"),
            "carrington_longitude": Value("float64"),
            **NOAA_FACTS,
            "first_report": Value("date32"),
            "last_report": Value("date32"),
            "reports": Value("int32"),
            "notes": Value("string"),
        }
    )


def read_reports(folder: Path | str, progress: Callable[[Sequence[Path]], Iterable[Path]] = iter) -> list[Report]:
    """Read every `*SRS.txt` in `folder` and its subfolders, in upper or lower case, in the order of the names.

    Args:
        folder: the folder of the reports.
        progress: wraps the iteration over the files, like `tqdm`.

    Raises:
        SolaredError: If `folder` does not hold reports, or reports cannot be read. The message names all of these.
    """
    paths = sorted(
        path for path in Path(folder).rglob("*") if path.name.lower().endswith("srs.txt") and path.is_file()
    )
    if not paths:
        raise SolaredError(
            f"{folder} does not hold Solar Region Summaries. Name the folder that holds NOAA's files, such as "
            "20150306SRS.txt, directly or in subfolders."
        )
    reports, bad = [], []
    for path in progress(paths):
        try:
            reports.append(_read_report(path))
        except SolaredError as error:
            bad.append(str(error))
    meridian = central_meridian(sorted({report.day for report in reports}))
    for report in reports:
        offset = shared_offset(report.regions, meridian[report.day])
        if offset is not None:
            bad.append(
                f"{report.source}: the longitudes of all regions differ from Lo by {offset:+.0f} degrees, so the "
                f"positions are not of {report.day}"
            )
    if bad:
        raise SolaredError(
            f"{len(bad)} of {len(paths)} files are not complete Solar Region Summaries. Download them again, correct "
            "the text, or move them out of the folder; the days of moved files count as days without a report:\n"
            + "\n".join(bad)
        )
    return reports


def select_regions(reports: Iterable[Report]) -> pa.Table:
    """Apply the rules to every region in the reports.

    Args:
        reports: the reports in any order. Of two reports for one day, the later one counts.

    Returns:
        A table with the columns of `selection_features`, one row per region, by ascending AR number.

    Raises:
        SolaredError: If two reports for one day were issued at the same time and differ.

    >>> spots = ReportedRegion("I", 11158, latitude=-20.0, longitude=-25.0, area=250.0, hale_class="Beta")
    >>> quiet = Report("10.txt", datetime(2011, 2, 10), date(2011, 2, 10), ())
    >>> days = [Report(f"{n}.txt", datetime(2011, 2, n), date(2011, 2, n), (spots,)) for n in (11, 12, 13, 14)]
    >>> select_regions([quiet, *days]).select(["ar_number", "selected", "noaa_lifetime_days"]).to_pylist()
    [{'ar_number': 11158, 'selected': True, 'noaa_lifetime_days': 4}]
    """
    daily = _one_report_a_day(reports)
    history: defaultdict[int, list[tuple[date, ReportedRegion]]] = defaultdict(list)
    for day, report in daily.items():
        for region in report.regions:
            history[region.ar_number].append((day, region))
    meridian = central_meridian(list(daily))
    rows = []
    for number in sorted(history):
        date_notes = [f"{day}: {note}" for day, _ in history[number] for note in daily[day].notes]
        kept, position_notes, doubtful = reconcile(history[number], meridian)
        facts, size_notes = _apply_rules(kept, daily.keys(), doubtful)
        rows.append({"ar_number": number, **facts, "notes": "; ".join([*date_notes, *position_notes, *size_notes])})
    return pa.Table.from_pylist(rows, schema=selection_features().arrow_schema)


def write_selection(table: pa.Table, path: Path | str) -> None:
    """Write the table of `select_regions` as a Parquet file that `datasets` reads with its features.

    Args:
        table: a table with the columns of `selection_features`.
        path: the file to write; an existing file is replaced.

    Raises:
        SolaredError: If the file cannot be written.
    """
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    write_atomically(path, content.getvalue())


def _apply_rules(
    history: list[tuple[date, ReportedRegion]], days: Collection[date], doubtful: Collection[date]
) -> tuple[dict, list[str]]:
    """Return the facts of one region with every failed rule, and notes on values that are not used.

    Args:
        history: the rows of the region by ascending day.
        days: the days that have a report.
        doubtful: the days whose position cannot be trusted.
    """
    with_spots = [(day, region) for day, region in history if region.kind == "I"]
    lives = _lives(sorted({day for day, region in history if region.kind != "II"}), days)
    facts: dict[str, Any] = {}
    reasons, notes = [], []
    if with_spots:
        first_day, first = with_spots[0]
        assert first.longitude is not None  # rows with spots hold every value
        reported = next(life for life in lives if first_day in life)
        with_spots = [(day, region) for day, region in with_spots if day in reported]
        areas = [(day, region.area) for day, region in with_spots if region.area is not None]
        spikes = [index for index in range(len(areas)) if is_spike(areas, index)]
        notes += [
            f"{areas[index][0]}: the area {areas[index][1]:.0f} is many times that of the days around and is not used"
            for index in spikes
        ]
        # Of equal areas the first counts.
        used = [index for index in range(len(areas)) if index not in spikes]
        largest_index = max(used, key=lambda index: areas[index][1])
        largest_day, largest_area = areas[largest_index]
        hale_class = with_spots[largest_index][1].hale_class
        if hale_class is not None and not set(hale_class.split("-")) <= _HALE_CLASSES:
            notes.append(f"{largest_day}: {hale_class} is not a magnetic class")
            hale_class = None
        facts = {
            "carrington_longitude": first.carrington_longitude,
            "noaa_latitude": first.latitude,
            "noaa_longitude": first.longitude,
            "noaa_emergence_time": datetime.combine(first_day, time()),
            "noaa_area": largest_area,
            "noaa_hale_class": hale_class,
        }
        if history[0][0] < first_day:
            reasons.append(SEEN_BEFORE)
        if first_day - _DAY not in days:
            reasons.append(NO_DAY_BEFORE)
        if abs(first.longitude) > LARGEST_LONGITUDE:
            reasons.append(FAR_FROM_CENTRE)
        if first_day in doubtful:
            reasons.append(CONTRADICTORY)
        if largest_area < SMALLEST_AREA:
            reasons.append(SMALL)
    else:
        reported = lives[0]
        reasons.append(NO_SPOTS)
    if reported:
        lifetime = (reported[-1] - reported[0]).days + 1
        facts |= {"noaa_lifetime_days": lifetime, "first_report": reported[0], "last_report": reported[-1]}
        if lifetime < SHORTEST_LIFETIME_DAYS:
            reasons.append(SHORT_LIVED if reported[-1] + _DAY in days else CUT_SHORT)
    return {"selected": not reasons, "reason": "; ".join(reasons), "reports": len(reported), **facts}, notes


def _lives(reported: list[date], days: Collection[date]) -> list[list[date]]:
    """Split the ascending days on which a region is reported where too many reports in between lack the region.

    The result is one empty list if `reported` is empty.
    """
    lives = [reported[:1]]
    for day in reported[1:]:
        last = lives[-1][-1]
        apart = (day - last).days
        absent = sum(last + n * _DAY in days for n in range(1, apart))
        if absent > LONGEST_ABSENCE_DAYS or apart > LONGEST_VISIBLE_DAYS:
            lives.append([])
        lives[-1].append(day)
    return lives


def _one_report_a_day(reports: Iterable[Report]) -> dict[date, Report]:
    """Return the latest report of each day, by ascending day; of two issued at the same time, the corrected copy."""
    by_day: defaultdict[date, list[Report]] = defaultdict(list)
    for report in reports:
        by_day[report.day].append(report)
    chosen, clashes = {}, []
    for day, candidates in sorted(by_day.items()):
        last = max((report.issued, report.corrected) for report in candidates)
        latest = [report for report in candidates if (report.issued, report.corrected) == last]
        chosen[day] = latest[0]
        clashes += [
            f"{latest[0].source} and {report.source}" for report in latest[1:] if report.regions != latest[0].regions
        ]
    if clashes:
        raise SolaredError(
            "Reports issued at the same time differ. Move the wrong reports out of the folder:\n" + "\n".join(clashes)
        )
    return chosen


def _read_report(path: Path) -> Report:
    try:
        table = read_srs(path)
    except OSError as error:
        raise SolaredError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        # Reports are ASCII. Other bytes are damage, and a guess at them could change a number.
        raise SolaredError(f"{path}: the byte 0x{error.object[error.start]:02x} is not text") from error
    except Exception as error:  # sunpy's reader raises exceptions of any type for text in another form
        raise SolaredError(f"{path}: {_INCOMPLETE}") from error
    # sunpy 8 takes a title that is joined to the first row, like "Lo1704", for the title of an empty section.
    if any(character.isdigit() for name in table.colnames for character in name):
        raise SolaredError(f"{path}: {_INCOMPLETE}")
    corrected = table.meta.get("corrected", False)
    try:
        day, issued, notes = report_day(path, table.meta["header"], table.meta["issued"], corrected)
        frame = table.to_pandas()[list(_COLUMNS)].set_axis(_COLUMNS.values(), axis="columns")
        rows = pa.Table.from_pandas(frame, schema=_ROW_SCHEMA, preserve_index=False).to_pylist()
        regions = tuple(_reported_region(row, day) for row in rows)
        twice = [number for number, count in Counter(region.ar_number for region in regions).items() if count > 1]
        if twice:
            raise ValueError(f"the report has several rows for region {twice[0]}")
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise SolaredError(f"{path}: {error.args[0]}") from error
    return Report(str(path), issued, day, regions, corrected, tuple(notes))


def _reported_region(row: dict, day: date) -> ReportedRegion:
    if row["ar_number"] is None:
        raise ValueError(f"a row of section {row['kind']} lacks the number")
    number = _full_number(row["ar_number"], day)
    if row["kind"] == "I" and None in row.values():
        missing = ", ".join(name for name, value in row.items() if value is None)
        raise ValueError(f"the row for region {number} lacks a readable {missing}")
    for name, most in (("latitude", 90), ("longitude", 180)):
        if row[name] is not None and abs(row[name]) > most:
            raise ValueError(f"the row for region {number} has the {name} {row[name]:g}, beyond {most} degrees")
    if row["hale_class"] is not None:
        row["hale_class"] = row["hale_class"].title()
    if row["carrington_longitude"] is not None:
        row["carrington_longitude"] %= 360
    return ReportedRegion(**{**row, "ar_number": number})


def _full_number(number: int, day: date) -> int:
    """Return the AR number with the last four digits of `number` that fits the date.

    sunpy adds 10000 to every number after June 14, 2002, even to 9997.
    """
    expected = 10_000 + (day - _DAY_OF_10000).days / 365.25 * _REGIONS_A_YEAR
    return number + 10_000 * round((expected - number) / 10_000)
