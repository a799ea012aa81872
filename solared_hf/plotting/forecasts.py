"""Figures that compare the forecast of a region, or of one tile, with the observation."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.dates import date2num
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from solared_hf.data.step_times import cadence_of, nearest_steps
from solared_hf.data.timelines import Timeline
from solared_hf.evaluation.errors import root_mean_squared_error
from solared_hf.evaluation.published_protocol import PROTOCOL_TILES
from solared_hf.evaluation.region_forecast import RegionForecast, forecast_region
from solared_hf.forecasters.base import Forecaster
from solared_hf.plotting.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    WIDTH,
    broken_at_gaps,
    label_days,
    minute,
    styled,
    tile_name,
)
from solared_hf.schema import AVAILABILITY_DELAY, NUM_TILES, TILE_COLUMNS, TILE_ROWS

# Legend labels of the times that a figure can mark.
ONSET, ALARM, NOAA = "onset observed", "alarm issued", "first reported by NOAA (UTC)"
PERSISTENCE_ALARM = "alarm by persistence"
_MARKS: dict[str, dict[str, Any]] = {
    ONSET: {"color": BLACK, "linestyle": "--"},
    ALARM: {"color": VERMILION, "linestyle": "-"},
    PERSISTENCE_ALARM: {"color": ORANGE, "linestyle": ":"},
    NOAA: {"color": GREEN, "linestyle": "-."},
}
_FORECAST_COLOURS = (BLUE, ORANGE, PURPLE, GREY)
# Position of the axes of `plot_tile`: left, bottom, width and height as fractions of the figure.
TILE_AXES = 0.15, 0.14, 0.84, 0.58
_SMALL = 9.5  # points
_BEFORE = np.timedelta64(24, "h")
# DN. On a shorter axis, noise would look like an emergence.
_SHORTEST_AXIS = 2_000.0


def strongest_row(intensity: np.ndarray) -> range:
    """Return the seven inner tiles of the row in which the intensity varies most.

    Args:
        intensity: (T, 63) array, NaN where not observed.

    >>> intensity = np.zeros((2, 63))
    >>> intensity[1, 40] = -500
    >>> strongest_row(intensity)
    range(37, 44)
    """
    observed = np.ma.masked_invalid(intensity).reshape(-1, TILE_ROWS, TILE_COLUMNS)[:, :, 1:-1]
    first = int(observed.var(axis=0, dtype=np.float64).sum(axis=1).filled(0).argmax()) * TILE_COLUMNS + 1
    return range(first, first + TILE_COLUMNS - 2)


@styled()
def plot_forecast(
    forecast: RegionForecast, tiles: Sequence[int], noaa_emergence_time: datetime | None = None
) -> Figure:
    """Draw the forecasts of one region against the observation.

    The maps at the top (south at the bottom, east at the left) show the observed intensity and the forecaster's
    forecast at the time when one of the tiles was darkest. If nothing was observed at the target times, only the
    forecast is mapped. Below, one panel a tile shows intensity against time, with the observed onset, the
    forecaster's alarm and the time of NOAA's first report.

    Args:
        forecast: Forecasts of the region, four at most.
        tiles: Tiles to show, out of 0..62.
        noaa_emergence_time: Time at which NOAA first reported the region, UTC; None if unknown.
    """
    timeline, target_times = forecast.timeline, forecast.target_times
    targets = values_at(target_times, timeline.times, timeline.intensity)
    mapped = forecast.forecasts[forecast.name]
    known = targets[:, tiles] if np.isfinite(targets[:, tiles]).any() else mapped[:, tiles]
    darkest = np.unravel_index(np.nanargmin(known), known.shape)[0]

    figure = Figure(figsize=(WIDTH, 4.5 + 1.2 * len(tiles)))
    figure.suptitle(f"AR{timeline.ar_number}: {horizon_in_words(forecast.horizon)}")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.4, 1 + 1.2 * len(tiles)])[:, 0]
    maps = {"observed": targets[darkest], forecast.name: mapped[darkest]}
    _draw_maps(top, {label: values for label, values in maps.items() if np.isfinite(values).any()}, tiles)
    top.supxlabel(f"maps at {minute(target_times[darkest])} TAI", fontsize="medium")

    marks = _forecast_marks(forecast, noaa_emergence_time)
    panels = bottom.subplots(len(tiles), 1, sharex=True, squeeze=False)[:, 0]
    for axes, tile in zip(panels, tiles, strict=True):
        _draw_tile(axes, tile, timeline, forecast, marks)
        axes.set_title(tile_name(tile), loc="left")
        if np.isfinite(targets[:, tile]).any():
            errors = {
                name: root_mean_squared_error(values[:, tile], targets[:, tile])
                for name, values in forecast.forecasts.items()
            }
            text = ", ".join(f"{name} {error:.0f} DN" for name, error in errors.items())
            axes.set_title(f"RMSE: {text}", loc="right", fontsize="small")

    shown = {label: times[list(tiles)] for label, times in marks.items() if not np.isnat(times[list(tiles)]).all()}
    first = min([target_times[0], *(np.nanmin(times) for times in shown.values())])
    axes.set_xlim(first - _BEFORE, max(target_times[-1], timeline.times[-1]))
    axes.set_xlabel("time (TAI)")
    label_days(axes)
    bottom.supylabel("continuum intensity (DN)")
    bottom.legend(*_legend(axes, shown), loc="outside upper center", ncols=3)
    return figure


def plot_region_forecast(
    forecaster: Forecaster, timeline: Timeline, alarm_scale_dn: float, noaa_emergence_time: datetime | None = None
) -> Figure:
    """Draw the forecasts of a forecaster and of persistence for one region, with alarms and observed onsets.

    The figure shows seven tiles: for the published test regions those of the published figures, for other regions the
    inner tiles of the row in which the intensity varies most.

    Args:
        forecaster: If it forecasts the quantiles 0.1 and 0.9, the interval between them is shown.
        timeline: The region.
        alarm_scale_dn: DN of one unit of the alarm threshold, from `evaluation.alarms.alarm_scale`.
        noaa_emergence_time: Time at which NOAA first reported the region, UTC; None if unknown.

    Raises:
        SolaredError: If the region gives no window.
    """
    forecast = forecast_region(forecaster, forecaster.windows([timeline], require_target=False), alarm_scale_dn)
    tiles = PROTOCOL_TILES.get(timeline.ar_number) or strongest_row(timeline.intensity)
    return plot_forecast(forecast, tiles, noaa_emergence_time)


def horizon_in_words(horizon: timedelta) -> str:
    """Return how far ahead a forecast reaches, counted from the last input step and from the issue.

    >>> horizon_in_words(timedelta(hours=12))
    'forecast 12 h after the last input step, 8 h after it could be issued'
    """
    hours, lead = (duration / timedelta(hours=1) for duration in (horizon, horizon - AVAILABILITY_DELAY))
    ahead = f"forecast {hours:g} h after the last input step"
    return f"{ahead}, {lead:g} h after it could be issued" if lead > 0 else ahead


@styled()
def plot_tile(
    tile: int,
    timeline: Timeline,
    span: tuple[np.datetime64, np.datetime64],
    forecast: RegionForecast | None = None,
    noaa_emergence_time: datetime | None = None,
) -> Figure:
    """Draw the intensity of one tile against time, small enough for a phone and fast enough to follow a click.

    Args:
        tile: Number of the tile, 0..62.
        timeline: The region.
        span: First and last time of the time axis.
        forecast: Forecasts of the region, four at most, with the alarms of the forecaster and of persistence; None to
            draw the observed intensity alone.
        noaa_emergence_time: Time at which NOAA first reported the region, UTC; None if unknown.
    """
    # Every size is fixed, because fitting the axes to the text takes longer than drawing.
    figure = Figure(figsize=(4.6, 4))
    figure.set_layout_engine("none")
    axes = figure.add_axes(TILE_AXES)
    if forecast is None:
        marks = _noaa_mark(noaa_emergence_time)
    else:
        marks = _forecast_marks(forecast, noaa_emergence_time, persistence_alarm=True)
    _draw_tile(axes, tile, timeline, forecast, marks)
    shown = [label for label, times in marks.items() if not np.isnat(times[tile])]
    axes.set_xlim(*date2num(np.array(span)))
    axes.set_xlabel("time (TAI)", loc="left", fontsize=_SMALL)
    axes.set_title("continuum intensity (DN)", loc="left", fontsize=_SMALL)
    axes.tick_params(labelsize=_SMALL)
    label_days(axes)
    axes.xaxis.offsetText.set_fontsize(_SMALL)
    handles, labels = _legend(axes, shown)
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.01, 0.99),
        ncols=2,
        fontsize=_SMALL,
        borderaxespad=0,
        columnspacing=1,
        handlelength=1.8,
        labelspacing=0.3,
    )
    return figure


def values_at(wanted: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the values at the wanted times, an (N, ...) array, with NaN at times without a step.

    Args:
        wanted: (N,) datetime64 array.
        times: (T,) datetime64 array, increasing.
        values: (T, ...) array of floats.
    """
    cadence = cadence_of(times) if len(times) > 1 else np.timedelta64(0, "ms")
    steps = nearest_steps(times, wanted, cadence)
    return np.where((steps >= 0)[:, None], values[steps], np.float32(np.nan))


