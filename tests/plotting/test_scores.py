"""The figures of a benchmark: the numbers they show, and the labels of their axes."""

import json

import numpy as np
import pytest

from solared_hf.plotting import (
    as_png,
    benchmark_pictures,
    plot_error_by_lead,
    plot_error_by_tile,
    plot_reliability,
    plot_skill_by_region,
)
from solared_hf.schema import NUM_TILES


def labels(figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def lines(figure) -> dict[str, list]:
    """Return x and y of every line that has a label."""
    (axes,) = figure.axes
    return {
        line.get_label(): [np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()]
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def result(name: str, by_region: dict, by_tile=None, by_lead=None, reliability=None) -> dict:
    score = {"rmse_dn_by_region": by_region, "rmse_dn_by_tile": by_tile or [100.0] * NUM_TILES}
    return {"name": name, "score": score, "rmse_dn_by_lead_hours": by_lead, "reliability": reliability}


def benchmark(results: list[dict]) -> dict:
    about = {"dataset": "solared", "split": "validation", "regions": [11190, 12219], "windows": 7, "horizon_hours": 12}
    # As in a file: keys are text, and NaN is null.
    return json.loads(json.dumps({**about, "results": results}))


@pytest.fixture
def results() -> list[dict]:
    return [
        result("ours", {11190: 50, 12219: 100}, [50.0] * NUM_TILES, {1: 10, 2: 20, 3: 30}, {0.9: 0.8, 0.1: 0.25}),
        result("trees", {11190: 200, 12219: 50}),
        result("persistence", {11190: 100, 12219: 100}, by_lead={1: 20, 2: 40}),
    ]


def test_error_by_lead_has_axes_from_the_input_and_from_the_issue():
    errors = {
        "persistence": np.array([100.0, 200.0]),
        "ours": np.array([80.0, np.nan]),
        "poor": np.array([310.0, 400]),
    }
    figure = plot_error_by_lead(errors, np.array([6.0, 12.0]))
    drawn = lines(figure)
    np.testing.assert_array_equal(drawn["ours"], [[6, 12], [80, np.nan]])
    assert drawn["persistence"] == [[6, 12], [100, 200]]
    (axes,) = figure.axes
    assert axes.get_xlabel() == "time after the last input step (h)"
    assert axes.get_ylabel() == "root mean squared error (DN)"
    assert axes.get_ylim() == (0, 300)
    # The legend names forecasters that are off the scale.
    assert labels(figure)[:3] == ["persistence", "ours", "poor (off the scale, from 310 DN)"]
    (issue,) = axes.child_axes
    assert issue.get_xlabel() == "time after the forecast could be issued (h)"
    as_png(figure)
    # 12 h after the last input step is 8 h after the forecast could be issued.
    places = [panel.transData.transform((hours, 0))[0] for panel, hours in ((axes, 12), (issue, 8))]
    assert places[0] == pytest.approx(places[1])
    (early,) = axes.patches
    assert (early.get_x(), early.get_width()) == (0, 4)


def test_skill_by_region_has_a_dot_for_each_forecaster():
    figure = plot_skill_by_region({"ours": {12219: 0.3, 11190: 0.5}, "trees": {11190: -0.2, 12219: 0.1}})
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["AR11190", "AR12219"]
    drawn = lines(figure)
    assert drawn["persistence"][0] == [0, 0]
    assert drawn["ours"][0] == [0.3, 0.5]
    assert drawn["trees"][0] == [-0.2, 0.1]
    # Dots are in the row of their region, side by side.
    np.testing.assert_array_equal(np.round([drawn["ours"][1], drawn["trees"][1]]), [[1, 0], [0, 1]])
    assert drawn["ours"][1][1] != drawn["trees"][1][0]
    assert axes.get_xlabel() == "skill: share of persistence's squared error removed"
    assert axes.get_xscale() == "linear"
    assert labels(figure) == ["persistence", "ours", "trees"]


def test_very_bad_forecaster_does_not_hide_the_others():
    figure = plot_skill_by_region({"ours": {11190: 0.5, 12219: 0.4}, "poor": {11190: -40.0, 12219: np.nan}})
    (axes,) = figure.axes
    as_png(figure)
    left, *_, right = axes.get_xlim()
    assert left < -40
    assert right > 0.5
    width = np.diff(axes.transData.transform([(left, 0), (right, 0)])[:, 0])
    assert np.diff(axes.transData.transform([(0, 0), (0.5, 0)])[:, 0]) > 0.2 * width


def test_reliability_is_drawn_with_the_diagonal():
    figure = plot_reliability({"ours": [0.1, 0.9]}, {"ours": np.array([0.15, 0.8])})
    assert lines(figure) == {"reliable": [[0, 1], [0, 1]], "ours": [[0.1, 0.9], [0.15, 0.8]]}
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "level of the quantile", "observed at or below the quantile (share)",
    )  # fmt: skip
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)


