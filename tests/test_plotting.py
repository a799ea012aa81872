"""The forecast picture: what is drawn, and what is not drawn through gaps."""

from io import BytesIO

import numpy as np
from matplotlib.image import imread

from solared_hf.forecasting import Average, Persistence
from solared_hf.plotting import plot_forecast
from solared_hf.windows import SolaredWindows


def test_lines_break_at_gaps_and_axes_carry_units(make_timeline):
    windows = SolaredWindows(make_timeline(90001, steps=100, missing=[50, 51]), input_steps=10)
    forecasts = {"average": Average().forecast(windows), "persistence": Persistence().forecast(windows)}
    figure = plot_forecast(windows, forecasts, "AR90001")
    series = [axes for axes in figure.axes if axes.lines]
    assert len(series) == 3
    for axes in series:
        assert axes.get_ylabel() == "intensity (DN)"
        observed, *others = axes.lines[:3]
        assert len(others) == 2
        for line in (observed, *others):
            values = line.get_ydata()
            assert len(values) == len(windows) + 1
            assert np.flatnonzero(np.isnan(values)).tolist() == [29]
    assert series[-1].get_xlabel() == "target time (TAI)"
    picture = BytesIO()
    figure.savefig(picture, format="png")
    picture.seek(0)
    assert imread(picture).shape[2] == 4


def test_a_forecast_without_any_observation_yet_is_drawn(make_timeline):
    timeline = make_timeline(90001, steps=12)
    windows = SolaredWindows(timeline, input_steps=10, require_target=False)
    figure = plot_forecast(windows, {"persistence": Persistence().forecast(windows)}, "AR90001")
    figure.savefig(BytesIO(), format="png")
    assert any("persistence" in text.get_text() for axes in figure.axes for text in (axes.title,))
