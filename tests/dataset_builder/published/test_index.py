"""Reading the index of the published repository: faulty rows become remarks and do not stop the import."""

import pytest

from dataset_builder.published import read_index
from dataset_builder.published.index import COLUMNS, compare
from solared_hf import SolaredError

# The columns and one row of the published repository.
PUBLISHED = """AR,t_start,t_end,mean_int_path,mean_mag_path,mean_pmdop_path
11130,2010.11.28_23:59:59Z,2010.12.05_23:59:59Z,/data/AR11130/mean_int11130_flat.npz,\
/data/AR11130/mean_mag11130_flat.npz,/data/AR11130/mean_pmdop11130_flat.npz
"""


def index(*numbers: int) -> str:
    header, row, _ = PUBLISHED.split("\n")
    return "\n".join([header, *(row.replace("11130", str(number)) for number in numbers)])


def read(name: str, text: str):
    return read_index(name, text.splitlines(keepends=True))


def region(ar_number: int, split: str = "train", start: str = "2010-11-24", end: str = "2010-12-03") -> dict:
    times = {"start_tai": f"{start}T00:59:37.500", "end_tai": f"{end}T23:59:37.500"}
    return {"ar_number": ar_number, "split": split, **times}


def test_a_published_row():
    (row,), remarks = read("train.csv", PUBLISHED)
    assert (row.place, row.split, row.ar_number) == ("train.csv line 2", "train", 11130)
    assert (str(row.start), str(row.end)) == ("2010-11-28 23:59:59", "2010-12-05 23:59:59")
    assert remarks == compare([row], [region(11130)], []) == []


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("index/ar_emergence_val.csv", "validation"),
        ("Validation-2.csv", "validation"),
        ("valid/index.csv", "validation"),
        ("test_index.csv", "test"),
        ("index.csv", None),
        ("train_test.csv", None),
        ("latest.csv", None),
    ],
)
def test_split_is_read_from_the_file_name(name, split):
    assert read(name, PUBLISHED)[0][0].split == split


def test_other_columns_blank_lines_and_line_ends_are_ignored():
    text = PUBLISHED.replace("AR,", ",AR,note,").replace("\n11130,", '\n0,11130,"a, b\nc",').rstrip("\n")
    text = text.replace("11130,", " 11130 ,", 1).replace("\n", "\r\n") + "\r\n\r\n"
    (row,), remarks = read("train.csv", text)
    assert (row.ar_number, remarks) == (11130, [])


@pytest.mark.parametrize(
    "text", ["", "\n", "a,b\n1,2\n", PUBLISHED.replace("t_end", "end"), "\0\n", f"{'x' * 200_000}\n", "\ufffd\n"]
)
def test_csv_files_that_are_not_an_index_are_skipped(text):
    assert read("train.csv", text) == ([], [])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("\n11130,", "\nnan,", "'nan' is not an AR number"),
        ("\n11130,", "\n0,", "'0' is not an AR number"),
        ("\n11130,", "\n99999999999,", "'99999999999' is not an AR number"),
        ("\n11130,", "\n11131,", "mean_pmdop_path of AR11131 is '/data/AR11130/mean_pmdop11130_flat.npz'"),
        ("mean_mag11130", "mean_mag11131", "which does not end with AR11130/mean_mag11130_flat.npz"),
        ("/data/AR11130/mean_mag", "/data/AR11131/mean_mag", "does not end with AR11130/mean_mag11130_flat.npz"),
        (",/data/AR11130/mean_pmdop11130_flat.npz", "", "mean_pmdop_path of AR11130 is ''"),
        ("2010.11.28", "2010.13.28", "2010.13.28_23:59:59Z"),
        ("2010.11.28_23:59:59Z", "", "time data ''"),
        ("2010.11.28", "2011.11.28", "is later than t_end"),
        ("\n11130,", f"\n{'y' * 100_000},", "yyy..."),
    ],
)
def test_an_unusable_row_is_reported_and_the_other_rows_are_read(old, new, words):
    assert old in PUBLISHED
    header, row, _ = PUBLISHED.split("\n")
    text = "\n".join([header, f"\n{row}".replace(old, new)[1:], row.replace("11130", "11149")])
    (good,), (remark,) = read("train.csv", text)
    assert good.ar_number == 11149
    assert remark.startswith("Unusable rows of the index: train.csv line 2: ")
    assert words in remark
    assert len(remark) < 300


