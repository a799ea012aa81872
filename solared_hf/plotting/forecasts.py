"""Pictures of the forecast of a region or of one of its tiles, against what was observed."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from solared_hf.data.step_times import cadence_of, nearest_steps
from solared_hf.data.timelines import Timeline
from solared_hf.evaluation.errors import root_mean_squared_error
from solared_hf.evaluation.published_protocol import PROTOCOL_TILES
from solared_hf.evaluation.region_forecast import forecast_region
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

# Moments that a picture can mark, as its legend calls them.
ONSET, ALARM, NOAA = "onset observed", "alarm issued", "first reported by NOAA (UTC)"
PERSISTENCE_ALARM = "alarm by persistence"
_MARKS = {
    ONSET: {"color": BLACK, "linestyle": "--"},
    ALARM: {"color": VERMILION, "linestyle": "-"},
    PERSISTENCE_ALARM: {"color": ORANGE, "linestyle": ":"},
    NOAA: {"color": GREEN, "linestyle": "-."},
}
_FORECAST_COLOURS = (BLUE, ORANGE, PURPLE, GREY)
# Where the axes of `plot_tile` are: left, bottom, width and height as parts of the picture.
TILE_AXES = 0.15, 0.14, 0.84, 0.58
_SMALL = 9.5  # points
_BEFORE = np.timedelta64(24, "h")
# DN; axes that reach less far would make noise look like an emergence.
_SMALLEST_SPAN = 2_000.0


def strongest_row(intensity: np.ndarray) -> range:
    """The seven inner tiles of the row in which the intensity varies most.

    Args:
        intensity: (T, 63), NaN where not observed.

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
    timeline: Timeline,
    target_times: np.ndarray,
    forecasts: Mapping[str, np.ndarray],
    tiles: Sequence[int],
    title: str,
    band: tuple[np.ndarray, np.ndarray] | None = None,
    marks: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Forecasts of one region against what was observed.

    On top the maps (south at the bottom, east at the left) of the observed intensity and of the first forecast at the
    time when one of the tiles was darkest, or of the forecast alone where nothing was observed; below, intensity
    against time for each of the tiles.

    Args:
        timeline: what was observed.
        target_times: (N,) datetime64[ms] that the forecasts are for, increasing, naive TAI.
        forecasts: (N, 63) in DN by name, four at most; the first one is mapped.
        tiles: those to show, out of 0..62.
        title: what the picture is called.
        band: lower and upper end of the first forecast's 80 % interval, each (N, 63) in DN.
        marks: (63,) datetime64[ms] by name (`ONSET`, `ALARM` or `NOAA`): when it happened in each tile, NaT where not.
    """
    marks = marks or {}
    targets = values_at(target_times, timeline.times, timeline.intensity)
    name, forecast = next(iter(forecasts.items()))
    known = targets[:, tiles] if np.isfinite(targets[:, tiles]).any() else forecast[:, tiles]
    darkest = np.unravel_index(np.nanargmin(known), known.shape)[0]

    figure = Figure(figsize=(WIDTH, 4.5 + 1.2 * len(tiles)))
    figure.suptitle(title)
    top, bottom = figure.subfigures(2, 1, height_ratios=[3.4, 1 + 1.2 * len(tiles)])
    maps = {"observed": targets[darkest], name: forecast[darkest]}
    _draw_maps(top, {label: values for label, values in maps.items() if np.isfinite(values).any()}, tiles)
    top.supxlabel(f"maps at {minute(target_times[darkest])} TAI", fontsize="medium")

    panels = bottom.subplots(len(tiles), 1, sharex=True, squeeze=False)[:, 0]
    for axes, tile in zip(panels, tiles, strict=True):
        _draw_tile(axes, tile, timeline, target_times, forecasts, band, marks)
        axes.set_title(tile_name(tile), loc="left")
        if np.isfinite(targets[:, tile]).any():
            errors = {label: root_mean_squared_error(of[:, tile], targets[:, tile]) for label, of in forecasts.items()}
            text = ", ".join(f"{label} {error:.0f} DN" for label, error in errors.items())
            axes.set_title(f"RMSE: {text}", loc="right", fontsize="small")

    happened = {label: times[list(tiles)] for label, times in marks.items() if not np.isnat(times[list(tiles)]).all()}
    first = min([target_times[0], *(np.nanmin(times) for times in happened.values())])
    axes.set_xlim(first - _BEFORE, max(target_times[-1], timeline.times[-1]))
    axes.set_xlabel("time (TAI)")
    label_days(axes)
    bottom.supylabel("continuum intensity (DN)")
    bottom.legend(*_legend(axes, happened), loc="outside upper center", ncols=3)
    return figure


def plot_region_forecast(
    forecaster: Forecaster, timeline: Timeline, alarm_scale_dn: float, noaa_emergence_time: datetime | None = None
) -> Figure:
    """A forecaster and persistence against what was observed of a region, with its alarms and the observed onsets.

    Shown are seven tiles: those of the published figures for the published test regions, else the inner ones of the
    row in which the intensity varies most.

    Args:
        forecaster: where it gives the quantiles 0.1 and 0.9, the interval between them is shown.
        timeline: the region.
        alarm_scale_dn: DN of one unit of the alarms' threshold, `evaluation.alarms.alarm_scale`.
        noaa_emergence_time: when NOAA first reported the region, UTC; None where that is not known.

    Raises:
        SolaredError: no window can be cut from the region.
    """
    forecast = forecast_region(forecaster, forecaster.windows([timeline], require_target=False), alarm_scale_dn)
    return plot_forecast(
        timeline,
        forecast.target_times,
        forecast.forecasts,
        PROTOCOL_TILES.get(timeline.ar_number) or strongest_row(timeline.intensity),
        title=f"AR{timeline.ar_number}: {horizon_in_words(forecast.horizon)}",
        band=forecast.band,
        marks={ONSET: forecast.onsets, ALARM: forecast.alarms[forecast.name].issued, **noaa_mark(noaa_emergence_time)},
    )


def noaa_mark(noaa_emergence_time: datetime | None) -> dict[str, np.ndarray]:
    """The mark of the time, UTC, at which NOAA first reported a region; none where that is not known."""
    if noaa_emergence_time is None:
        return {}
    # UTC is 34 to 37 s behind TAI, less than the width of a line.
    return {NOAA: np.full(NUM_TILES, np.datetime64(noaa_emergence_time, "ms"))}


def horizon_in_words(horizon: timedelta) -> str:
    """How far ahead a forecast is, counted from what it uses and from when it can be issued.

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
    target_times: np.ndarray,
    forecasts: Mapping[str, np.ndarray],
    band: tuple[np.ndarray, np.ndarray] | None,
    marks: Mapping[str, np.ndarray],
    span: tuple[np.datetime64, np.datetime64],
) -> Figure:
    """Intensity of one tile against time, small enough for a telephone and drawn fast enough to follow a click.

    The arguments are those of `plot_forecast`; marks may be `PERSISTENCE_ALARM` too. Without any forecast the observed
    intensity is shown alone. `span` is where the time axis begins and ends.
    """
    # Every size is given: to fit them to the text would take longer than to draw.
    figure = Figure(figsize=(4.6, 4), layout="none")
    axes = figure.add_axes(TILE_AXES)
    _draw_tile(axes, tile, timeline, target_times, forecasts, band, marks)
    happened = [label for label, times in marks.items() if not np.isnat(times[tile])]
    axes.set_xlim(*span)
    axes.set_xlabel("time (TAI)", loc="left", fontsize=_SMALL)
    axes.set_title("continuum intensity (DN)", loc="left", fontsize=_SMALL)
    axes.tick_params(labelsize=_SMALL)
    label_days(axes)
    axes.xaxis.offsetText.set_fontsize(_SMALL)
    legend = {"fontsize": _SMALL, "borderaxespad": 0, "columnspacing": 1, "handlelength": 1.8, "labelspacing": 0.3}
    figure.legend(*_legend(axes, happened), loc="upper left", bbox_to_anchor=(0.01, 0.99), ncols=2, **legend)
    return figure


