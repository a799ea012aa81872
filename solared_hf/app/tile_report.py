"""The chosen tile: a picture of intensity against time, described in words, and the values at the chosen time."""

from datetime import timedelta
from html import escape
from threading import Lock

import numpy as np

from solared_hf.app.alarm_table import alarm_in_words, onset_in_words
from solared_hf.app.channels import FORECAST, in_words
from solared_hf.app.forecasts import PageForecast
from solared_hf.app.regions import Region
from solared_hf.app.tables import html_table, unbroken
from solared_hf.evaluation.region_forecast import RegionForecast
from solared_hf.plotting.forecasts import TILE_AXES, plot_tile, values_at
from solared_hf.plotting.style import as_svg, minute, tile_name
from solared_hf.schema import AVAILABILITY_DELAY, TARGET_CHANNEL

# matplotlib draws in one thread at a time.
_DRAWING = Lock()


def tile_report(region: Region, step: int, tile: int, page_forecast: PageForecast | None) -> str:
    """Return the picture and the table of a tile, as HTML.

    Args:
        region: The region.
        step: Index of the chosen time in `region.times`.
        tile: Number of the tile, 0..62.
        page_forecast: Forecast of the region; None while it is computed.
    """
    time, forecast = region.times[step], page_forecast.forecast if page_forecast else None
    rows = _table_rows(region, time, tile, forecast)
    heads = "", f"intensity at {minute(time)}", "emergence"
    remarks = [_remark(page_forecast, time)]
    if forecast is not None and forecast.band is None:
        remarks.append(f"{forecast.name} forecasts no quantiles, so no interval is shown.")
    return (
        f"<h2>AR{region.timeline.ar_number}, {tile_name(tile)}</h2>"
        f'<div class="chart" role="img" aria-label="{escape(_description(region, time, tile, rows))}">'
        f"{_picture(region, tile, page_forecast)}{_cursor(region, time)}</div>"
        f"{html_table(heads, [(escape(name), *cells) for name, *cells in rows])}"
        f"{''.join(f'<p>{unbroken(remark)}</p>' for remark in remarks)}"
    )


def _table_rows(
    region: Region, time: np.datetime64, tile: int, forecast: RegionForecast | None
) -> list[tuple[str, str, str]]:
    """Return the rows of the table: name, intensity at the chosen time, and onset or alarm."""
    times = np.array([time])
    observed = values_at(times, region.timeline.times, region.timeline.intensity)[0, tile]
    if forecast is None:
        return [("observed", in_words(TARGET_CHANNEL, observed), "")]
    rows = [("observed", in_words(TARGET_CHANNEL, observed), f"onset: {onset_in_words(tile, forecast)}")]
    for name, values in forecast.forecasts.items():
        intensity = in_words(FORECAST, values_at(times, forecast.target_times, values)[0, tile])
        if name == forecast.name and forecast.band is not None:
            lower, upper = (values_at(times, forecast.target_times, end)[0, tile] for end in forecast.band)
            intensity += "" if np.isnan(lower) else f", 80 % interval {lower:,.0f} to {upper:,.0f} DN"
        alarm = f"alarm: {alarm_in_words(tile, name, forecast)}" if name in forecast.alarms else ""
        rows.append((name, intensity, alarm))
    return rows


def _remark(page_forecast: PageForecast | None, time: np.datetime64) -> str:
    """Return which data the forecast of the chosen time uses, or why the time has no forecast."""
    if page_forecast is None:
        return "The forecast is being computed."
    forecast = page_forecast.forecast
    if forecast is None:
        return f"This region cannot be forecast. {page_forecast.refusal}"
    if time not in forecast.target_times:
        return "This time has no forecast, because too little was observed before it."
    last = time - np.timedelta64(forecast.horizon, "ms")
    issued = last + np.timedelta64(AVAILABILITY_DELAY)
    hours = forecast.horizon / timedelta(hours=1)
    return f"Forecast {hours:g} h ahead, from data up to {minute(last)}, available at {minute(issued)}. Times are TAI."


def _picture(region: Region, tile: int, page_forecast: PageForecast | None) -> str:
    if page_forecast is None:
        with _DRAWING:
            return _draw(region, tile, None)
    if tile not in page_forecast.pictures:
        with _DRAWING:
            # Another thread may have drawn the same tile in the meantime.
            if tile not in page_forecast.pictures:
                page_forecast.pictures[tile] = _draw(region, tile, page_forecast.forecast)
    return page_forecast.pictures[tile]


def _draw(region: Region, tile: int, forecast: RegionForecast | None) -> str:
    span = region.times[0], region.times[-1]
    return as_svg(plot_tile(tile, region.timeline, span, forecast, region.noaa_emergence_time))


def _cursor(region: Region, time: np.datetime64) -> str:
    """Return a line at the chosen time that lies over the picture, so that the picture need not be drawn again."""
    left, bottom, width, height = TILE_AXES
    fraction = (time - region.times[0]) / max(region.times[-1] - region.times[0], np.timedelta64(1, "ms"))
    position = 100 * (left + width * fraction)
    return f'<i style="left:{position:.2f}%;top:{100 * (1 - bottom - height):.0f}%;bottom:{100 * bottom:.0f}%"></i>'


def _description(region: Region, time: np.datetime64, tile: int, rows: list[tuple[str, str, str]]) -> str:
    """Return the picture in words, for screen readers."""
    timeline = region.timeline
    intensity = timeline.intensity[:, tile]
    span = f"from {minute(timeline.times[0])} to {minute(timeline.times[-1])} TAI"
    sentences = [f"Continuum intensity of AR{timeline.ar_number}, {tile_name(tile)}, {span}"]
    if np.isfinite(intensity).any():
        lowest = minute(timeline.times[np.nanargmin(intensity)])
        extremes = f"between {np.nanmin(intensity):,.0f} and {np.nanmax(intensity):,.0f} DN"
        sentences.append(f"Observed {extremes}, lowest at {lowest}")
    sentences.append(f"At {minute(time)}")
    sentences += [f"{name}: {', '.join(cell for cell in cells if cell)}" for name, *cells in rows]
    return f"{'. '.join(sentences)}."
