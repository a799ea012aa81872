"""Where a dataset lies: which folder or repository a name means, and what is there if it is no dataset of ours."""

import json
from pathlib import Path

from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

from solared_hf.errors import SolaredError, reason_of
from solared_hf.hub.cards import CARD_NAME
from solared_hf.hub.errors import explain
from solared_hf.schema import CATALOG_PATH, MANIFEST_NAME

# All that reading takes, and nothing that others put into the repository.
_FILES = (CARD_NAME, MANIFEST_NAME, CATALOG_PATH, "data/*/AR*.parquet")
_PUBLISHED_FILES = "mean_*_flat.npz"
_CURE = "name a folder written by `solared build`, or a dataset repository on the Hub"


class NotOnThisMachineError(SolaredError):
    """The Hub cannot be reached, and its client's cache does not hold the whole dataset."""


def local_folder(dataset: str | Path) -> Path | None:
    """The folder that a name means, `~` included; None for a name that only a repository on the Hub can have.

    Raises:
        SolaredError: If it is neither, cannot be opened, or is no folder.
    """
    if dataset is None or not str(dataset).strip():
        raise SolaredError(f"No dataset is named; {_CURE}.")
    try:
        folder = Path(dataset).expanduser()
        if folder.is_dir():
            next(folder.iterdir(), None)
            return folder
        folder.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        # A folder of that name may have been meant just as well.
        if not isinstance(dataset, Path) and str(dataset).count("/") == 1 and str(dataset)[0] not in "~./":
            return None
        raise no_dataset(dataset, "the folder does not exist") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        cause = f"the folder cannot be opened: {reason}"
        raise no_dataset(dataset, cause, "check its name and who may read it") from error
    what = "a link to nothing" if folder.is_symlink() and not folder.exists() else "a file"
    raise no_dataset(dataset, f"it is {what}", "name the folder that holds the whole dataset")


def snapshot(dataset: str, revision: str | None) -> Path:
    """The whole of a repository's dataset in the cache of the Hub's client, in a folder named by its commit.

    Raises:
        NotOnThisMachineError: If the Hub cannot be reached, and the cache does not hold all of the dataset.
        SolaredError: If there is no such repository or revision, or it holds something else.
    """
    try:
        folder = Path(snapshot_download(dataset, repo_type="dataset", revision=revision, allow_patterns=list(_FILES)))
    except (HTTPError, OSError, ValueError) as error:
        told = explain(error, dataset, revision)
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            raise NotOnThisMachineError(told) from error
        if isinstance(error, RepositoryNotFoundError):
            told += f" There is no folder {dataset} here either."
        raise (SolaredError(told) if told else no_dataset(dataset, reason_of(error))) from error
    if not (folder / MANIFEST_NAME).exists():
        # Without the Hub the client gives what there is, such as the part that `datasets` has fetched.
        if _is_on_hub(dataset, folder.name) is False:
            raise _no_dataset_in_repository(dataset, folder.name)
        raise _incomplete(dataset, MANIFEST_NAME, 0)
    missing = missing_files(dataset, folder)
    if missing:
        raise _incomplete(dataset, missing[0], len(missing) - 1)
    return folder


def missing_files(dataset: str | Path, folder: Path) -> list[str]:
    """Shards that a folder's manifest lists and the folder does not have.

    Raises:
        SolaredError: If the manifest cannot be read.
    """
    try:
        paths = [region["path"] for region in json.loads((folder / MANIFEST_NAME).read_bytes())["regions"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise no_dataset(dataset, f"{MANIFEST_NAME} cannot be read: {reason_of(error)}", "build it again") from error
    return [path for path in paths if not (folder / path).exists()]


def prepared_config(dataset: str, config: str, revision: str | None) -> Cache | None:
    """What `datasets` has prepared of a repository on this machine: of the commit, or of the latest one it has.

    A branch or tag other than `main` is never taken from there, because nobody knows which commit it meant.
    """
    wanted = {"version": "auto", "hash": "auto"}
    if revision not in (None, constants.DEFAULT_REVISION):
        wanted = {"version": "0.0.0", "hash": revision}
    try:
        found = Cache(repo_id=dataset, dataset_name=dataset.rpartition("/")[2], config_name=config, **wanted)
    except (OSError, ValueError):
        return None
    return found if Path(found.cache_dir).is_dir() else None


def no_dataset(dataset: str | Path, cause: str, cure: str = _CURE) -> SolaredError:
    """The error for a name at which there is no dataset of ours."""
    return SolaredError(f"There is no SOLARED dataset at {dataset} ({cause}); {cure}.")


def no_dataset_in_folder(dataset: str | Path, folder: Path) -> SolaredError:
    """The error for a folder that holds something else, with what it holds, as far as we know it."""
    folder = folder.resolve()
    names = sorted(path.name for path in folder.iterdir())
    inside = [path.parent for path in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
    around = [parent for parent in folder.parents[:2] if (parent / MANIFEST_NAME).is_file()]
    if not names:
        return no_dataset(dataset, "the folder is empty")
    if inside or around:
        return no_dataset(dataset, f"the folder has no {MANIFEST_NAME}", f"name {[*inside, *around][0]}")
    if {"dataset_dict.json", "state.json"} & set(names):
        return no_dataset(
            dataset,
            "it was written by `save_to_disk`",
            "open it with `datasets.load_from_disk` and give its splits to `SolaredWindows`",
        )
    if any(any(folder.glob(f"{place}{_PUBLISHED_FILES}")) for place in ("", "AR*/", "data/AR*/")):
        return no_dataset(
            dataset, "it holds published npz files", "make a dataset of them with `solared build --source published`"
        )
    if "config.json" in names:
        return no_dataset(dataset, "it holds a model", f"{_CURE}; a model is named by --model")
    return no_dataset(dataset, f"it holds {', '.join(names[:3])} and no {MANIFEST_NAME} or {CARD_NAME}")


def _is_on_hub(dataset: str, commit: str) -> bool | None:
    """Whether a commit has a manifest; None if the Hub cannot be asked."""
    try:
        return HfApi().file_exists(dataset, MANIFEST_NAME, repo_type="dataset", revision=commit)
    except (HTTPError, OSError):
        return None


def _no_dataset_in_repository(dataset: str, commit: str) -> SolaredError:
    try:
        names = HfApi().list_repo_files(dataset, repo_type="dataset", revision=commit)
    except (HTTPError, OSError):
        names = []
    cause = f"the repository is on the Hub, and its commit {commit[:8]} has no {MANIFEST_NAME}"
    if any(Path(name).match(_PUBLISHED_FILES) for name in names):
        cure = f"it holds published npz files: make a dataset folder of them with `solared import {dataset}`"
        return no_dataset(dataset, cause, cure)
    return no_dataset(dataset, cause, "name a repository that `solared push` wrote, or another revision")


def _incomplete(dataset: str, path: str, others: int) -> NotOnThisMachineError:
    more = f" and {others} more files are" if others else " is"
    return NotOnThisMachineError(
        f"Of {dataset}, {path}{more} not on this machine; connect to the Hub and run the same again, or fetch it all "
        f"with `hf download {dataset} --repo-type dataset`."
    )
