"""Regions that users upload: untrusted files, visible to one user, and deleted with the session."""

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

# All published regions together have 13,600 steps and 16 MB; 1,500 hourly steps are two months.
MOST_MEGABYTES = 20
MOST_STEPS, MOST_STEPS_OF_A_REGION = 20_000, 1_500
# A session holds 30 MB at most.
MOST_SESSIONS = 50

# Physical types of Parquet with a fixed size; values of other types may have any length.
_NUMBER_TYPES = ("INT32", "INT64", "FLOAT", "DOUBLE")
_PUBLISHED_NAME = re.compile(r"mean_([a-z]+)([1-9][0-9]{0,8})_flat\.npz")
_WANTED = "Upload one Parquet file with the columns of the `timelines` config, or the three published npz files"
TOO_LARGE = (
    f"The files have more than {MOST_MEGABYTES} MB. Upload fewer regions at once: a region of 240 steps has 0.5 MB."
)


class Uploads:
    """The regions that users have uploaded, by session.

    Args:
        most_sessions: Number of sessions to keep. Beyond it the regions of the longest idle session are dropped.
    """

    def __init__(self, most_sessions: int = MOST_SESSIONS):
        self.most_sessions = most_sessions
        self._regions: OrderedDict[str, Mapping[str, Region]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """Return the number of sessions that have uploaded regions."""
        return len(self._regions)

    def keep(self, session: str, regions: Mapping[str, Region]) -> None:
        """Keep the regions of a session and drop its earlier uploads."""
        with self._lock:
            self._regions[session] = regions
            self._regions.move_to_end(session)
            while len(self._regions) > self.most_sessions:
                self._regions.popitem(last=False)

    def of(self, session: str) -> Mapping[str, Region]:
        """Return the regions of a session by key; empty if the session has no upload."""
        with self._lock:
            if session in self._regions:
                self._regions.move_to_end(session)
            return self._regions.get(session, {})

    def forget(self, session: str) -> None:
        """Drop the regions of a session."""
        with self._lock:
            self._regions.pop(session, None)


def take_files(paths: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of uploaded files by name, and delete the files, even if they are refused.

    Raises:
        SolaredError: If the files are too large, or a file does not exist any more.
    """
    files = [Path(path) for path in paths]
    try:
        if sum(path.stat().st_size for path in files) > MOST_MEGABYTES * 1e6:
            raise SolaredError(TOO_LARGE)
        return {path.name: path.read_bytes() for path in files}
    except OSError as error:
        raise SolaredError("The upload was cut off. Choose the files again.") from error
    finally:
        for path in files:
            path.unlink(missing_ok=True)


def read_upload(files: Mapping[str, bytes]) -> list[Timeline]:
    """Return the regions in uploaded files, in ascending order of AR number.

    Args:
        files: Contents by name: Parquet files with the columns of the `timelines` config, or the three published npz
            files of each region. No code in them is run, and the stated sizes are checked before the data are read.

    Raises:
        SolaredError: If a file has another format, is damaged, or holds too many steps.
    """
    for name, content in files.items():
        if not name.endswith((".parquet", ".npz")):
            raise SolaredError(f"{name} is neither Parquet nor npz. {_WANTED} of each region.")
        if not content:
            raise SolaredError(f"{name} is empty. Upload the whole file.")
    published = {name: content for name, content in files.items() if name.endswith(".npz")}
    timelines = _read_published(published)
    for name in files.keys() - published.keys():
        timelines += _read_parquet(name, files[name])
    numbers = [timeline.ar_number for timeline in timelines]
    if not timelines:
        raise SolaredError(f"The upload holds no step. {_WANTED} of each region.")
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise SolaredError(f"AR{twice} is in more than one file. Upload the region once.")
    for timeline in timelines:
        _check(timeline)
    if sum(map(len, timelines)) > MOST_STEPS:
        raise SolaredError(f"The upload has more than {MOST_STEPS:,} steps. Upload fewer regions at once.")
    return sorted(timelines, key=lambda timeline: timeline.ar_number)


def _read_published(files: Mapping[str, bytes]) -> list[Timeline]:
    sources: dict[str, dict[str, bytes]] = {}
    for name, content in files.items():
        match = _PUBLISHED_NAME.fullmatch(name)
        if not match or match[1] not in FILE_CHANNELS:
            names = ", ".join(f"mean_{kind}<number>_flat.npz" for kind in FILE_CHANNELS)
            raise SolaredError(f"{name} is not the name of a published file. Rename the three files to {names}.")
        sources.setdefault(match[2], {})[match[1]] = content
    timelines = []
    for number, contents in sources.items():
        missing = [f"mean_{kind}{number}_flat.npz" for kind in FILE_CHANNELS if kind not in contents]
        if missing:
            raise SolaredError(
                f"AR{number} lacks {' and '.join(missing)}. Choose all three files of the region at once."
            )
        timelines.append(parse_timeline(Path(f"AR{number}"), contents))
    return timelines


def _read_parquet(name: str, content: bytes) -> list[Timeline]:
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        _check_extent(name, file.metadata)
        # Other columns are not read, because they may have any size.
        table = file.read(columns=[column for column in COLUMNS if column in file.schema_arrow.names])
    except (OSError, pa.ArrowException) as error:
        reason = reason_of(error, most=200)
        raise SolaredError(f"{name} cannot be read as Parquet ({reason}). {_WANTED}.") from error
    return timelines_from_table(table)


def _check_extent(name: str, metadata: pq.FileMetaData) -> None:
    """Refuse a small file that would become a large table: Parquet stores a repeated value only once."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in COLUMNS]
    if metadata.num_rows > MOST_STEPS or any(chunk.num_values > MOST_STEPS * NUM_TILES for chunk in chunks):
        raise SolaredError(f"{name} has more than {MOST_STEPS:,} steps. Upload fewer regions at once.")
    for chunk in chunks:
        if chunk.physical_type not in _NUMBER_TYPES:
            column = chunk.path_in_schema.partition(".")[0]
            raise SolaredError(f"The column {column} of {name} does not hold numbers. {_WANTED}.")


def _check(timeline: Timeline) -> None:
    """Refuse a region that would keep the page busy for all users."""
    if len(timeline) > MOST_STEPS_OF_A_REGION:
        raise SolaredError(
            f"AR{timeline.ar_number} has {len(timeline):,} steps, more than the {MOST_STEPS_OF_A_REGION:,} that the "
            "page accepts. Upload the part around the emergence."
        )
