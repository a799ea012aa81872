"""The index of the published repository: CSV files that name its regions, and how they fit the files beside them.

A row names a region, a span of time and the region's three files. All values are in those files, so an index that is
wrong about them leaves the data right: what is odd becomes a remark. Only an index that points out of its own
repository is refused.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from dataset_builder.published.files import FILE_CHANNELS, source_path
from solared_hf.errors import SolaredError

_PATH_COLUMNS = {f"mean_{kind}_path": kind for kind in FILE_CHANNELS}
COLUMNS = ("AR", "t_start", "t_end", *_PATH_COLUMNS)

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
# UTC, which is half a minute from TAI: no matter for spans of days.
_TIME = "%Y.%m.%d_%H:%M:%SZ"
# What the files' names may call the splits.
_SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class IndexRow:
    """A usable row of an index file.

    Args:
        place: the file and its line.
        split: the split that the file's name tells, or None.
        ar_number: NOAA active region number.
        start, end: the span of time, UTC.
    """

    place: str
    split: str | None
    ar_number: int
    start: datetime
    end: datetime


def read_index(name: str, lines: Iterable[str]) -> tuple[list[IndexRow], list[str]]:
    """The usable rows of an index file, and remarks on the others; neither, if the columns are not those of an index.

    Args:
        name: path of the file in the repository.
        lines: its text, by lines.

    Raises:
        SolaredError: a path in it leads out of the repository.
    """
    reader = csv.reader(lines)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error:
        return [], []
    if not set(COLUMNS) <= set(header):
        return [], []
    rows, faults, split = [], [], _split_of_name(name)
    try:
        for cells in reader:
            if not cells:
                continue
            place = f"{name} line {reader.line_num}"
            # A cut line lacks its last cells.
            record = dict.fromkeys(COLUMNS, "") | dict(zip(header, map(str.strip, cells), strict=False))
            for column in _PATH_COLUMNS:
                _check_inside(record[column], column, place)
            try:
                rows.append(_row(record, place, split))
            except ValueError as error:
                faults.append(f"{place}: {_shorten(error)}")
    except csv.Error as error:
        faults.append(f"{name} line {reader.line_num}: {error}, and what follows it")
    if not faults:
        return rows, []
    return rows, [f"Of no use in the index: {_few(faults)}."]


def compare(
    rows: Iterable[IndexRow],
    regions: Iterable[Mapping],
    incomplete: Iterable[int],
    leave_out: Collection[int] = (),
    earlier: Collection[int] = (),
) -> list[str]:
    """Remarks on where an index, the regions of its repository and those of the dataset differ.

    Args:
        rows: usable rows of all index files.
        regions: those converted, as the manifest describes them.
        incomplete: AR numbers of regions that lack one of their three files.
        leave_out: AR numbers of regions that are not wanted.
        earlier: AR numbers of other regions in the dataset, which an earlier import converted.
    """
    named = defaultdict(list)
    for row in rows:
        named[row.ar_number].append(row)
    converted = {region["ar_number"]: region for region in regions}
    remarks = []
    if leave_out:
        remarks.append(f"Left out as asked: {_names(leave_out)}.")
    if earlier:
        remarks.append(
            "Kept from an earlier import, though the repository does not hold all three of their files: "
            f"{_names(earlier)}."
        )
    absent = (named.keys() | set(incomplete)) - {*converted, *leave_out, *earlier}
    if absent:
        remarks.append(f"Left out, for the repository does not hold all three of their files: {_names(absent)}.")
    if not named:
        remarks.append(f"No CSV file has a usable row of an index, with the columns {', '.join(COLUMNS)}.")
    elif converted.keys() - named.keys():
        remarks.append(f"Converted, though the index does not name them: {_names(converted.keys() - named.keys())}.")
    repeated = {number: found for number, found in named.items() if len(found) > 1}
    if repeated:
        places = [f"AR{number} ({', '.join(row.place for row in repeated[number])})" for number in sorted(repeated)]
        remarks.append(f"In the index more than once: {_few(places)}.")
    there = [row for number, found in sorted(named.items()) if number in converted for row in found]
    elsewhen = [row for row in there if not _overlap(row, converted[row.ar_number])]
    if elsewhen:
        spans = [
            f"AR{row.ar_number} ({row.place}: {row.start:%Y-%m-%d} to {row.end:%Y-%m-%d}, observed "
            f"{converted[row.ar_number]['start_tai'][:10]} to {converted[row.ar_number]['end_tai'][:10]})"
            for row in elsewhen
        ]
        remarks.append(f"The index names a time at which its region was not observed: {_few(spans)}.")
    otherwise = defaultdict(set)
    for row in there:
        split = converted[row.ar_number]["split"]
        if row.split not in (None, split):
            otherwise[row.split, split].add(row.ar_number)
    if otherwise:
        groups = [
            f"{index} there and {ours} here {_names(found)}" for (index, ours), found in sorted(otherwise.items())
        ]
        remarks.append(
            f"The index files group regions otherwise than the published split, which is kept: {'; '.join(groups)}."
        )
    return remarks


def _row(record: Mapping[str, str], place: str, split: str | None) -> IndexRow:
    """Raises ValueError: the row contradicts itself, or cannot be read."""
    number = record["AR"]
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"{number!r} is no AR number")
    for column, kind in _PATH_COLUMNS.items():
        expected = source_path(Path(f"AR{number}"), kind)
        if PurePosixPath(record[column]).parts[-2:] != expected.parts:
            raise ValueError(f"{column} of AR{number} is {record[column]!r}, which does not end with {expected}")
    start, end = (datetime.strptime(record[column], _TIME) for column in ("t_start", "t_end"))
    if start > end:
        raise ValueError(f"t_start {record['t_start']} is later than t_end {record['t_end']}")
    return IndexRow(place, split, int(number), start, end)


def _check_inside(text: str, column: str, place: str) -> None:
    path = PurePosixPath(text.removeprefix("/"))  # the slash stands for the repository's root
    # A colon belongs to addresses and drives, a backslash to folders on Windows.
    if path.is_absolute() or ".." in path.parts or ":" in text or "\\" in text:
        raise SolaredError(
            f"{place} names {_shorten(repr(text))} as {column}, which is not in this repository; do not trust it, "
            "and tell its owner; or name another --revision."
        )


def _split_of_name(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.lower())
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def _overlap(row: IndexRow, region: Mapping) -> bool:
    start, end = (datetime.fromisoformat(region[name]) for name in ("start_tai", "end_tai"))
    return row.start <= end and start <= row.end


def _names(ar_numbers: Iterable[int]) -> str:
    return ", ".join(f"AR{number}" for number in sorted(ar_numbers))


def _shorten(text: object) -> str:
    text = str(text)
    return text if len(text) <= 150 else f"{text[:150]}..."


def _few(items: list[str]) -> str:
    return "; ".join(items if len(items) <= 5 else [*items[:5], f"and {len(items) - 5} more"])
