"""Read the index of the published repository, CSV files that name the regions, and compare it with the data files.

A row names a region, a time span and the three files of the region. All values are in those files, so a wrong index
does not make the data wrong: each discrepancy becomes a remark. Only an index with a path that leads out of the
repository is an error.
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
# UTC. It differs from TAI by half a minute, which does not matter for spans of days.
_TIME = "%Y.%m.%d_%H:%M:%SZ"
# The words for splits in file names.
_SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class IndexRow:
    """A usable row of an index file.

    Args:
        place: the file name and the line number.
        split: the split in the file name, or None.
        ar_number: NOAA active region number.
        start, end: the time span, UTC.
    """

    place: str
    split: str | None
    ar_number: int
    start: datetime
    end: datetime


def read_index(name: str, lines: Iterable[str]) -> tuple[list[IndexRow], list[str]]:
    """Return the usable rows of an index file and remarks on the other rows; both are empty if it is not an index.

    Args:
        name: path of the file in the repository.
        lines: the lines of the file.

    Raises:
        SolaredError: If a path in the file leads out of the repository.
    """
    reader = csv.reader(lines)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error:
        return [], []
    if not set(COLUMNS) <= set(header):
        return [], []
    rows: list[IndexRow] = []
    faults: list[str] = []
    split = _split_of_name(name)
    try:
        for cells in reader:
            if not cells:
                continue
            place = f"{name} line {reader.line_num}"
            # A truncated line lacks the last cells.
            record = dict.fromkeys(COLUMNS, "") | dict(zip(header, map(str.strip, cells), strict=False))
            for column in _PATH_COLUMNS:
                _check_inside(record[column], column, place)
            try:
                rows.append(_row(record, place, split))
            except ValueError as error:
                faults.append(f"{place}: {_shorten(error)}")
    except csv.Error as error:
        faults.append(f"{name} line {reader.line_num}: {error}, and all following lines")
    if not faults:
        return rows, []
    return rows, [f"Unusable rows of the index: {_first_five(faults)}."]


def compare(
    rows: Iterable[IndexRow],
    regions: Iterable[Mapping],
    incomplete: Iterable[int],
    leave_out: Collection[int] = (),
    earlier: Collection[int] = (),
) -> list[str]:
    """Return remarks on differences between an index, the regions of the repository and the regions of the dataset.

    Args:
        rows: usable rows of all index files.
        regions: the converted regions, as the manifest describes them.
        incomplete: AR numbers of regions that lack one of their three files.
        leave_out: AR numbers of regions that the user left out.
        earlier: AR numbers of regions in the dataset that only an earlier import converted.
    """
    named: defaultdict[int, list[IndexRow]] = defaultdict(list)
    for row in rows:
        named[row.ar_number].append(row)
    converted = {region["ar_number"]: region for region in regions}
    remarks = []
    if leave_out:
        remarks.append(f"Left out as asked: {_names(leave_out)}.")
    if earlier:
        remarks.append(
            f"Kept from an earlier import, although the repository does not hold all three files: {_names(earlier)}."
        )
    absent = (named.keys() | set(incomplete)) - {*converted, *leave_out, *earlier}
    if absent:
        remarks.append(f"Left out because the repository does not hold all three files: {_names(absent)}.")
    if not named:
        remarks.append(f"No CSV file has a usable index row, with the columns {', '.join(COLUMNS)}.")
    elif converted.keys() - named.keys():
        remarks.append(f"Converted but not in the index: {_names(converted.keys() - named.keys())}.")
    repeated = {number: found for number, found in named.items() if len(found) > 1}
    if repeated:
        places = [f"AR{number} ({', '.join(row.place for row in repeated[number])})" for number in sorted(repeated)]
        remarks.append(f"In the index more than once: {_first_five(places)}.")
    of_converted = [row for number, found in sorted(named.items()) if number in converted for row in found]
    other_time = [row for row in of_converted if not _overlap(row, converted[row.ar_number])]
    if other_time:
        spans = [
            f"AR{row.ar_number} ({row.place}: {row.start:%Y-%m-%d} to {row.end:%Y-%m-%d}, observed "
            f"{converted[row.ar_number]['start_tai'][:10]} to {converted[row.ar_number]['end_tai'][:10]})"
            for row in other_time
        ]
        remarks.append(f"The index names a time at which the region was not observed: {_first_five(spans)}.")
    other_split: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for row in of_converted:
        split = converted[row.ar_number]["split"]
        if row.split not in (None, split):
            other_split[row.split, split].add(row.ar_number)
    if other_split:
        groups = [
            f"{index} in the index and {ours} here: {_names(found)}"
            for (index, ours), found in sorted(other_split.items())
        ]
        remarks.append(
            f"The index files divide regions differently from the published split, which is used: {'; '.join(groups)}."
        )
    return remarks


def _row(record: Mapping[str, str], place: str, split: str | None) -> IndexRow:
    """Return the row of a record.

    Raises:
        ValueError: If the record cannot be read or contradicts itself.
    """
    number = record["AR"]
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"{number!r} is not an AR number")
    for column, kind in _PATH_COLUMNS.items():
        expected = source_path(Path(f"AR{number}"), kind)
        if PurePosixPath(record[column]).parts[-2:] != expected.parts:
            raise ValueError(f"{column} of AR{number} is {record[column]!r}, which does not end with {expected}")
    start, end = (datetime.strptime(record[column], _TIME) for column in ("t_start", "t_end"))
    if start > end:
        raise ValueError(f"t_start {record['t_start']} is later than t_end {record['t_end']}")
    return IndexRow(place, split, int(number), start, end)


def _check_inside(text: str, column: str, place: str) -> None:
    path = PurePosixPath(text.removeprefix("/"))  # a leading slash stands for the root of the repository
    # Addresses and drives contain a colon, Windows paths a backslash.
    if path.is_absolute() or ".." in path.parts or ":" in text or "\\" in text:
        raise SolaredError(
            f"{place} names {_shorten(repr(text))} as {column}, which leads out of this repository. Do not trust the "
            "repository and tell its owner, or name another --revision."
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


def _first_five(items: list[str]) -> str:
    return "; ".join(items if len(items) <= 5 else [*items[:5], f"and {len(items) - 5} more"])
