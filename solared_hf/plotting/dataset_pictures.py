"""All figures of a dataset that can be drawn from the known facts of its regions."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError
from solared_hf.plotting.regions import (
    plot_availability,
    plot_distributions,
    plot_latitudes,
    plot_lifetimes,
    plot_timeline,
)
from solared_hf.plotting.style import WITHIN_COLOURS, Picture, Pictures, mark_as_simulated
from solared_hf.schema import CHANNELS
from solared_hf.splits import SPLITS

_NOAA_AXES = {
    "noaa_latitude": ("latitude", "degrees, north positive"),
    "noaa_longitude": ("longitude at emergence", "degrees, west positive"),
    "noaa_area": ("largest area", "millionths of a hemisphere"),
}
_LABEL_CHARACTERS = 36


def dataset_pictures(
    catalog: Iterable[Mapping], timelines: Iterable[Timeline], simulated: bool = False, ar_number: int | None = None
) -> Pictures:
    """Draw a dataset.

    Args:
        catalog: Rows of the `catalog` config (`schema.catalog_features`), one per region.
        timelines: The regions of the catalog.
        simulated: True if the regions are simulated; every figure then says so.
        ar_number: Region whose timeline is shown; by default the region of the first split that darkens most.

    Raises:
        SolaredError: If the dataset has no region of that number.
    """
    rows = sorted(catalog, key=lambda row: (SPLITS.index(row["split"]), row["ar_number"]))
    by_number = {timeline.ar_number: timeline for timeline in timelines}
    regions = [by_number[row["ar_number"]] for row in rows]
    splits = np.array([row["split"] for row in rows])
    shown = _shown_region([region for region, split in zip(regions, splits, strict=True) if split == splits[0]])
    if ar_number is not None:
        if ar_number not in by_number:
            raise SolaredError(
                f"The dataset has no region AR{ar_number}. Choose one of {', '.join(map(str, by_number))}."
            )
        shown = by_number[ar_number]

    pictures, left_out = _noaa_pictures(rows, splits)
    facts = {axes: _column(rows, name) for name, axes in _NOAA_AXES.items()} | _measured_facts(regions)
    left_out += [f"boxplots of {name}" for (name, _), values in facts.items() if np.isnan(values).all()]
    known_facts = {
        textwrap.fill(f"{name} ({unit})", _LABEL_CHARACTERS): values
        for (name, unit), values in facts.items()
        if not np.isnan(values).all()
    }
    pictures += [
        Picture(
            "distributions.png",
            plot_distributions(known_facts, splits),
            "The regions by split. Boxes are quartiles, whiskers reach the extremes, each mark is a region. Flux and "
            "intensity are the extremes over all tiles and steps; hours count the steps without any NaN.",
        ),
        Picture(
            f"timeline_AR{shown.ar_number}.png",
            plot_timeline(shown, f"AR{shown.ar_number}"),
            f"Intensity and flux of every tile of AR{shown.ar_number}. The colours span {WITHIN_COLOURS} % "
            "of the values.",
        ),
        Picture(
            "availability.png",
            plot_availability(regions, splits),
            "Observed and missing steps of each region.",
        ),
    ]
    if simulated:
        for picture in pictures:
            mark_as_simulated(picture.figure)
    reason = "Left out, because the catalog lacks the NOAA facts: "
    return Pictures(pictures, f"{reason}{', '.join(left_out)}." if left_out else "")


def _noaa_pictures(rows: Sequence[Mapping], splits: np.ndarray) -> tuple[list[Picture], list[str]]:
    """Return the figures of the NOAA facts, and the names of the figures whose facts are unknown."""
    pictures, left_out = [], []
    times = np.array([row["noaa_emergence_time"] for row in rows], dtype="datetime64[ms]")
    latitudes = _column(rows, "noaa_latitude")
    located = ~np.isnat(times) & ~np.isnan(latitudes)
    if located.any():
        figure = plot_latitudes(times[located], latitudes[located], splits[located])
        caption = f"Latitude and time of emergence, as NOAA first reported them, of {_count(located)}."
        pictures.append(Picture("latitudes.png", figure, caption))
    else:
        left_out.append("latitude against time of emergence")
    days = _column(rows, "noaa_lifetime_days")
    lived = ~np.isnan(days)
    if lived.any():
        figure = plot_lifetimes(days[lived].astype(int), splits[lived])
        caption = f"Days from the first to the last of NOAA's reports, both counted, of {_count(lived)}."
        pictures.append(Picture("lifetimes.png", figure, caption))
    else:
        left_out.append("lifetimes")
    return pictures, left_out


def _shown_region(regions: Sequence[Timeline]) -> Timeline:
    return min(regions, key=lambda region: np.nanmin(region.intensity, initial=np.inf))


def _measured_facts(regions: Sequence[Timeline]) -> dict[tuple[str, str], np.ndarray]:
    """Return facts of each region computed from its timeline, by name and unit."""
    flux = CHANNELS.index("unsigned_magnetic_flux")
    facts: dict[tuple[str, str], list] = {
        ("largest flux of a tile", "G"): [np.nanmax(region.values[:, flux]) for region in regions],
        ("lowest intensity of a tile", "DN"): [np.nanmin(region.intensity) for region in regions],
        ("observed in all tiles", "hours"): [
            (len(region) - region.nan_steps) * region.cadence.total_seconds() / 3600 for region in regions
        ],
    }
    return {name: np.array(values, dtype=np.float64) for name, values in facts.items()}


def _column(rows: Sequence[Mapping], name: str) -> np.ndarray:
    """Return one fact of each region, with NaN for unknown values."""
    return np.array([row[name] for row in rows], dtype=np.float64)


def _count(known: np.ndarray) -> str:
    return f"all {len(known)} regions" if known.all() else f"{known.sum()} of {len(known)} regions"
