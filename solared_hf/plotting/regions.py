"""Figures of a dataset: where and when its regions emerged, their values, and their missing steps."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from solared_hf.data.timelines import Timeline
from solared_hf.plotting.style import (
    BLUE,
    GREY,
    LIGHT_GREY,
    ORANGE,
    SPLIT_COLOURS,
    SPLIT_MARKERS,
    VERMILION,
    WIDTH,
    channel_colours,
    label_days,
    styled,
)
from solared_hf.schema import CHANNELS, NUM_TILES, TILE_COLUMNS, TILE_ROWS

_DAY = np.timedelta64(1, "D")
_INCHES_A_REGION = 0.19


@styled()
def plot_latitudes(times: np.ndarray, latitudes: np.ndarray, splits: np.ndarray) -> Figure:
    """Draw the butterfly diagram: latitude against time of emergence.

    Args:
        times: (R,) datetime64 array, UTC.
        latitudes: (R,) array in degrees, north positive.
        splits: (R,) names of splits.
    """
    figure = Figure(figsize=(WIDTH, 4.5))
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=1)
    for split in _splits(splits):
        of_split = splits == split
        axes.plot(
            times[of_split],
            latitudes[of_split],
            linestyle="none",
            marker=SPLIT_MARKERS[split],
            markersize=8,
            markeredgecolor="white",
            color=SPLIT_COLOURS[split],
            label=f"{split} ({of_split.sum()})",
        )
    limit = max(40.0, 1.1 * np.abs(latitudes).max())
    axes.set(ylim=(-limit, limit), xlabel="time of emergence (UTC)", ylabel="latitude (degrees, north positive)")
    label_days(axes)
    figure.legend(loc="outside upper center", ncols=len(SPLIT_COLOURS))
    return figure


@styled()
def plot_lifetimes(days: np.ndarray, splits: np.ndarray) -> Figure:
    """Draw a histogram of the lifetimes of the regions.

    Args:
        days: (R,) whole days from the first to the last report of the region, both counted.
        splits: (R,) names of splits.
    """
    figure = Figure(figsize=(WIDTH, 4))
    axes = figure.subplots()
    edges = (np.arange(days.min(), days.max() + 2) - 0.5).tolist()
    names = _splits(splits)
    axes.hist(
        [days[splits == split] for split in names],
        bins=edges,
        stacked=True,
        rwidth=0.9,
        color=[SPLIT_COLOURS[split] for split in names],
        label=[f"{split} ({(splits == split).sum()})" for split in names],
    )
    axes.set(xlabel="lifetime (days)", ylabel="number of regions")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper center", ncols=len(names))
    return figure


@styled()
def plot_distributions(facts: Mapping[str, np.ndarray], splits: np.ndarray) -> Figure:
    """Draw boxplots by split, one panel per fact; each dot is a region, and whiskers reach the extremes.

    Args:
        facts: (R,) values by axis label with unit; NaN where unknown.
        splits: (R,) names of splits.
    """
    names = _splits(splits)
    columns = min(len(facts), 3)
    rows = -(-len(facts) // columns)
    figure = Figure(figsize=(WIDTH, 4 * rows))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (label, values) in zip(panels, facts.items(), strict=False):
        known = {split: values[(splits == split) & ~np.isnan(values)] for split in names}
        boxes = axes.boxplot(
            list(known.values()),
            whis=(0, 100),
            showfliers=False,
            widths=0.6,
            medianprops={"color": "black", "linewidth": 2},
        )
        for name in ("boxes", "whiskers", "caps"):
            for line in boxes[name]:
                line.set_color(GREY)
        for position, (split, of_split) in enumerate(known.items(), 1):
            axes.plot(
                position + _spread(len(of_split)),
                of_split,
                linestyle="none",
                marker=SPLIT_MARKERS[split],
                markersize=5,
                alpha=0.7,
                color=SPLIT_COLOURS[split],
            )
        axes.set_xticks(range(1, len(names) + 1), [f"{split}\n({len(known[split])})" for split in names])
        axes.set_ylabel(label)
        axes.grid(visible=False, axis="x")
    for axes in panels[len(facts) :]:
        axes.remove()
    return figure


@styled()
def plot_timeline(timeline: Timeline, title: str) -> Figure:
    """Draw continuum intensity and unsigned magnetic flux of every tile against time; missing values are grey."""
    times, values = regular_steps(timeline)
    half = np.timedelta64(timeline.cadence) / 2
    edges = np.append(times - half, times[-1] + half)
    figure = Figure(figsize=(WIDTH, 8))
    figure.suptitle(title)
    panels = figure.subplots(2, 1, sharex=True)
    shown = {
        "continuum_intensity": "continuum intensity (DN)",
        "unsigned_magnetic_flux": "unsigned magnetic flux (G)",
    }
    for axes, (name, label) in zip(panels, shown.items(), strict=True):
        channel = values[:, CHANNELS.index(name)]
        colours, lowest, largest = channel_colours(name, channel)
        mesh = axes.pcolormesh(
            edges,
            np.arange(NUM_TILES + 1),
            channel.T,
            cmap=colormaps[colours].with_extremes(bad=LIGHT_GREY),
            vmin=lowest,
            vmax=largest,
            rasterized=True,
        )
        figure.colorbar(mesh, ax=axes, label=label, pad=0.01, extend="both")
        _label_tile_rows(axes)
    axes.set_xlabel("time (TAI); grey: not observed")
    label_days(axes)
    return figure


@styled()
def plot_availability(timelines: list[Timeline], splits: np.ndarray) -> Figure:
    """Draw for each step of each region whether everything, a part or nothing was observed.

    Args:
        timelines: R regions, in the order of the rows from the top.
        splits: (R,) names of the splits of the regions.
    """
    figure = Figure(figsize=(WIDTH, 1.6 + _INCHES_A_REGION * len(timelines)))
    axes = figure.subplots()
    colours = {
        "all observed": BLUE,
        "NaN in some tiles or channels": ORANGE,
        "nothing observed or no step": VERMILION,
    }
    for row, timeline in enumerate(timelines):
        _, values = regular_steps(timeline)
        nan = np.isnan(values)
        state = np.where(nan.all(axis=(1, 2)), 2, np.where(nan.any(axis=(1, 2)), 1, 0))
        edges = (np.arange(len(state) + 1) - 0.5) * (np.timedelta64(timeline.cadence) / _DAY)
        axes.pcolormesh(
            edges, [row - 0.4, row + 0.4], state[None], cmap=ListedColormap(list(colours.values())), vmin=0, vmax=2,
            rasterized=True,
        )  # fmt: skip
    axes.set_yticks(range(len(timelines)), [f"AR{timeline.ar_number}" for timeline in timelines])
    axes.tick_params(axis="y", labelsize=9)
    axes.set(ylim=(len(timelines) - 0.4, -0.6), xlabel="days since the first step")
    axes.grid(visible=False, axis="y")
    for split in _splits(splits):
        rows = np.flatnonzero(splits == split)
        if rows[0]:
            axes.axhline(rows[0] - 0.5, color="black", linewidth=1)
        axes.annotate(
            split,
            (1.01, rows.mean()),
            xycoords=("axes fraction", "data"),
            rotation=270,
            va="center",
            annotation_clip=False,
        )
    figure.legend(
        handles=[Patch(color=colour, label=label) for label, colour in colours.items()],
        loc="outside upper center",
        ncols=len(colours),
    )
    return figure


def regular_steps(timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """Return the times and values of a timeline with one step per cadence.

    Returns:
        (S,) datetime64[ms] array, and (S, 6, 63) array with NaN in the missing steps. A step off the cadence, as after
        some gaps, is moved to the nearest step.
    """
    cadence = np.timedelta64(timeline.cadence)
    steps = np.round((timeline.times - timeline.times[0]) / cadence).astype(int)
    values = np.full((steps[-1] + 1, *timeline.values.shape[1:]), np.nan, np.float32)
    values[steps] = timeline.values
    return timeline.times[0] + np.arange(len(values)) * cadence, values


def _splits(splits: np.ndarray) -> list[str]:
    """Return the splits that occur, in the order train, validation, test."""
    return [split for split in SPLIT_COLOURS if (splits == split).any()]


def _spread(count: int) -> np.ndarray:
    """Return offsets of dots to the side, so that equal values do not hide each other; always the same offsets."""
    return 0.2 * np.sin(2.4 * np.arange(count))


def _label_tile_rows(axes: Axes) -> None:
    axes.set_yticks((np.arange(TILE_ROWS) + 0.5) * TILE_COLUMNS, list(map(str, range(1, TILE_ROWS + 1))))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    for row in range(1, TILE_ROWS):
        axes.axhline(row * TILE_COLUMNS, color=GREY, linewidth=0.5)
    axes.set_ylabel("tile row, south to north\n(within: columns, east to west)")
