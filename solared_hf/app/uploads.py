"""Timelines that users bring along: read without trusting them, seen by their user alone, gone with the session."""

import io
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.published.files import FILE_CHANNELS, parse_timeline
from solared_hf.app.regions import Region
from solared_hf.data.timelines import Timeline, timelines_from_table
from solared_hf.errors import SolaredError, reason_of
from solared_hf.schema import COLUMNS, NUM_TILES

# All published regions together have 13,600 steps and 16 MB; 1,500 steps are two months at one an hour.
MOST_MEGABYTES = 20
MOST_STEPS, MOST_STEPS_OF_A_REGION = 20_000, 1_500
# Each holds 30 MB at most.
MOST_SESSIONS = 50

# As Parquet calls them; anything else may be of any length.
_NUMBERS = ("INT32", "INT64", "FLOAT", "DOUBLE")
_PUBLISHED_NAME = re.compile(r"mean_([a-z]+)([1-9][0-9]{0,8})_flat\.npz")
_WANTED = "upload one Parquet file with the columns of the `timelines` config, or the three published npz files"
TOO_LARGE = (
    f"The files have more than {MOST_MEGABYTES} MB; upload fewer regions at once, one region of 240 steps has 0.5 MB."
)


class Uploads:
    """The regions that users have uploaded, by session.

    Args:
        most_sessions: for how many they are kept; beyond that those of the session that was idle longest are dropped.
    """

    def __init__(self, most_sessions: int = MOST_SESSIONS):
        self.most_sessions = most_sessions
        self._regions: OrderedDict[str, Mapping[str, Region]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """How many sessions have uploaded something."""
        return len(self._regions)

    def keep(self, session: str, regions: Mapping[str, Region]) -> None:
        """Keep the regions of a session, in the place of those that it had."""
        with self._lock:
            self._regions[session] = regions
            self._regions.move_to_end(session)
            while len(self._regions) > self.most_sessions:
                self._regions.popitem(last=False)

    def of(self, session: str) -> Mapping[str, Region]:
        """The regions of a session, by key; none for a session without any."""
        with self._lock:
            if session in self._regions:
                self._regions.move_to_end(session)
            return self._regions.get(session, {})

    def forget(self, session: str) -> None:
        """Drop what a session has uploaded."""
        with self._lock:
            self._regions.pop(session, None)


def take_files(paths: Iterable[str]) -> dict[str, bytes]:
    """Contents of uploaded files by name; the files themselves are deleted, whatever becomes of them.

    Raises:
        SolaredError: they are too large, or a file is not there any more.
    """
    paths = [Path(path) for path in paths]
    try:
        if sum(path.stat().st_size for path in paths) > MOST_MEGABYTES * 1e6:
            raise SolaredError(TOO_LARGE)
        return {path.name: path.read_bytes() for path in paths}
    except OSError as error:
        raise SolaredError("The upload was cut off; choose the files once more.") from error
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def read_upload(files: Mapping[str, bytes]) -> list[Timeline]:
    """Regions in uploaded files, in ascending order of AR number.

    Args:
        files: contents by name: Parquet files with the columns of the `timelines` config, or the three published npz
            files of each region. Nothing in them is run, and what they claim to hold is bounded before it is read.

    Raises:
        SolaredError: they are something else, or damaged, or too much; the message says what to do.
    """
    for name, content in files.items():
        if not name.endswith((".parquet", ".npz")):
            raise SolaredError(f"{name} is neither Parquet nor npz; {_WANTED} of each region.")
        if not content:
            raise SolaredError(f"{name} is empty; upload the whole file.")
    published = {name: content for name, content in files.items() if name.endswith(".npz")}
    timelines = _read_published(published)
    for name in files.keys() - published.keys():
        timelines += _read_parquet(name, files[name])
    numbers = [timeline.ar_number for timeline in timelines]
    if not timelines:
        raise SolaredError(f"There is no step in the upload; {_WANTED} of each region.")
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise SolaredError(f"AR{twice} is in more than one of the files; upload it once.")
    for timeline in timelines:
        _check(timeline)
    if sum(map(len, timelines)) > MOST_STEPS:
        raise SolaredError(f"The upload has more than {MOST_STEPS:,} steps; upload fewer regions at once.")
    return sorted(timelines, key=lambda timeline: timeline.ar_number)


def _read_published(files: Mapping[str, bytes]) -> list[Timeline]:
    sources: dict[str, dict[str, bytes]] = {}
    for name, content in files.items():
        match = _PUBLISHED_NAME.fullmatch(name)
        if not match or match[1] not in FILE_CHANNELS:
            names = ", ".join(f"mean_{kind}<number>_flat.npz" for kind in FILE_CHANNELS)
            raise SolaredError(f"{name} is not named as a published file; rename the three files {names}.")
        sources.setdefault(match[2], {})[match[1]] = content
    timelines = []
    for number, contents in sources.items():
        missing = [f"mean_{kind}{number}_flat.npz" for kind in FILE_CHANNELS if kind not in contents]
        if missing:
            raise SolaredError(
                f"Of AR{number}, {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; choose all "
                "three files of the region at once."
            )
        timelines.append(parse_timeline(Path(f"AR{number}"), contents))
    return timelines


def _read_parquet(name: str, content: bytes) -> list[Timeline]:
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        _check_extent(name, file.metadata)
        # Other columns are left where they are: they may be of any size.
        table = file.read(columns=[column for column in COLUMNS if column in file.schema_arrow.names])
    except (OSError, pa.ArrowException) as error:
        reason = reason_of(error, most=200)
        raise SolaredError(f"{name} cannot be read as Parquet ({reason}); write it again, or {_WANTED}.") from error
    return timelines_from_table(table)


def _check_extent(name: str, metadata: pq.FileMetaData) -> None:
    """Refuse a small file that would become a large table: a value may be written once and repeated at no cost."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in COLUMNS]
    if metadata.num_rows > MOST_STEPS or any(chunk.num_values > MOST_STEPS * NUM_TILES for chunk in chunks):
        raise SolaredError(f"{name} has more than {MOST_STEPS:,} steps; upload fewer regions at once.")
    for chunk in chunks:
        if chunk.physical_type not in _NUMBERS:
            raise SolaredError(f"{name} has no numbers in {chunk.path_in_schema.partition('.')[0]}; {_WANTED}.")


def _check(timeline: Timeline) -> None:
    """Refuse what would keep the page busy for everybody."""
    if len(timeline) > MOST_STEPS_OF_A_REGION:
        raise SolaredError(
            f"AR{timeline.ar_number} has {len(timeline):,} steps, and at most {MOST_STEPS_OF_A_REGION:,} are taken; "
            "upload the part around its emergence."
        )
