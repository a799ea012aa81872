"""The published SOLARED files, read without trusting them.

A region is a folder `AR<number>` with three files. `mean_pmdop<number>_flat.npz` holds the four acoustic power bands
(`arr_0` .. `arr_3`) and the times (`arr_4`); `mean_mag<number>_flat.npz` and `mean_int<number>_flat.npz` hold unsigned
flux density and continuum intensity (`arr_0`) and the times (`arr_1`). Values are float64 of shape (81 tiles, steps).
Times are pickled `datetime` objects, naive TAI. A pickle may run any code, so `numpy.load(allow_pickle=True)` is never
used: the times are read by an unpickler that admits what a pickled array of datetimes holds, and builds nothing but
datetimes of it. Sizes that a file declares are checked against what it holds before memory is taken.
"""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from dataset_builder.sources import region_number
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError, reason_of
from solared_hf.files import write_atomically
from solared_hf.schema import CHANNELS, KEPT_TILES, NUM_PATCH_TILES, POWER_CHANNELS, TILE_COLUMNS, TILE_ROWS

# The channels of each file, in the order of its arrays; together they are `schema.CHANNELS`.
FILE_CHANNELS = {"pmdop": POWER_CHANNELS, "mag": ("unsigned_magnetic_flux",), "int": ("continuum_intensity",)}

# The largest published array has 156 kB and 240 steps; these leave room for 100,000 steps.
_LARGEST_ARRAY = 64 * 2**20
_LARGEST_TIMES = 4 * 2**20

# What pickled arrays of datetimes consist of in protocols 3 to 5. numpy's own files use 3 or 4; protocol 2 codes bytes
# as text and would need one more name.
_FRAME_OPCODES = {"PROTO", "FRAME", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "APPEND", "APPENDS", "STOP"}
_NUMBER_OPCODES = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"}
_TEXT_OPCODES = {"BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINBYTES"}
_CONTAINER_OPCODES = {"EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE3"}
_MEMORISE_OPCODES = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_RECALL_OPCODES = {"BINGET", "LONG_BINGET"}
_OPCODES = _FRAME_OPCODES | _NUMBER_OPCODES | _TEXT_OPCODES | _CONTAINER_OPCODES | _MEMORISE_OPCODES | _RECALL_OPCODES
# The shape that the array is made with and the one it takes, the state of its dtype, its own, and the list of items.
_MOST_CONTAINERS = 5

Parsed = TypeVar("Parsed")


def source_path(folder: Path, kind: str) -> Path:
    """The file of a region in `folder`, which is named `AR<number>`; `kind` is one of `FILE_CHANNELS`.

    Raises:
        SolaredError: the folder has another name.

    >>> source_path(Path("AR11130"), "int").name
    'mean_int11130_flat.npz'
    """
    return folder / f"mean_{kind}{region_number(folder)}_flat.npz"


def read_sources(folder: Path) -> dict[str, bytes]:
    """Contents of a region's three files, by the kinds of `FILE_CHANNELS`.

    Raises:
        SolaredError: the folder's name is not `AR<number>`, or a file is missing or unreadable.
    """
    contents = {}
    for kind in FILE_CHANNELS:
        path = source_path(folder, kind)
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
        path = source_path(folder, kind)
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

    Raises:
        SolaredError: the folder cannot be written.
    """
    region = Path(folder) / f"AR{timeline.ar_number}"
    # astype(object) turns datetime64[ms] into naive datetime objects, which savez pickles as the originals do.
    times = timeline.times.astype(object)
    for kind, channels in FILE_CHANNELS.items():
        arrays = [_patch(timeline.values[:, CHANNELS.index(channel)]) for channel in channels]
        content = io.BytesIO()
        np.savez(content, *arrays, times)
        write_atomically(source_path(region, kind), content.getvalue())


def _patch(tiles: np.ndarray) -> np.ndarray:
    """(T, 63) values of the kept tiles to (81, T) float64 values of the patch."""
    grid = tiles.reshape(-1, TILE_ROWS, TILE_COLUMNS).astype(np.float64)
    background = np.where(np.isnan(grid).all(axis=1, keepdims=True), np.nan, 0.0)
    return np.concatenate([background, grid, background], axis=1).reshape(len(tiles), NUM_PATCH_TILES).T


def _parse(path: Path, reader: Callable[[], Parsed]) -> Parsed:
    """Result of `reader`, whatever it stumbles over told as one sentence about `path`.

    Damaged or hostile bytes make zipfile, numpy and pickle raise almost anything, hence the broad clause, and their
    messages may quote the file at any length.
    """
    try:
        return reader()
    except SolaredError:
        raise
    except Exception as error:
        reason = reason_of(error, most=200)
        raise SolaredError(f"{path} is damaged or no published file ({reason}); download it again.") from error


def _member(path: Path, archive: zipfile.ZipFile, name: str, limit: int) -> io.BytesIO:
    if f"{name}.npy" not in archive.namelist():
        raise SolaredError(f"{path} holds no array {name}; download it again, or check that it is a published file.")
    return io.BytesIO(_parse(path, lambda: _expand(archive, f"{name}.npy", limit)))


def _expand(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Content of a member, its checksum verified, without ever expanding more than `limit` bytes."""
    info = archive.getinfo(name)
    if info.file_size > limit:
        raise ValueError(f"{name} would expand to {info.file_size} bytes, beyond the {limit} that are read")
    # numpy writes no other compression, and zipfile expands the others whole, whatever size is asked for.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that numpy does not use")
    with archive.open(info) as member:
        # The size in the archive may be a lie: without an argument, read() would expand everything before it notices.
        return member.read(info.file_size)


