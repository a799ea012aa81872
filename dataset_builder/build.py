"""From a source to a dataset folder: one region, one Parquet shard; a rerun does only what is left to do.

A shard carries a key in its footer: the checksum of its source files and of how it is built. A region whose shard is
whole and carries the key of today is done. Card, catalog and manifest are made from the shards themselves, at the end.

A folder with a card is a finished dataset, and the card describes the files beside it. To keep that true, a rebuild
writes what is new into the hidden folder `.staged`, which is laid out as the dataset is, and moves it into place once
all of it is there: the old card goes first, the new one comes last. A build that fails or is killed before leaves the
old dataset as it was. One that is killed while it moves files leaves a folder without a card, and the next build
finishes that first.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from dataset_builder import simulate
from dataset_builder.publish import CATALOG_PATH, catalog_table, dataset_card, region_facts, statistics
from dataset_builder.published import find_regions, parse_timeline, read_sources, region_number
from solared_hf.errors import SolaredError
from solared_hf.files import remove_leftovers, write_atomically
from solared_hf.schema import CHANNELS, SCHEMA_VERSION, timeline_features
from solared_hf.splits import SPLITS, published_split
from solared_hf.timelines import Timeline, timelines_from_table

# Both are folders in the published format; simulated regions have numbers of their own.
SOURCES = ("published", "simulated")

LOCK_NAME = ".build.lock"
MANIFEST_NAME = "manifest.json"
CARD_NAME = "README.md"
DATA_FOLDER = "data"
STAGING_NAME = ".staged"
_GENERATOR = "solared build"
_KEY = b"solared_source_key"

# Raised whenever parse_timeline gives other values for the same files, so that finished shards are built again.
PARSER_VERSION = 1

# Measured on the 52 published regions: floats split by byte are 7 % smaller and read within 10 % as fast; level 9 is
# 2 % smaller than level 3, and level 15 would be another 3.5 % smaller for five times the writing time.
_PARQUET = {"compression": "zstd", "compression_level": 9, "use_dictionary": False, "write_page_checksum": True}
_SPLIT_BYTES = [f"{channel}.list.element" for channel in CHANNELS]


@dataclass(frozen=True)
class BuildReport:
    """What a build did: `written` and `kept` count regions, `rows` and `bytes` are those of all shards in `folder`."""

    folder: Path
    regions: int
    rows: int
    bytes: int
    written: int
    kept: int


def split_of_region(ar_number: int) -> str:
    """Split of a region: the published one, or the simulation's own for its numbers."""
    return simulate.split_of(ar_number) if simulate.is_simulated(ar_number) else published_split(ar_number)


def build_dataset(
    source: str,
    input: Path | str,
    output: Path | str,
    split_of: Callable[[int], str] = split_of_region,
    progress: Callable[[list[Path]], Iterable[Path]] = iter,
) -> BuildReport:
    """Build, or bring up to date, a dataset folder that `datasets.load_dataset` reads.

    Regions that cannot be read do not stop the others: every region is tried, the good ones become shards, and then
    the build fails with a sentence for each bad one. A dataset that was in `output` stays as it was, a new one gets no
    card, and the next run takes up the finished shards. Shards of regions that are not in `input` are kept and
    described.

    Args:
        source: what `input` holds, one of `SOURCES`.
        input: folder with the source files.
        output: new or empty folder, or one that an earlier build wrote.
        split_of: split by AR number; a region whose split changed moves.
        progress: wraps the regions as they are worked through, as `tqdm` does.

    Raises:
        SolaredError: the arguments do not fit, another build is writing `output`, a region is bad, or the disk is
            full.
    """
    if source not in SOURCES:
        raise SolaredError(f"Unknown source {source!r}; choose one of {', '.join(SOURCES)}.")
    regions, output = find_regions(input), Path(output)
    _check_output(output, Path(input), regions)
    with _locked(output):
        staging = output / STAGING_NAME
        remove_leftovers(*_written_folders(output), *_written_folders(staging))
        if (staging / CARD_NAME).exists():  # written last: an earlier build was killed while it moved files
            _move_into_place(output, staging)
        _check_source(source, regions, output)
        # A folder without a card is no dataset yet, and its shards need no detour.
        target = staging if staging.exists() or (output / CARD_NAME).exists() else output
        bad, written = [], 0
        for region in progress(regions):
            try:
                shard = _new_shard(region, output, target, split_of)
            except SolaredError as error:
                bad.append(str(error))
                continue
            if shard is not None:
                write_atomically(*shard)
                written += 1
            _remove_from_other_splits(target, region_number(region), split_of)
        if bad:
            raise SolaredError(
                f"{len(bad)} of {len(regions)} regions could not be built; the others are finished and kept for the "
                "next run, and a dataset that was there is left as it was. Mend these and run the same command "
                "again:\n" + "\n".join(bad)
            )
        manifest = _describe(output, target, source)
        if target != output and target.exists():
            _move_into_place(output, target)
    return BuildReport(
        folder=output,
        regions=len(manifest["regions"]),
        rows=sum(region["steps"] for region in manifest["regions"]),
        bytes=sum(region["bytes"] for region in manifest["regions"]),
        written=written,
        kept=len(regions) - written,
    )