def test_many_unusable_rows_give_one_remark():
    rows, (remark,) = read("train.csv", index(*range(1, 10)).replace("\n", "\nx"))
    assert rows == []
    assert remark.count("is not an AR number") == 5
    assert remark.endswith("; and 4 more.")


def test_reading_stops_at_a_line_that_is_not_csv():
    rows, (remark,) = read("train.csv", index(11130, 11149) + "\n" + "x" * 200_000 + "\n" + index(11158))
    assert [row.ar_number for row in rows] == [11130, 11149]
    assert "train.csv line 4: field larger than field limit (131072), and all following lines." in remark


@pytest.mark.parametrize(
    "path",
    [
        "../AR11130/mean_mag11130_flat.npz",
        "/data/../../AR11130/mean_mag11130_flat.npz",
        "//data/AR11130/mean_mag11130_flat.npz",
        "https://example.org/AR11130/mean_mag11130_flat.npz",
        "//example.org/AR11130/mean_mag11130_flat.npz",
        "hf://datasets/somebody/else/AR11130/mean_mag11130_flat.npz",
        "C:/AR11130/mean_mag11130_flat.npz",
        "\\\\host\\AR11130\\mean_mag11130_flat.npz",
        "..\\AR11130\\mean_mag11130_flat.npz",
    ],
)
def test_a_path_that_leads_out_of_the_repository_is_an_error(path):
    text = PUBLISHED.replace("/data/AR11130/mean_mag11130_flat.npz", path)
    with pytest.raises(SolaredError, match=r"^train.csv line 2 names '.*' as mean_mag_path, which leads out of th"):
        read("train.csv", text)


def test_differences_between_index_and_files_are_reported():
    rows = []
    for name, numbers in (("train.csv", (11130, 11149, 11190, 11462)), ("test.csv", (11130, 11698))):
        rows += read(name, index(*numbers))[0]
    regions = [
        region(11130), region(11149, start="2012-01-01", end="2012-01-10"), region(11158), region(11190, "validation"),
        region(11698, "test"),
    ]  # fmt: skip
    assert compare(rows, regions, incomplete=[11907]) == [
        "Left out because the repository does not hold all three files: AR11462, AR11907.",
        "Converted but not in the index: AR11158.",
        "In the index more than once: AR11130 (train.csv line 2, test.csv line 2).",
        "The index names a time at which the region was not observed: AR11149 (train.csv line 3: 2010-11-28 to "
        "2010-12-05, observed 2012-01-01 to 2012-01-10).",
        "The index files divide regions differently from the published split, which is used: test in the index and "
        "train here: AR11130; train in the index and validation here: AR11190.",
    ]


def test_only_regions_missing_from_the_dataset_are_reported_as_left_out():
    rows, _ = read("index.csv", index(11130, 11149, 11158, 11190))
    assert compare(rows, [region(11130)], incomplete=[11190, 11698], leave_out=[11698, 11149], earlier={11158}) == [
        "Left out as asked: AR11149, AR11698.",
        "Kept from an earlier import, although the repository does not hold all three files: AR11158.",
        "Left out because the repository does not hold all three files: AR11190.",
    ]


@pytest.mark.parametrize(
    ("start", "end", "fits"),
    [
        ("2010-11-24", "2010-11-29", True),
        ("2010-11-24", "2010-11-27", False),
        ("2010-12-05", "2010-12-06", True),
        ("2010-12-06", "2010-12-07", False),
        ("2010-11-30", "2010-12-01", True),
        ("2010-11-01", "2010-12-31", True),
    ],
)
def test_time_spans_must_overlap(start, end, fits):
    rows, _ = read("index.csv", PUBLISHED)
    assert (compare(rows, [region(11130, start=start, end=end)], []) == []) == fits


def test_a_missing_index_is_one_remark():
    assert compare([], [region(11130)], []) == [
        f"No CSV file has a usable index row, with the columns {', '.join(COLUMNS)}."
    ]
