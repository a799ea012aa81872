"""Typing errors in reports are found by comparing repeated statements, reported, and corrected if most agree."""

from datetime import date, datetime
from pathlib import Path

import pytest
import sunpy.data.test

from dataset_builder import read_reports, select_regions
from dataset_builder.jsoc.plan import read_catalog
from dataset_builder.noaa.selection import CONTRADICTORY, LONGEST_VISIBLE_DAYS, SMALL, selection_features
from solared_hf import SolaredError
from solared_hf.cli import main
from tests.dataset_builder.noaa.srs_reports import daily, due, plage, spots, write_lives, write_report

REAL = Path(sunpy.data.test.rootdir) / "SRS"
AR = 11701
FIRST = date(2013, 4, 2)


def rows_of(folder: Path) -> dict[int, dict]:
    return {row["ar_number"]: row for row in select_regions(read_reports(folder)).to_pylist()}


def edit(path: Path, old: str, new: str) -> None:
    """Make a typing error: replace the first occurrence of `old`."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def srs(tmp_path) -> Path:
    """Reports of a region on five days from the 2nd, first at N12E04, where the Carrington longitude is 204."""
    write_lives(tmp_path / "srs", {AR: daily(AR, (2, 3, 4, 5, 6), "N12E04")}, range(1, 8))
    return tmp_path / "srs"


def report_of(srs: Path, day: int) -> Path:
    return srs / f"2013/201304{day:02}SRS.txt"


def test_reports_that_agree_have_no_notes(srs):
    row = rows_of(srs)[AR]
    assert (row["carrington_longitude"], row["noaa_latitude"], row["noaa_longitude"]) == (204, 12, -4)
    assert (row["selected"], row["notes"]) == (True, "")


SLIPS = [
    ("204  0250", "024  0250", "Lo 024"),
    ("204  0250", "240  0250", "Lo 240"),
    ("204  0250", "004  0250", "Lo 004"),
    ("204  0250", "214  0250", "Lo 214"),
    ("N12E04", "N12W04", "longitude +4"),
    ("N12E04", "N12E40", "longitude -40"),
    ("N12E04", "N12E14", "longitude -14"),
    ("N12E04", "S12E04", "latitude -12"),
    ("N12E04", "N21E04", "latitude +21"),
    ("N12E04", "S21E04", "latitude -21"),
    ("N12E04", "N42E04", "latitude +42"),
]


@pytest.mark.parametrize(("right", "wrong", "named"), SLIPS)
def test_a_typing_error_in_the_first_row_is_corrected_and_reported(srs, right, wrong, named):
    expected = rows_of(srs)[AR]
    edit(report_of(srs, 2), right, wrong)
    row = rows_of(srs)[AR]
    for name in ("carrington_longitude", "noaa_latitude", "noaa_longitude"):
        assert row[name] == pytest.approx(expected[name], abs=1)
    assert row["selected"]
    assert row["notes"].startswith("2013-04-02: ")
    assert named in row["notes"]
    assert ";" not in row["notes"].replace("; by", "").replace("; +12 is", "")  # a single note


@pytest.mark.parametrize(
    ("right", "wrong"), [("N12W36", "S12W36"), ("N12W36", "N12E36"), ("204  0250", "240  0250"), ("N12W36", "N21W36")]
)
def test_a_typing_error_in_a_later_row_is_reported_and_does_not_change_the_facts(srs, right, wrong):
    expected = rows_of(srs)[AR]
    text = report_of(srs, 5).read_text()
    edit(report_of(srs, 5), right if right in text else right.replace("204", "205"), wrong)
    row = rows_of(srs)[AR]
    assert row.pop("notes").startswith("2013-04-05: ")
    assert row == {name: value for name, value in expected.items() if name != "notes"}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("right", "wrong"), [("204  0250", "240  0250"), ("N12E04", "N12W40")])
def test_a_region_with_an_unresolved_contradiction_is_rejected(tmp_path, count, right, wrong):
    """With one row, one statement stands against another. A second row that is also wrong does not help."""
    days = tuple(range(2, 2 + count))
    write_lives(tmp_path / "srs", {AR: daily(AR, days, "N12E04")}, range(1, 8))
    edit(report_of(tmp_path / "srs", 2), right, wrong)
    if count == 2:
        edit(report_of(tmp_path / "srs", 3), "N12W09", "N12W90")
        edit(report_of(tmp_path / "srs", 3), " 204 ", " 024 ")
    row = rows_of(tmp_path / "srs")[AR]
    assert CONTRADICTORY in row["reason"]
    assert "2013-04-02: Lo " in row["notes"]


def test_a_wrong_latitude_is_corrected_by_two_other_days_but_not_by_one(tmp_path):
    for others, corrected in (((3,), False), ((3, 4), True)):
        folder = tmp_path / str(len(others))
        write_lives(folder, {AR: daily(AR, (2, *others), "N12E04")}, range(1, 8))
        edit(report_of(folder, 2), "N12", "S12")
        row = rows_of(folder)[AR]
        assert (CONTRADICTORY not in row["reason"]) == corrected
        assert row["noaa_latitude"] == (12 if corrected else -12)
        assert "latitude -12 contradicts" in row["notes"]


def test_rows_of_plages_and_returning_regions_are_compared_too(tmp_path):
    lives = {AR: {**daily(AR, (2,), "N12E04"), 3: plage(AR, "N12W09"), 6: due(AR, "N12")}}
    write_lives(tmp_path, lives, range(1, 8))
    edit(report_of(tmp_path, 2), "N12E04", "S12E40")
    row = rows_of(tmp_path)[AR]
    assert (row["noaa_latitude"], row["noaa_longitude"]) == (12, -4)


def test_small_contradictions_are_reported_and_the_row_is_used(tmp_path):
    """NOAA's corrected report of June 21, 2010 has 1082 N27W05 305, but the meridian is at 296."""
    (report,) = [report for report in read_reports(REAL) if report.day == date(2010, 6, 21)]
    (row,) = [row for row in select_regions([report]).to_pylist() if row["ar_number"] == 11082]
    assert row["notes"] == "2010-06-21: Lo 305 and longitude +5 contradict each other by 4 degrees"
    assert CONTRADICTORY not in row["reason"]


