"""Selection from NOAA's own reports, from synthetic reports at the edge of every rule, and from damaged files."""

import shutil
from datetime import date, datetime
from pathlib import Path

import datasets
import pytest
import sunpy.data.test

from dataset_builder import read_reports, select_regions
from dataset_builder.noaa.selection import (
    CUT_SHORT,
    FAR_FROM_CENTRE,
    NO_DAY_BEFORE,
    NO_SPOTS,
    SEEN_BEFORE,
    SHORT_LIVED,
    SMALL,
    selection_features,
)
from solared_hf.cli import main
from tests.dataset_builder.noaa.srs_reports import (
    daily,
    due,
    moved,
    plage,
    report_text,
    spots,
    write_lives,
    write_report,
)

SHIPPED = Path(sunpy.data.test.rootdir) / "SRS"
# Every version of sunpy ships these reports.
DAYS = (
    *("19960106", "19960430", "19960513", "20000922", "20000927", "20001001"),
    *("20020624", "20020628", "20100621", "20150101", "20150306", "20150906"),
)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """Folder of twelve real reports."""
    folder = tmp_path_factory.mktemp("real")
    for day in DAYS:
        shutil.copy(SHIPPED / f"{day}SRS.txt", folder)
    return folder


@pytest.fixture
def select(tmp_path, capsys):
    """Run the command on a folder and return the rows that `datasets` reads, by region, and the printed text."""

    def run(folder: Path) -> tuple[dict[int, dict], str]:
        output = tmp_path / "out" / "catalog.parquet"
        with pytest.raises(SystemExit) as stopped:
            main(["select", "--srs", str(folder), "--output", str(output)])
        captured = capsys.readouterr()
        assert stopped.value.code == 0, captured.err
        table = datasets.load_dataset("parquet", data_files=str(output), split="train")
        assert table.features == selection_features()
        return {row["ar_number"]: row for row in table}, captured.out

    return run


@pytest.fixture
def refused(tmp_path, capsys):
    """Run the command on a folder that it refuses and return the error."""

    def run(folder: Path, output: Path | None = None) -> str:
        output = output or tmp_path / "refused.parquet"
        with pytest.raises(SystemExit) as stopped:
            main(["select", "--srs", str(folder), "--output", str(output)])
        errors = capsys.readouterr().err
        assert stopped.value.code == 2
        assert not output.is_file()
        return errors[errors.index("solared: ") :]

    return run


def test_every_report_that_sunpy_ships_is_read():
    assert len(read_reports(SHIPPED)) == len(list(SHIPPED.glob("*SRS.txt")))


def test_rows_of_real_reports_match_their_text(real):
    reports = {report.day: report for report in read_reports(real)}
    assert sorted(f"{day:%Y%m%d}" for day in reports) == list(DAYS)
    march = {region.ar_number: region for region in reports[date(2015, 3, 6)].regions}
    assert {number: region.kind for number, region in march.items()} == {
        12293: "I", 12295: "I", 12292: "IA", 12288: "II",
    }  # fmt: skip
    # 2293 N05W53   342  0065 Cao  10   09 Beta
    region = march[12293]
    assert (region.latitude, region.longitude, region.carrington_longitude) == (5, 53, 342)
    assert (region.area, region.hale_class) == (65, "Beta")
    # 2288 S08    185
    region = march[12288]
    assert (region.latitude, region.longitude, region.area, region.hale_class) == (-8, None, None, None)
    # 9169 N09E32   076  1910 FKC  19   68 BETA-GAMMA-DELTA
    region = next(region for region in reports[date(2000, 9, 22)].regions if region.ar_number == 9169)
    assert (region.latitude, region.longitude, region.area, region.hale_class) == (9, -32, 1910, "Beta-Gamma-Delta")
    # 9147 N07    360
    assert [region.carrington_longitude for region in reports[date(2000, 9, 22)].regions if region.kind == "II"] == [
        0, 355, 341,
    ]  # fmt: skip
    assert [report.issued for report in reports.values() if report.corrected] == [datetime(2010, 6, 21, 0, 45)]


