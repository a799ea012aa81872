"""Figures of scores: errors by tile, region and lead, and the reliability of quantiles."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from solared_hf.forecasters.baselines import Persistence
from solared_hf.plotting.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, WIDTH, styled
from solared_hf.schema import AVAILABILITY_DELAY, TILE_COLUMNS, TILE_ROWS

_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--")
_MAPS_IN_A_ROW = 3
_INCHES_A_REGION = 0.6
_FAR_ABOVE = 1.5
_TITLE_WIDTH = 24


@styled()
def plot_error_by_lead(
    errors: Mapping[str, np.ndarray], hours: np.ndarray, all_names: Collection[str] | None = None
) -> Figure:
    """Draw the error against the lead, counted from the last input step and from the issue of the forecast.

    Errors far above the error of persistence are off the scale; the legend says so.

    Args:
        errors: (S,) root mean squared errors in DN by forecaster, NaN where a forecaster gives none.
        hours: (S,) hours after the last input step.
        all_names: Names of all forecasters of the benchmark, so that a forecaster has the same style in every figure;
            by default the names in `errors`.
    """
    figure = Figure(figsize=(WIDTH, 6))
    axes = figure.subplots()
    top = _FAR_ABOVE * np.nanmax(_reference(errors))
    for (name, error), style in zip(errors.items(), _styles(errors, all_names), strict=True):
        least = np.nanmin(error)
        label = name if least < top else f"{name} (off the scale, from {least:.0f} DN)"
        axes.plot(hours, error, markersize=5, label=label, **style)
    delay = AVAILABILITY_DELAY.total_seconds() / 3600
    axes.axvspan(0, delay, color=GREY, alpha=0.2, linewidth=0, label="before it could be issued")
    axes.set(
        xlim=(0, hours[-1] + 0.5),
        ylim=(0, top),
        xlabel="time after the last input step (h)",
        ylabel="root mean squared error (DN)",
    )
    lead = axes.secondary_xaxis(
        "top", functions=(lambda time: np.subtract(time, delay), lambda time: np.add(time, delay))
    )
    lead.set_xlabel("time after the forecast could be issued (h)")
    for axis in (axes.xaxis, lead.xaxis):
        axis.set_major_locator(MaxNLocator(steps=[1, 2, 4, 6, 10]))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled()
def plot_skill_by_region(
    skills: Mapping[str, Mapping[int, float]], all_names: Collection[str] | None = None
) -> Figure:
    """Draw the skill in each region, one dot per forecaster; persistence is the line at 0.

    Args:
        skills: Skill by forecaster and AR number.
        all_names: The same as in `plot_error_by_lead`.
    """
    numbers = sorted({number for by_region in skills.values() for number in by_region})
    figure = Figure(figsize=(WIDTH, 2 + 0.15 * len(skills) + _INCHES_A_REGION * len(numbers)))
    axes = figure.subplots()
    axes.axvline(0, color=BLACK, linestyle="--", label="persistence")
    # Dots are side by side, so that equal skills do not hide each other.
    offsets = np.linspace(-0.3, 0.3, len(skills)) if len(skills) > 1 else np.zeros(1)
    for (name, by_region), style, offset in zip(skills.items(), _styles(skills, all_names), offsets, strict=True):
        places = [numbers.index(number) + offset for number in by_region]
        dots = style | {"linestyle": "none", "markersize": 9, "markeredgecolor": "white"}
        axes.plot(list(by_region.values()), places, label=name, **dots)
    for place in range(1, len(numbers)):
        axes.axhline(place - 0.5, color=GREY, linewidth=0.5)
    if any(skill < -1 for by_region in skills.values() for skill in by_region.values()):
        axes.set_xscale("symlog", linthresh=1, linscale=4)
        axes.xaxis.set_major_locator(FixedLocator([-1000, -100, -10, -1, -0.5, 0, 0.5, 1]))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(numbers)), [f"AR{number}" for number in numbers])
    axes.set(ylim=(len(numbers) - 0.5, -0.5), xlabel="skill: share of persistence's squared error removed")
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled()
def plot_reliability(
    levels: Mapping[str, Sequence[float]],
    frequencies: Mapping[str, np.ndarray],
    all_names: Collection[str] | None = None,
) -> Figure:
    """Draw how often the observation was at or below each quantile; reliable quantiles lie on the diagonal.

    Args:
        levels: Levels of the quantiles, between 0 and 1, by forecaster.
        frequencies: (levels,) observed frequencies by forecaster.
        all_names: The same as in `plot_error_by_lead`.
    """
    figure = Figure(figsize=(WIDTH * 0.7, WIDTH * 0.75))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=BLACK, linestyle="--", label="reliable")
    for (name, observed), style in zip(frequencies.items(), _styles(frequencies, all_names), strict=True):
        axes.plot(levels[name], observed, markersize=8, label=name, **style)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="level of the quantile",
        ylabel="observed at or below the quantile (share)",
    )
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled()
def plot_error_by_tile(errors: Mapping[str, np.ndarray]) -> Figure:
    """Draw a map of the error of each forecaster in the colour scale of persistence; south is down, east is left.

    Args:
        errors: (63,) root mean squared errors in DN by forecaster, NaN where a tile was never observed.
    """
    columns = min(len(errors), _MAPS_IN_A_ROW)
    rows = -(-len(errors) // columns)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.4 * rows))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    largest = np.nanmax(_reference(errors))
    for axes, (name, error) in zip(panels.flat, errors.items(), strict=False):
        image = axes.imshow(
            np.reshape(error, (TILE_ROWS, TILE_COLUMNS)), origin="lower", cmap="viridis", vmin=0, vmax=largest
        )
        # Long names of models are broken into lines as wide as the map.
        axes.set_title(textwrap.fill(name, _TITLE_WIDTH))
        axes.grid(visible=False)
        axes.set_xticks(range(TILE_COLUMNS))
        axes.set_yticks(range(TILE_ROWS), list(map(str, range(1, TILE_ROWS + 1))))
    for axes in panels.flat[len(errors) :]:
        axes.remove()
    figure.supxlabel("column, east to west", fontsize="medium")
    figure.supylabel("row, south to north", fontsize="medium")
    figure.colorbar(image, ax=figure.axes, label="root mean squared error (DN)", aspect=20 * rows, extend="max")
    return figure


def _reference(errors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the errors of persistence, or the errors of all forecasters if persistence is missing."""
    return errors.get(Persistence.name, np.stack(list(errors.values())))


def _styles(names: Collection[str], all_names: Collection[str] | None) -> list[dict[str, Any]]:
    """Return the style of each forecaster, the same in every figure of one benchmark."""
    others = [name for name in all_names or names if name != Persistence.name]
    styles: dict[str, dict[str, Any]] = {Persistence.name: {"color": BLACK, "marker": "", "linestyle": "--"}}
    for index, name in enumerate(others):
        turn, place = divmod(index, len(_COLOURS))
        styles[name] = {
            "color": _COLOURS[place],
            "marker": _MARKERS[(place + turn) % len(_MARKERS)],
            "linestyle": _LINES[turn % len(_LINES)],
        }
    return [styles[name] for name in names]
