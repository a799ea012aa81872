"""Datasets by name: a folder written by `solared build`, or a repository on the Hub."""

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TypedDict

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
    prepared_config,
    snapshot,
)
from solared_hf.data.timelines import Timeline, timelines_from_dataset, timelines_from_table
from solared_hf.errors import SolaredError, reason_of, whole_number
from solared_hf.hub.cards import CARD_NAME
from solared_hf.schema import CATALOG_PATH, MANIFEST_NAME, SCHEMA_VERSION

_TIMELINES, _CATALOG, _CATALOG_SPLIT = "timelines", "catalog", "regions"


class DatasetIdentity(TypedDict):
    """What a result says about the dataset that it comes from.

    Attributes:
        dataset: The repository, or the name of the folder.
        revision: The commit of the repository, or the SHA-256 of the folder's manifest.
        source: `published` or `fits`.
        simulated: True if the Sun is simulated.
        schema_version: Version of the columns, see `schema.SCHEMA_VERSION`.
    """

    dataset: str
    revision: str
    source: str
    simulated: bool
    schema_version: int


class OpenedDataset(ABC):
    """A dataset folder, or one commit of a dataset repository, as `open_dataset` returns it.

    Everything is read from the same folder or commit, and the Hub is not asked again.

    Attributes:
        name: The folder or repository, as given to `open_dataset`.
        revision: The commit of a repository; None for a folder.
    """

    def __init__(self, name: str, revision: str | None):
        self.name, self.revision = name, revision

    def __repr__(self) -> str:
        at = "" if self.revision is None else f" at {self.revision[:8]}"
        return f"<{type(self).__name__} {self.name}{at}: {', '.join(self.splits)}>"

    @property
    @abstractmethod
    def identity(self) -> DatasetIdentity:
        """The facts that identify the dataset in a result.

        Raises:
            SolaredError: If the dataset has no manifest, or a damaged one.
        """

    @property
    @abstractmethod
    def catalog(self) -> list[dict]:
        """One row per region, with the columns of `schema.catalog_features`.

        Raises:
            SolaredError: If the catalog is missing or damaged.
        """

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that the dataset has."""

    @abstractmethod
    def _read_split(self, split: str) -> list[Timeline]:
        """Return the regions of a split that the dataset has."""

    def timelines(self, split: str | None = None) -> list[Timeline]:
        """Return the regions of a split, or of all splits, one split after the other. Nothing is cached.

        Raises:
            SolaredError: If the dataset does not have the split, or a file is damaged.
        """
        if split is None:
            return [timeline for name in self.splits for timeline in self._read_split(name)]
        if split not in self.splits:
            raise SolaredError(
                f"The dataset {self.name} has no split {split!r}. Choose one of {', '.join(self.splits)}."
            )
        return self._read_split(split)

    def region(self, ar_number: int) -> Timeline:
        """Return one region, from any split.

        Raises:
            SolaredError: If the dataset does not have the region, or a file is damaged.
        """
        number = whole_number(ar_number, "An AR number", "give the NOAA number, such as 11726")
        regions = {str(timeline.ar_number): timeline for timeline in self.timelines()}
        if str(number) not in regions:
            raise self._no_region(number, regions)
        return regions[str(number)]

    def _no_region(self, ar_number: int, known: Iterable[str]) -> SolaredError:
        return SolaredError(f"The dataset {self.name} has no region AR{ar_number}. It has {', '.join(sorted(known))}.")


class DatasetFolder(OpenedDataset):
    """A dataset folder, or the folder of a repository's commit in the cache of huggingface_hub."""

    def __init__(self, name: str, revision: str | None, folder: Path):
        super().__init__(name, revision)
        self._folder = folder
        self._shards: dict[str, list[Path]] = {}  # by split
        # Not by a pattern of `datasets`, which would read brackets in the folder's own name as a part of the pattern.
        for shard in sorted(folder.glob("data/*/AR*.parquet")):
            self._shards.setdefault(shard.parent.name, []).append(shard)
        if not (folder / CARD_NAME).exists() or not self._shards:
            raise no_dataset_in_folder(name, folder)
        # A folder without a manifest may be a part of a dataset, copied on purpose.
        missing = missing_files(name, folder) if (folder / MANIFEST_NAME).exists() else []
        if missing:
            raise SolaredError(
                f"The dataset {name} lacks {len(missing)} of its files, such as {missing[0]}. Build it again, or copy "
                "the whole folder."
            )
        _check_schema_version(name, folder)

    @cached_property
    def identity(self) -> DatasetIdentity:
        if not (self._folder / MANIFEST_NAME).exists():
            raise no_dataset_in_folder(self.name, self._folder)
        try:
            content = (self._folder / MANIFEST_NAME).read_bytes()
            manifest = json.loads(content)
            return DatasetIdentity(
                dataset=self._folder.resolve().name if self.revision is None else self.name,
                revision=hashlib.sha256(content).hexdigest() if self.revision is None else self.revision,
                source=manifest["source"],
                simulated=manifest["simulated"],
                schema_version=manifest["schema_version"],
            )
        except (OSError, KeyError, ValueError) as error:
            raise no_dataset(
                self.name, f"{MANIFEST_NAME} cannot be used: {reason_of(error)}", "Build it again."
            ) from error

    @cached_property
    def catalog(self) -> list[dict]:
        try:
            return pq.read_table(self._folder / CATALOG_PATH).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise SolaredError(
                f"The catalog of the dataset {self.name} cannot be read ({reason_of(error)}). Build the dataset again."
            ) from error

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._shards)

    def _read_split(self, split: str) -> list[Timeline]:
        return [timeline for shard in self._shards[split] for timeline in _read_shard(shard)]

    def region(self, ar_number: int) -> Timeline:
        number = whole_number(ar_number, "An AR number", "give the NOAA number, such as 11726")
        shards = {shard.stem.removeprefix("AR"): shard for split in self._shards.values() for shard in split}
        if str(number) not in shards:
            raise self._no_region(number, shards)
        return _read_shard(shards[str(number)])[0]


