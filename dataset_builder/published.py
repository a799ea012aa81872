"""The published SOLARED files, read without trusting them.

A region is a folder `AR<number>` with three files. `mean_pmdop<number>_flat.npz` holds the four acoustic power bands
(`arr_0` .. `arr_3`) and the times (`arr_4`); `mean_mag<number>_flat.npz` and `mean_int<number>_flat.npz` hold unsigned
flux density and continuum intensity (`arr_0`) and the times (`arr_1`). Values are float64 of shape (81 tiles, steps).
Times are pickled `datetime` objects, naive TAI. A pickle may run any code, so `numpy.load(allow_pickle=True)` is never
used: the times are read by an unpickler that knows four names and refuses every other.
"""

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from solared_hf.errors import SolaredError
from solared_hf.files import write_atomically
from solared_hf.schema import CHANNELS, KEPT_TILES, NUM_PATCH_TILES, POWER_CHANNELS, TILE_COLUMNS, TILE_ROWS
from solared_hf.timelines import Timeline

# The channels of each file, in the order of its arrays; together they are `schema.CHANNELS`.
FILE_CHANNELS = {"pmdop": POWER_CHANNELS, "mag": ("unsigned_magnetic_flux",), "int": ("continuum_intensity",)}

# AR numbers must fit the int32 column.
_REGION_NAME = re.compile(r"AR([1-9][0-9]{0,8})")
_ALMOST_REGION_NAME = re.compile(r"AR[0-9]")

# numpy itself says what constructs a pickled array; numpy 2 renamed the module that files mention.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ADMITTED_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("datetime", "datetime"): datetime,
}

Parsed = TypeVar("Parsed")


