"""The figures of a dataset: what they show, and which are left out when NOAA facts are missing."""

from datetime import datetime, timedelta

import numpy as np
import pytest
from matplotlib.dates import date2num

from solared_hf import SolaredError
from solared_hf.plotting import (
    as_png,
    dataset_pictures,
    plot_availability,
    plot_distributions,
    plot_latitudes,
    plot_lifetimes,
    plot_timeline,
)
from solared_hf.plotting.regions import regular_steps
from solared_hf.plotting.style import SPLIT_COLOURS
from solared_hf.schema import NOAA_FACTS, NUM_TILES

SPLITS = np.array(["train", "test", "train"])
ALL_PICTURES = ["latitudes.png", "lifetimes.png", "distributions.png", "timeline_AR90001.png", "availability.png"]


def legend(figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def rows(**facts) -> list[dict]:
    """Return the catalog of three regions; each fact is a list of three values."""
    unknown = dict.fromkeys(NOAA_FACTS)
    return [
        {"ar_number": 90001 + index, "split": SPLITS[index], **unknown}
        | {name: values[index] for name, values in facts.items()}
        for index in range(3)
    ]


@pytest.fixture
def regions(make_timeline):
    timelines = [make_timeline(90001 + index, steps=30, missing=[10, 11], seed=index) for index in range(3)]
    # The first region darkens most in the train split.
    timelines[0].values[5, 5, 7] = -9_000
    timelines[1].values[5, 5, 7] = -12_000
    return timelines


def test_latitudes_are_drawn_against_time_by_split():
    times = np.array(["2011-02-10", "2012-05-01", "2014-11-23"], "datetime64[ms]")
    figure = plot_latitudes(times, np.array([-20.0, 12.0, 55.0]), SPLITS)
    (axes,) = figure.axes
    train, test = (line for line in axes.lines if not line.get_label().startswith("_"))
    np.testing.assert_array_equal(train.get_xdata(), times[[0, 2]])
    np.testing.assert_array_equal(train.get_ydata(), [-20, 55])
    np.testing.assert_array_equal(test.get_ydata(), [12])
    assert (train.get_color(), test.get_color()) == (SPLIT_COLOURS["train"], SPLIT_COLOURS["test"])
    assert train.get_marker() != test.get_marker()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time of emergence (UTC)", "latitude (degrees, north positive)")
    south, north = axes.get_ylim()
    assert south == -north < -55
    assert legend(figure) == ["train (2)", "test (1)"]


def test_lifetimes_are_counted_by_day():
    figure = plot_lifetimes(np.array([4, 6, 4]), SPLITS)
    (axes,) = figure.axes
    bars = {(round(bar.get_x() + bar.get_width() / 2), bar.get_height()) for bar in axes.patches if bar.get_height()}
    assert bars == {(4, 2), (6, 1)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lifetime (days)", "number of regions")
    as_png(figure)
    assert all(tick == round(tick) for axis in (axes.get_xticks(), axes.get_yticks()) for tick in axis)


def test_distributions_show_a_box_and_dots_of_every_split():
    facts = {"area (millionths)": np.array([200.0, 900.0, np.nan]), "flux (G)": np.array([1.0, 2.0, 3.0])}
    figure = plot_distributions(facts, SPLITS)
    area, flux = figure.axes
    assert [axes.get_ylabel() for axes in (area, flux)] == list(facts)
    assert [label.get_text() for label in area.get_xticklabels()] == ["train\n(1)", "test\n(1)"]
    assert [label.get_text() for label in flux.get_xticklabels()] == ["train\n(2)", "test\n(1)"]
    dots = [line.get_ydata().tolist() for line in flux.lines if line.get_linestyle() == "None"]
    assert dots == [[1, 3], [2]]
    medians = [line.get_ydata()[0] for line in flux.lines if line.get_color() == "black"]
    assert medians == [2, 2]
    # Dots of equal values are side by side.
    twins = plot_distributions({"a": np.ones(3)}, SPLITS).axes[0]
    places = next(line.get_xdata() for line in twins.lines if line.get_linestyle() == "None")
    assert len(set(places)) == 2


def test_timeline_shows_every_tile_and_leaves_gaps_empty(make_timeline):
    timeline = make_timeline(90001, steps=30, missing=[10, 11])
    timeline.values[3, 5, 9] = np.nan
    figure = plot_timeline(timeline, "AR90001")
    intensity, flux = (axes for axes in figure.axes if axes.get_ylabel().startswith("tile row"))
    assert flux.get_xlabel() == "time (TAI); grey: not observed"
    labels = [axes.get_ylabel() for axes in figure.axes if axes not in (intensity, flux)]
    assert labels == ["continuum intensity (DN)", "unsigned magnetic flux (G)"]
    (mesh,) = intensity.collections
    drawn = np.ma.filled(mesh.get_array(), np.nan)
    assert drawn.shape == (NUM_TILES, 30)
    assert np.isnan(drawn[:, 10:12]).all()
    assert np.argwhere(np.isnan(np.delete(drawn, [10, 11], axis=1))).tolist() == [[9, 3]]
    np.testing.assert_array_equal(np.delete(drawn, [10, 11], axis=1), timeline.values[:, 5].T)
    edges = mesh.get_coordinates()[0, :, 0]
    half_hour = np.timedelta64(30, "m")
    assert edges[0] == pytest.approx(date2num(timeline.times[0] - half_hour))
    assert edges[-1] == pytest.approx(date2num(timeline.times[-1] + half_hour))
    # White is nought, and the colours reach as far on both sides.
    lowest, highest = mesh.get_clim()
    assert lowest == -highest
    assert flux.collections[0].get_clim()[0] == 0


def test_step_off_the_cadence_moves_to_the_nearest_step(make_timeline):
    timeline = make_timeline(90001, steps=6, missing=[3])
    timeline.times[3:] += np.timedelta64(10, "m")
    times, values = regular_steps(timeline)
    assert (np.diff(times) == np.timedelta64(1, "h")).all()
    np.testing.assert_array_equal(values[[0, 1, 2, 4, 5]], timeline.values)
    assert np.isnan(values[3]).all()


def test_availability_distinguishes_gaps_from_nan(regions):
    regions[1].values[[0, -1], 0, 5] = np.nan
    figure = plot_availability(regions, SPLITS)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["AR90001", "AR90002", "AR90003"]
    assert axes.get_xlabel() == "days since the first step"
    states = [mesh.get_array().ravel().tolist() for mesh in axes.collections]
    gap = [0] * 10 + [2, 2] + [0] * 18
    assert states == [gap, [1, *gap[1:-1], 1], gap]
    assert legend(figure) == ["all observed", "NaN in some tiles or channels", "nothing observed or no step"]
    # A day is 24 hourly steps.
    assert axes.collections[0].get_coordinates()[0, -1, 0] == pytest.approx(29.5 / 24)


def test_pictures_of_missing_noaa_facts_are_left_out(regions):
    regions[1].values[[2, 4], 0, 3] = np.nan
    pictures = dataset_pictures(rows(), regions)
    assert [picture.name for picture in pictures.pictures] == ALL_PICTURES[2:]
    assert pictures.left_out == (
        "Left out, because the catalog lacks the NOAA facts: latitude against time of emergence, lifetimes, "
        "boxplots of latitude, boxplots of longitude at emergence, boxplots of largest area."
    )
    distributions = pictures.pictures[0].figure
    assert [axes.get_ylabel() for axes in distributions.axes] == [
        "largest flux of a tile (G)", "lowest intensity of a tile (DN)", "observed in all tiles (hours)",
    ]  # fmt: skip
    lowest = [line.get_ydata().tolist() for line in distributions.axes[1].lines if line.get_linestyle() == "None"]
    assert lowest == [[-9_000, np.nanmin(regions[2].values[:, 5])], [-12_000]]
    hours = [line.get_ydata().tolist() for line in distributions.axes[2].lines if line.get_linestyle() == "None"]
    assert hours == [[28, 28], [26]]


def test_facts_known_for_some_regions_are_drawn_for_these_regions(regions):
    known = rows(
        noaa_latitude=[-20.0, None, 15.0],
        noaa_emergence_time=[datetime(2011, 2, 10), datetime(2011, 2, 11), None],
        noaa_lifetime_days=[None, 7, 9],
        noaa_area=[300.0, None, None],
    )
    pictures = dataset_pictures(known, regions)
    by_name = {picture.name: picture for picture in pictures.pictures}
    assert list(by_name) == ALL_PICTURES
    assert pictures.left_out.endswith("facts: boxplots of longitude at emergence.")
    # Only the first region has both facts.
    assert legend(by_name["latitudes.png"].figure) == ["train (1)"]
    assert by_name["latitudes.png"].caption.endswith("of 1 of 3 regions.")
    assert legend(by_name["lifetimes.png"].figure) == ["train (1)", "test (1)"]
    assert by_name["lifetimes.png"].caption.endswith("of 2 of 3 regions.")
    assert [axes.get_ylabel() for axes in by_name["distributions.png"].figure.axes][:2] == [
        "latitude (degrees, north positive)", "largest area (millionths of a\nhemisphere)",
    ]  # fmt: skip


def test_every_picture_says_that_regions_are_simulated(regions):
    known = rows(
        noaa_latitude=[1.0] * 3, noaa_longitude=[1.0] * 3, noaa_emergence_time=[datetime(2011, 2, 10)] * 3,
        noaa_lifetime_days=[5] * 3, noaa_area=[300.0] * 3,
    )  # fmt: skip
    for simulated, foot in ((False, ""), (True, "Simulated Sun: nothing here was observed.")):
        pictures = dataset_pictures(known, regions, simulated)
        assert {picture.figure.get_supxlabel() for picture in pictures.pictures} == {foot}
        assert pictures.left_out == ""
        assert len(pictures.pictures) == 5


def test_region_of_the_timeline_can_be_chosen(regions):
    assert dataset_pictures(rows(), regions, ar_number=90003).pictures[1].name == "timeline_AR90003.png"
    with pytest.raises(SolaredError, match=r"has no region AR1\. Choose one of 90001, 90002, 90003"):
        dataset_pictures(rows(), regions, ar_number=1)


def test_observed_hours_do_not_depend_on_the_cadence(make_timeline):
    timelines = [make_timeline(90001 + n, steps=30, cadence=timedelta(minutes=12)) for n in range(3)]
    panel = dataset_pictures(rows(), timelines).pictures[0].figure.axes[2]
    hours = [line.get_ydata().tolist() for line in panel.lines if line.get_linestyle() == "None"]
    assert hours == [pytest.approx([6, 6]), pytest.approx([6])]
