"""Write files atomically, and lock folders."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from solared_hf.errors import SolaredError

_TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Write `content` to `path` so that a reader sees either the old file or the whole new file.

    The bytes are written to a hidden file in the same folder and synced to the disk, and the hidden file is renamed. A
    full disk or a killed process leaves `path` unchanged.

    Raises:
        SolaredError: If the disk is full or the folder is not writable; the message names `path`.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_TEMPORARY_SUFFIX, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; give the file the permissions of any other file of this user.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise SolaredError(
            f"Could not write {path} ({error.strerror or error}). Make room or choose another folder, and run the "
            "same command again: finished files were kept."
        ) from error


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path`. The operating system releases the lock when the process ends, even if it is killed.

    Args:
        path: The lock file.
        busy: The error message if another process holds the lock.

    Raises:
        SolaredError: If another process holds the lock, the folder is not writable, or its storage has no locks.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SolaredError(busy) from error
    except NotImplementedError as error:
        raise SolaredError(
            f"The storage of {path.parent} does not support locks (flock). Choose another folder."
        ) from error
    except OSError as error:
        raise SolaredError(
            f"Could not write {path.parent} ({error.strerror or error}). Choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(*folders: Path) -> None:
    """Delete the temporary files that a killed writer left in `folders`; subfolders are not searched."""
    for folder in folders:
        for leftover in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