def find_regions(folder: Path | str) -> list[Path]:
    """Folders `AR<number>` inside `folder`, or inside its `data` folder, in ascending order of AR number.

    Raises:
        SolaredError: `folder` does not exist, holds no region, or holds a folder whose name only resembles a region's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SolaredError(f"There is no folder {folder}; name the folder that holds the AR<number> folders.")
    for candidate in (folder, folder / "data"):
        found = sorted(path for path in candidate.glob("AR*") if path.is_dir())
        regions = [path for path in found if _REGION_NAME.fullmatch(path.name)]
        for path in found:
            if path not in regions and _ALMOST_REGION_NAME.match(path.name):
                raise SolaredError(f"{path} is not named AR<number>; rename it, or move it out of {candidate}.")
        if regions:
            return sorted(regions, key=region_number)
    raise SolaredError(f"There is no AR<number> folder in {folder}; name the folder that holds the published regions.")


def region_number(folder: Path) -> int:
    """NOAA active region number in the name of a region's folder.

    >>> region_number(Path("data/AR11130"))
    11130

    Raises:
        SolaredError: the name is not `AR<number>`.
    """
    match = _REGION_NAME.fullmatch(folder.name)
    if not match:
        raise SolaredError(f"{folder} is not named AR<number>, so its region is unknown; rename it, as in AR11130.")
    return int(match[1])


def read_sources(folder: Path) -> dict[str, bytes]:
    """Contents of a region's three files, by the kinds of `FILE_CHANNELS`.

    Raises:
        SolaredError: the folder's name is not `AR<number>`, or a file is missing or unreadable.
    """
    contents = {}
    for kind in FILE_CHANNELS:
        path = _source_path(folder, kind)
        try:
            contents[kind] = path.read_bytes()
        except FileNotFoundError as error:
            raise SolaredError(f"{path} is missing; copy it there from the published data.") from error
        except OSError as error:
            raise SolaredError(f"{path} could not be opened ({error.strerror}); check its permissions.") from error
    return contents


def parse_timeline(folder: Path, sources: dict[str, bytes]) -> Timeline:
    """Timeline of a region from the contents that `read_sources(folder)` gave.

    The 63 tiles of rows 1 to 7 are kept and rounded to float32; NaN stays NaN.

    Raises:
        SolaredError: a file is damaged or not of the published form, brings code in its pickle, or the files disagree.
            The message names the file and the cure.
    """
    values, times = [], {}
    for kind, channels in FILE_CHANNELS.items():
        path = _source_path(folder, kind)
        archive = _parse(path, lambda kind=kind: zipfile.ZipFile(io.BytesIO(sources[kind])))
        times[path] = _read_times(path, archive, f"arr_{len(channels)}")
        values += [_read_values(path, archive, f"arr_{i}", len(times[path])) for i in range(len(channels))]
    (first_path, first), *others = times.items()
    for path, other in others:
        if not np.array_equal(first, other):
            raise SolaredError(
                f"The times of {path} differ from those of {first_path}; take all three files from the same release."
            )
    try:
        return Timeline(region_number(folder), first, np.moveaxis(np.stack(values), -1, 0))
    except SolaredError as error:
        raise SolaredError(f"{first_path} holds no usable timeline: {error}") from error


def read_timeline(folder: Path | str) -> Timeline:
    """Timeline of the region in `folder`, which is named `AR<number>` and holds its three published files.

    Raises:
        SolaredError: see `read_sources` and `parse_timeline`.
    """
    folder = Path(folder)
    return parse_timeline(folder, read_sources(folder))


def write_published(folder: Path | str, timeline: Timeline) -> None:
    """Write a timeline into `folder` as `AR<number>` with three files, just as the published ones are.

    Rows 0 and 8 are exactly zero, except where a whole column of tiles was not observed: there they are NaN too.
    """
    region = Path(folder) / f"AR{timeline.ar_number}"
    # astype(object) turns datetime64[ms] into naive datetime objects, which savez pickles as the originals do.
    times = timeline.times.astype(object)
    for kind, channels in FILE_CHANNELS.items():
        arrays = [_patch(timeline.values[:, CHANNELS.index(channel)]) for channel in channels]
        content = io.BytesIO()
        np.savez(content, *arrays, times)
        write_atomically(_source_path(region, kind), content.getvalue())


def _patch(tiles: np.ndarray) -> np.ndarray:
    """(T, 63) values of the kept tiles to (81, T) float64 values of the patch."""
    grid = tiles.reshape(-1, TILE_ROWS, TILE_COLUMNS).astype(np.float64)
    background = np.where(np.isnan(grid).all(axis=1, keepdims=True), np.nan, 0.0)
    return np.concatenate([background, grid, background], axis=1).reshape(len(tiles), NUM_PATCH_TILES).T


def _source_path(folder: Path, kind: str) -> Path:
    return folder / f"mean_{kind}{region_number(folder)}_flat.npz"


def _parse(path: Path, reader: Callable[[], Parsed]) -> Parsed:
    """Result of `reader`, whatever it stumbles over told as one sentence about `path`.

    Damaged or hostile bytes make zipfile, numpy and pickle raise almost anything, hence the broad clause.
    """
    try:
        return reader()
    except SolaredError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise SolaredError(f"{path} is damaged or no published file ({reason}); download it again.") from error


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> io.BytesIO:
    if f"{name}.npy" not in archive.namelist():
        raise SolaredError(f"{path} holds no array {name}; download it again, or check that it is a published file.")
    # Reading the whole member makes zipfile verify its checksum.
    return io.BytesIO(_parse(path, lambda: archive.read(f"{name}.npy")))


def _read_values(path: Path, archive: zipfile.ZipFile, name: str, steps: int) -> np.ndarray:
    """(63, T) float32 values of the kept tiles."""
    member = _member(path, archive, name)
    array = _parse(path, lambda: np.lib.format.read_array(member, allow_pickle=False))
    if array.dtype.kind != "f" or array.shape != (NUM_PATCH_TILES, steps):
        raise SolaredError(
            f"{path} holds {array.dtype} values of shape {array.shape} in {name}, and floats of shape "
            f"({NUM_PATCH_TILES}, {steps}), tiles by steps, were expected; download it again."
        )
    background = np.delete(array, KEPT_TILES, axis=0)
    if ((background != 0) & ~np.isnan(background)).any():
        raise SolaredError(
            f"{path} is not zero in tile rows 0 and 8 of {name}, so its latitude background was never removed; use "
            "the corrected files, as published."
        )
    # A value beyond float32 becomes inf here and is refused like one that was inf before.
    with np.errstate(over="ignore"):
        kept = array[KEPT_TILES].astype(np.float32)
    if np.isinf(kept).any():
        raise SolaredError(f"{path} holds infinite values in {name}; mark what was not observed as NaN.")
    return kept


def _read_times(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """(T,) datetime64[us] from an array of pickled, naive `datetime` objects."""
    member = _member(path, archive, name)
    objects = _parse(path, lambda: _unpickle_times(member))
    if not isinstance(objects, np.ndarray) or objects.dtype.kind != "O" or objects.ndim != 1:
        raise SolaredError(f"{path} holds no list of times in {name}; download it again.")
    if not all(type(time) is datetime and time.tzinfo is None for time in objects):
        raise SolaredError(
            f"{path} holds something else than datetimes without time zone in {name}; store TAI times as naive "
            "datetimes."
        )
    return objects.astype("datetime64[us]")


def _unpickle_times(file: io.BytesIO) -> object:
    if np.lib.format.read_magic(file) == (1, 0):
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        _, _, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.kind != "O":
        return None
    return _TimesUnpickler(file).load()


class _TimesUnpickler(pickle.Unpickler):
    """Reads object arrays of datetimes and refuses every name that these do not need, so no foreign code can run."""

    def find_class(self, module: str, name: str) -> object:
        try:
            return _ADMITTED_NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"its times ask for {module}.{name}, which is not run") from None
