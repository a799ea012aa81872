"""What the FITS files of an observable hold, read from their headers alone.

Files may come in any order and under any name; a frame belongs to the 45 s slot that its header states. A file that
cannot be used states the reason in `ObservationFile.problem`.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from astropy.io import fits

from dataset_builder.fits.axes import centre_of_map, is_upright, number, read_axes
from dataset_builder.fits.calibration import is_corrected
from dataset_builder.fits.opened_fits import Unreachable, open_fits, unreachable
from dataset_builder.fits.quality import quality_word, why_bad
from dataset_builder.fits.times import HALF_WINDOW, SLOT_SECONDS, WINDOW_FRAMES, parse_time, slot_of
from dataset_builder.fits.units import conversion
from solared_hf.errors import SolaredError
from solared_hf.schema import PATCH_ROWS

# The forms of a file: images of the Sun that must still be tracked, tracked patches, or the 640 patches of one window.
IMAGE, PATCHES, CUBE = "image of the Sun", "tracked patches", "cube of one window"

_FITS_NAME = re.compile(r"[^.].*\.(fits|fit|fts)(\.fz|\.gz)?", re.IGNORECASE)
# In slots. T_REC names the slot for an observer at 1 au, and light reaches the satellite up to 9 s earlier or later.
_LARGEST_SHIFT = 1
# The keywords that turn the stored numbers into values.
_SCALE = ("BSCALE", "BZERO", "BLANK", "ZBLANK", "BUNIT")


@dataclass(frozen=True)
class ObservationFile:
    """One FITS file, as described by its header.

    Args:
        path: path of the file.
        fingerprint: digest of the file's name, size, headers and `data`.
        data: identifies the pixel data: the DATASUM that JSOC writes, trusted as it is, or else a digest of the data.
        size: size of the file in bytes.
        hdu: index of the HDU that holds the image.
        form: `IMAGE`, `PATCHES` or `CUBE`.
        shape: planes, rows and columns.
        slots: slot of each plane; for a cube, the slot of the first plane only.
        axes: for patches, the name of the map, such as `CRLN-ARC`, or "" if the header of a cube does not name it.
        centre: for a map in Carrington coordinates, longitude and latitude in degrees; else None.
        corrected: whether CALVER64 says that the longitudes are right, see `calibration`; None if it does not say.
        quality: QUALITY as 32 bits, or None if the header has none.
        unit: the unit of `units.UNITS` in which the pixels are read, or "" if the header has no BUNIT.
        scale: factor from the header's BUNIT to `unit`.
        problem: why the whole file cannot be used, in words, or None.
    """

    path: Path
    fingerprint: str
    data: str = ""
    size: int = 0
    hdu: int = 0
    form: str = PATCHES
    shape: tuple[int, int, int] = (0, 0, 0)
    slots: range = range(0)
    axes: str = ""
    centre: tuple[float, float] | None = None
    corrected: bool | None = None
    quality: int | None = None
    unit: str = ""
    scale: float = 1.0
    problem: str | None = None


def find_files(folder: Path) -> list[Path]:
    """Return the FITS files of one observable in order of name; an empty list if the folder does not exist.

    Broken links are included, because they may point to storage that is not mounted.

    Raises:
        Unreachable: If the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if _FITS_NAME.fullmatch(entry.name) and (entry.is_file() or not Path(entry).exists())
            ]
    except FileNotFoundError:
        if folder.is_symlink():
            raise Unreachable(
                f"{folder} is a broken link. Mount the storage it points to, or remove the link"
            ) from None
        return []
    except OSError as error:
        raise unreachable(folder, error) from error
    return sorted(folder / name for name in names)


def scan_files(paths: Iterable[Path]) -> list[ObservationFile]:
    """Return what each file holds, read from its headers; a file that cannot be used has a `problem`.

    Raises:
        Unreachable: If a file cannot be read here and now.
    """
    return [_scan_file(path) for path in paths]


def _scan_file(path: Path) -> ObservationFile:
    try:
        # A compressed image is opened as the table that stores it: the keywords are the same, and reading is faster.
        with open_fits(path, disable_image_compression=True) as (hdus, opened):
            index, hdu = next((index, hdu) for index, hdu in enumerate(hdus) if _axes(hdu.header))
            header, start, size = hdu.header, hdu.fileinfo()["datLoc"], opened.size
            data = str(header["DATASUM"]) if "DATASUM" in header else _data_digest(opened.stream, start, hdu.size)
            fingerprint = _digest(path, header.tostring(), str(size), data)
            # The same stored numbers on another scale are other pixels.
            data = " ".join([data, *(str(header.get(keyword)) for keyword in _SCALE)])
            file = ObservationFile(path, fingerprint, data, size, index)
            file = _described(file, header)
            # The size of a zipped file does not tell whether it is complete.
            is_cut = size < start + hdu.size and not opened.zipped
            return replace(file, problem="the file is truncated") if is_cut else file
    except Unreachable:
        raise
    except StopIteration:
        problem = "the file holds no image"
    except SolaredError as error:
        problem = str(error).rstrip(".")
    except Exception:  # on arbitrary bytes astropy raises almost anything
        # The fingerprint keeps the words of earlier releases, so that the keys of finished shards stay the same.
        digest = _digest(path, "the file is no readable FITS")
        return ObservationFile(path, digest, problem="the file cannot be read as FITS")
    return ObservationFile(path, _digest(path, problem), problem=problem)


