"""Datasets by name: a folder of `solared build`, or a repository on the Hub."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import IterableDataset, IterableDatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import DatasetCard, snapshot_download
from huggingface_hub.errors import HTTPError

from solared_hf.cards import CARD_NAME
from solared_hf.errors import SolaredError, reason_of
from solared_hf.hub_errors import explain
from solared_hf.schema import CATALOG_PATH, MANIFEST_NAME, SCHEMA_VERSION
from solared_hf.timelines import Timeline, timelines_from_dataset

# All that reading takes, and nothing that others put into the repository.
_FILES = (CARD_NAME, MANIFEST_NAME, CATALOG_PATH, "data/*/AR*.parquet")


def load_timelines(dataset: str | Path, split: str, revision: str | None = None) -> list[Timeline]:
    """Regions of one split of a dataset folder, or of a dataset repository on the Hub.

    Args:
        dataset: folder written by `solared build`, or a repository id such as `nasa-impact/ar_emergence`.
        split: `train`, `validation` or `test`.
        revision: branch, tag or commit of a repository; `main` by default.

    Raises:
        SolaredError: there is no such dataset or split, or its schema is newer than this package.

    Example, with a dataset of one simulated region:

    >>> from tempfile import TemporaryDirectory
    >>> from dataset_builder.build import build_dataset
    >>> from dataset_builder.simulate import write_simulated
    >>> from dataset_builder.sources import PublishedSource
    >>> with TemporaryDirectory() as folder:
    ...     write_simulated(folder, [90010], steps=48)
    ...     report = build_dataset(PublishedSource(folder), f"{folder}/dataset")
    ...     (region,) = load_timelines(f"{folder}/dataset", "test")
    >>> region.ar_number, region.values.shape, str(region.cadence)
    (90010, (48, 6, 63), '1:00:00')
    """
    return timelines_from_dataset(_load(dataset, split, revision))


def load_region(dataset: str | Path, ar_number: int, revision: str | None = None) -> Timeline:
    """One region of a dataset, whichever split it is in; the arguments are those of `load_timelines`.

    Raises:
        SolaredError: there is no such dataset or region, or its schema is newer than this package.
    """
    regions = []
    for split in _load(dataset, None, revision).values():
        for timeline in timelines_from_dataset(split):
            if timeline.ar_number == ar_number:
                return timeline
            regions.append(timeline.ar_number)
    raise SolaredError(
        f"The dataset {dataset} has no region AR{ar_number}; it has {', '.join(map(str, sorted(regions)))}."
    )


def load_catalog(dataset: str | Path, revision: str | None = None) -> list[dict]:
    """Rows of the `catalog` config (`schema.catalog_features`), one a region; the arguments are those of
    `load_timelines`.

    Raises:
        SolaredError: there is no such dataset, or its catalog is damaged.
    """
    folder = _local_folder(dataset, revision)
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
    return None if Path(dataset).is_dir() else _local_folder(dataset, revision).name


def dataset_identity(dataset: str | Path, revision: str | None = None) -> dict:
    """What a dataset is, for those who have to say what they used.

    Returns:
        `dataset` (the repository, or the folder's name), `revision` (the repository's commit, or the digest of the
        folder's manifest), `source` (`published` or `fits`), `simulated` and `schema_version`.

    Raises:
        SolaredError: there is no such dataset.
    """
    folder = _local_folder(dataset, revision)
    try:
        content = (folder / MANIFEST_NAME).read_bytes()
        manifest = json.loads(content)
        described = {key: manifest[key] for key in ("source", "simulated", "schema_version")}
    except (OSError, KeyError, ValueError) as error:
        raise _no_dataset(dataset, error) from error
    if Path(dataset).is_dir():
        return {"dataset": folder.resolve().name, "revision": hashlib.sha256(content).hexdigest(), **described}
    return {"dataset": str(dataset), "revision": folder.name, **described}


def _local_folder(dataset: str | Path, revision: str | None) -> Path:
    """A dataset folder itself, or the whole of a repository in the cache of the Hub's client, in a folder named by its
    commit.
    """
    if Path(dataset).is_dir():
        return Path(dataset)
    if str(dataset).count("/") != 1:
        raise _no_dataset(dataset, FileNotFoundError("no such folder"))
    try:
        folder = Path(
            snapshot_download(str(dataset), repo_type="dataset", revision=revision, allow_patterns=list(_FILES))
        )
    except (HTTPError, OSError, ValueError) as error:
        raise _no_dataset(dataset, error, revision) from error
    _check_whole(dataset, folder)
    return folder


def _check_whole(dataset: str | Path, snapshot: Path) -> None:
    """Refuse what was left of a download that was cut off: without the Hub the client gives what there is."""
    manifest = snapshot / MANIFEST_NAME
    try:
        paths = [region["path"] for region in json.loads(manifest.read_bytes())["regions"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _no_dataset(dataset, error) from error
    missing = [path for path in paths if not (snapshot / path).exists()]
    if missing:
        raise SolaredError(
            f"Of {dataset}, {missing[0]} and {len(missing) - 1} more files are not on this machine; connect to the "
            "Hub and run the same again."
        )


def _check_schema_version(dataset: str | Path, folder: Path) -> None:
    try:
        card = DatasetCard.load(folder / CARD_NAME, ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _no_dataset(dataset, error) from error
    version = card.data.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise SolaredError(
            f"The dataset {dataset} has schema version {version}, and this package reads up to {SCHEMA_VERSION}; "
            "upgrade it with `pip install --upgrade solared-hf`."
        )


def _load(dataset: str | Path, split: str | None, revision: str | None) -> IterableDataset | IterableDatasetDict:
    # Not the repository itself: where the Hub fails, `datasets` gives any revision it has prepared before, in silence.
    # And streaming, because it knows prepared folders by their card alone, and would give old rows after a rebuild.
    folder = _local_folder(dataset, revision)
    _check_schema_version(dataset, folder)
    try:
        return load_dataset(str(folder), "timelines", split=split, streaming=True)
    except OSError as error:
        raise _no_dataset(dataset, error) from error
    except (DatasetGenerationError, ValueError) as error:
        raise SolaredError(
            f"The dataset {dataset} could not be loaded ({reason_of(error.__cause__ or error)}); choose a split it "
            "has, or build it again."
        ) from error


def _no_dataset(dataset: str | Path, error: Exception, revision: str | None = None) -> SolaredError:
    otherwise = (
        f"There is no SOLARED dataset at {dataset} ({reason_of(error)}); name a folder written by `solared build`, or "
        "a dataset repository on the Hub."
    )
    return SolaredError(explain(error, str(dataset), revision) or otherwise)
