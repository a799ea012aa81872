"""Download one file over HTTP: resume interrupted downloads, and check the file before it gets its final name."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from urllib.error import HTTPError

from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from dataset_builder.fits.quality import quality_word
from dataset_builder.fits.times import parse_time, slot_of
from dataset_builder.jsoc.connection import CONNECTION_ERRORS, open_url
from solared_hf.errors import SolaredError

_BLOCK = 2**20


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server and how often to try.

    Args:
        attempts: number of attempts for each request.
        pause_s: seconds before the second attempt; the pause doubles with each further attempt.
        timeout_s: seconds without data after which a connection counts as broken, see `open_url`.
        poll_s: seconds between two requests for the status of an export.
        wait_s: seconds to wait for an export in total.
    """

    attempts: int = 6
    pause_s: float = 5.0
    timeout_s: float = 120.0
    poll_s: float = 15.0
    wait_s: float = 8 * 3600.0

    def rest(self, attempt: int) -> None:
        """Sleep before an attempt. Attempts count from 0, and the first starts at once."""
        if attempt:
            time.sleep(self.pause_s * 2 ** (attempt - 1))


DEFAULT_PATIENCE = Patience()


class Gone(Exception):
    """The server does not have the file any more."""


class Damaged(Exception):
    """The downloaded file is damaged or is another file; the message says how."""


class NoImage(Exception):
    """The file is intact but its record lacks an image, as during an eclipse."""


class Unreachable(SolaredError):
    """The file could not be downloaded because of the connection or the server; other files may be available."""


class _Cut(Exception):
    """The connection ended too early, or the server could not answer."""


def status_text(code: int) -> str:
    """Return an HTTP status as number and words.

    >>> status_text(503)
    '503 Service Unavailable'
    """
    return f"{code} {responses.get(code, '')}".rstrip()


def fetch(url: str, path: Path, partial: Path, check: Callable[[Path], None], patience: Patience) -> None:
    """Download `url` to `path`.

    The bytes are written to `partial`, which stays if the download is interrupted. The next download then requests
    only the rest, if the server supports ranges. `partial` is renamed to `path` when it has the announced length and
    passes `check`.

    Args:
        url: the address of the file. Its content must not change.
        path: the file to write.
        partial: a file on the same disk as `path`, used for this URL only.
        check: raises `Damaged` if the given file is not as expected.
        patience: how often to try.

    Raises:
        Gone: If the server does not have the file.
        Damaged: If the file was damaged in every attempt.
        Unreachable: If every attempt was interrupted or failed with a server error.
        SolaredError: If the file cannot be written, the server redirects to another host, or `check` raises it.
    """
    failure: Exception | None = None
    for attempt in range(patience.attempts):
        patience.rest(attempt)
        try:
            _receive(url, partial, patience.timeout_s)
            check(partial)
        except Damaged as error:
            failure = error
            with writing(partial):
                partial.unlink(missing_ok=True)
        except (_Cut, *CONNECTION_ERRORS) as error:
            failure = error
        else:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.replace(path)
            return
    if isinstance(failure, Damaged):
        raise failure
    raise Unreachable(
        f"Could not download {url} in {patience.attempts} attempts ({failure}). Run the same command again later to "
        "resume."
    ) from failure


def check_frame(path: Path, slot: int, largest_arcsec: float | None = None) -> None:
    """Check that a file is an intact FITS image of one time: it can be decoded, and DATASUM is right if present.

    Args:
        path: the file.
        slot: the 45 s slot that T_REC must state.
        largest_arcsec: the largest allowed side of the image.

    Raises:
        Damaged: If the file is not such an image.
        NoImage: If the file is intact and of this time, but lacks pixels, or QUALITY says that there is no image.
        SolaredError: If the image is too large.
    """
    try:
        # astropy warns of nonstandard keywords in JSOC headers. The keywords that matter are checked below.
        with warnings.catch_warnings(action="ignore", category=AstropyWarning):
            # DATASUM is computed over the table that stores a compressed image.
            with fits.open(path, memmap=False, checksum=True, disable_image_compression=True) as hdus:
                if any(hdu.verify_datasum() == 0 for hdu in hdus):
                    raise Damaged("the checksum does not match the data")
            with fits.open(path, memmap=False) as hdus:
                # A truncated file may lack an HDU without an error, so require an image or a header of an empty image.
                image = next((hdu for hdu in hdus if hdu.is_image and hdu.data is not None), None)
                if image is None:
                    header = next((hdu.header for hdu in hdus if "T_REC" in hdu.header and not hdu.size), None)
                else:
                    header = image.header
                if header is None or (image is not None and image.data.ndim != 2):
                    raise Damaged("it does not hold an image")
                time, quality = header.get("T_REC"), header.get("QUALITY", 0)
                side = 0.0 if image is None else max(image.data.shape) * abs(header["CDELT1"])
    except Damaged:
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise Damaged(f"it cannot be read as FITS: {error}") from error
    if time is None:
        raise Damaged("it is a FITS image without T_REC, the time of the frame")
    try:
        of_this_time = slot_of(parse_time(time)) == slot
    except SolaredError as error:
        raise Damaged(f"T_REC is {time!r}, which is not a time") from error
    if not of_this_time:
        raise Damaged(f"it is of another time, {time}")
    if image is None or _says_no_image(quality):
        raise NoImage(str(time))
    if largest_arcsec is not None and side > largest_arcsec:
        raise SolaredError(
            f"The server sent an image {side:.0f} arcsec wide instead of a cutout of at most {largest_arcsec:.0f} "
            "arcsec. Add --full-disk to download whole images."
        )


def _says_no_image(quality: int | str) -> bool:
    try:
        return bool(quality_word(quality) >> 31)
    except (ValueError, TypeError):
        return False  # the build judges the quality when it reads the pixels


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system error of the block into a `SolaredError` about `path`.

    Raises:
        SolaredError: If `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise SolaredError(
            f"Could not write {path} ({error.strerror or error}). Make room or choose another folder, and run the "
            "same command again; finished files are kept."
        ) from error


def _receive(url: str, partial: Path, timeout_s: float) -> None:
    """Download the missing bytes of `partial`."""
    with writing(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
    try:
        response = open_url(url, timeout_s, {"Range": f"bytes={have}-"} if have else None)
    except HTTPError as error:
        with error:
            if error.code == 416:
                raise Damaged("the partial file is longer than the file of the server") from error
            if error.code in (404, 410):
                raise Gone(url) from error
            raise _Cut(f"the server answers {status_text(error.code)}") from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise _Cut("the server answers with a web page; it may be down for maintenance")
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise Damaged("the server sent another part of the file than was requested")
        size = have if resumed else 0
        length = response.headers.get("Content-Length")
        expected = None if length is None else size + int(length)
        with writing(partial):
            file = partial.open("ab" if resumed else "wb")
        with file:
            while block := response.read1(_BLOCK):
                with writing(partial):
                    file.write(block)
                size += len(block)
            with writing(partial):
                file.flush()
                os.fsync(file.fileno())
    if expected is not None and size != expected:
        raise _Cut(f"the connection was cut after {size:,} of {expected:,} bytes")
