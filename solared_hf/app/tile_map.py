"""The map of a region's tiles: a grid of buttons, in colours that colour-blind readers can read, each with its value.

North is up and east at the left, as in every picture of the Sun.
"""

from html import escape

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize, to_hex

from solared_hf.app.channels import NAMES, in_words, observed_values, shown_values
from solared_hf.app.forecasts import Made
from solared_hf.app.regions import Region
from solared_hf.plotting.style import channel_colours, minute, tile_name
from solared_hf.schema import TILE_COLUMNS, TILE_ROWS

_LEGEND_COLOURS = 11


def tile_map(region: Region, channel: str, step: int, tile: int, made: Made | None) -> str:
    """The map of a channel at one time, as HTML.

    Args:
        region: whose tiles.
        channel: one of `channels.NAMES`.
        step: index into the region's times.
        tile: the chosen one, 0..62.
        made: its forecast; None where it is not there yet.
    """
    time = region.times[step]
    colours, lowest, largest = channel_colours(channel, observed_values(region, channel))
    palette, scale = colormaps[colours], Normalize(lowest, largest, clip=True)
    values = shown_values(region, channel, time, made)
    emerged, warned = _happened(made, time)

    cells = []
    for row in reversed(range(TILE_ROWS)):
        cells.append(f'<span class="axis" aria-hidden="true">{row + 1}</span>')
        for number in range(row * TILE_COLUMNS, (row + 1) * TILE_COLUMNS):
            value, is_chosen = values[number], number == tile
            words = f"{tile_name(number)}: {in_words(channel, value)}"
            marks = ""
            if warned[number]:
                words, marks = f"{words}, alarm issued", "!"
            if emerged[number]:
                words, marks = f"{words}, emerged", f"{marks}▾"
            look = 'class="tile unknown"' if np.isnan(value) else _coloured(palette(scale(value)))
            cells.append(
                f'<button type="button" data-tile="{number}" aria-label="{words}" title="{words}" '
                f'aria-pressed="{str(is_chosen).lower()}" tabindex="{0 if is_chosen else -1}" {look}>{marks}</button>'
            )
    cells.append("<span></span>")
    cells += [f'<span class="axis" aria-hidden="true">{column}</span>' for column in range(TILE_COLUMNS)]

    name = NAMES[channel]
    help_text = f"{name}, AR{region.timeline.ar_number}, {minute(time)} TAI. Arrow keys move, Enter chooses a tile."
    return (
        f"<h2>{name}</h2>"
        f'<p class="when">{minute(time)} TAI</p>'
        '<div class="compass"><span>north-east</span><span>north-west</span></div>'
        f'<div class="tiles" role="group" aria-label="{escape(help_text)}">{"".join(cells)}</div>'
        f"{_legend(palette, channel, lowest, largest)}"
    )


def _happened(made: Made | None, time: np.datetime64) -> tuple[np.ndarray, np.ndarray]:
    """(63,) bool each: the tile had emerged by then, and the forecaster had warned of it."""
    nothing = np.zeros(TILE_ROWS * TILE_COLUMNS, bool)
    if made is None or made.forecast is None:
        return nothing, nothing
    alarms = made.forecast.alarms.get(made.forecast.name)
    # A comparison with NaT is false.
    return made.forecast.onsets <= time, nothing if alarms is None else alarms.issued <= time


def _coloured(colour: tuple[float, ...]) -> str:
    """Class and style of a tile, so that the marks on it can be read."""
    red, green, blue, _ = colour
    white = " white-text" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else ""
    return f'class="tile{white}" style="background-color:{to_hex(colour)}"'


def _legend(palette, channel: str, lowest: float, largest: float) -> str:
    stops = ",".join(to_hex(palette(part)) for part in np.linspace(0, 1, _LEGEND_COLOURS))
    numbers = "".join(
        f"<span>{in_words(channel, value)}</span>" for value in (lowest, (lowest + largest) / 2, largest)
    )
    return (
        f'<div class="bar" style="background:linear-gradient(to right,{stops})"></div>'
        f'<div class="numbers">{numbers}</div>'
        f'<p class="key"><span><span class="unknown swatch"></span> {in_words(channel, np.nan)}</span>'
        "<span><b>!</b> alarm issued</span><span><b>▾</b> emerged</span></p>"
    )