def test_a_row_with_the_number_of_another_region_is_left_out(tmp_path):
    lives = {AR: {2: spots(AR, "N22E60"), **daily(AR, (4, 5, 6, 7), "N12E04")}}
    write_lives(tmp_path, lives, range(1, 9))
    row = rows_of(tmp_path)[AR]
    assert row["noaa_emergence_time"] == datetime(2013, 4, 4)
    assert (row["noaa_latitude"], row["noaa_longitude"], row["reports"]) == (12, -4, 4)
    assert "the row is left out because it belongs to another region" in row["notes"]


def test_a_region_with_two_places_of_equally_many_rows_is_rejected(tmp_path):
    lives = {AR: {**daily(AR, (2, 3), "N12E60"), **daily(AR, (4, 5), "N12E04")}}
    write_lives(tmp_path, lives, range(1, 8))
    row = rows_of(tmp_path)[AR]
    assert CONTRADICTORY in row["reason"]
    assert row["reports"] == 4


def test_an_area_spike_of_one_day_is_not_used(tmp_path):
    lives = {
        AR: {**daily(AR, (2, 3, 5, 6), "N12E04", area=150), 4: spots(AR, "N12W22", area=1500)},
        # This region grows fast and decays.
        11702: {day: spots(11702, place, area=area) for day, place, area in ((2, "N12E04", 20), (3, "N12W09", 250))},
    }
    lives[11702] |= {4: spots(11702, "N12W22", area=400), 5: spots(11702, "N12W36", area=60)}
    write_lives(tmp_path, lives, range(1, 8))
    rows = rows_of(tmp_path)
    assert (rows[AR]["noaa_area"], rows[AR]["reason"]) == (150, SMALL)
    assert "2013-04-04: the area 1500 is many times that of the days around" in rows[AR]["notes"]
    assert (rows[11702]["noaa_area"], rows[11702]["reason"], rows[11702]["notes"]) == (400, "", "")


def test_an_unknown_magnetic_class_is_reported(srs):
    edit(report_of(srs, 2), "Beta", "Bata")
    row = rows_of(srs)[AR]
    assert (row["noaa_hale_class"], row["notes"]) == (None, "2013-04-02: Bata is not a magnetic class")


@pytest.fixture
def new_year(tmp_path) -> Path:
    """NOAA's report of January 1, 2015, with its file name."""
    folder = tmp_path / "srs"
    folder.mkdir()
    path = folder / "20150101SRS.txt"
    path.write_text((REAL / path.name).read_text())
    return path


def test_a_date_of_last_year_on_january_1_is_corrected(new_year):
    edit(new_year, ":Issued: 2015 Jan 01", ":Issued: 2014 Jan 01")
    (report,) = read_reports(new_year.parent)
    assert (report.day, report.issued) == (date(2015, 1, 1), datetime(2015, 1, 1, 0, 30))
    assert report.notes == (":Issued: gives 2014-01-01, the other lines give 2015-01-01",)
    row = select_regions([report]).to_pylist()[0]
    assert row["notes"].startswith("2015-01-01: :Issued: gives 2014-01-01")


