"""Pictures of forecasts and of training, with units."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from solared_hf.evaluation.errors import root_mean_squared_error
from solared_hf.schema import TILE_COLUMNS, TILE_ROWS
from solared_hf.windows import SolaredWindows

# Okabe-Ito colours, distinguishable by colour-blind readers; the observation is black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_TILES_SHOWN = 3


def plot_forecast(windows: SolaredWindows, forecasts: Mapping[str, np.ndarray], title: str) -> Figure:
    """Forecasts of one region against what was observed.

    On top the tile maps (south at the bottom, east at the left) of the observed intensity and of the first forecast at
    the time when the region was darkest; below, intensity against time for the tiles that darkened most.

    Args:
        windows: windows of one region, with or without observed targets.
        forecasts: (N, 63) in DN by name; the first one is mapped.
        title: what the picture is called.
    """
    observed, times = windows.observed_targets, windows.target_times
    name, forecast = next(iter(forecasts.items()))
    seen = np.isfinite(observed).all(axis=1)
    darkest = np.flatnonzero(seen)[observed[seen].min(axis=1).argmin()] if seen.any() else len(times) - 1
    tiles = np.argsort(np.nanmin(observed if seen.any() else forecast, axis=0))[:_TILES_SHOWN]

    figure = Figure(figsize=(11, 10), layout="constrained")
    figure.suptitle(title)
    rows = figure.subfigures(2, 1, height_ratios=[1, 2.2])
    maps = {"observed": observed[darkest], name: forecast[darkest]}
    limit = max(np.nanmax(np.abs(values), initial=1) for values in maps.values())
    for axes, (label, values) in zip(rows[0].subplots(1, 2), maps.items(), strict=True):
        image = axes.imshow(
            values.reshape(TILE_ROWS, TILE_COLUMNS), origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit
        )
        axes.set(title=f"{label}, {_minute(times[darkest])} TAI", xlabel="column (east to west)", ylabel="row")
        axes.set_yticks(range(TILE_ROWS), range(1, TILE_ROWS + 1))
    rows[0].colorbar(image, ax=rows[0].axes, label="continuum intensity (DN)")

    gaps = np.flatnonzero(np.diff(times) > np.diff(times).min(initial=np.timedelta64(1, "D"))) + 1
    line_times = np.insert(times, gaps, times[gaps - 1])
    for axes, tile in zip(rows[1].subplots(len(tiles), 1, sharex=True), tiles, strict=True):
        axes.plot(line_times, _with_gaps(observed[:, tile], gaps), color="black", linewidth=2, label="observed")
        for colour, (label, values) in zip(_COLOURS, forecasts.items(), strict=False):
            error = root_mean_squared_error(values[:, tile], observed[:, tile]) if seen.any() else np.nan
            axes.plot(
                line_times, _with_gaps(values[:, tile], gaps), color=colour, label=f"{label} (RMSE {error:.0f} DN)"
            )
        axes.axvline(times[darkest], color="grey", linestyle=":", linewidth=1)
        axes.set(title=f"tile row {tile // TILE_COLUMNS + 1}, column {tile % TILE_COLUMNS}")
        axes.set_ylabel("intensity (DN)")
        axes.legend(fontsize="small", loc="best")
    axes.set_xlabel("target time (TAI)")
    axes.tick_params(axis="x", labelrotation=20)
    return figure


def plot_training(log: Sequence[Mapping], persistence: float, target_range: float, best_step: int | None) -> Figure:
    """Train and validation loss against steps of training, and the error of persistence, which is to be beaten.

    Args:
        log: what the Trainer logged: entries with `step` and `loss` or `eval_loss`, mean squared errors in normalised
            units.
        persistence: mean squared error of persistence on the validation split, in the same units.
        target_range: DN of one normalised unit, `SolaredProcessor.target_range`; it gives the axis on the right.
        best_step: the step whose weights were kept, which is marked; None where none was chosen.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for colour, (label, key) in zip(_COLOURS, {"train": "loss", "validation": "eval_loss"}.items(), strict=False):
        logged = [entry for entry in log if key in entry]
        if logged:
            steps, losses = ([entry[name] for entry in logged] for name in ("step", key))
            axes.plot(steps, losses, color=colour, marker="o", markersize=3, label=label)
    axes.axhline(persistence, color="black", linestyle="--", label="persistence, validation")
    if best_step is not None:
        axes.axvline(best_step, color="grey", linestyle=":", label=f"best step: {best_step}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="step of training", ylabel="mean squared error (normalised intensity squared)", yscale="log")
    in_dn = (lambda loss: np.sqrt(loss) * target_range, lambda error: np.square(error / target_range))
    right = axes.secondary_yaxis("right", functions=in_dn)
    right.set_ylabel("root mean squared error (DN)")
    right.yaxis.set_major_formatter(LogFormatter())
    right.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    return figure


def as_png(figure: Figure) -> bytes:
    """A picture as the content of a PNG file."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _with_gaps(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """NaN before each gap's end, so that no line is drawn through times that were not forecast."""
    return np.insert(values, gaps, np.nan)


def _minute(time: np.datetime64) -> str:
    return str(time.astype("datetime64[m]")).replace("T", " ")