def test_numbers_on_both_sides_of_10000_in_one_real_report(real):
    (report,) = (report for report in read_reports(real) if report.day == date(2002, 6, 24))
    numbers = [region.ar_number for region in report.regions]
    assert numbers == [
        10001, 10005, 10008, 10010, 10011, 10012, 10013, 10014, 9997, 10006, 10007, 9973, 9975, 9978,
    ]  # fmt: skip


def test_real_reports_through_the_command(select, real):
    rows, printed = select(real)
    assert len(rows) == 71
    # 9166 is in the reports of September 22 and 27, 2000: S12W16, area 760, and S12W82, area 370.
    region = rows[9166]
    assert (region["reason"], region["selected"]) == (NO_DAY_BEFORE, False)
    assert (region["noaa_longitude"], region["noaa_area"], region["noaa_hale_class"]) == (16, 760, "Beta-Gamma")
    assert (region["noaa_lifetime_days"], region["reports"]) == (6, 2)
    assert rows[12295]["reason"] == "; ".join((NO_DAY_BEFORE, FAR_FROM_CENTRE, SMALL, CUT_SHORT))
    assert "12 reports of 12 days, 1996-01-06 to 2015-09-06; without a report: 7,172" in printed
    assert "71 regions, 0 selected" in printed


# Rows of each region by day of April 2013. The reports go from the 1st to the 14th; the report of the 8th is missing.
LIVES = {
    11701: {
        3: spots(11701, "N05W30", 100),
        4: spots(11701, "N05W43", 200),
        5: plage(11701, "N05W56"),
        6: plage(11701, "N05W69"),
    },
    11702: daily(11702, (3, 4, 5, 6), "S05E30"),
    11703: daily(11703, (3, 4, 5, 6), "N05W29"),
    11704: daily(11704, (3, 4, 5, 6), "N05W31"),
    11705: daily(11705, (3, 4, 5, 6), "N05E31"),
    11706: daily(11706, (3, 4, 5)),
    11707: daily(11707, (3, 4, 5, 6), area=199),
    11708: {2: plage(11708, "N05E03"), **daily(11708, (3, 4, 5, 6))},
    11709: {2: due(11709), **daily(11709, (3, 4, 5, 6))},
    11710: daily(11710, (1, 2, 3, 4)),
    11711: daily(11711, (9, 10, 11, 12)),
    11712: {
        3: spots(11712, area=150, hale="Beta"),
        4: spots(11712, "N05W22", area=300, hale="Beta-Gamma"),
        5: spots(11712, "N05W36", area=300, hale="Beta-Delta"),
        6: spots(11712, "N06W50", area=250, hale="Alpha"),
        13: due(11712),
    },
    11713: daily(11713, (6, 7, 9)),
    11714: daily(11714, (12, 13, 14)),
    11715: {day: plage(11715, moved("N05W14", day - 3)) for day in (3, 4, 5, 6)},
    11716: {5: due(11716)},
    11717: daily(11717, (3, 4, 5), "N05E31", area=199),
    11718: daily(11718, (5, 6, 7)),
    11719: {5: plage(11719)},
    # The first is absent from three reports and from the missing report of the 8th, the second from four reports.
    11720: {**daily(11720, (4, 5, 6), "N05E30"), 11: spots(11720, "N06W60", area=400)},
    11721: {**daily(11721, (2, 3, 4), "N05E30"), 10: spots(11721, "N06W74", area=400), 11: plage(11721, "N06W87")},
    11722: {2: plage(11722, "N05E46"), **daily(11722, (7, 9, 10, 11), "N05W20")},
    11723: {2: plage(11723, "N05E46"), 7: plage(11723, "N05W20")},
}
REASONS = {
    11701: (), 11702: (), 11703: (), 11704: (FAR_FROM_CENTRE,), 11705: (FAR_FROM_CENTRE,), 11706: (SHORT_LIVED,),
    11707: (SMALL,), 11708: (SEEN_BEFORE,), 11709: (SEEN_BEFORE,), 11710: (NO_DAY_BEFORE,), 11711: (NO_DAY_BEFORE,),
    11712: (), 11713: (), 11714: (CUT_SHORT,), 11715: (NO_SPOTS,), 11716: (NO_SPOTS,),
    11717: (FAR_FROM_CENTRE, SMALL, SHORT_LIVED), 11718: (CUT_SHORT,), 11719: (NO_SPOTS, SHORT_LIVED),
    11720: (), 11721: (SHORT_LIVED,), 11722: (SEEN_BEFORE,), 11723: (NO_SPOTS, SHORT_LIVED),
}  # fmt: skip