@pytest.mark.parametrize(
    ("old", "new", "notes"),
    [
        (":Issued: 2015 Jan 01", ":Issued: 2015 Jan 10", 1),
        ("0030Z on 01 Jan 2015", "0030Z on 01 Jan 2014", 1),
        ("SRS Number 1 Issued", "SRS Number 366 Issued", 0),
        (":Product: 0101SRS", ":Product: 20140101SRS", 1),
        (":Product: 0101SRS", ":Product: 0110SRS", 0),
        ("SWO on 31 Dec", "SWO on 30 Dec", 0),
        ("Valid at 31/2400Z", "Valid at 30/2400Z", 0),
    ],
)
def test_one_wrong_date_is_outvoted(new_year, old, new, notes):
    edit(new_year, old, new)
    (report,) = read_reports(new_year.parent)
    assert (report.day, len(report.notes)) == (date(2015, 1, 1), notes)


def test_a_file_named_after_another_day_is_reported(new_year):
    new_year.rename(new_year.with_name("20150103SRS.txt"))
    (report,) = read_reports(new_year.parent)
    assert report.day == date(2015, 1, 1)
    assert report.notes == ("the name of the file gives 2015-01-03, the other lines give 2015-01-01",)


def refused(folder: Path) -> str:
    with pytest.raises(SolaredError) as caught:
        read_reports(folder)
    return str(caught.value)


def test_a_report_with_contradictory_dates_is_an_error(new_year):
    edit(new_year, ":Issued: 2015 Jan 01", ":Issued: 2014 Jan 01")
    nameless = new_year.rename(new_year.with_name("SRS.txt"))
    message = refused(new_year.parent)
    assert f"{nameless}: the dates contradict each other: :Issued: gives 2014-01-01, the line of its" in message
    # Now both lines contradict only the name.
    edit(nameless, "01 Jan 2015", "01 Jan 2014")
    nameless.rename(new_year)
    assert "the dates contradict each other" in refused(new_year.parent)


def test_a_report_with_positions_of_another_day_is_an_error(tmp_path):
    text = (REAL / "20000922SRS.txt").read_text()
    for old, new in (("Sep 22", "Sep 23"), ("22 SEP", "23 SEP"), ("21 SEP", "22 SEP"), ("21/2400Z", "22/2400Z")):
        text = text.replace(old, new)
    (tmp_path / "20000923SRS.txt").write_text(text.replace("20000922", "20000923").replace("NUMBER 266", "NUMBER 267"))
    message = refused(tmp_path)
    assert "the longitudes of all regions differ from Lo by +1" in message
    assert message.endswith("degrees, so the positions are not of 2000-09-23")


def test_real_reports_correct_each_other(tmp_path):
    """Regions 9167 and 9169 are in three reports within nine days."""
    for name in ("20000922SRS.txt", "20000927SRS.txt", "20001001SRS.txt"):
        (tmp_path / name).write_text((REAL / name).read_text())
    expected = rows_of(tmp_path)
    edit(tmp_path / "20000922SRS.txt", "N09E32   076", "S09E32   067")
    row = rows_of(tmp_path)[9169]
    assert (row["noaa_latitude"], row["carrington_longitude"]) == (9, expected[9169]["carrington_longitude"] + 1)
    assert row["notes"].count("2000-09-22") == 2


def test_a_life_is_not_longer_than_a_region_is_visible(tmp_path):
    """A number that returns a year later belongs to another life, even if all reports in between are missing."""
    write_lives(tmp_path, {AR: daily(AR, (2, 3, 4, 5))}, range(1, 7))
    write_report(tmp_path, date(2014, 4, 5), [spots(AR)])
    row = rows_of(tmp_path)[AR]
    assert row["noaa_lifetime_days"] == 4 < LONGEST_VISIBLE_DAYS


def test_the_command_tells_and_the_download_reads_what_it_wrote(srs, tmp_path, capsys):
    edit(report_of(srs, 2), "204  0250", "024  0250")
    catalog = tmp_path / "catalog.parquet"
    with pytest.raises(SystemExit) as stopped:
        main(["select", "--srs", str(srs), "--output", str(catalog)])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"1 regions have contradictory reports, see the column notes of {catalog}" in printed
    assert "AR11701, 2013-04-02: Lo 024 and longitude -4 contradict each other by 180 degrees; by the other" in printed
    (region,) = read_catalog(catalog)
    assert region.trajectory.carrington_longitude == 204
    assert "notes" in selection_features()
