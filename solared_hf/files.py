"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from solared_hf.errors import SolaredError

_TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part.

    The bytes go to a hidden file in the same folder, reach the disk, and take the name in one rename. A full disk or a
    killed process leaves `path` as it was.

    Raises:
        SolaredError: the disk is full, or the folder cannot be written; the message names `path`.
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
        # mkstemp makes private files; what we publish is as readable as any other file of this user.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise SolaredError(
            f"Could not write {path} ({error.strerror or error}); make room or choose another folder and run the same "
            "command again: finished files were kept."
        ) from error


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path`; the operating system frees it when a process dies, however it dies.

    Raises:
        SolaredError: another process holds it, which `busy` says, and nobody waits for it; or the folder cannot be
            written or its storage knows no locks.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SolaredError(busy) from error
    except NotImplementedError as error:
        raise SolaredError(f"The storage of {path.parent} knows no locks (flock); choose another folder.") from error
    except OSError as error:
        raise SolaredError(
            f"Could not write {path.parent} ({error.strerror or error}); choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(*folders: Path) -> None:
    """Delete the temporary files that a killed writer left in `folders`, and not below them."""
    for folder in folders:
        for leftover in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