@pytest.fixture
def april(tmp_path) -> Path:
    write_lives(tmp_path / "srs", LIVES, [day for day in range(1, 15) if day != 8])
    return tmp_path / "srs"


def test_every_rule_at_its_limit(select, april):
    rows, printed = select(april)
    assert {number: row["reason"] for number, row in rows.items()} == {
        number: "; ".join(reasons) for number, reasons in REASONS.items()
    }
    assert {number: row["selected"] for number, row in rows.items()} == {
        number: not reasons for number, reasons in REASONS.items()
    }
    assert "13 reports of 13 days, 2013-04-01 to 2013-04-14; without a report: 1" in printed
    assert "23 regions, 6 selected" in printed
    listed = [line for line in printed.splitlines() if line.startswith("│  117")]
    assert [int(line.split("│")[1]) for line in listed] == [11701, 11702, 11703, 11712, 11713, 11720]
    assert [cell.strip() for cell in listed[3].split("│")[2:-1]] == [
        "2013-04-03", "+5", "+10", "300", "4", "Beta-Gamma",
    ]  # fmt: skip


def test_facts_are_those_of_the_first_spots_and_the_largest_area(select, april):
    rows, _ = select(april)
    # The positions of the report of the 3rd hold at 24 UT of the 2nd. The first of two equal areas gives the class.
    assert rows[11712] == {
        "ar_number": 11712,
        "selected": True,
        "reason": "",
        # The central meridian is at 195.
        "carrington_longitude": 205,
        "noaa_latitude": 5,
        "noaa_longitude": 10,
        "noaa_emergence_time": datetime(2013, 4, 3),
        "noaa_area": 300,
        "noaa_hale_class": "Beta-Gamma",
        "noaa_lifetime_days": 4,
        "first_report": date(2013, 4, 3),
        "last_report": date(2013, 4, 6),
        "reports": 4,
        "notes": "",
    }
    assert {row["notes"] for row in rows.values()} == {""}
    # Plages count for the lifetime, and a missing report inside a life does not shorten it.
    assert (rows[11701]["noaa_lifetime_days"], rows[11701]["reports"]) == (4, 4)
    assert (rows[11713]["noaa_lifetime_days"], rows[11713]["reports"]) == (4, 3)
    # Rows after a long absence of the number are not part of the life.
    lives = {
        number: [rows[number][name] for name in ("noaa_lifetime_days", "reports")] for number in range(11720, 11724)
    }
    assert lives == {11720: [8, 4], 11721: [3, 3], 11722: [5, 4], 11723: [1, 1]}
    assert (rows[11720]["noaa_area"], rows[11721]["noaa_area"]) == (400, 250)
    assert (rows[11721]["last_report"], rows[11722]["first_report"]) == (date(2013, 4, 4), date(2013, 4, 7))
    assert (rows[11702]["noaa_latitude"], rows[11702]["noaa_longitude"]) == (-5, -30)
    assert rows[11708]["first_report"] == date(2013, 4, 2)
    assert rows[11708]["noaa_emergence_time"] == datetime(2013, 4, 3)
    without_spots = {"noaa_area", "noaa_hale_class", "noaa_longitude", "noaa_emergence_time", "carrington_longitude"}
    assert {rows[11715][name] for name in without_spots} == {None}
    never_seen = without_spots | {"noaa_lifetime_days", "first_report", "last_report"}
    assert {rows[11716][name] for name in never_seen} == {None}
    assert rows[11716]["reports"] == 0


