"""Opening FITS files so that a damaged file can be told from an environment that cannot read a file.

A damaged file is a fact of the data. A file that cannot be read just now, because of the storage, the memory or the
mounts of a worker, is not: `Unreachable` is raised, and nothing is recorded.
"""

import gzip
import io
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from solared_hf.errors import SolaredError


class Unreachable(SolaredError):
    """Raised if a file cannot be read for a reason that lies outside the file."""


class OpenedFile(io.RawIOBase):
    """The bytes of a file, with a record of the system's errors, because decoders may hide or replace them.

    Attributes:
        refused: the last error of the system, or None.
        size: size of the file in bytes.
        zipped: whether the first bytes say that the file is compressed with gzip.
        stream: the bytes to decode, after unzipping.
    """

    def __init__(self, path: Path):
        self._file = io.FileIO(path)
        self.refused: OSError | None = None
        self.size = os.fstat(self._file.fileno()).st_size
        self.zipped = False
        self.stream: io.BufferedReader | gzip.GzipFile = io.BufferedReader(self)

    def unzip(self) -> None:
        """Unzip the stream if the first bytes say that it is zipped."""
        self.zipped = self.stream.peek(2)[:2] == b"\x1f\x8b"
        if self.zipped:
            self.stream = gzip.GzipFile(fileobj=self.stream)

    def check(self) -> None:
        """Read a zipped file to the checksum at the end, because damaged bytes may unzip to wrong values.

        Raises:
            OSError, EOFError: If the file is damaged.
        """
        while self.zipped and self.stream.read(2**20):
            pass

    def readinto(self, buffer) -> int | None:
        try:
            return self._file.readinto(buffer)
        except OSError as error:
            self.refused = error
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def open_fits(path: Path, **options) -> Iterator[tuple[fits.HDUList, OpenedFile]]:
    """Open a FITS file and give the HDUs and the `OpenedFile`.

    astropy's warnings of nonstandard keywords and truncated files are silenced, because the callers check what
    matters.

    Args:
        path: the file.
        options: passed to `astropy.io.fits.open`.

    Raises:
        Unreachable: If the file cannot be read here and now, whatever error astropy made of that.
        Exception: Any error that astropy raises for a damaged file.
    """
    opened = None
    try:
        opened = OpenedFile(path)
        with opened, warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            opened.unzip()
            with fits.open(opened.stream, memmap=False, **options) as hdus:
                yield hdus, opened
    except MemoryError as error:
        raise unreachable(path, error) from error
    except Exception as error:
        if opened is None:
            raise unreachable(path, error) from error
        if opened.refused is None:
            raise
        raise unreachable(path, opened.refused) from error
    if opened.refused is not None:  # although the decoder raised nothing
        raise unreachable(path, opened.refused)


def unreachable(path: Path, error: Exception) -> Unreachable:
    """Return the error to raise if the system does not let `path` be read."""
    reason = "not enough memory" if isinstance(error, MemoryError) else getattr(error, "strerror", None) or error
    return Unreachable(
        f"{path} cannot be read on {socket.gethostname()} ({reason}). Check that the storage is mounted and that all "
        "workers may read it under this path, then run the same command again"
    )
