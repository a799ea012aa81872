"""Which active regions qualify: three rules on NOAA's daily Solar Region Summaries (SRS).

A region qualifies if it emerged within 30 degrees of the central meridian, lived at least 4 days and grew to at least
200 millionths of a hemisphere. A report lists the regions with spots (I), the plages without (IA) and the regions due
to return from the far side (II); its positions hold for 24 UT of the day before it is issued.

Reports are typed. What they say twice is compared: dates, positions, and what one day says with the next. A typing
error that most statements speak against is put right, and told in `notes`; a region whose first position cannot be
told is rejected, and a report whose day cannot be told is refused.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

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
# In more reports without it a region is gone, and what comes back under its number is not the same life.
LONGEST_ABSENCE_DAYS = 3
# No region is visible for longer at a time, whether there are reports or not.
LONGEST_VISIBLE_DAYS = 15

# Why a region does not qualify; the column `reason` joins them with "; ".
NO_SPOTS = "never reported with spots"
SEEN_BEFORE = "reported before its first spots, as a plage or as due to return"
NO_DAY_BEFORE = "no report of the day before its first spots, so its emergence is not seen"
FAR_FROM_CENTRE = f"first spots more than {LARGEST_LONGITUDE:g} degrees from the central meridian"
SHORT_LIVED = f"lifetime below {SHORTEST_LIFETIME_DAYS} days"
CUT_SHORT = f"less than {SHORTEST_LIFETIME_DAYS} days old when the reports end or pause"
CONTRADICTORY = "the reports contradict each other about where its first spots are"
SMALL = f"largest area below {SMALLEST_AREA:g} millionths of a hemisphere"

_DAY = timedelta(days=1)
_HALE_CLASSES = {"Alpha", "Beta", "Gamma", "Delta"}
# Reports give the last four digits of a number. These roughly follow the numbers, from 7900 in 1996 over 10000 in
# June 2002 to 14500 in 2026, and they need only be right to 5000.
_DAY_OF_10000, _REGIONS_A_YEAR = date(2002, 6, 14), 220

_NOT_WHOLE = "a header or one of the sections I, IA and II is missing or not whole"

# What sunpy calls the columns, and what we do.
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
    """One row of a report; None is what the kind of row does not carry.

    Args:
        kind: "I" with spots, "IA" plage without spots, "II" due to return.
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
        source: what to call it in messages: its file.
        issued: when it was issued, UTC.
        day: its positions hold for 0 UT of this day, on which it is issued as a rule.
        regions: its rows, in their order.
        corrected: whether it says that it is a corrected copy.
        notes: what it says of its date that is wrong.
    """

    source: str
    issued: datetime
    day: date
    regions: tuple[ReportedRegion, ...]
    corrected: bool = False
    notes: tuple[str, ...] = ()


def selection_features() -> Features:
    """Columns of the file that `solared select` writes: one row per region, null where a thing is not known.

    `reason` names every failed rule and is empty where the region is `selected`. Longitude, latitude and time are
    those of the first spots: Carrington and Stonyhurst degrees, north and west positive, and UTC. `noaa_area` is the
    largest, in millionths of a solar hemisphere, and the Hale class the one on that day. The lifetime and the reports
    are those with spots or as a plage: from the first to the last, and the number of days that have one. A region that
    is absent from more than 3 reports and returns has several lives; that of the first spots counts. `notes` says what
    its reports contradict each other in, and what was taken for right; it is empty where they agree.
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
    """Read every `*SRS.txt` in `folder` and below it, in capitals or not, in the order of their names.

    Args:
        folder: where the reports are.
        progress: wraps the files as they are read, as `tqdm` does.

    Raises:
        SolaredError: there are no reports, or some cannot be read; the message names all of those.
    """
    paths = sorted(
        path for path in Path(folder).rglob("*") if path.name.lower().endswith("srs.txt") and path.is_file()
    )
    if not paths:
        raise SolaredError(
            f"No Solar Region Summaries in {folder}; name the folder that holds NOAA's files, such as "
            "20150306SRS.txt, there or in folders below it."
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
                f"{report.source}: the longitudes of all its regions differ from their Lo by {offset:+.0f} degrees, "
                f"as on another day than {report.day}"
            )
    if bad:
        raise SolaredError(
            f"{len(bad)} of {len(paths)} files are not whole Solar Region Summaries; fetch them again, mend their "
            "text, or move them out of the folder, and their days count as days without a report:\n" + "\n".join(bad)
        )
    return reports


def select_regions(reports: Iterable[Report]) -> pa.Table:
    """Apply the rules to every region that the reports name.

    Args:
        reports: in any order; of two for one day the one issued later counts.

    Returns:
        Columns as in `selection_features`, one row per region, by ascending number.

    Raises:
        SolaredError: two reports for one day differ, and neither is later.

    >>> spots = ReportedRegion("I", 11158, latitude=-20.0, longitude=-25.0, area=250.0, hale_class="Beta")
    >>> quiet = Report("10.txt", datetime(2011, 2, 10), date(2011, 2, 10), ())
    >>> days = [Report(f"{n}.txt", datetime(2011, 2, n), date(2011, 2, n), (spots,)) for n in (11, 12, 13, 14)]
    >>> select_regions([quiet, *days]).select(["ar_number", "selected", "noaa_lifetime_days"]).to_pylist()
    [{'ar_number': 11158, 'selected': True, 'noaa_lifetime_days': 4}]
    """
    daily = _one_report_a_day(reports)
    history = defaultdict(list)
    for day, report in daily.items():
        for region in report.regions:
            history[region.ar_number].append((day, region))
    meridian = central_meridian(list(daily))
    rows = []
    for number in sorted(history):
        of_dates = [f"{day}: {note}" for day, _ in history[number] for note in daily[day].notes]
        kept, notes, doubtful = reconcile(history[number], meridian)
        facts, of_sizes = _judge(kept, daily.keys(), doubtful)
        rows.append({"ar_number": number, **facts, "notes": "; ".join([*of_dates, *notes, *of_sizes])})
    return pa.Table.from_pylist(rows, schema=selection_features().arrow_schema)