def test_error_maps_share_the_scale_of_persistence():
    errors = {name: np.arange(NUM_TILES) * factor for name, factor in (("ours", 1.0), ("poor", 9.0))}
    errors |= {"persistence": np.arange(NUM_TILES) * 2.0, "none": np.full(NUM_TILES, np.nan)}
    figure = plot_error_by_tile(errors)
    maps = {axes.get_title(): axes.images[0] for axes in figure.axes if axes.images}
    assert list(maps) == list(errors)
    for name, image in maps.items():
        np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan).ravel(), errors[name])
        assert image.get_clim() == (0, 124)
        assert image.origin == "lower"
    (colour_bar,) = (axes for axes in figure.axes if not axes.get_title())
    assert colour_bar.get_ylabel() == "root mean squared error (DN)"
    # Larger errors are marked as beyond the scale.
    assert image.colorbar.extend == "max"
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("column, east to west", "row, south to north")


def test_more_forecasters_than_colours_have_different_styles():
    names = [*(f"forecaster {n}" for n in range(15)), "persistence"]
    figure = plot_error_by_lead({name: np.ones(2) for name in names}, np.arange(1, 3))
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == len(names)
    dots = plot_skill_by_region({name: {11190: 0.1} for name in names[:-1]}).axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in dots}) >= len(names)


def test_benchmark_gives_four_pictures(results):
    pictures = benchmark_pictures(benchmark(results))
    assert pictures.left_out == ""
    figures = {picture.name: picture.figure for picture in pictures.pictures}
    assert list(figures) == ["error_by_lead.png", "skill_by_region.png", "error_by_tile.png", "reliability.png"]
    by_lead = lines(figures["error_by_lead.png"])
    # The trees give no leads, and persistence gives only some.
    assert list(by_lead) == ["ours", "persistence"]
    np.testing.assert_array_equal(by_lead["persistence"], [[1, 2, 3], [20, 40, np.nan]])
    # Half the error is a quarter of the squared error, so the skill is 0.75.
    skills = lines(figures["skill_by_region.png"])
    assert {name: places for name, (places, _) in skills.items()} == {
        "persistence": [0, 0], "ours": [0.75, 0], "trees": [-3, 0.75],
    }  # fmt: skip
    assert lines(figures["reliability.png"])["ours"] == [[0.1, 0.9], [0.25, 0.8]]
    assert len([axes for axes in figures["error_by_tile.png"].axes if axes.images]) == 3
    for picture in pictures.pictures:
        assert "validation split of solared, 2 regions, 7 windows" in picture.caption


def test_benchmark_without_quantiles_says_what_is_left_out(results):
    results[0]["reliability"] = None
    pictures = benchmark_pictures(benchmark(results))
    assert [picture.name for picture in pictures.pictures] == [
        "error_by_lead.png", "skill_by_region.png", "error_by_tile.png",
    ]  # fmt: skip
    assert pictures.left_out.startswith("Left out: the reliability of quantiles, because")


def test_skill_is_nan_where_persistence_has_no_error(results):
    results[2]["score"]["rmse_dn_by_region"] = {11190: 0, 12219: None}
    figures = {picture.name: picture.figure for picture in benchmark_pictures(benchmark(results)).pictures}
    assert np.isnan(lines(figures["skill_by_region.png"])["ours"][0]).all()
