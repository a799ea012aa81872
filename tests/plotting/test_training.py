"""The figure of a training run: both losses, and the validation error beside that of persistence."""

from io import BytesIO

from solared_hf.plotting import plot_training


def lines_of(axes):
    return [line.get_xydata().tolist() for line in axes.lines]


def test_losses_and_validation_error_are_drawn():
    log = [
        {"loss": 0.04, "step": 10, "epoch": 0.5},
        {"eval_loss": 0.02, "eval_rmse_dn": 700.0, "eval_skill": -1.0, "step": 15, "epoch": 0.75},
        {"loss": 0.01, "step": 20, "epoch": 1.0},
        {"train_loss": 0.03, "step": 20, "epoch": 1.0},
    ]
    figure = plot_training(log, persistence_dn=500.0, best_step=15)
    losses, errors = figure.axes
    assert lines_of(losses)[:2] == [[[10, 0.04], [20, 0.01]], [[15, 0.02]]]
    assert lines_of(errors)[0] == [[15, 700.0]]
    assert errors.lines[1].get_ydata() == [500.0, 500.0]
    assert [axes.lines[2].get_xdata() for axes in (losses, errors)] == [[15, 15], [15, 15]]
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["train", "validation", "persistence, validation", "best step: 15"]
    assert (losses.get_ylabel(), errors.get_ylabel()) == ("loss", "validation RMSE (DN)")
    assert errors.get_xlabel() == "step of training"
    figure.savefig(BytesIO(), format="png")


def test_run_without_validation_is_drawn():
    figure = plot_training([{"loss": 0.04, "step": 1}], persistence_dn=500.0, best_step=None)
    figure.savefig(BytesIO(), format="png")
    losses, errors = figure.axes
    assert lines_of(losses) == [[[1, 0.04]]]
    assert [line.get_label() for line in errors.lines] == ["persistence, validation"]
    assert all(tick == round(tick) for tick in errors.get_xticks())


def test_run_too_short_to_log_a_training_loss_is_drawn():
    log = [{"eval_loss": 0.04, "eval_rmse_dn": 600.0, "step": 1}]
    figure = plot_training(log, persistence_dn=500.0, best_step=1)
    figure.savefig(BytesIO(), format="png")
    losses, errors = figure.axes
    assert (lines_of(losses)[0], lines_of(errors)[0]) == ([[1, 0.04]], [[1, 600.0]])