def _new_shard(region: Path, output: Path, target: Path, split_of: Callable[[int], str]) -> tuple[Path, bytes] | None:
    """Path in `target` and content of a region's shard, or None where `output` or `target` has it already."""
    sources = read_sources(region)
    key = _source_key(sources)
    finished, path = (_shard_path(folder, region_number(region), split_of) for folder in (output, target))
    if _is_current(finished, key):
        if path != finished:
            path.unlink(missing_ok=True)  # staged for sources that have changed back since
        return None
    if _is_current(path, key):
        return None
    timeline = parse_timeline(region, sources)
    region_facts(timeline)  # refuses a region that cannot be described before it is written
    return path, _encode(timeline.to_table(), key)


def _is_current(path: Path, key: str) -> bool:
    try:
        return _read_shard(path.read_bytes())[1] == key
    except (OSError, SolaredError):
        return False  # missing or damaged


def _describe(output: Path, target: Path, source: str) -> dict:
    """Write catalog, manifest and card of the shards into `target`, each only where `output` differs; the manifest."""
    regions, by_split = [], {}
    for name, path in _shards_to_be(output, target):
        content = path.read_bytes()
        try:
            timeline, key = _read_shard(content)
        except SolaredError as error:
            raise SolaredError(f"{path} is damaged or no shard of ours; delete it and build again.") from error
        split = Path(name).parent.name
        by_split.setdefault(split, []).append(timeline)
        regions.append(
            {
                **region_facts(timeline),
                "split": split,
                "path": name,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "source_key": key,
            }
        )
    regions.sort(key=lambda region: region["ar_number"])
    for first, second in pairwise(regions):
        if first["ar_number"] == second["ar_number"]:
            raise SolaredError(
                f"{output} holds AR{first['ar_number']} as {first['path']} and {second['path']}; delete one of them."
            )
    catalog = catalog_table(regions)
    catalog_content = _encode(catalog)
    manifest = {
        "generator": _GENERATOR,
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "regions": regions,
        "statistics": {split: statistics(by_split[split]) for split in SPLITS if split in by_split},
        "catalog": {
            "path": CATALOG_PATH,
            "bytes": len(catalog_content),
            "sha256": hashlib.sha256(catalog_content).hexdigest(),
            "memory_bytes": catalog.nbytes,
        },
    }
    described = {
        CATALOG_PATH: catalog_content,
        MANIFEST_NAME: (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode(),
        CARD_NAME: dataset_card(manifest).encode(),
    }
    for name, content in described.items():
        # The card comes last, and whenever anything is staged: the old one is about to be deleted.
        if not _holds(output / name, content) or (name == CARD_NAME and target.exists()):
            write_atomically(target / name, content)
        elif target != output:
            (target / name).unlink(missing_ok=True)  # staged by a run that failed, for other shards
    return manifest


def _move_into_place(output: Path, staging: Path) -> None:
    """Make what is staged part of the dataset; after an interruption it can be called again.

    Raises:
        SolaredError: the folder cannot be written.
    """
    try:
        (output / CARD_NAME).unlink(missing_ok=True)
        for path in _shard_paths(staging):
            for split in SPLITS:
                (output / DATA_FOLDER / split / path.name).unlink(missing_ok=True)
            _move(path, output / path.relative_to(staging))
        for name in (CATALOG_PATH, MANIFEST_NAME, CARD_NAME):
            if (staging / name).exists():
                _move(staging / name, output / name)
        shutil.rmtree(staging)
    except OSError as error:
        raise SolaredError(
            f"Could not write {output} ({error.strerror or error}); mend this and run the same command again."
        ) from error


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    path.replace(to)


def _source_key(sources: dict[str, bytes]) -> str:
    settings = {
        "schema_version": SCHEMA_VERSION,
        "parser_version": PARSER_VERSION,
        "parquet": _PARQUET,
        "split_bytes": _SPLIT_BYTES,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for kind, content in sorted(sources.items()):
        digest.update(f"\n{kind} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _encode(table: pa.Table, key: str | None = None) -> bytes:
    if key is not None:
        table = table.replace_schema_metadata({**table.schema.metadata, _KEY: key})
    content = io.BytesIO()
    split_bytes = [name for name in _SPLIT_BYTES if name.split(".")[0] in table.column_names]
    pq.write_table(table, content, use_byte_stream_split=split_bytes, **_PARQUET)
    return content.getvalue()


def _read_shard(content: bytes) -> tuple[Timeline, str]:
    """Timeline and source key of a shard.

    Raises:
        SolaredError: the bytes are damaged, or no shard.
    """
    try:
        table = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise SolaredError(f"Not a whole Parquet file ({error}).") from error
    if not table.schema.equals(timeline_features().arrow_schema, check_metadata=False):
        raise SolaredError("A Parquet file, but its columns are not those of a shard.")
    key = (table.schema.metadata or {}).get(_KEY)
    timelines = timelines_from_table(table)
    if key is None or len(timelines) != 1:
        raise SolaredError("A Parquet file, but not one region's shard.")
    return timelines[0], key.decode()


def _shard_path(output: Path, ar_number: int, split_of: Callable[[int], str]) -> Path:
    split = split_of(ar_number)
    if split not in SPLITS:
        raise SolaredError(f"AR{ar_number} was given the split {split!r}; choose one of {', '.join(SPLITS)}.")
    return output / DATA_FOLDER / split / f"AR{ar_number}.parquet"


def _shard_paths(output: Path) -> list[Path]:
    return sorted((output / DATA_FOLDER).glob("*/*.parquet"))


def _shards_to_be(output: Path, target: Path) -> list[tuple[str, Path]]:
    """Names in the finished dataset, and files, of the shards in `target` and of those in `output` that stay."""
    new = _shard_paths(target)
    replaced = {path.name for path in new}
    stay = [path for path in _shard_paths(output) if path.name not in replaced]
    return sorted(
        (path.relative_to(folder).as_posix(), path)
        for folder, paths in ((target, new), (output, stay))
        for path in paths
    )


def _written_folders(output: Path) -> list[Path]:
    return [output, (output / CATALOG_PATH).parent, *(output / DATA_FOLDER / split for split in SPLITS)]


def _remove_from_other_splits(output: Path, ar_number: int, split_of: Callable[[int], str]) -> None:
    right = _shard_path(output, ar_number, split_of)
    for split in SPLITS:
        path = output / DATA_FOLDER / split / right.name
        if path != right:
            path.unlink(missing_ok=True)


def _holds(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def _check_source(source: str, regions: list[Path], output: Path) -> None:
    """Refuse simulated regions as published ones, the reverse, and both in one folder: the card would be untrue."""
    for path in (*regions, *_shard_paths(output)):
        actual = "simulated" if simulate.is_simulated(region_number(path.with_suffix(""))) else "published"
        if actual != source:
            raise SolaredError(
                f"{path} is {actual}, and the source to build is {source}; build {actual} regions as source {actual}, "
                "in a folder of their own."
            )


def _check_output(output: Path, input: Path, regions: list[Path]) -> None:
    """Refuse a folder that a build would spoil; nothing has been written yet."""
    if output.exists() and not output.is_dir():
        raise SolaredError(f"{output} is a file; name a folder for the dataset.")
    if output.resolve() in (input.resolve(), regions[0].parent.resolve()):
        raise SolaredError(f"{output} holds the input; name another folder for the dataset.")
    manifest = output / MANIFEST_NAME
    if not manifest.exists():
        foreign = _foreign_entries(output) if output.exists() else []
        if foreign:
            raise SolaredError(
                f"{output} holds {foreign[0]} and no manifest of `{_GENERATOR}`, so it is not ours to change; name a "
                "new or an empty folder."
            )
        return
    try:
        facts = json.loads(manifest.read_bytes())
        ours, version = facts["generator"] == _GENERATOR, int(facts["schema_version"])
    except (OSError, ValueError, KeyError, TypeError):
        ours, version = False, 0
    if not ours:
        raise SolaredError(f"{manifest} was not written by `{_GENERATOR}`; name a new or an empty folder.")
    if version > SCHEMA_VERSION:
        raise SolaredError(
            f"{output} was built with schema version {version}, and this package knows {SCHEMA_VERSION}; upgrade it "
            "with `pip install --upgrade solared-hf`, or name another folder."
        )


def _foreign_entries(output: Path) -> list[str]:
    """What a build that was cut short could not have left in a folder; hidden entries, such as .git, are no matter."""
    ours = {DATA_FOLDER, Path(CATALOG_PATH).parent.name}
    entries = [path.name for path in output.iterdir() if path.name not in ours and not path.name.startswith(".")]
    if (output / DATA_FOLDER).is_dir():
        entries += [f"data/{path.name}" for path in (output / DATA_FOLDER).iterdir() if path.name not in SPLITS]
    return sorted(entries)


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system frees it when a process dies, however it dies."""
    lock = FileLock(output / LOCK_NAME)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SolaredError(
            f"Another build is writing {output}; wait until it has finished, or name another folder."
        ) from error
    except OSError as error:
        raise SolaredError(f"Could not write {output} ({error.strerror or error}); choose another folder.") from error
    try:
        yield
    finally:
        lock.release()
