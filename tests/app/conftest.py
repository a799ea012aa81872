"""Files to upload, shared by the tests of the page."""

import io
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataset_builder.published import write_published
from dataset_builder.simulation import simulate_region
from solared_hf import Timeline

OWN_REGION = 90021


@pytest.fixture(scope="session")
def own_region() -> Timeline:
    """Return a region that is in no collection and long enough for every model."""
    return simulate_region(OWN_REGION, steps=160)


def parquet(*timelines: Timeline) -> bytes:
    """Return the rows of some regions as the content of a Parquet file."""
    content = io.BytesIO()
    with pq.ParquetWriter(content, timelines[0].to_table().schema) as writer:
        for timeline in timelines:
            writer.write_table(timeline.to_table())
    return content.getvalue()


def published(folder: Path, timeline: Timeline) -> list[Path]:
    """Write the three published files of a region and return their paths."""
    write_published(folder, timeline)
    return sorted((folder / f"AR{timeline.ar_number}").iterdir())


def code_as_times(path: Path, marker: Path) -> None:
    """Put a pickle into a published file that creates `marker` when it is loaded unsafely."""
    import numpy as np

    class Trap:
        def __reduce__(self):
            return Path.touch, (marker,)

    with np.load(path, allow_pickle=True) as archive:
        arrays = [archive[name] for name in archive.files[:-1]]
    np.savez(path, *arrays, np.array([Trap()], dtype=object))


def every_twelve_minutes(steps: int = 200) -> Timeline:
    """Return a region with another cadence than the models were trained on."""
    hourly = simulate_region(90022, steps=steps)
    times = hourly.times[0] + (hourly.times - hourly.times[0]) // (timedelta(hours=1) // timedelta(minutes=12))
    return Timeline(hourly.ar_number, times, hourly.values)
