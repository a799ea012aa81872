"""Datasets by name: a folder of `solared build`, or a repository on the Hub."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Dataset
from huggingface_hub import DatasetCard

from solared_hf.data.dataset_location import (
    NotOnThisMachineError,
    local_folder,
    missing_files,
    no_dataset,
    no_dataset_in_folder,
    prepared,
    snapshot,
)
from solared_hf.data.timelines import Timeline, timelines_from_dataset, timelines_from_table
from solared_hf.errors import SolaredError, reason_of, whole_number
from solared_hf.hub.cards import CARD_NAME
from solared_hf.schema import CATALOG_PATH, MANIFEST_NAME, SCHEMA_VERSION

_DATA_FOLDER = "data"
_TIMELINES, _CATALOG, _CATALOG_SPLIT = "timelines", "catalog", "regions"


def load_timelines(dataset: str | Path, split: str, revision: str | None = None) -> list[Timeline]:
    """Regions of one split of a dataset folder, or of a dataset repository on the Hub.

    Args:
        dataset: folder written by `solared build`, or a repository id such as `nasa-impact/ar_emergence`.
        split: `train`, `validation` or `test`.
        revision: branch, tag or commit of a repository; `main` by default.

    Without the Hub, a repository is read from the cache of its client, or from that of `datasets` if the rows are
    there alone; a warning names the commit then.

    Raises:
        SolaredError: there is no such dataset or split, or its schema is newer than this package.

    Example, with a dataset of one simulated region:

    >>> from tempfile import TemporaryDirectory
    >>> from dataset_builder import build_dataset
    >>> from dataset_builder.simulation import write_simulated
    >>> from dataset_builder.published import PublishedSource
    >>> with TemporaryDirectory() as folder:
    ...     write_simulated(folder, [90010], steps=48)
    ...     report = build_dataset(PublishedSource(folder), f"{folder}/dataset")
    ...     (region,) = load_timelines(f"{folder}/dataset", "test")
    >>> region.ar_number, region.values.shape, str(region.cadence)
    (90010, (48, 6, 63), '1:00:00')
    """
    try:
        folder = _whole_folder(dataset, revision)
    except NotOnThisMachineError as error:
        return timelines_from_dataset(_prepared_split(error, dataset, _TIMELINES, split, revision))
    shards = _shards(folder)
    if split not in shards:
        raise SolaredError(
            f"The dataset {dataset} has no split {split!r}, only {', '.join(shards)}; choose a split it has."
        )
    return [timeline for shard in shards[split] for timeline in _read_shard(shard)]


def load_region(dataset: str | Path, ar_number: int, revision: str | None = None) -> Timeline:
    """One region of a dataset, whichever split it is in; the arguments are those of `load_timelines`.

    Raises:
        SolaredError: there is no such dataset or region, or its schema is newer than this package.
    """
    ar_number = whole_number(ar_number, "An AR number", "give NOAA's, such as 11726")
    try:
        shards = _shards(_whole_folder(dataset, revision))
    except NotOnThisMachineError as error:
        splits = prepared(dataset, _TIMELINES, revision)
        if splits is None:
            raise
        timelines = [
            timeline
            for split in splits.info.splits
            for timeline in timelines_from_dataset(_prepared_split(error, dataset, _TIMELINES, split, revision))
        ]
        regions = {timeline.ar_number: timeline for timeline in timelines}
    else:
        regions = {int(shard.stem.removeprefix("AR")): shard for split in shards.values() for shard in split}
    if ar_number not in regions:
        raise SolaredError(
            f"The dataset {dataset} has no region AR{ar_number}; it has {', '.join(map(str, sorted(regions)))}."
        )
    found = regions[ar_number]
    return found if isinstance(found, Timeline) else _read_shard(found)[0]


def load_catalog(dataset: str | Path, revision: str | None = None) -> list[dict]:
    """Rows of the `catalog` config (`schema.catalog_features`), one a region; the arguments are those of
    `load_timelines`.

    Raises:
        SolaredError: there is no such dataset, or its catalog is damaged.
    """
    try:
        folder = _folder(dataset, revision)
    except NotOnThisMachineError as error:
        return _prepared_split(error, dataset, _CATALOG, _CATALOG_SPLIT, revision).to_list()
    try:
        return pq.read_table(folder / CATALOG_PATH).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise SolaredError(
            f"The catalog of the dataset {dataset} cannot be read ({reason_of(error)}); build the dataset again."
        ) from error


def load_catalogued_timelines(
    dataset: str | Path, catalog: Iterable[Mapping], revision: str | None = None
) -> list[Timeline]:
    """The timelines of all splits, one split after the other.

    Args:
        dataset, revision: as of `load_timelines`.
        catalog: what `load_catalog` gives.

    Raises:
        SolaredError: the dataset cannot be loaded.
    """
    splits = sorted({row["split"] for row in catalog})
    return [timeline for split in splits for timeline in load_timelines(dataset, split, revision)]


def pinned_revision(dataset: str | Path, revision: str | None = None) -> str | None:
    """The commit that a branch or tag of a repository means now, `main` by default; None for a folder.

    Who reads a repository in several steps pins it first: a push between two steps would mix two revisions.

    Raises:
        SolaredError: there is no such dataset or revision.
    """
    if local_folder(dataset) is not None:
        return None
    try:
        return snapshot(str(dataset), revision).name
    except NotOnThisMachineError:
        found = prepared(str(dataset), _TIMELINES, revision)
        if found is None:
            raise
        return found.hash


def dataset_identity(dataset: str | Path, revision: str | None = None) -> dict:
    """What a dataset is, for those who have to say what they used.

    Returns:
        `dataset` (the repository, or the folder's name), `revision` (the repository's commit, or the digest of the
        folder's manifest), `source` (`published` or `fits`), `simulated` and `schema_version`.

    Raises:
        SolaredError: there is no such dataset.
    """
    folder = _folder(dataset, revision)
    if not (folder / MANIFEST_NAME).exists():
        raise no_dataset_in_folder(dataset, folder)
    try:
        content = (folder / MANIFEST_NAME).read_bytes()
        manifest = json.loads(content)
        described = {key: manifest[key] for key in ("source", "simulated", "schema_version")}
    except (OSError, KeyError, ValueError) as error:
        raise no_dataset(dataset, f"{MANIFEST_NAME} cannot be used: {reason_of(error)}", "build it again") from error
    if local_folder(dataset) is not None:
        return {"dataset": folder.resolve().name, "revision": hashlib.sha256(content).hexdigest(), **described}
    return {"dataset": str(dataset), "revision": folder.name, **described}


def _folder(dataset: str | Path, revision: str | None) -> Path:
    """A dataset folder itself, or that of a repository's commit in the cache of the Hub's client."""
    folder = local_folder(dataset)
    return snapshot(str(dataset), revision) if folder is None else folder


def _whole_folder(dataset: str | Path, revision: str | None) -> Path:
    """The same; a SolaredError if a part of the dataset is missing, or this package cannot read it."""
    folder = _folder(dataset, revision)
    if not (folder / CARD_NAME).exists() or not _shards(folder):
        raise no_dataset_in_folder(dataset, folder)
    # A folder without a manifest may be a part of a dataset that somebody has chosen.
    missing = missing_files(dataset, folder) if (folder / MANIFEST_NAME).exists() else []
    if missing:
        raise SolaredError(
            f"Of the dataset {dataset}, {missing[0]} is missing, one of {len(missing)} files; build it again, or copy "
            "all of it."
        )
    _check_schema_version(dataset, folder)
    return folder


def _shards(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files of each split, in order of their names."""
    shards: dict[str, list[Path]] = {}
    # A pattern of `datasets` would take brackets in the folder's own name for a part of it.
    for shard in sorted(folder.glob(f"{_DATA_FOLDER}/*/AR*.parquet")):
        shards.setdefault(shard.parent.name, []).append(shard)
    return shards


def _read_shard(shard: Path) -> list[Timeline]:
    try:
        # Without the folders' names, of which pyarrow could make columns.
        table = pq.ParquetFile(shard).read()
    except (OSError, pa.ArrowException) as error:
        raise SolaredError(
            f"{shard} could not be read ({reason_of(error)}); build the dataset again, or download it again."
        ) from error
    return timelines_from_table(table)


def _prepared_split(error: SolaredError, dataset: str, config: str, split: str, revision: str | None) -> Dataset:
    """Rows that `datasets` has prepared of a repository; `error` if there are none."""
    found = prepared(str(dataset), config, revision)
    if found is None:
        raise error
    if split not in found.info.splits:
        raise SolaredError(
            f"The dataset {dataset} has no split {split!r}, only {', '.join(found.info.splits)}; choose a split it "
            "has."
        )
    warnings.warn(
        f"{error} Until then, the rows are those that `datasets` has prepared of commit {found.hash[:8]}.",
        stacklevel=3,
    )
    return found.as_dataset(split=split)


def _check_schema_version(dataset: str | Path, folder: Path) -> None:
    try:
        card = DatasetCard.load(folder / CARD_NAME, ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise no_dataset(dataset, f"{CARD_NAME} cannot be read: {reason_of(error)}", "build it again") from error
    version = card.data.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise SolaredError(
            f"The dataset {dataset} has schema version {version}, and this package reads up to {SCHEMA_VERSION}; "
            "upgrade it with `pip install --upgrade solared-hf`."
        )
