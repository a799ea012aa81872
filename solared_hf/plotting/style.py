"""What all figures share: fonts, colours, PNG and SVG output, and time axes with gaps."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Any, TypeVar, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from solared_hf.data.step_times import cadence_of, is_spaced_by
from solared_hf.schema import TILE_COLUMNS

_Function = TypeVar("_Function", bound=Callable)

# Inches. Printed at the width of a page, the text is about 10 points high.
WIDTH = 9.0
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlesize": "medium",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.use": True,
    "figure.titlesize": "large",
    "font.size": 12,
    "grid.alpha": 0.3,
    "image.interpolation": "nearest",
    "legend.fontsize": "medium",
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "svg.hashsalt": "solared",
}

# Colours of Okabe and Ito (2008) for colour-blind readers, without yellow, which is too pale on white.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, LIGHT_GREY = "#888888", "#D9D9D9"

SPLIT_COLOURS = {"train": BLUE, "validation": ORANGE, "test": GREEN}
SPLIT_MARKERS = {"train": "o", "validation": "s", "test": "^"}

# Percent of the values within the colour scale; with all of them, a spot is so strong that nothing else is visible.
WITHIN_COLOURS = 99.5


@dataclass(frozen=True)
class Picture:
    """A figure with its file name and caption."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Pictures:
    """The figures of one benchmark or dataset; `left_out` says which are missing and why, or is empty."""

    pictures: list[Picture]
    left_out: str


def styled() -> Callable[[_Function], _Function]:
    """Return a decorator: the decorated function draws in the style of all figures."""
    # The type hints of matplotlib do not say that its context is a decorator, and want literal names of settings.
    return cast(Any, rc_context)(STYLE)


@styled()
def as_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


@styled()
def as_svg(figure: Figure) -> str:
    """Return a figure as an SVG element for an HTML page.

    Black takes the text colour of the page, and the background is transparent. Screen readers skip the element, so the
    element around it must describe the figure.
    """
    content = StringIO()
    # Without a date and with fixed names (svg.hashsalt), the same figure always gives the same text.
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    _, _, drawing = content.getvalue().replace(BLACK, "currentColor").partition("<svg ")
    return f'<svg aria-hidden="true" fill="currentColor" {drawing}'


def channel_colours(channel: str, values: np.ndarray) -> tuple[str, float, float]:
    """Return a colour scale for the values of a channel that colour-blind readers can read.

    Args:
        channel: A name of `schema.CHANNELS`.
        values: The values to show, of any shape, NaN where not observed; `WITHIN_COLOURS` % of them lie within the
            scale.

    Returns:
        Name of a matplotlib colour map, and the values at its two ends. The scale of the flux begins at 0. The other
        channels are differences from a background, so their scale is centred at 0.
    """
    observed = np.abs(values[~np.isnan(values)])
    largest = float(np.percentile(observed, WITHIN_COLOURS)) if observed.any() else 1.0
    return ("viridis", 0.0, largest) if channel == "unsigned_magnetic_flux" else ("RdBu_r", -largest, largest)


def mark_as_simulated(figure: Figure) -> None:
    """Write at the foot of a figure that its regions are simulated."""
    figure.supxlabel("Simulated Sun: nothing here was observed.", fontsize="medium")


def tile_name(tile: int) -> str:
    """Return row and column of a tile (0..62).

    >>> tile_name(37)
    'row 5, column 1'
    """
    return f"row {tile // TILE_COLUMNS + 1}, column {tile % TILE_COLUMNS}"


def minute(time: np.datetime64) -> str:
    """Return a time as text, to the minute.

    >>> minute(np.datetime64("2013-04-15T14:59:37.500"))
    '2013-04-15 14:59'
    """
    return str(time.astype("datetime64[m]")).replace("T", " ")


def broken_at_gaps(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a line with NaN inserted at gaps, so that matplotlib draws nothing across the gaps.

    Args:
        times: (T,) datetime64 array, increasing.
        values: (T, ...) array of floats.

    Returns:
        Times and values with one more step in each spacing that is longer than the cadence.

    >>> hours = np.array(["2013-01-01T00", "2013-01-01T01", "2013-01-01T02", "2013-01-01T05"], "datetime64[h]")
    >>> broken_at_gaps(hours, np.arange(4.0))[1]
    array([ 0.,  1.,  2., nan,  3.])
    """
    spacings = np.diff(times)
    usual = cadence_of(times) if len(spacings) else np.timedelta64(0, "ms")
    gaps = np.flatnonzero(~is_spaced_by(spacings, usual) & (spacings > usual)) + 1
    return np.insert(times, gaps, times[gaps - 1]), np.insert(values, gaps, np.nan, axis=0)


def label_days(axes: Axes) -> None:
    """Set concise ticks on a time axis, with year and month given once."""
    locator = AutoDateLocator(minticks=4, maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