def test_the_same_reports_give_the_same_file(select, april, tmp_path):
    select(april)
    written = (tmp_path / "out/catalog.parquet").read_bytes()
    select(april)
    assert (tmp_path / "out/catalog.parquet").read_bytes() == written
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["catalog.parquet"]


def test_the_order_of_the_reports_does_not_matter(april):
    reports = read_reports(april)
    assert select_regions(reversed(reports)).equals(select_regions(reports))


def test_a_report_without_regions_counts_as_a_report(select, tmp_path):
    write_lives(tmp_path / "srs", {11701: daily(11701, (2, 3, 4, 5))}, range(1, 7))
    rows, _ = select(tmp_path / "srs")
    assert [number for number, row in rows.items() if row["selected"]] == [11701]


@pytest.mark.parametrize(
    ("start", "numbers"),
    [
        (date(1997, 1, 1), (8000, 8009)),
        (date(2002, 6, 1), (9970, 9999)),
        (date(2002, 7, 1), (9998, 10000, 10015)),
        (date(2026, 1, 1), (14320, 14321)),
        (date(2045, 6, 1), (19998, 20000, 20003)),
    ],
)
def test_date_decides_the_number_behind_four_digits(select, tmp_path, start, numbers):
    lives = {number: daily(number, (2, 3, 4, 5)) for number in numbers}
    write_lives(tmp_path / "srs", lives, range(1, 7), start)
    rows, _ = select(tmp_path / "srs")
    assert tuple(rows) == numbers
    assert all(row["selected"] for row in rows.values())


@pytest.fixture
def small_region(tmp_path) -> Path:
    """Reports of a region that becomes large enough by a correction of April 3."""
    write_lives(tmp_path / "srs", {11701: daily(11701, (2, 3, 4, 5), area=150)}, range(1, 7))
    return tmp_path / "srs"


THIRD = date(2013, 4, 3)


def test_a_copy_of_a_report_is_ignored(select, small_region):
    before, _ = select(small_region)
    write_report(small_region / "copies", THIRD, [spots(11701, "N05W23", area=150)])
    after, printed = select(small_region)
    assert after == before
    assert "7 reports of 6 days" in printed


@pytest.mark.parametrize(
    "correction",
    [
        {"issued": datetime(2013, 4, 3, 14)},
        {"issued": datetime(2013, 4, 4, 9), "corrected": True},
        {"corrected": True},
    ],
)
@pytest.mark.parametrize("name", ["a", "z"])
def test_a_correction_counts_for_its_own_day(select, small_region, correction, name):
    write_report(small_region / name, THIRD, [spots(11701, "N05W23", area=220, hale="Beta-Gamma")], **correction)
    rows, printed = select(small_region)
    assert rows[11701]["selected"]
    assert (rows[11701]["noaa_area"], rows[11701]["noaa_hale_class"]) == (220, "Beta-Gamma")
    assert rows[11701]["reports"] == 4
    assert "7 reports of 6 days" in printed


def test_an_earlier_report_does_not_replace_a_later_one(select, small_region):
    write_report(small_region / "z", THIRD, [spots(11701, "N05W23", area=220)], issued=datetime(2013, 4, 2, 23, 50))
    rows, _ = select(small_region)
    assert rows[11701]["noaa_area"] == 150


def test_two_different_reports_issued_at_the_same_time_are_an_error(refused, small_region):
    other = write_report(small_region / "other", THIRD, [spots(11701, "N05W23", area=220)])
    message = refused(small_region)
    assert "Reports issued at the same time differ. Move the wrong reports out" in message
    assert str(other) in message
    assert str(small_region / "2013" / "20130403SRS.txt") in message
    assert "Traceback" not in message


