"""Faults of the environment are reported and the region is built again; only damaged files are facts of the data."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed import LocalCluster

from dataset_builder import FitsSource, build_dataset
from dataset_builder.fits.region_file import REGION_FILE_NAME
from dataset_builder.simulation import write_observations
from solared_hf import SolaredError

GOOD, BAD = 90001, 90007
HEADER_BYTES = 5760

# The worker runs this first: while the file FAULT exists, reads of one region's pixels fail as it says.
FAULTY = """
import errno, io, os

class Faulty(io.FileIO):
    def readinto(self, buffer):
        fault = "FAULT"
        if f"AR{BAD}" in str(self.name) and self.tell() + len(buffer) > HEADER_BYTES and os.path.exists(fault):
            with open(fault) as file:
                name, often = file.read().split()
            if often == "once":
                os.unlink(fault)
            if name == "MemoryError":
                raise MemoryError
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
        return super().readinto(buffer)

io.FileIO = Faulty
"""


@pytest.fixture(scope="module")
def preload(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("preload") / "faulty.py"
    script = FAULTY.replace("{BAD}", str(BAD)).replace("HEADER_BYTES", str(HEADER_BYTES))
    path.write_text(script.replace("FAULT", str(path.with_name("fault"))))
    return path


@pytest.fixture(scope="module")
def build(preload) -> Callable:
    """Return a function that builds a dataset in a worker whose reads can be made to fail."""
    with LocalCluster(n_workers=1, dashboard_address=":0", preload=[str(preload)]) as cluster:
        yield lambda raw, output: build_dataset(FitsSource(raw, scheduler=cluster.scheduler_address), output)


@pytest.fixture(scope="module")
def observations(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_observations(folder, (GOOD, BAD), steps=3)
    return folder


@pytest.fixture(scope="module")
def healthy(observations, build, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    build(observations, folder)
    return folder


@pytest.fixture
def raw(observations, tmp_path) -> Path:
    """Return a copy of the observations that tests may damage."""
    shutil.copytree(observations, tmp_path / "raw")
    return tmp_path / "raw"


def fails_and_is_built_again(
    build: Callable, raw: Path, output: Path, message: str, repair: Callable, shards: Callable
) -> None:
    with pytest.raises(SolaredError, match=rf"1 of 2 regions could not be built(.|\n)*{message}") as caught:
        build(raw, output)
    assert "download" not in str(caught.value)
    assert [Path(name).stem for name in shards(output)] == [f"AR{GOOD}"]
    repair()
    report = build(raw, output)
    assert (report.written, report.kept) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("EIO always", "Input/output error"),
        ("EIO once", "Input/output error"),
        ("ESTALE always", "Stale file handle"),
        ("EINVAL always", "Invalid argument"),
        ("MemoryError always", "not enough memory"),
    ],
)
def test_reads_that_fail(build, preload, observations, healthy, tmp_path, tree, shards, fault, message):
    file = preload.with_name("fault")
    file.write_text(fault)
    try:
        message = rf"AR{BAD}.*fits cannot be read on .* \({message}\). Check that the storage is mounted"
        output = tmp_path / "out"
        fails_and_is_built_again(build, observations, output, message, lambda: file.unlink(missing_ok=True), shards)
    finally:
        file.unlink(missing_ok=True)
    assert tree(output) == tree(healthy)


def test_input_output_errors_of_a_device(build, raw, healthy, tmp_path, tree, shards):
    """Linux answers EIO if an unmapped address of a process's memory is read."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("there is no /proc/self/mem here")
    path = sorted((raw / f"AR{BAD}" / "continuum").iterdir())[0]
    content = path.read_bytes()
    path.unlink()
    path.symlink_to("/proc/self/mem")

    def repair():
        path.unlink()
        path.write_bytes(content)

    message = rf"{path.name} cannot be read on .* \(Input/output error\)"
    fails_and_is_built_again(build, raw, tmp_path / "out", message, repair, shards)
    assert tree(tmp_path / "out") == tree(healthy)


@pytest.mark.parametrize("what", ["a file", "a folder", "a region", "region.json"])
def test_storage_that_is_not_mounted(build, raw, healthy, tmp_path, tree, shards, what):
    region = raw / f"AR{BAD}"
    path, message = {
        "a file": (sorted((region / "dopplergram").iterdir())[0], "cannot be read on .*No such file or directory"),
        "a folder": (region / "magnetogram", "magnetogram is a broken link. Mount the storage"),
        "a region": (region, rf"no usable FITS file in .*AR{BAD}/dopplergram"),
        "region.json": (region / REGION_FILE_NAME, "region.json is a broken link. Mount the storage"),
    }[what]
    storage = tmp_path / "storage"
    path.rename(storage)
    path.symlink_to(tmp_path / "mount")
    fails_and_is_built_again(build, raw, tmp_path / "out", message, lambda: storage.rename(tmp_path / "mount"), shards)
    assert tree(tmp_path / "out") == tree(healthy)


def test_a_damaged_file_is_built_again_until_it_is_replaced(build, raw, tmp_path, tree):
    """The repaired file has the same name, size and header as the damaged file, and differs only in the pixels."""
    for path in sorted((raw / f"AR{BAD}" / "continuum").iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    build(raw, tmp_path / "healthy")
    zipped = sorted((raw / f"AR{BAD}" / "continuum").iterdir())[0]
    content = zipped.read_bytes()
    # The gzip checksum, just before the size at the end, is the only sign of the damage.
    zipped.write_bytes(content[:-8] + bytes(4) + content[-4:])
    assert build(raw, tmp_path / "out").written == 2
    (facts,) = [
        region
        for region in json.loads((tmp_path / "out" / "manifest.json").read_text())["regions"]
        if region["ar_number"] == BAD
    ]
    assert facts["unreadable"][0]["first"] == zipped.name
    assert facts["unreadable"][0]["reason"].startswith("the file cannot be decoded")
    damaged = tree(tmp_path / "out")
    assert damaged != tree(tmp_path / "healthy")
    build(raw, tmp_path / "out")
    assert tree(tmp_path / "out") == damaged
    zipped.write_bytes(content)
    report = build(raw, tmp_path / "out")
    assert (report.written, report.kept) == (1, 1)
    assert tree(tmp_path / "out") == tree(tmp_path / "healthy")
