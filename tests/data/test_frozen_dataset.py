"""A dataset folder that an earlier version of the package built is read with the same numbers."""

from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from solared_hf import load_timelines, open_dataset
from solared_hf.data.timelines import timelines_from_dataset
from solared_hf.schema import CHANNELS

# Two simulated regions, built before the packages were divided by subject. Step 3 of AR90001 is missing, and one tile
# of its last channel is NaN.
FOLDER = Path(__file__).parent / "frozen_dataset"

SPANS = {
    90001: ("2001-01-01T00:59:37.500", "2001-01-01T07:59:37.500", 7),
    90010: ("2001-03-23T00:59:37.500", "2001-03-23T07:59:37.500", 8),
}
# Sums over steps and tiles, without NaN, one number a channel.
SUMS = {
    90001: [414040440.7675781, 1224362066.3046875, 1222005993.7617188, 304353675.1291504, 196.9996932586655,
            163399.2730255127],
    90010: [63468035.87359619, 943676889.375, 632592104.4052734, 326476881.4559326, -38.948949232464656,
            173743.83023405075],
}  # fmt: skip
# Tile 31 at the fifth row.
TILES = {
    90001: [4473483.5, 1689044.125, 5306299.5, 736406.125, 0.7734081745147705, np.nan],
    90010: [1931789.75, 6214156.0, 3402042.25, 900135.5, -0.662199854850769, 451.1532897949219],
}
REVISION = "5a7029df622c6fbffde85052702bb3c2b52663d4fda8903f467392161fdf55be"


def by_load_dataset(split: str):
    return timelines_from_dataset(load_dataset(str(FOLDER), split=split))


@pytest.mark.parametrize("load", [lambda split: load_timelines(FOLDER, split), by_load_dataset])
@pytest.mark.parametrize(("split", "number"), [("train", 90001), ("test", 90010)])
def test_frozen_regions_have_the_same_numbers(load, split, number):
    (timeline,) = load(split)
    assert timeline.ar_number == number
    assert (str(timeline.times[0]), str(timeline.times[-1]), len(timeline)) == SPANS[number]
    assert timeline.values.shape[1:] == (len(CHANNELS), 63)
    np.testing.assert_array_equal(timeline.values[4, :, 31], np.float32(TILES[number]))
    np.testing.assert_allclose(np.nansum(timeline.values.astype(np.float64), axis=(0, 2)), SUMS[number], rtol=1e-12)


def test_frozen_dataset_has_the_same_identity_and_catalog():
    dataset = open_dataset(FOLDER)
    assert dataset.identity == {
        "dataset": "frozen_dataset",
        "revision": REVISION,
        "source": "published",
        "simulated": True,
        "schema_version": 1,
    }
    names = ("ar_number", "split", "steps", "cadence_s", "gaps", "missing_steps", "nan_steps", "noaa_latitude")
    assert [tuple(row[name] for name in names) for row in dataset.catalog] == [
        (90001, "train", 7, 3600.0, 1, 1, 1, None),
        (90010, "test", 8, 3600.0, 0, 0, 0, None),
    ]
    gap = dataset.region(90001)
    np.testing.assert_array_equal(np.flatnonzero(gap.breaks), [2])
    np.testing.assert_array_equal(np.argwhere(np.isnan(gap.values)), [[4, 5, 31]])