GOOD = report_text(THIRD, [spots(11701), spots(11702), plage(11703), due(11704)])
BAD = {
    "empty": "",
    "page": "<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "cut_in_spots": GOOD[: GOOD.index("1702")],
    "cut_in_plages": GOOD[: GOOD.index("1703") + 8],
    "cut_in_a_row": GOOD[: GOOD.index("1704") + 7],
    "no_issue_time": GOOD.replace(":Issued:", ":Made:"),
    "no_hale_class": GOOD.replace("09 Beta", "09", 1),
    "no_area": GOOD.replace("0250", "    ", 1),
    "dashes_for_area": GOOD.replace("0250", "----", 1),
    "half_a_longitude": GOOD.replace("N05W10", "N05", 1),
    "glued_title": GOOD.replace("Nmbr Lat    Lo\n1704", "Nmbr Lat    Lo1704"),
    "other_day": GOOD.replace("Valid at 02/2400Z", "Valid at 20/2400Z"),
    "binary": b"\x1f\x8b\x08\x00\xff\xfe",
    "one_byte": GOOD.encode().replace(b"Joint", b"J\xf6int", 1),
    "beyond_the_pole": GOOD.replace("N05W10", "N95W10", 1),
    "returning_beyond_the_pole": GOOD.replace("1704 N05", "1704 S98"),
    "beyond_the_far_side": GOOD.replace("N05W10", "N05W190", 1),
    "twice": GOOD.replace("1702", "1701"),
    "twice_in_two_sections": GOOD.replace("1703", "1702"),
}


def test_all_damaged_files_are_named_and_the_catalog_is_not_written(refused, tmp_path):
    write_report(tmp_path / "srs", date(2013, 4, 2))
    paths = {}
    for name, content in BAD.items():
        paths[name] = tmp_path / "srs" / f"{name}SRS.txt"
        paths[name].write_bytes(content if isinstance(content, bytes) else content.encode())
    summary, *named = refused(tmp_path / "srs").splitlines()
    assert f"{len(BAD)} of {len(BAD) + 1} files are not complete Solar Region Summaries. Download them" in summary
    assert sorted(line.split(": ")[0] for line in named) == sorted(map(str, paths.values()))
    reasons = {name: next(line for line in named if str(path) in line) for name, path in paths.items()}
    assert "the row for region 11701 lacks a readable longitude" in reasons["half_a_longitude"]
    assert "issued on 2013-04-03, but its positions hold for another day" in reasons["other_day"]
    for name in ("page", "glued_title"):
        assert "is missing or incomplete" in reasons[name]
    assert reasons["binary"].endswith("the byte 0x8b is not text")
    assert reasons["one_byte"].endswith("the byte 0xf6 is not text")
    assert "region 11701 has the latitude 95, beyond 90 degrees" in reasons["beyond_the_pole"]
    assert "region 11704 has the latitude -98, beyond 90 degrees" in reasons["returning_beyond_the_pole"]
    assert "region 11701 has the longitude 190, beyond 180 degrees" in reasons["beyond_the_far_side"]
    assert reasons["twice"].endswith("the report has several rows for region 11701")
    assert reasons["twice_in_two_sections"].endswith("the report has several rows for region 11702")


def test_file_names_of_reports_may_be_in_lower_case(select, small_region):
    report = small_region / "2013" / "20130401SRS.txt"
    report.rename(report.with_name("20130401srs.TXT"))
    _, printed = select(small_region)
    assert "6 reports of 6 days" in printed


def test_days_of_removed_files_count_as_days_without_a_report(refused, select, small_region):
    first = small_region / "2013" / "20130401SRS.txt"
    first.write_text("Service unavailable")
    assert str(first) in refused(small_region)
    first.unlink()
    rows, _ = select(small_region)
    assert NO_DAY_BEFORE in rows[11701]["reason"]


def test_a_folder_without_reports_gives_one_line(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("no report")
    for folder in (tmp_path, tmp_path / "nowhere"):
        message = refused(folder)
        assert f"{folder} does not hold Solar Region Summaries. Name the folder" in message
        assert len(message.splitlines()) == 1


def test_an_output_that_is_a_folder_is_refused(refused, april, tmp_path):
    assert f"{tmp_path} is a folder. Name a file for --output" in refused(april, tmp_path)