def _forecast_marks(
    forecast: RegionForecast, noaa_emergence_time: datetime | None, persistence_alarm: bool = False
) -> dict[str, np.ndarray]:
    """Return the times to mark in each tile, (63,) datetime64[ms] by legend label; NaT where nothing is marked."""
    marks = {ONSET: forecast.onsets}
    for name, alarms in forecast.alarms.items():
        if name == forecast.name:
            marks[ALARM] = alarms.issued
        elif persistence_alarm:
            marks[PERSISTENCE_ALARM] = alarms.issued
    return marks | _noaa_mark(noaa_emergence_time)


def _noaa_mark(noaa_emergence_time: datetime | None) -> dict[str, np.ndarray]:
    if noaa_emergence_time is None:
        return {}
    # UTC is 34 to 37 s behind TAI, less than the width of a line.
    return {NOAA: np.full(NUM_TILES, np.datetime64(noaa_emergence_time, "ms"))}


def _draw_tile(
    axes: Axes, tile: int, timeline: Timeline, forecast: RegionForecast | None, marks: Mapping[str, np.ndarray]
) -> None:
    """Draw the observed intensity, the forecasts, the 80 % interval and the marks of one tile."""
    observed = broken_at_gaps(timeline.times, timeline.intensity[:, tile])
    axes.plot(*observed, color=BLACK, linewidth=1.8, label="observed")
    if forecast is not None:
        target_times = forecast.target_times
        for colour, (name, values) in zip(_FORECAST_COLOURS, forecast.forecasts.items(), strict=False):
            axes.plot(*broken_at_gaps(target_times, values[:, tile]), color=colour, linewidth=1.4, label=name)
        if forecast.band is not None:
            ends = np.stack([end[:, tile] for end in forecast.band], axis=1)
            band_times, band = broken_at_gaps(target_times, ends)
            axes.fill_between(band_times, *band.T, color=BLUE, alpha=0.25, linewidth=0, label="80 % interval")
    for label, times in marks.items():
        if not np.isnat(times[tile]):
            axes.axvline(times[tile], linewidth=1.8, **_MARKS[label])
    middle, half = np.mean(axes.get_ylim()), np.ptp(axes.get_ylim()) / 2
    axes.set_ylim(middle - max(half, _SHORTEST_AXIS / 2), middle + max(half, _SHORTEST_AXIS / 2))


