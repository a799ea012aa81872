"""Fixtures shared by the tests of the builder."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from dataset_builder.build import LOCK_NAME
from dataset_builder.simulation import write_simulated
from solared_hf.schema import CHANNELS


@pytest.fixture
def few(tmp_path) -> Path:
    """Return the folder of three small simulated regions, one of each split; tests may damage it."""
    write_simulated(tmp_path / "few", (90001, 90007, 90009), steps=20)
    return tmp_path / "few"


def _tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def tree():
    """Return a function that returns the files of a dataset folder by name, without the lock file."""
    return _tree


def _regions(folder: Path) -> list[dict]:
    """Return the manifest's entries of regions, without the entries that depend on the last bit of a value."""
    regions = json.loads((folder / "manifest.json").read_text())["regions"]
    return [{**region, "sha256": None, "bytes": None} for region in regions]


@pytest.fixture
def assert_same_dataset():
    """Return a function that compares two datasets: files, times and facts exactly, values except for rounding."""

    def compare(actual: Path, expected: Path) -> None:
        names = _tree(expected).keys()
        assert _tree(actual).keys() == names
        assert _regions(actual) == _regions(expected)
        for name in names:
            if name.startswith("data/"):
                tables = [pq.read_table(folder / name) for folder in (actual, expected)]
                assert tables[0].drop_columns(list(CHANNELS)).equals(tables[1].drop_columns(list(CHANNELS)))
                for channel in CHANNELS:
                    values, reference = (table[channel].combine_chunks().flatten().to_numpy() for table in tables)
                    tolerance = 1e-5 * np.nanmax(abs(reference), initial=0)
                    np.testing.assert_allclose(values, reference, rtol=1e-4, atol=tolerance, err_msg=channel)

    return compare


@pytest.fixture
def times_of():
    """Return a function that returns when the files of a dataset folder were written, by name."""
    return lambda folder: {name: (folder / name).stat().st_mtime_ns for name in _tree(folder)}


@pytest.fixture
def shards():
    """Return a function that returns the names of the shards in a dataset folder."""
    return lambda folder: sorted(
        path.relative_to(folder / "data").as_posix() for path in (folder / "data").rglob("*.parquet")
    )


@pytest.fixture(scope="session")
def cluster():
    """Give the address of a Dask scheduler with two workers, which many builds share."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as running:
        yield running.scheduler_address