def write_selection(table: pa.Table, path: Path | str) -> None:
    """Write what `select_regions` gives as a Parquet file that `datasets` reads with its features.

    Args:
        table: columns as in `selection_features`.
        path: the file; replaced if it is there.

    Raises:
        SolaredError: the file cannot be written.
    """
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    write_atomically(path, content.getvalue())


def _judge(
    history: list[tuple[date, ReportedRegion]], days: Collection[date], doubtful: Collection[date]
) -> tuple[dict, list[str]]:
    """The facts of one region, and every rule that it fails, from its rows by ascending day; and what they lack.

    Of `doubtful` days the position is not to be trusted.
    """
    with_spots = [(day, region) for day, region in history if region.kind == "I"]
    lives = _lives(sorted({day for day, region in history if region.kind != "II"}), days)
    facts, reasons, notes = {}, [], []
    if with_spots:
        first_day, first = with_spots[0]
        reported = next(life for life in lives if first_day in life)
        with_spots = [(day, region) for day, region in with_spots if day in reported]
        areas = [(day, region.area) for day, region in with_spots]
        spikes = [index for index in range(len(areas)) if is_spike(areas, index)]
        notes += [
            f"{areas[index][0]}: the area {areas[index][1]:.0f} is many times that of the days around; not counted"
            for index in spikes
        ]
        # Of equal areas the first counts.
        counted = [one for index, one in enumerate(with_spots) if index not in spikes]
        largest_day, largest = max(counted, key=lambda one: one[1].area)
        hale_class = largest.hale_class
        if hale_class is not None and not set(hale_class.split("-")) <= _HALE_CLASSES:
            notes.append(f"{largest_day}: {hale_class} is no magnetic class")
            hale_class = None
        facts = {
            "carrington_longitude": first.carrington_longitude,
            "noaa_latitude": first.latitude,
            "noaa_longitude": first.longitude,
            "noaa_emergence_time": datetime.combine(first_day, time()),
            "noaa_area": largest.area,
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
        if largest.area < SMALLEST_AREA:
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
    """The ascending days on which a region is reported, split where too many reports in between lack it.

    Without any day there is one life without any.
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
    """The report that counts for each day, by ascending day: the one issued last, or else the corrected copy."""
    by_day = defaultdict(list)
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
            "Reports issued at the same time say different things; move the wrong ones out of the folder:\n"
            + "\n".join(clashes)
        )
    return chosen


def _read_report(path: Path) -> Report:
    try:
        table = read_srs(path)
    except OSError as error:
        raise SolaredError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        # Reports are ASCII: other bytes are damage, and to guess at them could change a number.
        raise SolaredError(f"{path}: the byte 0x{error.object[error.start]:02x} in it is no text") from error
    except Exception as error:  # sunpy's reader answers text in another form with errors of every kind
        raise SolaredError(f"{path}: {_NOT_WHOLE}") from error
    # sunpy from version 8 takes a title that runs into the first row, as "Lo1704", for the title of an empty section.
    if any(character.isdigit() for name in table.colnames for character in name):
        raise SolaredError(f"{path}: {_NOT_WHOLE}")
    corrected = table.meta.get("corrected", False)
    try:
        day, issued, notes = report_day(path, table.meta["header"], table.meta["issued"], corrected)
        frame = table.to_pandas()[list(_COLUMNS)].set_axis(_COLUMNS.values(), axis="columns")
        rows = pa.Table.from_pandas(frame, schema=_ROW_SCHEMA, preserve_index=False).to_pylist()
        regions = tuple(_reported_region(row, day) for row in rows)
        twice = [number for number, count in Counter(region.ar_number for region in regions).items() if count > 1]
        if twice:
            raise ValueError(f"it has several rows for region {twice[0]}")
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise SolaredError(f"{path}: {error.args[0]}") from error
    return Report(str(path), issued, day, regions, corrected, tuple(notes))


def _reported_region(row: dict, day: date) -> ReportedRegion:
    if row["ar_number"] is None:
        raise ValueError(f"a row of section {row['kind']} has no number")
    number = _full_number(row["ar_number"], day)
    if row["kind"] == "I" and None in row.values():
        missing = ", ".join(name for name, value in row.items() if value is None)
        raise ValueError(f"its row for region {number} has no readable {missing}")
    for name, most in (("latitude", 90), ("longitude", 180)):
        if row[name] is not None and abs(row[name]) > most:
            raise ValueError(f"its row for region {number} has the {name} {row[name]:g}, beyond {most} degrees")
    if row["hale_class"] is not None:
        row["hale_class"] = row["hale_class"].title()
    if row["carrington_longitude"] is not None:
        row["carrington_longitude"] %= 360
    return ReportedRegion(**{**row, "ar_number": number})


def _full_number(number: int, day: date) -> int:
    """The number with the last four digits of `number` that regions had about `day`.

    sunpy adds 10000 to every number after June 14, 2002, and so to 9997 too.
    """
    expected = 10_000 + (day - _DAY_OF_10000).days / 365.25 * _REGIONS_A_YEAR
    return number + 10_000 * round((expected - number) / 10_000)
