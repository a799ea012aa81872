"""One file over HTTP, whole or not at all: resumed where a connection was cut, and checked before it gets its name."""

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
    """How long and how often a server is asked.

    Args:
        attempts: how often one thing is tried before it is given up.
        pause_s: before the second attempt, in seconds; it doubles from one to the next.
        timeout_s: silence after which a connection counts as broken, and a trickle of twice as long, see `open_url`.
        poll_s: between two questions whether an export is ready.
        wait_s: for an export, in all.
    """

    attempts: int = 6
    pause_s: float = 5.0
    timeout_s: float = 120.0
    poll_s: float = 15.0
    wait_s: float = 8 * 3600.0

    def rest(self, attempt: int) -> None:
        """Sleep before an attempt; they count from 0, and there is no pause before the first."""
        if attempt:
            time.sleep(self.pause_s * 2 ** (attempt - 1))


DEFAULT_PATIENCE = Patience()


class Gone(Exception):
    """The server has the file no longer."""


class Damaged(Exception):
    """What arrived is not the file that was asked for; the message says in what."""


class NoImage(Exception):
    """The file is whole, and says that there is no image of its time, as in an eclipse."""


class Unreachable(SolaredError):
    """The file did not come, for the connection or the server; another file may."""


class _Cut(Exception):
    """The connection ended too early, or the server could not answer."""


def status_text(code: int) -> str:
    """An HTTP status in figures and in words.

    >>> status_text(503)
    '503 Service Unavailable'
    """
    return f"{code} {responses.get(code, '')}".rstrip()


def fetch(url: str, path: Path, partial: Path, check: Callable[[Path], None], patience: Patience) -> None:
    """Download `url` to `path`.

    The bytes go to `partial`, which stays when the download ends early: the next one asks for the rest, if the server
    gives parts of files. `path` appears in one rename, once as many bytes have come as the server announced and
    `check` has nothing to say.

    Args:
        url: what to download; it always has the same content.
        path: the file to make.
        partial: on the same disk as `path`, and of this URL alone.
        check: raises `Damaged` if the file it is given is not as it should be.
        patience: how often to try.

    Raises:
        Gone: the server has no such file.
        Damaged: every attempt brought something else.
        Unreachable: every attempt ended early, or with an error of the server.
        SolaredError: nothing can be written, or the server sends us elsewhere; or what `check` raises.
    """
    for attempt in range(patience.attempts):
        patience.rest(attempt)
        try:
            _receive(url, partial, patience.timeout_s)
            check(partial)
        except Damaged as error:
            trouble = error
            with writing(partial):
                partial.unlink(missing_ok=True)
        except (_Cut, *CONNECTION_ERRORS) as error:
            trouble = error
        else:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.replace(path)
            return
    if isinstance(trouble, Damaged):
        raise trouble
    raise Unreachable(
        f"Could not download {url} in {patience.attempts} attempts ({trouble}); run the same command again later: it "
        "goes on where it stopped."
    ) from trouble


def check_frame(path: Path, slot: int, largest_arcsec: float | None = None) -> None:
    """Check that a file is a whole FITS image of one time: all can be decoded, and DATASUM holds where there is one.

    Args:
        path: the file.
        slot: the 45 s slot that T_REC has to state.
        largest_arcsec: what no side of the image may exceed.

    Raises:
        Damaged: it is not.
        NoImage: it is a whole FITS file of this time whose header says that it has no pixels, or that there is no
            image, by QUALITY.
        SolaredError: the image is larger than it may be.
    """
    try:
        # Headers of JSOC lead to warnings of nonstandard keywords; what matters is checked.
        with warnings.catch_warnings(action="ignore", category=AstropyWarning):
            # DATASUM is that of the table in which a compressed image is stored.
            with fits.open(path, memmap=False, checksum=True, disable_image_compression=True) as hdus:
                if any(hdu.verify_datasum() == 0 for hdu in hdus):
                    raise Damaged("its checksum does not fit its data")
            with fits.open(path, memmap=False) as hdus:
                # A cut file may lack an HDU without an error: there has to be an image, or a header that has none.
                image = next((hdu for hdu in hdus if hdu.is_image and hdu.data is not None), None)
                if image is None:
                    header = next((hdu.header for hdu in hdus if "T_REC" in hdu.header and not hdu.size), None)
                else:
                    header = image.header
                if header is None or (image is not None and image.data.ndim != 2):
                    raise Damaged("it holds no image")
                time, quality = header.get("T_REC"), header.get("QUALITY", 0)
                side = 0.0 if image is None else max(image.data.shape) * abs(header["CDELT1"])
    except Damaged:
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise Damaged(f"it cannot be read as FITS: {error}") from error
    if time is None:
        raise Damaged("it is a FITS image without T_REC, the time of its frame")
    try:
        of_this_time = slot_of(parse_time(time)) == slot
    except SolaredError as error:
        raise Damaged(f"its T_REC says {time!r}, which is no time") from error
    if not of_this_time:
        raise Damaged(f"it is of another time, {time}")
    if image is None or _says_no_image(quality):
        raise NoImage(str(time))
    if largest_arcsec is not None and side > largest_arcsec:
        raise SolaredError(
            f"The server sent an image {side:.0f} arcsec wide where a cutout of {largest_arcsec:.0f} was ordered: it "
            "makes no cutouts; add --full-disk to download whole images."
        )


def _says_no_image(quality: int | str) -> bool:
    try:
        return bool(quality_word(quality) >> 31)
    except (ValueError, TypeError):
        return False  # what the pixels are worth is judged where they are read


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes a sentence of what the operating system says when `path` cannot be written.

    Raises:
        SolaredError: it could not be.
    """
    try:
        yield
    except OSError as error:
        raise SolaredError(
            f"Could not write {path} ({error.strerror or error}); make room or choose another folder and run the same "
            "command again: finished files were kept."
        ) from error


def _receive(url: str, partial: Path, timeout_s: float) -> None:
    """Bring `partial` up to the length that the server announces."""
    with writing(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
    try:
        response = open_url(url, timeout_s, {"Range": f"bytes={have}-"} if have else None)
    except HTTPError as error:
        with error:
            if error.code == 416:
                raise Damaged("there is more of it here than there") from error
            if error.code in (404, 410):
                raise Gone(url) from error
            raise _Cut(f"the server answers {status_text(error.code)}") from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise _Cut("the server answers with a web page; it may be down for maintenance")
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise Damaged("the server sends another part of it than was asked for")
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
