"""FITS files, opened so that damage in a file is told from an environment that does not let it be read.

A damaged file is a fact of the data. A file that cannot be read just now, because of the storage, the memory or the
mount of a worker, is not: `Unreachable` is raised, and nothing is recorded.
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
    """A file cannot be read for a reason that does not lie in the file."""


class OpenedFile(io.RawIOBase):
    """The bytes of a file. What the system refuses is remembered: decoders may make any other error of it, or none.

    Attributes:
        refused: the last error of the system, or None.
        size: of the file, in bytes.
        zipped: whether the file is compressed with gzip, which its first bytes tell.
        stream: the bytes to decode, unzipped where that is needed.
    """

    def __init__(self, path: Path):
        self._file = io.FileIO(path)
        self.refused: OSError | None = None
        self.size = os.fstat(self._file.fileno()).st_size
        self.zipped = False
        self.stream: io.BufferedIOBase = io.BufferedReader(self)

    def unzip(self) -> None:
        """Look at the first bytes, and unzip the stream where they tell that it is zipped."""
        self.zipped = self.stream.peek(2)[:2] == b"\x1f\x8b"
        if self.zipped:
            self.stream = gzip.GzipFile(fileobj=self.stream)

    def check(self) -> None:
        """Read a zipped file to its end, where its checksum is: damaged bytes can unzip to other values.

        Raises:
            OSError, EOFError: the file is damaged.
        """
        while self.zipped and self.stream.read(2**20):
            pass

    def readinto(self, buffer) -> int:
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
    """The HDUs of a FITS file, and the file.

    astropy's warnings of nonstandard keywords and truncated files are left out: what matters is checked.

    Args:
        path: the file.
        options: of `astropy.io.fits.open`.

    Raises:
        Unreachable: the file cannot be read here and now, whatever astropy says of it.
        Exception: whatever astropy raises for a damaged file.
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
        if opened is not None and opened.refused is None:
            raise
        raise unreachable(path, error if opened is None else opened.refused) from error
    if opened.refused is not None:  # and no decoder minded
        raise unreachable(path, opened.refused)


def unreachable(path: Path, error: Exception) -> Unreachable:
    """What to raise when the system does not let `path` be read."""
    reason = "not enough memory" if isinstance(error, MemoryError) else getattr(error, "strerror", None) or error
    return Unreachable(
        f"{path} cannot be read on {socket.gethostname()} ({reason}); see that the storage is there, that all workers "
        "see it under this path and may read it, and run the same command again"
    )
