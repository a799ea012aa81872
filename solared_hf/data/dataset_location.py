"""Find the folder or repository that a dataset name means, and explain what is there if it is not a dataset."""

import json
from pathlib import Path

from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

from solared_hf.errors import SolaredError, reason_of
from solared_hf.hub.cards import CARD_NAME
from solared_hf.hub.errors import explain
from solared_hf.schema import CATALOG_PATH, MANIFEST_NAME

# The files that are read; other files in the repository are not downloaded.
_FILES = (CARD_NAME, MANIFEST_NAME, CATALOG_PATH, "data/*/AR*.parquet")
_PUBLISHED_FILES = "mean_*_flat.npz"
_CURE = "Name a folder written by `solared build`, or a dataset repository on the Hub."


class NotOnThisMachineError(SolaredError):
    """The Hub cannot be reached, and the cache of huggingface_hub does not hold the whole dataset."""


def local_folder(dataset: str | Path) -> Path | None:
    """Return the folder that a name means, with `~` expanded; None if the name can only be a repository on the Hub.

    Raises:
        SolaredError: If the name is neither, or the folder cannot be opened.
    """
    if dataset is None or not str(dataset).strip():
        raise SolaredError(f"No dataset is named. {_CURE}")
    try:
        folder = Path(dataset).expanduser()
        if folder.is_dir():
            next(folder.iterdir(), None)
            return folder
        folder.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        # owner/name may be a missing folder or a repository.
        if not isinstance(dataset, Path) and str(dataset).count("/") == 1 and str(dataset)[0] not in "~./":
            return None
        raise no_dataset(dataset, "the folder does not exist") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        cause = f"the folder cannot be opened: {reason}"
        raise no_dataset(dataset, cause, "Check the name and the permissions of the folder.") from error
    kind = "a broken link" if folder.is_symlink() and not folder.exists() else "a file"
    raise no_dataset(dataset, f"it is {kind}", "Name the folder that holds the whole dataset.")


def snapshot(dataset: str, revision: str | None) -> Path:
    """Download a whole dataset to the cache of huggingface_hub, and return the folder, which is named by the commit.

    Raises:
        NotOnThisMachineError: If the Hub cannot be reached, and the cache does not hold the whole dataset.
        SolaredError: If the repository or the revision does not exist, or does not hold a dataset.
    """
    try:
        folder = Path(snapshot_download(dataset, repo_type="dataset", revision=revision, allow_patterns=list(_FILES)))
    except (HTTPError, OSError, ValueError) as error:
        message = explain(error, dataset, revision)
        if message is None:
            raise no_dataset(dataset, reason_of(error)) from error
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            raise NotOnThisMachineError(message) from error
        if isinstance(error, RepositoryNotFoundError):
            message += f" There is no folder {dataset} here either."
        raise SolaredError(message) from error
    if not (folder / MANIFEST_NAME).exists():
        # Without the Hub, huggingface_hub returns the files in the cache, such as those downloaded by `datasets`.
        if _is_on_hub(dataset, folder.name) is False:
            raise _no_dataset_in_repository(dataset, folder.name)
        raise _incomplete(dataset, MANIFEST_NAME, 0)
    missing = missing_files(dataset, folder)
    if missing:
        raise _incomplete(dataset, missing[0], len(missing) - 1)
    return folder


def missing_files(dataset: str | Path, folder: Path) -> list[str]:
    """Return the shards that the manifest of a folder lists and that are missing in the folder.

    Raises:
        SolaredError: If the manifest cannot be read.
    """
    try:
        paths = [region["path"] for region in json.loads((folder / MANIFEST_NAME).read_bytes())["regions"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise no_dataset(dataset, f"{MANIFEST_NAME} cannot be read: {reason_of(error)}", "Build it again.") from error
    return [path for path in paths if not (folder / path).exists()]


def prepared_config(dataset: str, config: str, revision: str | None) -> Cache | None:
    """Return the config of a repository in the cache of `datasets`: of a commit, or of the latest commit in the cache.

    Return None for a branch or tag other than `main`, because the cache does not know the commit of a branch or tag.
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
    """Return the error for a name without a SOLARED dataset."""
    return SolaredError(f"There is no SOLARED dataset at {dataset}: {cause}. {cure}")


def no_dataset_in_folder(dataset: str | Path, folder: Path) -> SolaredError:
    """Return the error for a folder that is not a dataset; the message says what the folder holds."""
    folder = folder.resolve()
    names = sorted(path.name for path in folder.iterdir())
    inside = [path.parent for path in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
    around = [parent for parent in folder.parents[:2] if (parent / MANIFEST_NAME).is_file()]
    if not names:
        return no_dataset(dataset, "the folder is empty")
    if inside or around:
        return no_dataset(dataset, f"the folder has no {MANIFEST_NAME}", f"Name {[*inside, *around][0]}.")
    if {"dataset_dict.json", "state.json"} & set(names):
        return no_dataset(
            dataset,
            "it was written by `save_to_disk`",
            "Open it with `datasets.load_from_disk`, and pass a split to `SolaredWindows`.",
        )
    if any(any(folder.glob(f"{place}{_PUBLISHED_FILES}")) for place in ("", "AR*/", "data/AR*/")):
        return no_dataset(
            dataset, "it holds published npz files", "Make a dataset of them with `solared build --source published`."
        )
    if "config.json" in names:
        return no_dataset(dataset, "it holds a model", f"{_CURE} Use --model for a model.")
    return no_dataset(dataset, f"it holds {', '.join(names[:3])} and no {MANIFEST_NAME} or {CARD_NAME}")


def _is_on_hub(dataset: str, commit: str) -> bool | None:
    """Return whether a commit has a manifest; None if the Hub cannot be reached."""
    try:
        return HfApi().file_exists(dataset, MANIFEST_NAME, repo_type="dataset", revision=commit)
    except (HTTPError, OSError):
        return None


def _no_dataset_in_repository(dataset: str, commit: str) -> SolaredError:
    try:
        names = HfApi().list_repo_files(dataset, repo_type="dataset", revision=commit)
    except (HTTPError, OSError):
        names = []
    cause = f"commit {commit[:8]} of the repository has no {MANIFEST_NAME}"
    if any(Path(name).match(_PUBLISHED_FILES) for name in names):
        cure = f"It holds published npz files: make a dataset folder of them with `solared import {dataset}`."
        return no_dataset(dataset, cause, cure)
    return no_dataset(dataset, cause, "Name a repository that `solared push` wrote, or another revision.")


def _incomplete(dataset: str, path: str, others: int) -> NotOnThisMachineError:
    more = f" and {others} more files" if others else ""
    return NotOnThisMachineError(
        f"This machine lacks {path}{more} of {dataset}. Connect to the Hub and run the same command again, or "
        f"download everything with `hf download {dataset} --repo-type dataset`."
    )
