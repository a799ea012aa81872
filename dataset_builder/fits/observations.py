"""Raw observations of a region: what each FITS file of a folder holds, told by its header, and its pixels.

Files may come in any order and under any name; a frame belongs to the 45 s slot that its header states. What cannot be
used is kept with its reason, so that it is counted and never silently left out.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits

from dataset_builder.fits.axes import centre_of_map, is_upright, number, read_axes
from dataset_builder.fits.calibration import is_corrected
from dataset_builder.fits.opened_fits import Unreachable, open_fits, unreachable
from dataset_builder.fits.quality import bits_of, quality_word, why_bad
from dataset_builder.fits.times import HALF_WINDOW, SLOT_SECONDS, WINDOW_FRAMES, parse_time, slot_of
from dataset_builder.fits.units import conversion
from solared_hf.errors import SolaredError
from solared_hf.schema import PATCH_ROWS

# What a file holds: an image of the Sun that is still to be tracked, tracked patches, or the 640 of one window.
IMAGE, PATCHES, CUBE = "image of the Sun", "tracked patches", "cube of one window"

# Why a frame is not used; nothing in the header of its file tells it.
UNDECODABLE = "its pixels cannot be decoded"

_FITS_NAME = re.compile(r"[^.].*\.(fits|fit|fts)(\.fz|\.gz)?", re.IGNORECASE)
# In slots. T_REC names the slot for an observer at 1 au, and light takes up to 9 s more or less to the satellite.
_LARGEST_SHIFT = 1
# What makes values of the numbers that are stored.
_SCALE = ("BSCALE", "BZERO", "BLANK", "ZBLANK", "BUNIT")


@dataclass(frozen=True)
class ObservationFile:
    """One FITS file, as its header tells.

    Args:
        path: the file.
        fingerprint: digest of its name, size, headers and `data`.
        data: what stands for its data: their DATASUM, as JSOC writes it and as it is trusted, or else their digest.
        size: of the file, in bytes.
        hdu: index of the HDU that holds the image.
        form: `IMAGE`, `PATCHES` or `CUBE`.
        shape: planes, rows and columns.
        slots: slot of each plane; for a cube, of its first and no other.
        axes: of patches, the name of the map, such as `CRLN-ARC`, or "" where a cube's header has none.
        centre: of such a map in Carrington coordinates, longitude and latitude in degrees, or None.
        corrected: whether its longitudes are right by CALVER64, see `calibration`, or None.
        quality: QUALITY as 32 bits, or None where the header has none.
        unit: one of `units.UNITS`, which the pixels are read in, or "" where the header has no BUNIT.
        scale: from the header's BUNIT to that unit.
        problem: why nothing of it can be used, in words, or None.
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


@dataclass(frozen=True)
class Frame:
    """A plane of a file; planes count from 0."""

    file: ObservationFile
    plane: int


@dataclass(frozen=True)
class Observations:
    """All usable frames of one observable.

    Args:
        form: what the files hold, the same for all.
        frames: by slot; for cubes, by the slot of their first plane.
        rejected: how many frames, or files whose time is unknown, were set aside, by reason.
        reasons: why a slot has no frame, where something was set aside that claims it.
        axes: of patches, the map that they are in, such as `CRLN-ARC`, or "" where no header says.
        remarks: how many of the frames have which bits of QUALITY set, or no QUALITY or no BUNIT at all.
    """

    form: str
    frames: dict[int, Frame]
    rejected: dict[str, int]
    reasons: dict[int, str]
    axes: str = ""
    remarks: dict[str, int] = field(default_factory=dict)


