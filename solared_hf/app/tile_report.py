"""The chosen tile: intensity against time as a picture that can be read out, and its figures at the chosen time."""

from datetime import timedelta
from html import escape
from threading import Lock

import numpy as np

from solared_hf.app.alarm_table import alarm_in_words, onset_in_words
from solared_hf.app.channels import FORECAST, in_words
from solared_hf.app.forecasts import Made
from solared_hf.app.regions import Region
from solared_hf.app.tables import html_table, unbroken
from solared_hf.evaluation.region_forecast import RegionForecast
from solared_hf.plotting.forecasts import ALARM, ONSET, PERSISTENCE_ALARM, TILE_AXES, noaa_mark, plot_tile, values_at
from solared_hf.plotting.style import as_svg, minute, tile_name
from solared_hf.schema import AVAILABILITY_DELAY, TARGET_CHANNEL

# matplotlib draws in one thread at a time.
_DRAWING = Lock()


def tile_report(region: Region, step: int, tile: int, made: Made | None) -> str:
    """Picture and figures of a tile, as HTML.

    Args:
        region: whose tile.
        step: index of the chosen time in the region's times.
        tile: 0..62.
        made: the region's forecast; None where it is not there yet.
    """
    time, forecast = region.times[step], made.forecast if made else None
    figures = _figures(region, time, tile, forecast)
    heads = "", f"intensity at {minute(time)}", "emergence"
    remarks = [_remark(made, time)]
    if forecast is not None and forecast.band is None:
        remarks.append(f"{forecast.name} gives no quantiles, so there is no interval.")
    return (
        f"<h2>AR{region.timeline.ar_number}, {tile_name(tile)}</h2>"
        f'<div class="chart" role="img" aria-label="{escape(_description(region, time, tile, figures))}">'
        f"{_picture(region, tile, made)}{_cursor(region, time)}</div>"
        f"{html_table(heads, [(escape(name), *cells) for name, *cells in figures])}"
        f"{''.join(f'<p>{unbroken(remark)}</p>' for remark in remarks)}"
    )


def _figures(region: Region, time: np.datetime64, tile: int, forecast: RegionForecast | None) -> list[tuple[str, ...]]:
    """Rows of the table: whose, intensity at the chosen time, what happened when."""
    times = np.array([time])
    observed = values_at(times, region.timeline.times, region.timeline.intensity)[0, tile]
    if forecast is None:
        return [("observed", in_words(TARGET_CHANNEL, observed), "")]
    rows = [("observed", in_words(TARGET_CHANNEL, observed), f"onset: {onset_in_words(tile, forecast)}")]
    for name, values in forecast.forecasts.items():
        said = in_words(FORECAST, values_at(times, forecast.target_times, values)[0, tile])
        if name == forecast.name and forecast.band is not None:
            lower, upper = (values_at(times, forecast.target_times, end)[0, tile] for end in forecast.band)
            said += "" if np.isnan(lower) else f", 80 % interval {lower:,.0f} to {upper:,.0f} DN"
        alarm = f"alarm: {alarm_in_words(tile, name, forecast)}" if name in forecast.alarms else ""
        rows.append((name, said, alarm))
    return rows


def _remark(made: Made | None, time: np.datetime64) -> str:
    """Where the forecast of the chosen time comes from, or why there is none."""
    if made is None:
        return "The forecast is being made."
    if made.forecast is None:
        return f"There is no forecast of this region. {made.refusal}"
    if time not in made.forecast.target_times:
        return "No forecast is for this time: too little was observed before it."
    last = time - np.timedelta64(made.forecast.horizon, "ms")
    issued = last + np.timedelta64(AVAILABILITY_DELAY)
    hours = made.forecast.horizon / timedelta(hours=1)
    return f"Forecast {hours:g} h ahead, from data up to {minute(last)}, available at {minute(issued)}. Times are TAI."


def _picture(region: Region, tile: int, made: Made | None) -> str:
    if made is None:
        with _DRAWING:
            return _draw(region, tile, None)
    if tile not in made.pictures:
        with _DRAWING:
            # Somebody else may have waited for the same one.
            if tile not in made.pictures:
                made.pictures[tile] = _draw(region, tile, made.forecast)
    return made.pictures[tile]


def _draw(region: Region, tile: int, forecast: RegionForecast | None) -> str:
    marks, span = noaa_mark(region.noaa_emergence_time), (region.times[0], region.times[-1])
    if forecast is None:
        return as_svg(plot_tile(tile, region.timeline, region.timeline.times, {}, None, marks, span))
    alarms = {
        ALARM if name == forecast.name else PERSISTENCE_ALARM: alarms.issued
        for name, alarms in forecast.alarms.items()
    }
    marks = {ONSET: forecast.onsets, **alarms, **marks}
    times = forecast.target_times
    return as_svg(plot_tile(tile, region.timeline, times, forecast.forecasts, forecast.band, marks, span))


def _cursor(region: Region, time: np.datetime64) -> str:
    """A line over the picture at the chosen time: the picture stays as it is while the time moves."""
    left, bottom, width, height = TILE_AXES
    reached = (time - region.times[0]) / max(region.times[-1] - region.times[0], np.timedelta64(1, "ms"))
    across = 100 * (left + width * reached)
    return f'<i style="left:{across:.2f}%;top:{100 * (1 - bottom - height):.0f}%;bottom:{100 * bottom:.0f}%"></i>'


def _description(region: Region, time: np.datetime64, tile: int, figures: list[tuple[str, ...]]) -> str:
    """The picture in words."""
    timeline = region.timeline
    intensity = timeline.intensity[:, tile]
    span = f"from {minute(timeline.times[0])} to {minute(timeline.times[-1])} TAI"
    sentences = [f"Continuum intensity of AR{timeline.ar_number}, {tile_name(tile)}, {span}"]
    if np.isfinite(intensity).any():
        lowest = minute(timeline.times[np.nanargmin(intensity)])
        extremes = f"between {np.nanmin(intensity):,.0f} and {np.nanmax(intensity):,.0f} DN"
        sentences.append(f"Observed {extremes}, lowest at {lowest}")
    sentences.append(f"At {minute(time)}")
    sentences += [f"{name}: {', '.join(cell for cell in cells if cell)}" for name, *cells in figures]
    return f"{'. '.join(sentences)}."
