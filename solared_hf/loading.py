"""Datasets by name: a folder of `solared build`, or a repository on the Hub."""

import hashlib
import json
from pathlib import Path

from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub import DatasetCard, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from solared_hf.errors import SolaredError
from solared_hf.schema import SCHEMA_VERSION
from solared_hf.timelines import Timeline, timelines_from_dataset


def load_timelines(dataset: str | Path, split: str, revision: str | None = None) -> list[Timeline]:
    """Regions of one split of a dataset folder, or of a dataset repository on the Hub.

    Args:
        dataset: folder written by `solared build`, or a repository id such as `nasa-impact/ar_emergence`.
        split: `train`, `validation` or `test`.
        revision: branch, tag or commit of a repository.

    Raises:
        SolaredError: there is no such dataset or split, or its schema is newer than this package.
    """
    check_schema_version(dataset, revision)
    return timelines_from_dataset(_load(dataset, split, revision))


def load_region(dataset: str | Path, ar_number: int, revision: str | None = None) -> Timeline:
    """One region of a dataset, whichever split it is in; the arguments are those of `load_timelines`.

    Raises:
        SolaredError: there is no such dataset or region, or its schema is newer than this package.
    """
    check_schema_version(dataset, revision)
    regions = []
    for split in _load(dataset, None, revision).values():
        for timeline in timelines_from_dataset(split):
            if timeline.ar_number == ar_number:
                return timeline
            regions.append(timeline.ar_number)
    raise SolaredError(
        f"The dataset {dataset} has no region AR{ar_number}; it has {', '.join(map(str, sorted(regions)))}."
    )


def check_schema_version(dataset: str | Path, revision: str | None = None) -> None:
    """Refuse a dataset whose card states a newer schema than this package knows.

    Raises:
        SolaredError: the schema is newer, or there is no dataset card at all.
    """
    if not Path(dataset).is_dir() and str(dataset).count("/") != 1:
        raise _no_dataset(dataset, "no such folder")
    try:
        card = DatasetCard.load(_file(dataset, "README.md", revision), ignore_metadata_errors=True)
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise _no_dataset(dataset, error) from error
    version = card.data.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise SolaredError(
            f"The dataset {dataset} has schema version {version}, and this package reads up to {SCHEMA_VERSION}; "
            "upgrade it with `pip install --upgrade solared-hf`."
        )


def dataset_identity(dataset: str | Path, revision: str | None = None) -> dict:
    """What a dataset is, for those who have to say what they used.

    Returns:
        `dataset` (the repository, or the folder's name), `revision` (the repository's commit, or the digest of the
        folder's manifest), `source` (`published` or `fits`), `simulated` and `schema_version`.

    Raises:
        SolaredError: there is no such dataset.
    """
    try:
        content = _file(dataset, "manifest.json", revision).read_bytes()
        manifest = json.loads(content)
        if Path(dataset).is_dir():
            name, revision = Path(dataset).resolve().name, hashlib.sha256(content).hexdigest()
        else:
            name, revision = str(dataset), HfApi().dataset_info(str(dataset), revision=revision).sha
        described = {key: manifest[key] for key in ("source", "simulated", "schema_version")}
        return {"dataset": name, "revision": revision, **described}
    except (OSError, HfHubHTTPError, KeyError, ValueError) as error:
        raise _no_dataset(dataset, error) from error


def _file(dataset: str | Path, name: str, revision: str | None) -> Path:
    """A file of a dataset folder or repository, on this machine."""
    if Path(dataset).is_dir():
        return Path(dataset) / name
    return Path(hf_hub_download(str(dataset), name, repo_type="dataset", revision=revision))


def _load(dataset: str | Path, split: str | None, revision: str | None):
    # The cache of `datasets` knows a folder by its card, not by its files, and would give old rows after a rebuild;
    # streaming reads the files.
    streaming = Path(dataset).is_dir()
    try:
        return load_dataset(str(dataset), "timelines", split=split, revision=revision, streaming=streaming)
    except (DatasetNotFoundError, OSError) as error:
        raise _no_dataset(dataset, error) from error
    except (DatasetGenerationError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise SolaredError(
            f"The dataset {dataset} could not be loaded ({reason}); choose a split it has, or build it again."
        ) from error


def _no_dataset(dataset: str | Path, reason: Exception | str) -> SolaredError:
    reason = " ".join(str(reason).split()).rstrip(".")
    return SolaredError(
        f"There is no SOLARED dataset at {dataset} ({reason}); name a folder written by `solared build`, or a dataset "
        "repository on the Hub that can be reached."
    )