def _legend(axes: Axes, shown: Iterable[str]) -> tuple[list[Artist], list[str]]:
    """Return handles and labels of the curves that `_draw_tile` drew and of the marks that are shown."""
    handles, labels = axes.get_legend_handles_labels()
    return [*handles, *(Line2D([], [], linewidth=1.8, **_MARKS[label]) for label in shown)], [*labels, *shown]


def _draw_maps(figure: SubFigure, maps: Mapping[str, np.ndarray], tiles: Sequence[int]) -> None:
    """Draw maps of all tiles side by side in one colour scale, with a frame around `tiles`."""
    limit = max(np.nanmax(np.abs(values), initial=1) for values in maps.values())
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (label, values) in zip(panels, maps.items(), strict=True):
        image = axes.imshow(
            values.reshape(TILE_ROWS, TILE_COLUMNS), origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit
        )
        for tile in tiles:
            row, column = divmod(tile, TILE_COLUMNS)
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=BLACK, linewidth=1))
        axes.grid(visible=False)
        axes.set(title=label, xlabel="column, east to west", ylabel="row, south to north")
        axes.set_xticks(range(TILE_COLUMNS))
        axes.set_yticks(range(TILE_ROWS), list(map(str, range(1, TILE_ROWS + 1))))
    figure.colorbar(image, ax=list(panels), label="continuum\nintensity (DN)")
