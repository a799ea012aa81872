"""Read the published SOLARED files without running code from them.

A region is a folder `AR<number>` with three files. `mean_pmdop<number>_flat.npz` holds the four acoustic power bands
(`arr_0` .. `arr_3`) and the times (`arr_4`); `mean_mag<number>_flat.npz` and `mean_int<number>_flat.npz` hold unsigned
flux density and continuum intensity (`arr_0`) and the times (`arr_1`). Values are float64 of shape (81 tiles, steps).
Times are pickled `datetime` objects, naive TAI. A pickle can run any code, so `numpy.load(allow_pickle=True)` is never
used. Instead a restricted unpickler accepts only what a pickled array of datetimes contains and builds only datetimes.
Declared sizes are checked against limits and against the content before memory is allocated.
"""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np

from dataset_builder.sources import region_number
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError, reason_of
from solared_hf.files import write_atomically
from solared_hf.schema import CHANNELS, KEPT_TILES, NUM_PATCH_TILES, POWER_CHANNELS, TILE_COLUMNS, TILE_ROWS

# The channels of each file, in the order of the arrays in the file. Together they are `schema.CHANNELS`.
FILE_CHANNELS = {"pmdop": POWER_CHANNELS, "mag": ("unsigned_magnetic_flux",), "int": ("continuum_intensity",)}

# The largest published array has 156 kB and 240 steps. These limits leave room for 100,000 steps.
_LARGEST_ARRAY = 64 * 2**20
_LARGEST_TIMES = 4 * 2**20

# The opcodes of pickled arrays of datetimes in protocols 3 to 5. numpy writes protocols 3 and 4. Protocol 2 encodes
# bytes as text and would need one more name.
_FRAME_OPCODES = {"PROTO", "FRAME", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "APPEND", "APPENDS", "STOP"}
_NUMBER_OPCODES = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"}
_TEXT_OPCODES = {"BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES"}
_CONTAINER_OPCODES = {"EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE3"}
_MEMORISE_OPCODES = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_RECALL_OPCODES = {"BINGET", "LONG_BINGET"}
_OPCODES = _FRAME_OPCODES | _NUMBER_OPCODES | _TEXT_OPCODES | _CONTAINER_OPCODES | _MEMORISE_OPCODES | _RECALL_OPCODES
# The initial and the final shape of the array, the state of the dtype, the state of the array, and the list of items.
_MOST_CONTAINERS = 5

Parsed = TypeVar("Parsed")


def source_path(folder: Path, kind: str) -> Path:
    """Return the path of the file of `kind`, one of `FILE_CHANNELS`, in the region folder `AR<number>`.

    Raises:
        SolaredError: If the folder is not named `AR<number>`.

    >>> source_path(Path("AR11130"), "int").name
    'mean_int11130_flat.npz'
    """
    return folder / f"mean_{kind}{region_number(folder)}_flat.npz"


def read_sources(folder: Path) -> dict[str, bytes]:
    """Return the contents of the three files of a region by kind, the keys of `FILE_CHANNELS`.

    Raises:
        SolaredError: If the folder is not named `AR<number>`, or a file is missing or unreadable.
    """
    contents = {}
    for kind in FILE_CHANNELS:
        path = source_path(folder, kind)
        try:
            contents[kind] = path.read_bytes()
        except FileNotFoundError as error:
            raise SolaredError(f"{path} is missing. Copy it there from the published data.") from error
        except OSError as error:
            raise SolaredError(f"{path} cannot be opened ({error.strerror}). Check its permissions.") from error
    return contents


def parse_timeline(folder: Path, sources: dict[str, bytes]) -> Timeline:
    """Return the timeline of a region from the contents that `read_sources(folder)` returned.

    The 63 tiles of rows 1 to 7 are kept and rounded to float32; NaN stays NaN.

    Raises:
        SolaredError: If a file is damaged, does not have the published form or contains code, or if the files
            disagree. The message names the file and says what to do.
    """
    values: list[np.ndarray] = []
    times: dict[Path, np.ndarray] = {}
    for kind, channels in FILE_CHANNELS.items():
        path = source_path(folder, kind)
        content = io.BytesIO(sources[kind])
        archive = _parse(path, partial(zipfile.ZipFile, content))
        times[path] = _read_times(path, archive, f"arr_{len(channels)}")
        values += [_read_values(path, archive, f"arr_{i}", len(times[path])) for i in range(len(channels))]
    (first_path, first), *others = times.items()
    for path, other in others:
        if not np.array_equal(first, other):
            raise SolaredError(
                f"The times of {path} differ from the times of {first_path}. Use three files of the same release."
            )
    try:
        return Timeline(region_number(folder), first, np.moveaxis(np.stack(values), -1, 0))
    except SolaredError as error:
        raise SolaredError(f"{first_path} does not hold a usable timeline: {error}") from error


