"""The published files are read exactly, and nothing that is wrong with them goes by in silence."""

import io
import os
import pickle
import shutil
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dataset_builder.published import find_regions, read_timeline, region_number, write_published
from dataset_builder.simulate import simulate_region
from solared_hf.errors import SolaredError


@pytest.fixture
def region(tmp_path) -> Path:
    """One small region in the published format; tests spoil it."""
    write_published(tmp_path, simulate_region(90001, steps=12))
    return tmp_path / "AR90001"


def arrays_of(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=True) as archive:
        return [archive[f"arr_{i}"] for i in range(len(archive.files))]


def spoil(region: Path, kind: str, change) -> Path:
    """Rewrite one file with what `change(arrays)` makes of its arrays."""
    path = region / f"mean_{kind}90001_flat.npz"
    np.savez(path, *change(arrays_of(path)))
    return path


def assert_refused(region: Path, *words: str) -> str:
    with pytest.raises(SolaredError) as caught:
        read_timeline(region)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def with_values(array, times):
    """A change that replaces the values and times of mag or int."""
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


def test_values_and_times_are_those_of_numpy(region):
    timeline = read_timeline(region)
    *bands, times = arrays_of(region / "mean_pmdop90001_flat.npz")
    assert timeline.ar_number == 90001
    assert timeline.times.astype(object).tolist() == times.tolist()
    np.testing.assert_array_equal(timeline.values[:, 3], bands[3][9:72].T.astype(np.float32))


def test_background_rows_may_be_nan_but_nothing_else(region):
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
    assert_refused(region, "mean_int90001_flat.npz", "missing", "copy")


@pytest.mark.parametrize("damage", ["truncated", "no zip", "empty", "flipped bit"])
def test_damaged_file(region, damage):
    path = region / "mean_mag90001_flat.npz"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1  # within the values of arr_0
    spoiled = {"truncated": content[: len(content) // 2], "no zip": b"hello" * 100, "empty": b""}
    path.write_bytes(spoiled.get(damage, content))
    assert_refused(region, str(path), "download it again")


def test_missing_array(region):
    path = spoil(region, "pmdop", lambda arrays: arrays[:4])
    assert_refused(region, str(path), "arr_4", "download it again")


class Intruder:
    """Creates a file when it is unpickled."""

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
    # The payload is live: numpy's own way of reading would have run it.
    arrays_of(path)
    assert trace.exists()


@pytest.mark.parametrize(
    "name",
    ["numpy._core.multiarray scalar", "numpy load", "builtins eval", "datetime timedelta", "numpy ndarray.__reduce__"],
)
def test_only_four_names_are_admitted(region, name):
    module, _, attribute = name.partition(" ")

    def ask_for_name(arrays):
        content = io.BytesIO()
        np.lib.format.write_array_header_1_0(content, {"descr": "|O", "fortran_order": False, "shape": (12,)})
        content.write(f"\x80\x02c{module}\n{attribute}\n.".encode("latin1"))
        return content.getvalue()

    path = region / "mean_mag90001_flat.npz"
    with zipfile.ZipFile(path) as archive:
        values = archive.read("arr_0.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", values)
        archive.writestr("arr_1.npy", ask_for_name(None))
    assert_refused(region, str(path), f"{module}.{attribute}", "not run")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_protocol_of_numpy_is_read(region, protocol):
    expected = read_timeline(region)
    for kind in ("pmdop", "mag", "int"):
        path = region / f"mean_{kind}90001_flat.npz"
        *values, times = arrays_of(path)
        content = io.BytesIO()
        np.lib.format.write_array_header_1_0(content, {"descr": "|O", "fortran_order": False, "shape": times.shape})
        content.write(pickle.dumps(times, protocol=protocol))
        np.savez(path, *values)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"arr_{len(values)}.npy", content.getvalue())
    np.testing.assert_array_equal(read_timeline(region).times, expected.times)


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
def test_times_that_are_no_naive_datetimes(region, times):
    path = spoil(region, "mag", lambda arrays: [arrays[0], np.array(times, dtype=object)])
    assert_refused(region, str(path))


@pytest.mark.parametrize("times", [np.arange(12.0), np.empty((2, 6), object)], ids=["floats", "two-dimensional"])
def test_times_of_another_form(region, times):
    path = spoil(region, "mag", lambda arrays: [arrays[0], times])
    assert_refused(region, str(path), "arr_1", "download it again")


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
    assert_refused(region, "mean_pmdop90001_flat.npz", "does not increase", "sort")


def test_no_step_at_all(region):
    for kind in ("pmdop", "mag", "int"):
        spoil(region, kind, lambda arrays: [array[..., :0] for array in arrays])
    assert_refused(region, "mean_pmdop90001_flat.npz", "at least one step")


@pytest.mark.parametrize("name", ["11130", "ARx", "AR", "AR0130", "AR11130b", "AR99999999999"])
def test_folder_that_is_no_region(tmp_path, name):
    with pytest.raises(SolaredError, match="not named AR<number>"):
        region_number(tmp_path / name)


def test_regions_are_found_in_order_of_number(tmp_path):
    for name in ("AR9990", "AR11130", "AR90001", "notes", "ARCHIVE"):
        (tmp_path / "data" / name).mkdir(parents=True)
    expected = ["AR9990", "AR11130", "AR90001"]
    assert [path.name for path in find_regions(tmp_path)] == expected
    assert [path.name for path in find_regions(tmp_path / "data")] == expected


def test_folders_without_regions(tmp_path):
    with pytest.raises(SolaredError, match="no AR<number> folder in"):
        find_regions(tmp_path)
    with pytest.raises(SolaredError, match="There is no folder"):
        find_regions(tmp_path / "nowhere")
    (tmp_path / "AR11130").mkdir()
    (tmp_path / "AR11130_old").mkdir()
    with pytest.raises(SolaredError, match=r"AR11130_old is not named AR<number>; rename it"):
        find_regions(tmp_path)
    shutil.rmtree(tmp_path / "AR11130_old")
    assert_refused(tmp_path / "AR11130", "mean_pmdop11130_flat.npz", "missing")
