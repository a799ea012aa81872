"""The published files are read exactly, and every fault in a file is an error."""

import io
import os
import pickle
import shutil
import sys
import tracemalloc
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource, read_timeline, write_published
from dataset_builder.published.files import _read_times
from dataset_builder.simulation import simulate_region
from dataset_builder.sources import find_regions, region_number
from solared_hf import SolaredError, open_dataset
from tests.processes import run


@pytest.fixture
def region(tmp_path) -> Path:
    """A small region in the published format, which the tests damage."""
    write_published(tmp_path, simulate_region(90001, steps=12))
    return tmp_path / "AR90001"


def arrays_of(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=True) as archive:
        return [archive[f"arr_{i}"] for i in range(len(archive.files))]


def spoil(region: Path, kind: str, change) -> Path:
    """Rewrite one file with the arrays that `change(arrays)` returns."""
    path = region / f"mean_{kind}90001_flat.npz"
    np.savez(path, *change(arrays_of(path)))
    return path


def set_members(region: Path, kind: str, **contents: bytes) -> Path:
    """Replace arrays of one file with raw bytes."""
    path = region / f"mean_{kind}90001_flat.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= {f"{name}.npy": content for name, content in contents.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def header(descr: str, shape: tuple[int, ...]) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": descr, "fortran_order": False, "shape": shape})
    return content.getvalue()


def assert_refused(region: Path, *words: str) -> str:
    with pytest.raises(SolaredError) as caught:
        read_timeline(region)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def with_values(array, times):
    """Return a change that replaces the values and times of mag or int."""
    return lambda arrays: [array, times(arrays[-1]) if callable(times) else times]


def test_real_regions_round_trip(published_dir, tmp_path):
    for source in find_regions(published_dir)[::10]:
        timeline = read_timeline(source)
        write_published(tmp_path, timeline)
        for kind in ("pmdop", "mag", "int"):
            name = f"mean_{kind}{timeline.ar_number}_flat.npz"
            originals, copies = arrays_of(source / name), arrays_of(tmp_path / source.name / name)
            assert [(a.dtype, a.shape) for a in copies] == [(a.dtype, a.shape) for a in originals]
            np.testing.assert_array_equal(copies[-1], originals[-1])
            for copy, original in zip(copies[:-1], originals[:-1], strict=True):
                np.testing.assert_array_equal(copy, original.astype(np.float32))


def test_values_and_times_equal_those_read_by_numpy(region):
    timeline = read_timeline(region)
    *bands, times = arrays_of(region / "mean_pmdop90001_flat.npz")
    assert timeline.ar_number == 90001
    assert timeline.times.astype(object).tolist() == times.tolist()
    np.testing.assert_array_equal(timeline.values[:, 3], bands[3][9:72].T.astype(np.float32))


def test_background_rows_must_be_zero_or_nan(region):
    def nan_column(arrays):
        arrays[0][::9, :2] = np.nan
        return arrays

    spoil(region, "mag", nan_column)
    assert np.isnan(read_timeline(region).values[:2, 4, ::9]).all()

    def not_corrected(arrays):
        arrays[0][80, 3] = 1e-6
        return arrays

    path = spoil(region, "mag", not_corrected)
    assert_refused(region, str(path), "background")


def test_missing_file(region):
    (region / "mean_int90001_flat.npz").unlink()
    assert_refused(region, "mean_int90001_flat.npz", "missing", "Copy")