def read_timeline(folder: Path | str) -> Timeline:
    """Return the timeline of the region in `folder`, which is named `AR<number>` and holds three published files.

    Raises:
        SolaredError: See `read_sources` and `parse_timeline`.
    """
    folder = Path(folder)
    return parse_timeline(folder, read_sources(folder))


def write_published(folder: Path | str, timeline: Timeline) -> None:
    """Write a timeline into `folder/AR<number>` as three files in the published form.

    Rows 0 and 8 are exactly zero. If a whole tile column is NaN, rows 0 and 8 of that column are NaN too.

    Raises:
        SolaredError: If the folder cannot be written.
    """
    region = Path(folder) / f"AR{timeline.ar_number}"
    # astype(object) turns datetime64[ms] into naive datetime objects, which the published files contain.
    times = timeline.times.astype(object)
    for kind, channels in FILE_CHANNELS.items():
        arrays = [_patch(timeline.values[:, CHANNELS.index(channel)]) for channel in channels]
        content = io.BytesIO()
        np.savez(content, *arrays, times)
        write_atomically(source_path(region, kind), content.getvalue())


def _patch(tiles: np.ndarray) -> np.ndarray:
    """Return the (81, T) float64 values of the patch from the (T, 63) values of the kept tiles."""
    grid = tiles.reshape(-1, TILE_ROWS, TILE_COLUMNS).astype(np.float64)
    background = np.where(np.isnan(grid).all(axis=1, keepdims=True), np.nan, 0.0)
    return np.concatenate([background, grid, background], axis=1).reshape(len(tiles), NUM_PATCH_TILES).T


def _parse(path: Path, reader: Callable[[], Parsed]) -> Parsed:
    """Call `reader` and turn any exception into a `SolaredError` about `path`.

    Damaged or hostile bytes can make zipfile, numpy and pickle raise almost any exception, and the messages may quote
    the file at any length.
    """
    try:
        return reader()
    except SolaredError:
        raise
    except Exception as error:
        reason = reason_of(error, most=200)
        raise SolaredError(f"{path} is damaged or is not a published file ({reason}). Download it again.") from error


def _member(path: Path, archive: zipfile.ZipFile, name: str, limit: int) -> io.BytesIO:
    if f"{name}.npy" not in archive.namelist():
        raise SolaredError(
            f"{path} does not hold an array {name}. Download it again, or check that it is a published file."
        )
    return io.BytesIO(_parse(path, lambda: _expand(archive, f"{name}.npy", limit)))


