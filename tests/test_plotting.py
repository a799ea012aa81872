"""The pictures of forecasts and of training: what is drawn, with which units, and what is not drawn through gaps."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from solared_hf.forecasting import Average, Persistence
from solared_hf.plotting import plot_forecast, plot_training
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


def test_losses_stand_beside_the_error_of_persistence_in_two_units():
    log = [
        {"loss": 0.04, "step": 10, "epoch": 0.5},
        {"eval_loss": 0.02, "eval_skill": -1.0, "step": 15, "epoch": 0.75},
        {"loss": 0.01, "step": 20, "epoch": 1.0},
        {"train_loss": 0.03, "step": 20, "epoch": 1.0},
    ]
    figure = plot_training(log, persistence=0.0025, target_range=10_000, best_step=15)
    (axes,) = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines[:2]}
    assert drawn == {"train": [[10, 0.04], [20, 0.01]], "validation": [[15, 0.02]]}
    assert axes.lines[2].get_label() == "persistence, validation"
    assert axes.lines[2].get_ydata() == [0.0025, 0.0025]
    assert (axes.lines[3].get_label(), axes.lines[3].get_xdata()) == ("best step: 15", [15, 15])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [line.get_label() for line in axes.lines]
    assert axes.get_xlabel() == "step of training"
    assert axes.get_ylabel() == "mean squared error (normalised intensity squared)"
    figure.savefig(BytesIO(), format="png")
    (right,) = axes.child_axes
    assert right.get_ylabel() == "root mean squared error (DN)"
    # 0.0025 of 10,000 DN squared is 500 DN: the same height on both axes.
    heights = [one.transData.transform((0, value))[1] for one, value in ((axes, 0.0025), (right, 500))]
    assert heights[0] == pytest.approx(heights[1])


def test_a_run_without_validation_is_drawn():
    figure = plot_training([{"loss": 0.04, "step": 1}], persistence=0.0025, target_range=10_000, best_step=None)
    figure.savefig(BytesIO(), format="png")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["train", "persistence, validation"]
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_a_run_too_short_to_log_its_training_is_drawn():
    figure = plot_training([{"eval_loss": 0.04, "step": 1}], persistence=0.0025, target_range=10_000, best_step=1)
    figure.savefig(BytesIO(), format="png")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["validation", "persistence, validation", "best step: 1"]