def values_at(wanted: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N, ...) the values at the wanted times, NaN where there is no step.

    Args:
        wanted: (N,) datetime64.
        times: (T,) datetime64, increasing.
        values: (T, ...) floats.
    """
    cadence = cadence_of(times) if len(times) > 1 else np.timedelta64(0, "ms")
    steps = nearest_steps(times, wanted, cadence)
    return np.where((steps >= 0)[:, None], values[steps], np.float32(np.nan))


def _draw_tile(
    axes: Axes,
    tile: int,
    timeline: Timeline,
    target_times: np.ndarray,
    forecasts: Mapping[str, np.ndarray],
    band: tuple[np.ndarray, np.ndarray] | None,
    marks: Mapping[str, np.ndarray],
) -> None:
    """Observed intensity, forecasts, interval and marks of one tile."""
    observed = broken_at_gaps(timeline.times, timeline.intensity[:, tile])
    axes.plot(*observed, color=BLACK, linewidth=1.8, label="observed")
    for colour, (label, values) in zip(_FORECAST_COLOURS, forecasts.items(), strict=False):
        axes.plot(*broken_at_gaps(target_times, values[:, tile]), color=colour, linewidth=1.4, label=label)
    if band is not None:
        times, ends = broken_at_gaps(target_times, np.stack([end[:, tile] for end in band], axis=1))
        axes.fill_between(times, *ends.T, color=BLUE, alpha=0.25, linewidth=0, label="80 % interval")
    for label, times in marks.items():
        if not np.isnat(times[tile]):
            axes.axvline(times[tile], linewidth=1.8, **_MARKS[label])
    middle, half = np.mean(axes.get_ylim()), np.ptp(axes.get_ylim()) / 2
    axes.set_ylim(middle - max(half, _SMALLEST_SPAN / 2), middle + max(half, _SMALLEST_SPAN / 2))


def _legend(axes: Axes, happened: Iterable[str]) -> tuple[list[Artist], list[str]]:
    """Handles and labels of what `_draw_tile` drew, and of the marks that some tile has."""
    handles, labels = axes.get_legend_handles_labels()
    return [*handles, *(Line2D([], [], linewidth=1.8, **_MARKS[mark]) for mark in happened)], [*labels, *happened]


def _draw_maps(figure: SubFigure, maps: Mapping[str, np.ndarray], tiles: Sequence[int]) -> None:
    """Maps of all tiles side by side in one scale; those that are shown below are framed."""
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
        axes.set_yticks(range(TILE_ROWS), range(1, TILE_ROWS + 1))
    figure.colorbar(image, ax=list(panels), label="continuum\nintensity (DN)")
