"""The map of the tiles of a region: a grid of buttons in colours that colour-blind readers can tell apart.

North is up and east is left, as in every picture of the Sun. The label of each button gives the value of the tile.
"""

from html import escape

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, Normalize, to_hex

from solared_hf.app.channels import NAMES, in_words, observed_values, shown_values
from solared_hf.app.forecasts import PageForecast
from solared_hf.app.regions import Region
from solared_hf.plotting.style import channel_colours, minute, tile_name
from solared_hf.schema import NUM_TILES, TILE_COLUMNS, TILE_ROWS

_LEGEND_COLOURS = 11


def tile_map(region: Region, channel: str, step: int, tile: int, page_forecast: PageForecast | None) -> str:
    """Return the map of a channel at one time, as HTML.

    Args:
        region: The region.
        channel: A key of `channels.NAMES`.
        step: Index of the time in `region.times`.
        tile: The chosen tile, 0..62.
        page_forecast: Forecast of the region; None while it is computed.
    """
    time = region.times[step]
    colours, lowest, largest = channel_colours(channel, observed_values(region, channel))
    palette, scale = colormaps[colours], Normalize(lowest, largest, clip=True)
    values = shown_values(region, channel, time, page_forecast)
    emerged, warned = _emerged_and_warned(page_forecast, time)

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


def _emerged_and_warned(page_forecast: PageForecast | None, time: np.datetime64) -> tuple[np.ndarray, np.ndarray]:
    """Return two (63,) bool arrays: the tile had emerged by then, and the forecaster had issued an alarm."""
    none = np.zeros(NUM_TILES, bool)
    if page_forecast is None or page_forecast.forecast is None:
        return none, none
    forecast = page_forecast.forecast
    alarms = forecast.alarms.get(forecast.name)
    # A comparison with NaT is false.
    return forecast.onsets <= time, none if alarms is None else alarms.issued <= time


def _coloured(colour: tuple[float, float, float, float]) -> str:
    """Return class and style of a tile; the text is white on dark colours so that the marks can be read."""
    red, green, blue, _ = colour
    white = " white-text" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else ""
    return f'class="tile{white}" style="background-color:{to_hex(colour)}"'


def _legend(palette: Colormap, channel: str, lowest: float, largest: float) -> str:
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