def find_files(folder: Path) -> list[Path]:
    """FITS files of one observable in order of name; empty where there is no such folder.

    Links to what is not there are among them: their storage may be away.

    Raises:
        Unreachable: the folder cannot be listed.
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
            raise Unreachable(f"{folder} is a link to what is not there; mount its storage, or remove it") from None
        return []
    except OSError as error:
        raise unreachable(folder, error) from error
    return sorted(folder / name for name in names)


def scan_files(paths: Iterable[Path]) -> list[ObservationFile]:
    """What each file holds, from its headers alone; a file that cannot be used says why in `problem`.

    Raises:
        Unreachable: a file cannot be read here and now.
    """
    return [_scan_file(path) for path in paths]


def _scan_file(path: Path) -> ObservationFile:
    try:
        # Compressed images are opened as the tables they are stored in: their keywords are the same, and quicker read.
        with open_fits(path, disable_image_compression=True) as (hdus, opened):
            index, hdu = next((index, hdu) for index, hdu in enumerate(hdus) if _axes(hdu.header))
            header, start, size = hdu.header, hdu.fileinfo()["datLoc"], opened.size
            data = str(header["DATASUM"]) if "DATASUM" in header else _data_digest(opened.stream, start, hdu.size)
            fingerprint = _digest(path, header.tostring(), str(size), data)
            # The same numbers on another scale are other pixels.
            data = " ".join([data, *(str(header.get(keyword)) for keyword in _SCALE)])
            file = ObservationFile(path, fingerprint, data, size, index)
            file = _described(file, header)
            # The size of a zipped file says nothing.
            cut = size < start + hdu.size and not opened.zipped
            return replace(file, problem="the file is truncated") if cut else file
    except Unreachable:
        raise
    except StopIteration:
        problem = "the file holds no image"
    except SolaredError as error:
        problem = str(error).rstrip(".")
    except Exception:  # whatever lies in the folder, astropy may stumble over it in any way
        problem = "the file is no readable FITS"
    return ObservationFile(path, _digest(path, problem), problem=problem)


def _described(file: ObservationFile, header: fits.Header) -> ObservationFile:
    """`file` with what its header says of form, shape, times, quality and unit.

    Raises:
        SolaredError: Its time cannot be read.
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
        # MIDTIME is a keyword of mtrack's cubes, which says enough.
        axes = None if cube and not {"CTYPE1", "CTYPE2"} & {*header} else read_axes(header)
        image = axes is not None and not axes.is_map
        file = replace(file, form=IMAGE if image else file.form, corrected=is_corrected(header))
        if axes and axes.is_map:
            file = replace(file, axes=axes.name, centre=centre_of_map(header, axes, (rows, columns)))
        quality = _quality(header)
        unit, scale = conversion(header["BUNIT"]) if str(header.get("BUNIT", "")).strip() else ("", 1.0)
    except SolaredError as error:
        return replace(file, problem=str(error).partition(";")[0].rstrip("."))

    problem = None
    if image and cube:
        problem = f"it is an image of the Sun by CTYPE1, {header['CTYPE1']!r}, and a cube of patches by MIDTIME"
    elif len(planes) > 1 or (image and planes):
        problem = f"it has {2 + len(planes)} axes"
    elif cube and count != WINDOW_FRAMES:
        problem = f"{count} frames instead of {WINDOW_FRAMES}"
    elif spacing < 1 or spacing != int(spacing) or (cube and spacing > 1):
        problem = f"CDELT3 is not {SLOT_SECONDS} s" if cube else f"CDELT3 is no multiple of {SLOT_SECONDS} s"
    elif quality and (why := why_bad(quality)):
        problem = f"QUALITY marks it as bad: {why}"
    elif not cube and "T_OBS" in header and abs(slot_of(parse_time(header["T_OBS"])) - first) > _LARGEST_SHIFT:
        problem = "T_OBS and T_REC disagree"
    elif not image and (rows != columns or rows < PATCH_ROWS):
        problem = f"{rows} x {columns} pixels, where a square of {PATCH_ROWS} or more is needed"
    elif file.axes and not is_upright(header, axes):
        problem = "it is not a map with the west to the right and the north up"
    elif "BSCALE" in header and not number(header["BSCALE"]):
        problem = f"BSCALE is {header['BSCALE']!r}"
    elif "BLANK" in header and number(header["BLANK"]) is None:
        problem = f"BLANK is {header['BLANK']!r}, so that it is unknown which pixels were observed"
    return replace(file, quality=quality, unit=unit, scale=scale, problem=problem)


def _quality(header: fits.Header) -> int | None:
    """QUALITY, or None where there is none: tracked patches have lost it.

    Raises:
        SolaredError: There is one, and it says nothing.
    """
    if "QUALITY" not in header:
        return None
    try:
        return quality_word(header["QUALITY"])
    except ValueError as error:
        raise SolaredError(f"QUALITY says nothing: {error}") from error


