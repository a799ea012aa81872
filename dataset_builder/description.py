"""Describe a dataset folder: facts of regions, the catalog, and the dataset card with its YAML.

All functions depend only on timelines or on the build manifest, so the same data give the same bytes.
"""

import hashlib
import math
from collections.abc import Iterable
from datetime import datetime

import numpy as np
import pyarrow as pa
from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from solared_hf.data.timelines import Timeline
from solared_hf.hub.cards import LOCATION, render
from solared_hf.schema import (
    CATALOG_PATH,
    CHANNELS,
    NUM_TILES,
    POWER_CHANNELS,
    SCHEMA_VERSION,
    TILE_COLUMNS,
    TILE_ROWS,
    UNITS,
    catalog_features,
    timeline_features,
)
from solared_hf.splits import SPLITS, TEST_REGIONS, TRAIN_REGIONS

CATALOG_SPLIT = "regions"

# The validation regions of the benchmark. With the train and test regions they are the 57 published regions
# (arXiv 2508.14107).
_VALIDATION_REGIONS = {11190, 11462, 11521, 11627, 11907, 12219, 12271, 12275, 12567, 12571, 13213}
BENCHMARK_REGIONS = TRAIN_REGIONS | TEST_REGIONS | _VALIDATION_REGIONS

# Raise this whenever the facts of an unchanged shard change, so that a build ignores the facts of older manifests.
FACTS_VERSION = 1

_SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)
_LARGEST_CATEGORY = "100M<n<1B"

# The front matter of the card for each kind of data. Each kind also has its own template. Simulated data come from the
# Apache-2.0 code of this package.
_FRONT_MATTER: dict[str, dict] = {
    "published": {
        "pretty_name": "SOLARED: emerging solar active regions",
        "license": "other",
        "license_name": "to-be-confirmed-with-the-authors",
        "tags": ["heliophysics", "space-weather", "sdo", "hmi", "active-regions", "helioseismology"],
    },
    "fits": {
        "pretty_name": "SOLARED, from SDO/HMI observations",
        "license": "other",
        "license_name": "sdo-data-policy",
        "license_link": "https://sdo.gsfc.nasa.gov/data/rules.php",
        "tags": ["heliophysics", "space-weather", "sdo", "hmi", "active-regions", "helioseismology"],
    },
    "simulated": {
        "pretty_name": "SOLARED, simulated: no observations",
        "license": "apache-2.0",
        "tags": ["heliophysics", "space-weather", "active-regions", "synthetic"],
    },
}


def region_facts(timeline: Timeline) -> dict:
    """Return the facts of one region for manifest, catalog and card, ready for JSON; times are ISO 8601, TAI.

    Raises:
        SolaredError: If the region has a single step, so that its cadence is unknown.
    """
    missing = timeline.missing_between
    repeated = (np.diff(timeline.values[:, len(CHANNELS) - 2 :], axis=0) == 0).all(axis=(1, 2))
    return {
        "ar_number": timeline.ar_number,
        "start_tai": str(timeline.times[0]),
        "end_tai": str(timeline.times[-1]),
        "steps": len(timeline),
        "cadence_s": timeline.cadence.total_seconds(),
        "gaps": [
            {
                "after_tai": str(timeline.times[step]),
                "before_tai": str(timeline.times[step + 1]),
                "missing_steps": int(missing[step]),
            }
            for step in np.flatnonzero(timeline.breaks)
        ],
        "missing_steps": timeline.missing_steps,
        "nan_steps": timeline.nan_steps,
        "nan_at_ends": _nan_at_ends(timeline.values),
        "repeated_frames": int(repeated.sum()),
    }


def moments(timeline: Timeline) -> dict[str, dict]:
    """Return count, extremes, mean and standard deviation of each channel of one region, for `statistics` to merge.

    They are computed in float64 over the values that are not NaN, and are None if all values are NaN. Values are added
    in order, so that every machine gets the same digits.
    """
    described = {}
    for index, channel in enumerate(CHANNELS):
        values = timeline.values[:, index]
        observed = values[~np.isnan(values)].astype(np.float64)
        count, lowest, highest, mean, deviation = len(observed), None, None, None, None
        if count:
            lowest, highest = float(observed.min()), float(observed.max())
            mean = float(_sum_in_order(observed) / count)
            deviation = math.sqrt(_sum_in_order(np.square(observed - mean)) / count)
        described[channel] = {"count": count, "min": lowest, "max": highest, "mean": mean, "std": deviation}
    return described