def _read_header(member: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype; `member` is left where the data begin."""
    if np.lib.format.read_magic(member) == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


def _read_values(path: Path, archive: zipfile.ZipFile, name: str, steps: int) -> np.ndarray:
    """(63, T) float32 values of the kept tiles."""
    member = _member(path, archive, name, _LARGEST_ARRAY)
    shape, in_fortran_order, dtype = _parse(path, lambda: _read_header(member))
    if dtype.kind != "f" or shape != (NUM_PATCH_TILES, steps):
        raise SolaredError(
            f"{path} holds {dtype} values of shape {shape} in {name}, and floats of shape "
            f"({NUM_PATCH_TILES}, {steps}), tiles by steps, were expected; download it again."
        )
    content = member.read()
    declared = NUM_PATCH_TILES * steps * dtype.itemsize
    if len(content) != declared:
        raise SolaredError(
            f"{path} holds {len(content)} bytes in {name} where its shape takes {declared}; download it again."
        )
    array = np.frombuffer(content, dtype).reshape(NUM_PATCH_TILES, steps, order="F" if in_fortran_order else "C")
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
    member = _member(path, archive, name, _LARGEST_TIMES)
    shape, _, dtype = _parse(path, lambda: _read_header(member))
    if dtype.kind != "O" or len(shape) != 1:
        raise SolaredError(f"{path} holds no list of times in {name}; download it again.")
    times = _parse(path, lambda: _unpickle_items(member.read()))
    if type(times) is not list or len(times) != shape[0]:
        raise SolaredError(f"{path} holds no list of {shape[0]} times in {name}; download it again.")
    if not all(type(time) is datetime and time.tzinfo is None for time in times):
        raise SolaredError(
            f"{path} holds something else than datetimes without time zone in {name}; store TAI times as naive "
            "datetimes."
        )
    # Unpickling a datetime does not check its fields (a year of 65535, 99 minutes); replace() makes it anew and does.
    return _parse(path, lambda: np.array([time.replace() for time in times], dtype="datetime64[us]"))


def _unpickle_items(payload: bytes) -> object:
    """What a pickled array keeps as its items; a list, if it is an object array.

    Raises:
        Exception: of any kind, if `payload` is anything else.
    """
    _check_opcodes(payload)
    array = _TimesUnpickler(io.BytesIO(payload)).load()
    if not isinstance(array, _PickledArray):
        raise pickle.UnpicklingError("its times are no array")
    return array.items


def _check_opcodes(payload: bytes) -> None:
    """Refuse what a pickled array of datetimes does not need and what may exhaust memory or the stack.

    Raises:
        ValueError: there is such a thing, or the pickle does not end where the payload does.
    """
    memory, containers, previous, end = [], 0, None, 0
    for opcode, argument, position in pickletools.genops(payload):
        name, end = opcode.name, position + 1
        if name not in _OPCODES:
            raise ValueError(f"its times hold the pickle opcode {name}, which an array of datetimes does not need")
        if name in _MEMORISE_OPCODES:
            # Picklers count up; a leap would make the unpickler reserve room for all that was skipped.
            if argument not in (None, len(memory)):
                raise ValueError(f"its times skip to entry {argument} of the pickle's memory")
            memory.append(previous)
            continue
        # A tuple of arguments is gone after the call. Only the others can lie in each other, so few of them, never
        # recalled, keep everything shallow: Python may crash on what is nested a million times.
        recalled = name in _RECALL_OPCODES and argument < len(memory) and memory[argument] in _CONTAINER_OPCODES
        containers += previous in _CONTAINER_OPCODES and name != "REDUCE"
        if recalled or containers > _MOST_CONTAINERS:
            raise ValueError("its times nest lists and tuples as no array of datetimes does")
        previous = name
    if end != len(payload):
        raise ValueError(f"{len(payload) - end} bytes follow its times")


class _PickledArray:
    """Stands in for an array. Nothing of numpy is built: its constructors trust a pickle with raw pointers."""

    items = None

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        _version, _shape, _dtype, _in_fortran_order, self.items = state


class _PickledDtype:
    """Stands in for a dtype; whatever it is, only datetimes are taken from the items."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        pass


class _TimesUnpickler(pickle.Unpickler):
    """Refuses every name that an array of datetimes does not need, so no foreign code can run."""

    # numpy 2 renamed the module that files mention.
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
            raise pickle.UnpicklingError(f"its times ask for {module}.{name}, which is not run") from None