def collect(folder: Path, files: Sequence[ObservationFile], unit: str | None = None) -> Observations:
    """Frames of one observable by slot, after what cannot be used was set aside.

    Of frames that claim one slot, the same pixels count once; where they differ none can be trusted.

    Args:
        folder: where the files lie, for messages.
        files: what `scan_files` gave.
        unit: of the observable, see `units.UNITS`; files whose BUNIT is of another kind are set aside.

    Raises:
        SolaredError: nothing can be used, or files of several forms lie together.
        Unreachable: one of several frames that claim one slot cannot be read here and now.
    """
    files = [_of_unit(file, unit) for file in files]
    rejections = [(file.problem, file.slots) for file in files if file.problem]
    usable = [file for file in files if not file.problem]
    forms = sorted({file.form for file in usable})
    if len(forms) > 1:
        raise SolaredError(f"{folder} holds files of several forms ({', '.join(forms)}); keep those of one form.")
    if forms != [IMAGE] and usable:  # cutouts of the Sun may differ in size, as each says where it lies
        shape = Counter(file.shape[1:] for file in usable).most_common(1)[0][0]
        for file in usable:
            if file.shape[1:] != shape:
                reason = "{} x {} pixels instead of {} x {}".format(*file.shape[1:], *shape)
                rejections.append((reason, file.slots))
        usable = [file for file in usable if file.shape[1:] == shape]
        axes = Counter(file.axes for file in usable).most_common(1)[0][0]
        rejections += [
            (f"a map in {file.axes or 'no CTYPE'} instead of {axes or 'no CTYPE'}", file.slots)
            for file in usable
            if file.axes != axes
        ]
        usable = [file for file in usable if file.axes == axes]
    frames, clashes = _by_slot(usable)
    rejections += clashes
    counts = Counter()
    for reason, slots in rejections:
        counts[reason] += max(len(slots), 1)
    if not frames:
        found = "; ".join(f"{count}: {reason}" for reason, count in counts.most_common()) or "it is empty or missing"
        raise SolaredError(f"There is no usable FITS file in {folder} ({found}); put the region's observations there.")
    reasons = {slot: reason for reason, slots in rejections for slot in slots if slot not in frames}
    return Observations(forms[0], frames, dict(counts), reasons, usable[0].axes, _remarks(frames.values()))


def _of_unit(file: ObservationFile, unit: str | None) -> ObservationFile:
    if file.problem or not unit or not file.unit or file.unit == unit:
        return file
    return replace(file, problem=f"it is in {file.unit} by BUNIT, where {unit} is needed")


def _remarks(frames: Iterable[Frame]) -> dict[str, int]:
    remarks = Counter()
    for (quality, unit), count in Counter((frame.file.quality, frame.file.unit) for frame in frames).items():
        bits = ["no QUALITY"] if quality is None else [f"QUALITY {bit}" for bit in bits_of(quality)]
        remarks.update(dict.fromkeys(bits if unit else [*bits, "no BUNIT"], count))
    return dict(sorted(remarks.items()))


def _by_slot(files: Iterable[ObservationFile]) -> tuple[dict[int, Frame], list[tuple[str, Sequence[int]]]]:
    """Frames by slot, ascending, and what was set aside because of others of the same slot: reason and slots."""
    claims: dict[int, list[Frame]] = {}
    for file in files:
        for plane, slot in enumerate(file.slots):
            claims.setdefault(slot, []).append(Frame(file, plane))
    frames, clashes = {}, []
    for slot, claimed in sorted(claims.items()):
        if len(claimed) > 1:
            claimed, reasons = _settle(claimed)
            clashes += [(reason, [slot]) for reason in reasons]
        frames.update((slot, frame) for frame in claimed)
    return frames, clashes