def _described(file: ObservationFile, header: fits.Header) -> ObservationFile:
    """Return `file` with the form, shape, times, quality and unit that the header states.

    Raises:
        SolaredError: If the header does not state a time that can be read.
    """
    *planes, rows, columns = _axes(header)
    count = planes[-1] if planes else 1
    cube = "MIDTIME" in header
    spacing = (number(header.get("CDELT3", SLOT_SECONDS)) or 0) / SLOT_SECONDS if planes else 1
    if cube:
        first = slot_of(parse_time(header["MIDTIME"]) - HALF_WINDOW)
        slots = range(first, first + 1)
    else:
        # T_REC is the slot's nominal time; T_OBS, the time of the observation, stands in for it.
        first = slot_of(parse_time(header.get("T_REC", header.get("T_OBS"))))
        slots = range(first, first + count * max(int(spacing), 1), max(int(spacing), 1))
    file = replace(file, form=CUBE if cube else PATCHES, shape=(count, rows, columns), slots=slots)
    try:
        # mtrack's cubes may lack CTYPE; their keyword MIDTIME says enough.
        axes = None if cube and not {"CTYPE1", "CTYPE2"} & {*header} else read_axes(header)
        image = axes is not None and not axes.is_map
        file = replace(file, form=IMAGE if image else file.form, corrected=is_corrected(header))
        if axes and axes.is_map:
            file = replace(file, axes=axes.name, centre=centre_of_map(header, axes, (rows, columns)))
        quality = _quality(header)
        unit, scale = conversion(header["BUNIT"]) if str(header.get("BUNIT", "")).strip() else ("", 1.0)
    except SolaredError as error:
        return replace(file, problem=str(error).partition(". ")[0].rstrip("."))

    problem = None
    if image and cube:
        problem = f"it is an image of the Sun by CTYPE1, {header['CTYPE1']!r}, and a cube of patches by MIDTIME"
    elif len(planes) > 1 or (image and planes):
        problem = f"it has {2 + len(planes)} axes"
    elif cube and count != WINDOW_FRAMES:
        problem = f"{count} frames instead of {WINDOW_FRAMES}"
    elif spacing < 1 or spacing != int(spacing) or (cube and spacing > 1):
        problem = f"CDELT3 is not {SLOT_SECONDS} s" if cube else f"CDELT3 is not a multiple of {SLOT_SECONDS} s"
    elif quality and (why := why_bad(quality)):
        problem = f"QUALITY marks it as bad: {why}"
    elif not cube and "T_OBS" in header and abs(slot_of(parse_time(header["T_OBS"])) - first) > _LARGEST_SHIFT:
        problem = "T_OBS and T_REC disagree"
    elif not image and (rows != columns or rows < PATCH_ROWS):
        problem = f"it has {rows} x {columns} pixels instead of a square of {PATCH_ROWS} or more"
    elif axes is not None and axes.is_map and not is_upright(header, axes):
        problem = "it is not a map with west to the right and north up"
    elif "BSCALE" in header and not number(header["BSCALE"]):
        problem = f"BSCALE is {header['BSCALE']!r}"
    elif "BLANK" in header and number(header["BLANK"]) is None:
        problem = f"BLANK is {header['BLANK']!r}, so it is unknown which pixels were observed"
    return replace(file, quality=quality, unit=unit, scale=scale, problem=problem)


def _quality(header: fits.Header) -> int | None:
    """Return QUALITY, or None if the header has none, as in tracked patches.

    Raises:
        SolaredError: If QUALITY is not a number of 32 bits.
    """
    if "QUALITY" not in header:
        return None
    try:
        return quality_word(header["QUALITY"])
    except ValueError as error:
        raise SolaredError(f"QUALITY cannot be read: {error}") from error


def _axes(header: fits.Header) -> tuple[int, ...]:
    """Return the axes of the image in an HDU, compressed or not, the slowest first; () if the HDU holds no image."""
    prefix = "Z" if header.get("ZIMAGE") else ""
    if not prefix and header.get("XTENSION", "IMAGE").strip() != "IMAGE":
        return ()
    count = header.get(f"{prefix}NAXIS", 0)
    return tuple(header[f"{prefix}NAXIS{axis}"] for axis in range(count, 0, -1)) if count >= 2 else ()


def _digest(path: Path, *parts: str) -> str:
    return hashlib.sha256("\n".join((path.name, *parts)).encode()).hexdigest()


def _data_digest(stream: io.BufferedIOBase, start: int, size: int) -> str:
    stream.seek(start)
    digest = hashlib.sha256()
    while size > 0 and (block := stream.read(min(size, 2**22))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()