class PreparedDataset(OpenedDataset):
    """Rows of a repository in the cache of `datasets`, for when the Hub cannot be reached.

    The cache does not hold the manifest, so `identity` raises the error that says how to download the whole dataset.
    """

    def __init__(self, name: str, revision: str, rows: dict[str, Dataset], missing: NotOnThisMachineError):
        super().__init__(name, revision)
        self._rows, self._missing = rows, missing

    @property
    def identity(self) -> DatasetIdentity:
        raise self._missing

    @cached_property
    def catalog(self) -> list[dict]:
        found = prepared_config(self.name, _CATALOG, self.revision)
        if found is None:
            raise self._missing
        return found.as_dataset(split=_CATALOG_SPLIT).to_list()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def _read_split(self, split: str) -> list[Timeline]:
        return timelines_from_dataset(self._rows[split])


def open_dataset(dataset: str | Path | OpenedDataset, revision: str | None = None) -> OpenedDataset:
    """Find a dataset once, so that everything that is read from it belongs together.

    A branch or tag of a repository becomes the commit that it means now, and the files of that commit are downloaded
    to the cache of huggingface_hub. Without the Hub, the dataset is read from that cache, or from the cache of
    `datasets` if only that one has the rows; a warning names the commit then.

    Args:
        dataset: Folder written by `solared build`, or a repository id such as `nasa-impact/ar_emergence`. An opened
            dataset is returned as it is.
        revision: Branch, tag or commit of a repository; `main` by default.

    Raises:
        SolaredError: If the dataset or the revision does not exist, is incomplete, or has a schema that is newer than
            this package.

    Example, with a dataset of one simulated region:

    >>> from tempfile import TemporaryDirectory
    >>> from dataset_builder import build_dataset
    >>> from dataset_builder.simulation import write_simulated
    >>> from dataset_builder.published import PublishedSource
    >>> with TemporaryDirectory() as folder:
    ...     write_simulated(folder, [90010], steps=48)
    ...     report = build_dataset(PublishedSource(folder), f"{folder}/dataset")
    ...     dataset = open_dataset(f"{folder}/dataset")
    ...     region = dataset.region(90010)
    >>> dataset.splits, dataset.revision, region.values.shape, str(region.cadence)
    (('test',), None, (48, 6, 63), '1:00:00')
    """
    if isinstance(dataset, OpenedDataset):
        return dataset
    folder = local_folder(dataset)
    if folder is not None:
        return DatasetFolder(str(dataset), None, folder)
    name = str(dataset)
    try:
        folder = snapshot(name, revision)
    except NotOnThisMachineError as missing:
        found = prepared_config(name, _TIMELINES, revision)
        if found is None:
            raise
        warnings.warn(
            f"{missing} Until then, rows of commit {found.hash[:8]} are read from the cache of `datasets`.",
            stacklevel=2,
        )
        return PreparedDataset(name, found.hash, found.as_dataset(), missing)
    return DatasetFolder(name, folder.name, folder)


def load_timelines(dataset: str | Path, split: str, revision: str | None = None) -> list[Timeline]:
    """Return the regions of one split: short for `open_dataset(dataset, revision).timelines(split)`.

    Args:
        dataset: Folder written by `solared build`, or a repository id such as `nasa-impact/ar_emergence`.
        split: `train`, `validation` or `test`.
        revision: Branch, tag or commit of a repository; `main` by default.

    Raises:
        SolaredError: If the dataset, the revision or the split does not exist, or the dataset cannot be read.
    """
    return open_dataset(dataset, revision).timelines(split)


def _read_shard(shard: Path) -> list[Timeline]:
    try:
        # Not `read_table`, which makes columns of the names of folders such as `split=test`.
        table = pq.ParquetFile(shard).read()
    except (OSError, pa.ArrowException) as error:
        raise SolaredError(
            f"{shard} could not be read ({reason_of(error)}). Build the dataset again, or download it again."
        ) from error
    return timelines_from_table(table)


def _check_schema_version(name: str, folder: Path) -> None:
    try:
        card = DatasetCard.load(folder / CARD_NAME, ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise no_dataset(name, f"{CARD_NAME} cannot be read: {reason_of(error)}", "Build it again.") from error
    version = card.data.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise SolaredError(
            f"The dataset {name} has schema version {version}, and this package reads up to {SCHEMA_VERSION}. "
            "Upgrade it with `pip install --upgrade solared-hf`."
        )