def _settle(claimed: list[Frame]) -> tuple[list[Frame], list[str]]:
    """Of frames that claim one slot, the one to use, if any, and why each of the others is not."""
    if len({(frame.file.data, frame.plane) for frame in claimed}) == 1:
        return claimed[:1], ["the same frame again"] * (len(claimed) - 1)
    if claimed[0].file.form == CUBE:
        return [], ["cubes that differ claim one time"] * len(claimed)
    readable, reasons = [], []
    for frame in claimed:
        try:
            readable.append((frame, read_planes(frame.file, slice(frame.plane, frame.plane + 1))))
        except Unreachable:
            raise
        except SolaredError:
            reasons.append(UNDECODABLE)
    if any(not np.array_equal(readable[0][1], pixels, equal_nan=True) for _, pixels in readable):
        return [], reasons + ["frames that differ claim one time"] * len(readable)
    return [frame for frame, _ in readable[:1]], reasons + ["the same frame again"] * (len(readable) - 1)


def read_planes(file: ObservationFile, planes: slice) -> np.ndarray:
    """Planes of a file, (planes, rows, columns) float32; what was not observed is NaN.

    Raises:
        Unreachable: the file cannot be read here and now, or is another than when it was scanned.
        SolaredError: the pixels cannot be decoded.
    """
    with _image(file) as hdu:
        # A file of a single patch has two axes.
        section = hdu.section[planes] if len(hdu.shape) == 3 else hdu.section[:][np.newaxis][planes]
        return _pixels(section, hdu.header, file.scale)


def read_image(file: ObservationFile, rows_of: Callable[[fits.Header], slice]) -> tuple[np.ndarray, fits.Header]:
    """Some rows of an image of the Sun, (rows, columns) float32, and its header; no other row is decoded.

    Args:
        file: of the form `IMAGE`.
        rows_of: tells the rows from the header.

    Raises:
        SolaredError: as `read_planes`, or from `rows_of`.
    """
    with _image(file) as hdu:
        return _pixels(hdu.section[rows_of(hdu.header)], hdu.header, file.scale), hdu.header


@contextmanager
def _image(file: ObservationFile) -> Iterator[fits.ImageHDU | fits.CompImageHDU]:
    try:
        with open_fits(file.path) as (hdus, opened):
            hdu = hdus[file.hdu] if opened.size == file.size else None
            if hdu is None or (1, *hdu.shape)[-3:] != file.shape:
                raise Unreachable(f"{file.path} has changed since it was scanned; run the same command again")
            yield hdu
            opened.check()
    except SolaredError:
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise SolaredError(f"{file.path} cannot be decoded ({error}); download it again.") from error


def _pixels(section: np.ndarray, header: fits.Header, scale: float) -> np.ndarray:
    """Pixels in the unit of the observable, NaN where nothing was observed.

    BLANK belongs to integers that are scaled, and there astropy heeds it. Some files give it to others all the same.
    """
    pixels = np.require(section, dtype=np.float32, requirements="W")
    blank = header.get("BLANK")
    if blank is not None and (section.dtype.kind != "f" or header["BITPIX"] < 0 or not isinstance(blank, int)):
        blank = number(blank) * header.get("BSCALE", 1.0) + header.get("BZERO", 0.0)
        pixels[np.isclose(pixels, blank, rtol=1e-6, atol=0)] = np.nan
    if scale != 1:
        pixels *= np.float32(scale)
    # A sum sees to it in one pass that no value is infinite, nor NaN.
    if not np.isfinite(pixels.sum()):
        pixels[np.isinf(pixels)] = np.nan
    return pixels


def _axes(header: fits.Header) -> tuple[int, ...]:
    """Axes of the image that an HDU holds, compressed or not, the slowest first; () where it holds none."""
    prefix = "Z" if header.get("ZIMAGE") else ""
    if not prefix and header.get("XTENSION", "IMAGE").strip() != "IMAGE":
        return ()
    count = header.get(f"{prefix}NAXIS", 0)
    return tuple(header[f"{prefix}NAXIS{axis}"] for axis in range(count, 0, -1)) if count >= 2 else ()


def _digest(path: Path, *parts: str) -> str:
    return hashlib.sha256("\n".join((path.name, *parts)).encode()).hexdigest()


def _data_digest(stream: BinaryIO, start: int, size: int) -> str:
    stream.seek(start)
    digest = hashlib.sha256()
    while size > 0 and (block := stream.read(min(size, 2**22))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()
