"""What the tests of the builder share."""

from pathlib import Path

import pytest
from distributed import LocalCluster

from dataset_builder.build import LOCK_NAME
from dataset_builder.simulate import write_simulated


@pytest.fixture
def few(tmp_path) -> Path:
    """Three small simulated regions, one of each split, in the published format; tests spoil them."""
    write_simulated(tmp_path / "few", (90001, 90007, 90009), steps=20)
    return tmp_path / "few"


def _tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def tree():
    """Gives the contents of a dataset folder by name, without the lock, which carries nothing."""
    return _tree


@pytest.fixture
def times_of():
    """Gives the times at which the files of a dataset folder were written, by name."""
    return lambda folder: {name: (folder / name).stat().st_mtime_ns for name in _tree(folder)}


@pytest.fixture
def shards():
    """Gives the names of the shards in a dataset folder."""
    return lambda folder: sorted(
        path.relative_to(folder / "data").as_posix() for path in (folder / "data").rglob("*.parquet")
    )


@pytest.fixture(scope="session")
def cluster():
    """Address of a Dask scheduler with two workers, which many builds share."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as running:
        yield running.scheduler_address