def _expand(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return the content of a member after verifying the checksum, without expanding more than `limit` bytes."""
    info = archive.getinfo(name)
    if info.file_size > limit:
        raise ValueError(f"{name} would expand to {info.file_size} bytes, beyond the limit of {limit}")
    # numpy does not write other compressions, and zipfile expands them whole even if asked for a limited size.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that numpy does not use")
    with archive.open(info) as member:
        # The declared size may be false: without an argument, read() would expand everything before it notices.
        return member.read(info.file_size)


def _read_header(member: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, True if in Fortran order, dtype) and leave `member` at the start of the data."""
    if np.lib.format.read_magic(member) == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


def _read_values(path: Path, archive: zipfile.ZipFile, name: str, steps: int) -> np.ndarray:
    """Return the (63, T) float32 values of the kept tiles."""
    member = _member(path, archive, name, _LARGEST_ARRAY)
    shape, in_fortran_order, dtype = _parse(path, lambda: _read_header(member))
    if dtype.kind != "f" or shape != (NUM_PATCH_TILES, steps):
        raise SolaredError(
            f"{path} holds {dtype} values of shape {shape} in {name} instead of floats of shape "
            f"({NUM_PATCH_TILES}, {steps}), tiles by steps. Download it again."
        )
    content = member.read()
    declared = NUM_PATCH_TILES * steps * dtype.itemsize
    if len(content) != declared:
        raise SolaredError(
            f"{path} holds {len(content)} bytes in {name}, but its shape takes {declared}. Download it again."
        )
    array = np.frombuffer(content, dtype).reshape(NUM_PATCH_TILES, steps, order="F" if in_fortran_order else "C")
    background = np.delete(array, KEPT_TILES, axis=0)
    if ((background != 0) & ~np.isnan(background)).any():
        raise SolaredError(
            f"{path} is not zero in tile rows 0 and 8 of {name}, so its latitude background was not removed. Use the "
            "corrected files, as published."
        )
    # A value beyond the range of float32 becomes inf here and is rejected below.
    with np.errstate(over="ignore"):
        kept = array[KEPT_TILES].astype(np.float32)
    if np.isinf(kept).any():
        raise SolaredError(f"{path} holds infinite values in {name}. Mark missing values as NaN.")
    return kept


def _read_times(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return (T,) datetime64[us] from an array of pickled naive `datetime` objects."""
    member = _member(path, archive, name, _LARGEST_TIMES)
    shape, _, dtype = _parse(path, lambda: _read_header(member))
    if dtype.kind != "O" or len(shape) != 1:
        raise SolaredError(f"{path} does not hold a list of times in {name}. Download it again.")
    times = _parse(path, lambda: _unpickle_items(member.read()))
    if type(times) is not list or len(times) != shape[0]:
        raise SolaredError(f"{path} does not hold a list of {shape[0]} times in {name}. Download it again.")
    if not all(type(time) is datetime and time.tzinfo is None for time in times):
        raise SolaredError(
            f"{path} holds values in {name} that are not datetimes without time zone. Store TAI times as naive "
            "datetimes."
        )
    # Unpickling a datetime does not check the fields (a year of 65535, 99 minutes); replace() does.
    return _parse(path, lambda: np.array([time.replace() for time in times], dtype="datetime64[us]"))


def _unpickle_items(payload: bytes) -> object:
    """Return the items of a pickled array: a list, if the array is an object array.

    Raises:
        Exception: Of any kind, if `payload` is not a pickled array.
    """
    _check_opcodes(payload)
    array = _TimesUnpickler(io.BytesIO(payload)).load()
    if not isinstance(array, _PickledArray):
        raise pickle.UnpicklingError("the times are not an array")
    return array.items


def _check_opcodes(payload: bytes) -> None:
    """Reject opcodes that a pickled array of datetimes does not need, and anything that may exhaust memory or stack.

    Raises:
        ValueError: If the payload is rejected, or bytes follow the pickle.
    """
    memory: list[str] = []
    previous, containers, end = "", 0, 0
    # typeshed says that positions may be None, which is true of streams only; the type of an argument varies.
    opcodes = cast("Iterator[tuple[pickletools.OpcodeInfo, Any, int]]", pickletools.genops(payload))
    for opcode, argument, position in opcodes:
        name, end = opcode.name, position + 1
        if name not in _OPCODES:
            raise ValueError(f"the times hold the pickle opcode {name}, which an array of datetimes does not need")
        if name in _MEMORISE_OPCODES:
            # Picklers count up. A jump would make the unpickler allocate memory for all skipped entries.
            if argument not in (None, len(memory)):
                raise ValueError(f"the times skip to entry {argument} of the pickle memo")
            memory.append(previous)
            continue
        # A tuple of arguments is gone after the call. Only the other containers can be nested. The limit on them, and
        # the ban on recalling them, keeps the nesting shallow: Python may crash on a million levels.
        recalled = name in _RECALL_OPCODES and argument < len(memory) and memory[argument] in _CONTAINER_OPCODES
        containers += previous in _CONTAINER_OPCODES and name != "REDUCE"
        if recalled or containers > _MOST_CONTAINERS:
            raise ValueError("the times nest more lists and tuples than an array of datetimes does")
        previous = name
    if end != len(payload):
        raise ValueError(f"{len(payload) - end} bytes follow the times")


class _PickledArray:
    """Stands in for an array, because the constructors of numpy would take raw pointers from a hostile pickle."""

    items: object = None

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        _version, _shape, _dtype, _in_fortran_order, self.items = state


class _PickledDtype:
    """Stands in for a dtype. The dtype does not matter, because only datetimes are accepted as items."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        pass


class _TimesUnpickler(pickle.Unpickler):
    """Unpickler that rejects every name that an array of datetimes does not need, so foreign code cannot run."""

    # numpy 2 renamed the module.
    _admitted: ClassVar[dict] = {
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _PickledDtype,
        ("datetime", "datetime"): datetime,
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the times ask for {module}.{name}, which is not allowed") from None