@pytest.mark.parametrize("damage", ["truncated", "no zip", "empty", "flipped bit"])
def test_damaged_file(region, damage):
    path = region / "mean_mag90001_flat.npz"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1  # within the values of arr_0
    spoiled = {"truncated": content[: len(content) // 2], "no zip": b"hello" * 100, "empty": b""}
    path.write_bytes(spoiled.get(damage, content))
    assert_refused(region, str(path), "Download it again")


def test_missing_array(region):
    path = spoil(region, "pmdop", lambda arrays: arrays[:4])
    assert_refused(region, str(path), "arr_4", "Download it again")


class Intruder:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["times", "values"])
def test_foreign_code_does_not_run(region, tmp_path, place):
    trace = tmp_path / "intruder_was_here"
    payload = np.array([Intruder(trace)] * 12, dtype=object)

    def intrude(arrays):
        return [arrays[0], payload] if place == "times" else [payload, arrays[1]]

    path = spoil(region, "mag", intrude)
    message = assert_refused(region, str(path))
    assert not trace.exists()
    if place == "times":
        assert "mkdir" in message
    # The payload works: np.load with allow_pickle=True runs it.
    arrays_of(path)
    assert trace.exists()


@pytest.mark.parametrize(
    "name",
    ["numpy._core.multiarray scalar", "numpy load", "builtins eval", "datetime timedelta", "numpy ndarray.__reduce__"],
)
@pytest.mark.parametrize("opcode", ["GLOBAL", "STACK_GLOBAL"])
def test_only_the_four_needed_names_are_allowed(region, name, opcode):
    module, _, attribute = name.partition(" ")
    asked = f"c{module}\n{attribute}\n".encode()
    if opcode == "STACK_GLOBAL":
        asked = pickle_text(module) + pickle_text(attribute) + b"\x93"
    path = set_members(region, "mag", arr_1=header("|O", (12,)) + b"\x80\x04" + asked + b".")
    assert_refused(region, str(path), f"{module}.{attribute}", "not allowed")


@pytest.mark.parametrize("protocol", [3, 4, 5, "numpy"])
@pytest.mark.parametrize("steps", [1, 70, 300, 100_000])
def test_times_of_any_length_and_pickle_protocol_are_read(tmp_path, protocol, steps):
    times = np.array([datetime(2001, 1, 1) + timedelta(hours=i) for i in range(steps)], dtype=object)
    # A repeated object makes the pickler use the memo.
    times = np.append(times, times[-1])
    content = io.BytesIO()
    if protocol == "numpy":
        np.save(content, times)
    else:
        content.write(header("|O", times.shape) + pickle.dumps(times, protocol=protocol))
    with zipfile.ZipFile(tmp_path / "times.npz", "w") as archive:
        archive.writestr("times.npy", content.getvalue())
        np.testing.assert_array_equal(_read_times(tmp_path, archive, "times").astype(object), times)


def pickle_int(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little", signed=True)


def pickle_text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def pickle_array(ending: bytes) -> bytes:
    """Return the pickle of an array of 12 items; `ending` is the rest of the state: dtype, order and items."""
    return RECONSTRUCT + b"K\x00\x85C\x01b\x87R(" + pickle_int(1) + b"K\x0c\x85" + ending + b"tb"


def pickle_nested_arguments(depth: int) -> bytes:
    """Return the pickle of calls whose argument is the memorised argument of the previous call."""
    numbers = [number.to_bytes(4, "little") for number in range(depth)]
    return b"N" + b"".join(b"\x85r" + number + b"Rcnumpy\ndtype\nj" + number for number in numbers)


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
# An object dtype with the flags of numbers, which makes numpy use bytes of the file as pointers.
POINTERS = b"cnumpy\ndtype\n" + pickle_text("O8") + b"\x89\x88\x87R("
POINTERS += pickle_int(3) + pickle_text("|") + b"NNN" + pickle_int(-1) * 2 + pickle_int(0) + b"tb"
RAW = b"C\x60" + b"\x41" * 96
YEAR_65535 = b"cdatetime\ndatetime\nC\x0a\xff\xff\x01\x01" + bytes(6) + b"\x85R"
# Pickles that crash the interpreter, take gigabytes or give wrong values if loaded, and the words of the error.
HOSTILE = {
    "pointers in the state": (pickle_array(POINTERS + b"\x89" + RAW), "not hold a list of 12 times"),
    "pointers in a buffer": (b"cnumpy\nndarray\nK\x0c\x85" + POINTERS + RAW + b"\x87R", "not callable"),
    "huge array": (b"cnumpy\nndarray\n" + pickle_int(10**9) + b"\x85" + pickle_text("O") + b"\x86R", "TUPLE2"),
    "huge reconstruction": (RECONSTRUCT + pickle_int(10**9) + b"\x85C\x01O\x87R", "not hold a list of 12 times"),
    "deep key": (b"}N" + b"\x85" * 2_000_000 + b"Ns", "EMPTY_DICT"),
    "deep tuple": (b"N" + b"\x85" * 2_000_000, "nest"),
    "deep list": (b"]" * 1_000_000 + b"a" * 999_999, "nest"),
    "deep arguments": (pickle_nested_arguments(100_000), "nest"),
    "list in itself": (pickle_array(b"NN]q\x00h\x00a"), "nest"),
    "long stack": (b"N" * 4_000_000, "not an array"),
    "long text": (b"X" + b"\xff" * 4, "damaged"),
    "long frame": (b"\x95" + b"\xff" * 7 + b"\x3fN", "damaged"),
    "leap in the memory": (b"Nr\xff\xff\xff\x0f", "skip to entry 268435455"),
    "impossible year": (pickle_array(b"NN](" + YEAR_65535 * 12 + b"e"), "year"),
}


# The memory limit is set after the imports, because they reserve much more memory than they use.
VICTIM = """
import resource, sys
from pathlib import Path
from dataset_builder.published.files import SolaredError
from dataset_builder.published import read_timeline

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)
for folder in sys.argv[1:]:
    try:
        read_timeline(folder)
    except SolaredError as error:
        print(error, flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux reports and limits address space")
def test_hostile_times_neither_crash_nor_take_memory(region, tmp_path):
    folders = [tmp_path / str(number) / region.name for number in range(len(HOSTILE))]
    for folder, (payload, _) in zip(folders, HOSTILE.values(), strict=True):
        shutil.copytree(region, folder)
        set_members(folder, "mag", arr_1=header("|O", (12,)) + b"\x80\x04" + payload + b".")
    finished = run(
        [sys.executable, "-c", VICTIM, *map(str, folders)],
        cwd=Path(__file__).parents[3],
    )
    sentences = finished.stdout.splitlines()
    assert finished.returncode == 0, (finished.returncode, list(HOSTILE)[len(sentences) :], finished.stderr)
    for (attack, (_, words)), folder, sentence in zip(HOSTILE.items(), folders, sentences, strict=True):
        assert sentence.startswith(str(folder / "mean_mag90001_flat.npz")), attack
        assert words in sentence, attack


def refused_memory(region: Path, *words: str) -> int:
    """Return the peak memory in bytes while the region is read and rejected."""
    tracemalloc.start()
    try:
        assert_refused(region, *words)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("array", "compression", "words"),
    [
        ("arr_0", zipfile.ZIP_DEFLATED, "would expand to"),
        ("arr_1", zipfile.ZIP_DEFLATED, "would expand to"),
        ("arr_0", zipfile.ZIP_BZIP2, "compressed in a way"),
    ],
)
@pytest.mark.parametrize("honest", [True, False], ids=["honest", "lying"])
def test_zip_bombs_are_not_expanded(region, array, compression, words, honest):
    path = region / "mean_mag90001_flat.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[f"{array}.npy"] += bytes(100 * 2**20)
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if not honest:
            # The size in the directory at the end of the archive, which zipfile uses.
            archive.getinfo(f"{array}.npy").file_size = 9_000
            words = words if compression == zipfile.ZIP_BZIP2 else "Bad CRC"
    del members
    assert refused_memory(region, str(path), words) < 8 * 2**20


@pytest.mark.parametrize(
    ("array", "descr", "shape", "words"),
    [
        ("arr_0", "<f8", (81, 10**12), "(81, 1000000000000)"),
        ("arr_0", "<f8", (81, 12), "takes 7776"),
        ("arr_0", "|V2000000000", (81, 12), "|V2000000000"),
        ("arr_1", "|O", (10**12,), "not hold a list of 1000000000000 times"),
        ("arr_1", "|O", (-1,), "not hold a list of -1 times"),
    ],
)
def test_headers_that_declare_more_data_than_the_file_holds(region, array, descr, shape, words):
    path = region / "mean_mag90001_flat.npz"
    with zipfile.ZipFile(path) as archive:
        member = io.BytesIO(archive.read(f"{array}.npy"))
    np.lib.format.read_magic(member)
    np.lib.format.read_array_header_1_0(member)
    data = member.read()
    set_members(region, "mag", **{array: header(descr, shape) + (data[:-8] if array == "arr_0" else data)})
    assert refused_memory(region, str(path), words) < 8 * 2**20


@pytest.mark.parametrize("array", ["arr_0", "arr_1"])
def test_extra_bytes_after_an_array(region, array):
    path = region / "mean_mag90001_flat.npz"
    with zipfile.ZipFile(path) as archive:
        content = archive.read(f"{array}.npy")
    set_members(region, "mag", **{array: content + b"more"})
    assert_refused(region, str(path), "7780 bytes" if array == "arr_0" else "4 bytes follow")


@pytest.mark.parametrize(
    "values",
    [np.zeros((63, 12)), np.zeros((81, 11)), np.zeros((81, 13)), np.zeros(81 * 12), np.zeros((81, 12), np.int64)],
    ids=["63 tiles", "too short", "too long", "flat", "integers"],
)
def test_wrong_values(region, values):
    path = spoil(region, "int", lambda arrays: [values, arrays[1]])
    assert_refused(region, str(path), str(values.shape), "(81, 12)")


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_infinite_values(region, value):
    def set_one(arrays):
        arrays[2][40, 5] = value
        return arrays

    path = spoil(region, "pmdop", set_one)
    assert_refused(region, str(path), "arr_2", "infinite", "NaN")


@pytest.mark.parametrize(
    "times",
    [
        [datetime(2001, 1, 1, tzinfo=UTC) + timedelta(hours=i) for i in range(12)],
        [f"2001-01-01T{i:02}:00" for i in range(12)],
        list(range(12)),
        [None] * 12,
    ],
    ids=["with time zone", "text", "numbers", "nothing"],
)
def test_times_that_are_not_naive_datetimes(region, times):
    path = spoil(region, "mag", lambda arrays: [arrays[0], np.array(times, dtype=object)])
    assert_refused(region, str(path))


@pytest.mark.parametrize("times", [np.arange(12.0), np.empty((2, 6), object)], ids=["floats", "two-dimensional"])
def test_times_of_another_form(region, times):
    path = spoil(region, "mag", lambda arrays: [arrays[0], times])
    assert_refused(region, str(path), "arr_1", "Download it again")


def test_times_rounded_from_days_or_frames_give_hourly_steps_without_gaps(tmp_path):
    nominal = simulate_region(90001, steps=99)
    write_published(tmp_path, nominal)
    days = (nominal.times - np.datetime64("1858-11-17")) / np.timedelta64(1, "D")
    # The rounding of `Time(days, format="mjd").datetime`: a microsecond less must not turn an hour into 0:59:59.999.
    of_days = np.datetime64("1858-11-17", "us") + (days * 86_400_000_000 - 0.5).astype("timedelta64[us]")
    off = np.random.default_rng(0).integers(-700_000, 700_001, 99).astype("timedelta64[us]")
    for times in (of_days, nominal.times + off):
        for kind in ("pmdop", "mag", "int"):
            spoil(tmp_path / "AR90001", kind, lambda arrays, times=times: [*arrays[:-1], times.astype(object)])
        build_dataset(PublishedSource(tmp_path), tmp_path / "dataset")
        (row,) = open_dataset(tmp_path / "dataset").catalog
        assert (row["cadence_s"], row["gaps"], row["missing_steps"]) == (3600, 0, 0)
    assert (of_days.astype("datetime64[ms]") != nominal.times).any()
    assert np.abs(open_dataset(tmp_path / "dataset").region(90001).times - nominal.times - off).max() < np.timedelta64(
        1, "ms"
    )


def test_times_that_disagree_between_files(region):
    path = spoil(region, "int", lambda arrays: [arrays[0], arrays[1] + timedelta(seconds=45)])
    assert_refused(region, str(path), "mean_pmdop90001_flat.npz", "same release")


def test_files_of_different_length(region):
    path = spoil(region, "int", lambda arrays: [arrays[0][:, :-1], arrays[1][:-1]])
    assert_refused(region, str(path), "same release")


@pytest.mark.parametrize("order", [[0, 1, 2, 4, 3], [0, 1, 1, 2, 3]], ids=["backwards", "twice"])
def test_times_that_do_not_increase(region, order):
    for kind in ("pmdop", "mag", "int"):
        spoil(region, kind, lambda arrays: [array[..., order] for array in arrays])
    assert_refused(region, "mean_pmdop90001_flat.npz", "does not increase", "Sort")


def test_files_without_steps(region):
    for kind in ("pmdop", "mag", "int"):
        spoil(region, kind, lambda arrays: [array[..., :0] for array in arrays])
    assert_refused(region, "mean_pmdop90001_flat.npz", "at least one step")


@pytest.mark.parametrize("name", ["11130", "ARx", "AR", "AR0130", "AR11130b", "AR99999999999"])
def test_folder_that_is_not_a_region(tmp_path, name):
    with pytest.raises(SolaredError, match="not named AR<number>"):
        region_number(tmp_path / name)


def test_regions_are_found_in_order_of_number(tmp_path):
    for name in ("AR9990", "AR11130", "AR90001", "notes", "ARCHIVE"):
        (tmp_path / "data" / name).mkdir(parents=True)
    expected = ["AR9990", "AR11130", "AR90001"]
    assert [path.name for path in find_regions(tmp_path)] == expected
    assert [path.name for path in find_regions(tmp_path / "data")] == expected


def test_folders_without_regions(tmp_path):
    with pytest.raises(SolaredError, match="does not hold an AR<number> folder"):
        find_regions(tmp_path)
    with pytest.raises(SolaredError, match="nowhere does not exist"):
        find_regions(tmp_path / "nowhere")
    (tmp_path / "AR11130").mkdir()
    (tmp_path / "AR11130_old").mkdir()
    with pytest.raises(SolaredError, match=r"AR11130_old is not named AR<number>. Rename it"):
        find_regions(tmp_path)
    shutil.rmtree(tmp_path / "AR11130_old")
    assert_refused(tmp_path / "AR11130", "mean_pmdop11130_flat.npz", "missing")