def statistics(regions: Iterable[dict]) -> dict[str, dict]:
    """Return count, extremes, mean, standard deviation and share of NaN of each channel over several regions.

    Numbers are rounded to six digits. They are None if all values are NaN.

    Args:
        regions: for each region a dictionary with `steps` and with `statistics`, which holds the `moments`.
    """
    regions = list(regions)
    values = sum(region["steps"] for region in regions) * NUM_TILES
    return {channel: _merged([region["statistics"][channel] for region in regions], values) for channel in CHANNELS}


def catalog_table(regions: Iterable[dict]) -> pa.Table:
    """Return the table of the `catalog` config: one row for each region, by AR number; unknown NOAA facts are null.

    Args:
        regions: for each region the `region_facts`, the `split` and, if known, the NOAA facts.
    """
    features = catalog_features()
    rows = [
        {
            **{name: region[name] for name in features if name in region},
            "start_tai": _time(region["start_tai"]),
            "end_tai": _time(region["end_tai"]),
            "gaps": len(region["gaps"]),
            "noaa_emergence_time": _time(region.get("noaa_emergence_time")),
        }
        for region in sorted(regions, key=lambda region: region["ar_number"])
    ]
    return pa.Table.from_pylist(rows, schema=features.arrow_schema)


def dataset_card(manifest: dict) -> str:
    """Return the whole README.md of a dataset: YAML front matter and text.

    Args:
        manifest: the content of the manifest.json that `solared build` writes.
    """
    regions, kind = manifest["regions"], _kind(manifest)
    pairs = overlaps(regions)
    splits = [split for split in SPLITS if split in manifest["statistics"]]
    benchmark = {region["ar_number"] for region in regions} & BENCHMARK_REGIONS
    facts = {
        "front_matter": _front_matter(manifest, splits),
        "location": LOCATION,
        "pretty_name": _FRONT_MATTER[kind]["pretty_name"],
        "schema_version": SCHEMA_VERSION,
        "num_tiles": NUM_TILES,
        "units": UNITS,
        # In the order of the schema: the keys of manifest.json are sorted.
        "statistics": {split: [(name, manifest["statistics"][split][name]) for name in CHANNELS] for split in splits},
        "power_range": _power_range(manifest["statistics"].values()),
        "all_regions": {region["ar_number"]: region for region in regions},
        "corrected": all(_is_corrected(region) for region in regions),
        "regions": {split: [region for region in regions if region["split"] == split] for split in splits},
        "num_rows": sum(region["steps"] for region in regions),
        "num_bytes": sum(region["bytes"] for region in regions),
        "cadences_hours": sorted({region["cadence_s"] / 3600 for region in regions}),
        "steps_range": (min(region["steps"] for region in regions), max(region["steps"] for region in regions)),
        "span_days": max(_days(region["start_tai"], region["end_tai"]) for region in regions),
        "observed": (min(r["start_tai"] for r in regions), max(r["end_tai"] for r in regions)),
        "gappy": [region for region in regions if region["gaps"]],
        "with_nan": [region for region in regions if region["nan_steps"]],
        "nan_at_ends": all(region["nan_at_ends"] for region in regions),
        "repeating": [region for region in regions if region["repeated_frames"]],
        "from_frames": [region for region in regions if "frames" in region],
        "longitude_changes": [region for region in regions if region.get("longitude_changes")],
        "overlaps": pairs,
        "divided": sum(pair["first"]["split"] != pair["second"]["split"] for pair in pairs),
        "benchmark_regions": len(BENCHMARK_REGIONS),
        "benchmark_here": len(benchmark),
        "benchmark_absent": sorted(BENCHMARK_REGIONS - benchmark),
    }
    return render(f"dataset_card_{kind}.md.j2", facts)


def overlaps(regions: Iterable[dict]) -> list[dict]:
    """Return the pairs of regions that were observed at the same time, with the common hours, in order of AR number.

    >>> early = {"ar_number": 1, "start_tai": "2011-02-10T00:00:00", "end_tai": "2011-02-12T00:00:00"}
    >>> late = {"ar_number": 2, "start_tai": "2011-02-11T00:00:00", "end_tai": "2011-02-21T00:00:00"}
    >>> [pair["hours"] for pair in overlaps([late, early])]
    [24.0]
    """
    pairs: list[dict] = []
    observed: list[dict] = []
    for second in sorted(regions, key=lambda region: region["start_tai"]):
        # ISO 8601 texts of equal length sort in order of time.
        observed = [first for first in observed if first["end_tai"] >= second["start_tai"]]
        for first in observed:
            hours = round(_days(second["start_tai"], min(first["end_tai"], second["end_tai"])) * 24, 1)
            low, high = sorted((first, second), key=lambda region: region["ar_number"])
            pairs.append({"first": low, "second": high, "hours": hours})
        observed.append(second)
    return sorted(pairs, key=lambda pair: (pair["first"]["ar_number"], pair["second"]["ar_number"]))


