"""What all pictures share: fonts, colours, the way to a file or into a page, and time axes with gaps."""

from dataclasses import dataclass
from io import BytesIO, StringIO

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from solared_hf.data.step_times import cadence_of, is_spaced_by
from solared_hf.schema import TILE_COLUMNS

# Inches. Printed over the width of a page, the text is then about 10 points high.
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

# The colours of Okabe and Ito (2008), which colour-blind readers tell apart; their yellow is too pale on white.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, LIGHT_GREY = "#888888", "#D9D9D9"

SPLIT_COLOURS = {"train": BLUE, "validation": ORANGE, "test": GREEN}
SPLIT_MARKERS = {"train": "o", "validation": "s", "test": "^"}

# A spot is so strong that nothing else would be seen if the colours reached as far.
WITHIN_COLOURS = 99.5  # percent


@dataclass(frozen=True)
class Picture:
    """A figure with the name of its file and what a text beneath it says."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Pictures that belong together, and a sentence on those that could not be made, empty where there are none."""

    made: list[Picture]
    left_out: str


def styled():
    """Decorates a function that draws: what it draws is in the style of all pictures."""
    return rc_context(STYLE)


@styled()
def as_png(figure: Figure) -> bytes:
    """A picture as the content of a PNG file."""
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


@styled()
def as_svg(figure: Figure) -> str:
    """A picture as an element of an HTML page: what is black takes the colour of the page's text, the rest is clear.

    Screen readers pass over it; what it shows is told by the element around it.
    """
    content = StringIO()
    # Without the date of the drawing, and with names that are not random, the same figure gives the same text.
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    _, _, drawing = content.getvalue().replace(BLACK, "currentColor").partition("<svg ")
    return f'<svg aria-hidden="true" fill="currentColor" {drawing}'


def channel_colours(channel: str, values: np.ndarray) -> tuple[str, float, float]:
    """Colours that colour-blind readers can read for the values of a channel.

    Args:
        channel: one of `schema.CHANNELS`.
        values: those that will be shown, of any shape, NaN where not observed; `WITHIN_COLOURS` % of them are within
            the colours.

    Returns:
        Name of a colour map of matplotlib, and the values at its two ends. Flux begins at 0; the other channels are
        differences from a background, and their colours part at 0.
    """
    observed = np.abs(values[~np.isnan(values)])
    largest = float(np.percentile(observed, WITHIN_COLOURS)) if observed.any() else 1.0
    return ("viridis", 0.0, largest) if channel == "unsigned_magnetic_flux" else ("RdBu_r", -largest, largest)


def mark_as_simulated(figure: Figure) -> None:
    """Say at the foot of a picture that its regions are simulated."""
    figure.supxlabel("Simulated Sun: nothing here was observed.", fontsize="medium")


def tile_name(tile: int) -> str:
    """Where a tile (0..62) is.

    >>> tile_name(37)
    'row 5, column 1'
    """
    return f"row {tile // TILE_COLUMNS + 1}, column {tile % TILE_COLUMNS}"


def minute(time: np.datetime64) -> str:
    """A time as people write it.

    >>> minute(np.datetime64("2013-04-15T14:59:37.500"))
    '2013-04-15 14:59'
    """
    return str(time.astype("datetime64[m]")).replace("T", " ")


def broken_at_gaps(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line of which nothing is drawn through times that are not there.

    Args:
        times: (T,) datetime64, increasing.
        values: (T, ...) floats.

    Returns:
        The same with NaN put in wherever the spacing is more than the usual one.

    >>> hours = np.array(["2013-01-01T00", "2013-01-01T01", "2013-01-01T02", "2013-01-01T05"], "datetime64[h]")
    >>> broken_at_gaps(hours, np.arange(4.0))[1]
    array([ 0.,  1.,  2., nan,  3.])
    """
    spacings = np.diff(times)
    usual = cadence_of(times) if len(spacings) else np.timedelta64(0, "ms")
    gaps = np.flatnonzero(~is_spaced_by(spacings, usual) & (spacings > usual)) + 1
    return np.insert(times, gaps, times[gaps - 1]), np.insert(values, gaps, np.nan, axis=0)


def label_days(axes: Axes) -> None:
    """Ticks of a time axis that say no more than needed, the year and month once."""
    locator = AutoDateLocator(minticks=4, maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
