"""The picture of a region's forecast: what is drawn, with which units, and what is not drawn through gaps."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.dates import date2num
from matplotlib.image import imread

from dataset_builder.simulation import simulate_region
from solared_hf import SolaredWindows
from solared_hf.evaluation import issue_alarms, observed_onsets
from solared_hf.forecasters import Average, Persistence
from solared_hf.plotting import as_png, plot_forecast
from solared_hf.plotting.forecasts import ALARM, NOAA, ONSET, plot_region_forecast, strongest_row
from solared_hf.plotting.style import broken_at_gaps
from solared_hf.schema import NUM_TILES

NEVER = np.full(NUM_TILES, np.datetime64("NaT", "ms"))
TILES = range(28, 35)


def panels(figure):
    """The axes over time, one a tile."""
    return [axes for axes in figure.axes if axes.lines]


def labels(figure):
    (legend,) = figure.subfigs[1].legends
    return [text.get_text() for text in legend.get_texts()]


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def moments(axes) -> list[float]:
    """Where vertical lines stand."""
    return [line.get_xdata()[0] for line in axes.lines if line.get_label().startswith("_")]


def test_the_lines_are_the_arrays_and_break_at_gaps(make_timeline):
    timeline = make_timeline(90001, steps=100, missing=[50, 51])
    windows = SolaredWindows(timeline, input_steps=10)
    forecasts = {"average": Average().forecast(windows), "persistence": Persistence().forecast(windows)}
    figure = plot_forecast(timeline, windows.target_times, forecasts, TILES, "AR90001")
    assert len(panels(figure)) == len(TILES)
    for axes, tile in zip(panels(figure), TILES, strict=True):
        drawn = lines(axes)
        assert list(drawn) == ["observed", "average", "persistence"]
        observed = drawn["observed"].get_ydata()
        assert np.flatnonzero(np.isnan(observed)).tolist() == [50]
        np.testing.assert_array_equal(observed[~np.isnan(observed)], timeline.values[:, 5, tile])
        for name, forecast in forecasts.items():
            values = drawn[name].get_ydata()
            # 29 windows end before the gap.
            assert np.flatnonzero(np.isnan(values)).tolist() == [29]
            np.testing.assert_array_equal(values[~np.isnan(values)], forecast[:, tile])
        assert axes.get_title(loc="left") == f"row 4, column {tile - 27}"
        # Noise of 800 DN fills the axis, but never less than 2000 DN are shown.
        assert np.ptp(axes.get_ylim()) >= 2000
    assert panels(figure)[-1].get_xlabel() == "time (TAI)"
    assert figure.subfigs[1].get_supylabel() == "continuum intensity (DN)"
    assert labels(figure) == ["observed", "average", "persistence"]


def test_the_error_of_each_tile_is_told(make_timeline):
    timeline = make_timeline(90001, steps=40)
    windows = SolaredWindows(timeline, input_steps=10)
    off = windows.observed_targets + np.arange(NUM_TILES)
    figure = plot_forecast(timeline, windows.target_times, {"off": off}, TILES, "AR90001")
    assert [axes.get_title(loc="right") for axes in panels(figure)] == [f"RMSE: off {tile} DN" for tile in TILES]


def test_maps_show_all_tiles_when_one_was_darkest(make_timeline):
    timeline = make_timeline(90001, steps=40)
    timeline.values[30, 5, 30] = -20_000
    # Darker still, but not among the tiles that are shown.
    timeline.values[35, 5, 0] = -30_000
    windows = SolaredWindows(timeline, input_steps=10)
    forecast = Persistence().forecast(windows)
    figure = plot_forecast(timeline, windows.target_times, {"persistence": forecast}, TILES, "AR90001")
    maps = [axes for axes in figure.subfigs[0].axes if axes.images]
    assert [axes.get_title() for axes in maps] == ["observed", "persistence"]
    np.testing.assert_array_equal(maps[0].images[0].get_array(), timeline.values[30, 5].reshape(7, 9))
    np.testing.assert_array_equal(maps[1].images[0].get_array(), timeline.values[18, 5].reshape(7, 9))
    assert {(patch.get_y() + 0.5, patch.get_x() + 0.5) for patch in maps[0].patches} == {(3, n) for n in range(1, 8)}
    assert figure.subfigs[0].get_supxlabel() == f"maps at {str(timeline.times[30])[:16].replace('T', ' ')} TAI"
    (colour_bar,) = (axes for axes in figure.subfigs[0].axes if axes not in maps)
    assert colour_bar.get_ylabel() == "continuum\nintensity (DN)"


def test_band_and_marks_are_where_they_belong(make_timeline):
    timeline = make_timeline(90001, steps=60)
    windows = SolaredWindows(timeline, input_steps=10)
    forecast = Average().forecast(windows)
    onsets, alarms = NEVER.copy(), NEVER.copy()
    onsets[30], alarms[30] = timeline.times[40], timeline.times[33]
    # Outside of the tiles that are shown.
    onsets[2] = timeline.times[5]
    figure = plot_forecast(
        timeline, windows.target_times, {"average": forecast}, TILES, "AR90001",
        band=(forecast - 300, forecast + 200), marks={ONSET: onsets, ALARM: alarms, NOAA: NEVER},
    )  # fmt: skip
    assert labels(figure) == ["observed", "average", "80 % interval", ONSET, ALARM]
    assert [moments(axes) for axes in panels(figure)] == [
        [timeline.times[40], timeline.times[33]] if tile == 30 else [] for tile in TILES
    ]
    (band,) = panels(figure)[0].collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx(
        (forecast[:, 28].min() - 300, forecast[:, 28].max() + 200), rel=1e-6
    )
    # The picture begins a day before the first of what it shows.
    assert panels(figure)[0].get_xlim()[0] == pytest.approx(
        date2num(windows.target_times[0] - np.timedelta64(24, "h"))
    )


def test_a_moment_before_the_first_forecast_is_in_the_picture(make_timeline):
    timeline = make_timeline(90001, steps=60)
    windows = SolaredWindows(timeline, input_steps=40)
    onsets = NEVER.copy()
    onsets[28] = timeline.times[3]
    forecasts = {"persistence": Persistence().forecast(windows)}
    figure = plot_forecast(timeline, windows.target_times, forecasts, TILES, "AR90001", marks={ONSET: onsets})
    assert panels(figure)[0].get_xlim()[0] == pytest.approx(date2num(timeline.times[3] - np.timedelta64(24, "h")))


def test_a_forecast_without_any_observation_yet_is_drawn(make_timeline):
    timeline = make_timeline(90001, steps=12)
    windows = SolaredWindows(timeline, input_steps=10, require_target=False)
    forecasts = {"persistence": Persistence().forecast(windows)}
    figure = plot_forecast(timeline, windows.target_times, forecasts, TILES, "AR90001")
    assert [axes.get_title() for axes in figure.subfigs[0].axes if axes.images] == ["persistence"]
    assert {axes.get_title(loc="right") for axes in panels(figure)} == {""}
    assert imread(BytesIO(as_png(figure))).shape[2] == 4


def test_the_strongest_row_passes_over_its_ends_and_what_was_not_observed():
    intensity = np.zeros((10, NUM_TILES), np.float32)
    intensity[::2, [9, 17]] = 9_000  # the ends of the second row
    intensity[::2, 50] = -500
    intensity[3] = np.nan
    intensity[:, 20] = np.nan
    assert strongest_row(intensity) == range(46, 53)


def test_a_line_of_one_step_and_one_without_gaps_stay_as_they_are():
    times = np.datetime64("2013-01-01", "h") + np.arange(3)
    for steps in (1, 2, 3):
        np.testing.assert_array_equal(broken_at_gaps(times[:steps], np.ones((steps, 2)))[1], np.ones((steps, 2)))


class Quantiles(Persistence):
    """Persistence with quantiles whose ends are told apart, and wider the further ahead."""

    quantile_levels = (0.05, 0.1, 0.5, 0.9)

    def quantiles(self, windows, steps):
        path = self.trajectory(windows, steps)
        away = np.arange(1, steps + 1, dtype=np.float32)[:, None] / steps * np.array([-900, -200, 0, 100], np.float32)
        return path[:, :, None] + away[:, :, None]


def test_a_region_is_drawn_with_its_alarms_onsets_and_interval():
    timeline = simulate_region(90001)
    forecaster = Quantiles()
    windows = forecaster.windows([timeline], require_target=False)
    figure = plot_region_forecast(forecaster, timeline, 5_000, timeline.times[100].astype("datetime64[s]").item())
    assert figure.get_suptitle() == "AR90001: forecast 12 h after the last input step, 8 h after it could be issued"
    shown = strongest_row(timeline.values[:, 5])
    assert labels(figure)[:3] == ["observed", "persistence", "80 % interval"]
    assert NOAA in labels(figure)

    onsets = observed_onsets(timeline)
    alarms = issue_alarms(windows, forecaster.trajectory(windows, 24), 5_000)[90001]
    first_issue = windows.last_input_times[0] + np.timedelta64(4, "h")
    # Otherwise the picture would not show what it is about.
    assert not np.isnat(onsets[list(shown)]).all()
    for axes, tile in zip(panels(figure), shown, strict=True):
        np.testing.assert_array_equal(lines(axes)["persistence"].get_ydata(), forecaster.forecast(windows)[:, tile])
        expected = [onsets[tile]] if not np.isnat(onsets[tile]) else []
        if not np.isnat(alarms[tile]) and not onsets[tile] <= first_issue:
            expected.append(alarms[tile])
        assert moments(axes)[:-1] == expected
        assert moments(axes)[-1] == timeline.times[100].astype("datetime64[s]")
        corners = axes.collections[0].get_paths()[0].vertices[:, 1]
        forecast = forecaster.forecast(windows)[:, tile]
        assert (corners.min(), corners.max()) == pytest.approx((forecast.min() - 200, forecast.max() + 100), rel=1e-5)


def test_nothing_warns_of_what_had_emerged_before_the_first_issue():
    timeline, forecaster = simulate_region(90007), Average()
    windows = forecaster.windows([timeline], require_target=False)
    alarms = issue_alarms(windows, forecaster.trajectory(windows, 24), 5_000)[90007]
    onsets = observed_onsets(timeline)
    over = onsets <= windows.last_input_times[0] + np.timedelta64(4, "h")
    shown = list(strongest_row(timeline.values[:, 5]))
    # Otherwise there would be nothing to leave out.
    assert (over & ~np.isnat(alarms))[shown].any()
    figure = plot_region_forecast(forecaster, timeline, 5_000)
    drawn = dict(zip(shown, map(moments, panels(figure)), strict=True))
    assert {tile: drawn[tile] for tile in shown if over[tile]} == {
        tile: [onsets[tile]] for tile in shown if over[tile]
    }


def test_what_is_not_known_is_left_out():
    figure = plot_region_forecast(Persistence(), simulate_region(90001), 5_000)
    assert not {NOAA, "80 % interval"} & set(labels(figure))
    # Persistence itself is drawn once.
    assert [*lines(panels(figure)[0])] == ["observed", "persistence"]


def test_published_test_regions_show_the_published_tiles(make_timeline):
    figure = plot_region_forecast(Persistence(), make_timeline(13165, steps=150), 5_000)
    assert [axes.get_title(loc="left") for axes in panels(figure)] == [f"row 3, column {n}" for n in range(1, 8)]