def _is_corrected(region: dict) -> bool:
    """Return True if the latitude background was removed, which is true of the published files."""
    return region.get("settings", {}).get("correction") != "none"


def _kind(manifest: dict) -> str:
    """Return the key of `_FRONT_MATTER`: "simulated" for simulated data from any source."""
    return "simulated" if manifest["simulated"] else manifest["source"]


def _front_matter(manifest: dict, splits: list[str]) -> str:
    regions, catalog = manifest["regions"], manifest["catalog"]
    # Only the columns, without the rows and bytes of each split: `datasets` would compare them with what it loaded and
    # raise an error when a user loads part of a split with `filters=`.
    features = {"timelines": timeline_features(), "catalog": catalog_features()}
    infos = {config: DatasetInfo(features=columns) for config, columns in features.items()}
    # The cache of `datasets` identifies a local folder by the card alone, even if the data files changed. The
    # descriptions are part of that identity, so a digest in them prevents `datasets` from loading old values.
    shards = "".join(f"{region['path']} {region['sha256']}\n" for region in regions)
    configs = {
        "timelines": {
            "description": f"sha256 {hashlib.sha256(shards.encode()).hexdigest()}",
            "data_files": [{"split": split, "path": f"data/{split}/AR*.parquet"} for split in splits],
            "default": True,
        },
        "catalog": {
            "description": f"sha256 {catalog['sha256']}",
            "data_files": [{"split": CATALOG_SPLIT, "path": CATALOG_PATH}],
        },
    }
    data = DatasetCardData(
        **_FRONT_MATTER[_kind(manifest)],
        task_categories=["time-series-forecasting"],
        size_categories=[_size_category(sum(region["steps"] for region in regions))],
        schema_version=SCHEMA_VERSION,
    )
    DatasetInfosDict(infos).to_dataset_card_data(data)
    MetadataConfigs(configs).to_dataset_card_data(data)
    return data.to_yaml(line_break="\n")


def _nan_at_ends(values: np.ndarray) -> bool:
    """Return True if all NaN fill whole tile columns: eastern columns in the first steps, western ones in the last.

    This is the pattern of a patch that reaches over the limb. The result is also True for a region without NaN.
    """
    nan = np.isnan(values).reshape(len(values), len(CHANNELS), TILE_ROWS, TILE_COLUMNS)
    columns = nan.any(axis=2)
    observed = np.flatnonzero(~columns.any(axis=(1, 2)))
    if (columns != nan.all(axis=2)).any() or not len(observed):
        return False
    middle = columns[observed[0] : observed[-1] + 1]
    return not (middle.any() or columns[: observed[0], :, -1].any() or columns[observed[-1] :, :, 0].any())


def _power_range(statistics: Iterable[dict]) -> tuple[float | None, float | None]:
    """Return the lowest and the highest acoustic power of all splits, or None if all values are NaN."""
    observed = [channels[name] for channels in statistics for name in POWER_CHANNELS if channels[name]["count"]]
    return (
        min((facts["min"] for facts in observed), default=None),
        max((facts["max"] for facts in observed), default=None),
    )


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZE_CATEGORIES if rows < limit), _LARGEST_CATEGORY)


def _time(text: str | None) -> datetime | None:
    return None if text is None else np.datetime64(text, "ms").item()


def _days(start_tai: str, end_tai: str) -> float:
    return float((np.datetime64(end_tai) - np.datetime64(start_tai)) / np.timedelta64(1, "D"))


def _merged(parts: list[dict], values: int) -> dict:
    """Return the moments of a channel over several regions (Chan et al. 1983, American Statistician 37, 242).

    Args:
        parts: the `moments` of the channel for each region.
        values: number of values of the channel, including NaN.
    """
    parts = [part for part in parts if part["count"]]
    count = sum(part["count"] for part in parts)
    merged: dict[str, float | None] = dict.fromkeys(("min", "max", "mean", "std"))
    if count:
        mean = math.fsum(part["count"] * part["mean"] for part in parts) / count
        squares = math.fsum(part["count"] * (part["std"] ** 2 + (part["mean"] - mean) ** 2) for part in parts)
        lowest, highest = min(part["min"] for part in parts), max(part["max"] for part in parts)
        exact = {"min": lowest, "max": highest, "mean": mean, "std": math.sqrt(squares / count)}
        merged = {name: _six_digits(value) for name, value in exact.items()}
    return {"count": count, **merged, "nan_share": _six_digits(1 - count / values)}


def _sum_in_order(values: np.ndarray) -> float:
    """Return the sum of (N,) values, added in order: the order of `numpy.sum` depends on the processor."""
    return values.cumsum()[-1]


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")
