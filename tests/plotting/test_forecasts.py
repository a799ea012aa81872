"""The figure of the forecast of a region: lines, gaps, marks, labels and units."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.dates import date2num
from matplotlib.image import imread

from dataset_builder.simulation import simulate_region
from solared_hf import SolaredWindows, Timeline
from solared_hf.evaluation import RegionForecast, issue_alarms, observed_onsets
from solared_hf.evaluation.region_forecast import Alarms
from solared_hf.forecasters import Average, Persistence
from solared_hf.plotting import as_png, plot_forecast, plot_tile
from solared_hf.plotting.forecasts import ALARM, NOAA, ONSET, PERSISTENCE_ALARM, plot_region_forecast, strongest_row
from solared_hf.plotting.style import broken_at_gaps
from solared_hf.schema import NUM_TILES

NEVER = np.full(NUM_TILES, np.datetime64("NaT", "ms"))
TILES = range(28, 35)


def panels(figure):
    """Return the axes over time, one per tile."""
    return [axes for axes in figure.axes if axes.lines]


def labels(figure):
    (legend,) = figure.subfigs[1].legends
    return [text.get_text() for text in legend.get_texts()]


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def marked_times(axes) -> list[float]:
    """Return the times of the vertical lines."""
    return [line.get_xdata()[0] for line in axes.lines if line.get_label().startswith("_")]


def region_forecast(
    timeline: Timeline, windows: SolaredWindows, forecasts, band=None, onsets=NEVER, alarms=None
) -> RegionForecast:
    """Return a forecast of one region made of given arrays."""
    return RegionForecast(
        timeline=timeline,
        horizon=windows.horizon,
        target_times=windows.target_times,
        forecasts=forecasts,
        band=band,
        onsets=onsets,
        first_issue=windows.last_input_times[0],
        alarms={name: Alarms(issued, {}) for name, issued in (alarms or {}).items()},
    )


def test_lines_show_the_arrays_and_break_at_gaps(make_timeline):
    timeline = make_timeline(90001, steps=100, missing=[50, 51])
    windows = SolaredWindows(timeline, input_steps=10)
    forecasts = {"average": Average().forecast(windows), "persistence": Persistence().forecast(windows)}
    figure = plot_forecast(region_forecast(timeline, windows, forecasts), TILES)
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
        # The noise spans 800 DN, but the axis is never shorter than 2000 DN.
        assert np.ptp(axes.get_ylim()) >= 2000
    assert panels(figure)[-1].get_xlabel() == "time (TAI)"
    assert figure.subfigs[1].get_supylabel() == "continuum intensity (DN)"
    assert labels(figure) == ["observed", "average", "persistence"]


def test_title_gives_the_error_of_each_tile(make_timeline):
    timeline = make_timeline(90001, steps=40)
    windows = SolaredWindows(timeline, input_steps=10)
    off = windows.observed_targets + np.arange(NUM_TILES)
    figure = plot_forecast(region_forecast(timeline, windows, {"off": off}), TILES)
    assert [axes.get_title(loc="right") for axes in panels(figure)] == [f"RMSE: off {tile} DN" for tile in TILES]


def test_maps_show_the_time_at_which_a_tile_was_darkest(make_timeline):
    timeline = make_timeline(90001, steps=40)
    timeline.values[30, 5, 30] = -20_000
    # Darker still, but this tile is not shown.
    timeline.values[35, 5, 0] = -30_000
    windows = SolaredWindows(timeline, input_steps=10)
    forecast = Persistence().forecast(windows)
    figure = plot_forecast(region_forecast(timeline, windows, {"persistence": forecast}), TILES)
    maps = [axes for axes in figure.subfigs[0].axes if axes.images]
    assert [axes.get_title() for axes in maps] == ["observed", "persistence"]
    np.testing.assert_array_equal(maps[0].images[0].get_array(), timeline.values[30, 5].reshape(7, 9))
    np.testing.assert_array_equal(maps[1].images[0].get_array(), timeline.values[18, 5].reshape(7, 9))
    assert {(patch.get_y() + 0.5, patch.get_x() + 0.5) for patch in maps[0].patches} == {(3, n) for n in range(1, 8)}
    assert figure.subfigs[0].get_supxlabel() == f"maps at {str(timeline.times[30])[:16].replace('T', ' ')} TAI"
    (colour_bar,) = (axes for axes in figure.subfigs[0].axes if axes not in maps)
    assert colour_bar.get_ylabel() == "continuum\nintensity (DN)"


def test_band_and_marks_are_at_their_times(make_timeline):
    timeline = make_timeline(90001, steps=60)
    windows = SolaredWindows(timeline, input_steps=10)
    forecast = Average().forecast(windows)
    onsets, alarms = NEVER.copy(), NEVER.copy()
    onsets[30], alarms[30] = timeline.times[40], timeline.times[33]
    # This tile is not shown.
    onsets[2] = timeline.times[5]
    region = region_forecast(
        timeline,
        windows,
        {"average": forecast, "persistence": forecast},
        band=(forecast - 300, forecast + 200),
        onsets=onsets,
        alarms={"average": alarms, "persistence": alarms + 1},
    )
    figure = plot_forecast(region, TILES)
    assert labels(figure) == ["observed", "average", "persistence", "80 % interval", ONSET, ALARM]
    assert [marked_times(axes) for axes in panels(figure)] == [
        [timeline.times[40], timeline.times[33]] if tile == 30 else [] for tile in TILES
    ]
    (band,) = panels(figure)[0].collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx(
        (forecast[:, 28].min() - 300, forecast[:, 28].max() + 200), rel=1e-6
    )
    # The time axis begins one day before the first forecast.
    assert panels(figure)[0].get_xlim()[0] == pytest.approx(
        date2num(windows.target_times[0] - np.timedelta64(24, "h"))
    )


def test_picture_of_a_tile_also_marks_the_alarm_of_persistence(make_timeline):
    timeline = make_timeline(90001, steps=60)
    windows = SolaredWindows(timeline, input_steps=10)
    forecast = Average().forecast(windows)
    alarms = NEVER.copy()
    alarms[30] = timeline.times[33]
    region = region_forecast(
        timeline,
        windows,
        {"average": forecast, "persistence": forecast},
        alarms={"average": alarms, "persistence": alarms + 1},
    )
    span = timeline.times[0], timeline.times[-1]
    figure = plot_tile(30, timeline, span, region)
    assert marked_times(figure.axes[0]) == [alarms[30], alarms[30] + 1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-2:] == [ALARM, PERSISTENCE_ALARM]
    (axes,) = plot_tile(30, timeline, span).axes
    assert list(lines(axes)) == ["observed"]


def test_onset_before_the_first_forecast_is_in_the_figure(make_timeline):
    timeline = make_timeline(90001, steps=60)
    windows = SolaredWindows(timeline, input_steps=40)
    onsets = NEVER.copy()
    onsets[28] = timeline.times[3]
    forecasts = {"persistence": Persistence().forecast(windows)}
    figure = plot_forecast(region_forecast(timeline, windows, forecasts, onsets=onsets), TILES)
    assert panels(figure)[0].get_xlim()[0] == pytest.approx(date2num(timeline.times[3] - np.timedelta64(24, "h")))


def test_forecast_without_observed_targets_is_drawn(make_timeline):
    timeline = make_timeline(90001, steps=12)
    windows = SolaredWindows(timeline, input_steps=10, require_target=False)
    forecasts = {"persistence": Persistence().forecast(windows)}
    figure = plot_forecast(region_forecast(timeline, windows, forecasts), TILES)
    assert [axes.get_title() for axes in figure.subfigs[0].axes if axes.images] == ["persistence"]
    assert {axes.get_title(loc="right") for axes in panels(figure)} == {""}
    assert imread(BytesIO(as_png(figure))).shape[2] == 4


def test_strongest_row_ignores_the_outer_columns_and_missing_values():
    intensity = np.zeros((10, NUM_TILES), np.float32)
    intensity[::2, [9, 17]] = 9_000  # the ends of the second row
    intensity[::2, 50] = -500
    intensity[3] = np.nan
    intensity[:, 20] = np.nan
    assert strongest_row(intensity) == range(46, 53)


def test_lines_without_gaps_are_not_changed():
    times = np.datetime64("2013-01-01", "h") + np.arange(3)
    for steps in (1, 2, 3):
        np.testing.assert_array_equal(broken_at_gaps(times[:steps], np.ones((steps, 2)))[1], np.ones((steps, 2)))


class Quantiles(Persistence):
    """Persistence with asymmetric quantiles that widen with the lead."""

    quantile_levels = (0.05, 0.1, 0.5, 0.9)

    def quantiles(self, windows, steps):
        path = self.trajectory(windows, steps)
        away = np.arange(1, steps + 1, dtype=np.float32)[:, None] / steps * np.array([-900, -200, 0, 100], np.float32)
        return path[:, :, None] + away[:, :, None]


def test_region_is_drawn_with_alarms_onsets_and_interval():
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
    # The test needs a tile with an onset.
    assert not np.isnat(onsets[list(shown)]).all()
    for axes, tile in zip(panels(figure), shown, strict=True):
        np.testing.assert_array_equal(lines(axes)["persistence"].get_ydata(), forecaster.forecast(windows)[:, tile])
        expected = [onsets[tile]] if not np.isnat(onsets[tile]) else []
        if not np.isnat(alarms[tile]) and not onsets[tile] <= first_issue:
            expected.append(alarms[tile])
        assert marked_times(axes)[:-1] == expected
        assert marked_times(axes)[-1] == timeline.times[100].astype("datetime64[s]")
        corners = axes.collections[0].get_paths()[0].vertices[:, 1]
        forecast = forecaster.forecast(windows)[:, tile]
        assert (corners.min(), corners.max()) == pytest.approx((forecast.min() - 200, forecast.max() + 100), rel=1e-5)


def test_no_alarm_is_drawn_for_tiles_that_emerged_before_the_first_issue():
    timeline, forecaster = simulate_region(90007), Average()
    windows = forecaster.windows([timeline], require_target=False)
    alarms = issue_alarms(windows, forecaster.trajectory(windows, 24), 5_000)[90007]
    onsets = observed_onsets(timeline)
    over = onsets <= windows.last_input_times[0] + np.timedelta64(4, "h")
    shown = list(strongest_row(timeline.values[:, 5]))
    # The test needs an alarm that is left out.
    assert (over & ~np.isnat(alarms))[shown].any()
    figure = plot_region_forecast(forecaster, timeline, 5_000)
    drawn = dict(zip(shown, map(marked_times, panels(figure)), strict=True))
    assert {tile: drawn[tile] for tile in shown if over[tile]} == {
        tile: [onsets[tile]] for tile in shown if over[tile]
    }


def test_unknown_marks_and_intervals_are_left_out():
    figure = plot_region_forecast(Persistence(), simulate_region(90001), 5_000)
    assert not {NOAA, "80 % interval"} & set(labels(figure))
    # Persistence is drawn only once.
    assert [*lines(panels(figure)[0])] == ["observed", "persistence"]


def test_published_test_regions_show_the_published_tiles(make_timeline):
    figure = plot_region_forecast(Persistence(), make_timeline(13165, steps=150), 5_000)
    assert [axes.get_title(loc="left") for axes in panels(figure)] == [f"row 3, column {n}" for n in range(1, 8)]
