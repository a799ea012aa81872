"""Figures of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from solared_hf.plotting.style import SPLIT_COLOURS, SPLIT_MARKERS, WIDTH, styled


@styled()
def plot_training(log: Sequence[Mapping], persistence_dn: float, best_step: int | None) -> Figure:
    """Draw the losses against the training step, and below them the validation error beside that of persistence.

    The comparison uses the root mean squared error at the horizon, because the losses differ between model families
    and some are not defined for persistence.

    Args:
        log: Log of the Trainer: entries with `step` and `loss`, or `eval_loss` and `eval_rmse_dn`.
        persistence_dn: Root mean squared error of persistence on the validation split, in DN.
        best_step: Step whose weights were kept, to be marked; None if no step was chosen.
    """
    figure = Figure(figsize=(WIDTH, 7))
    losses, errors = figure.subplots(2, 1, sharex=True)
    for axes, label, key in (
        (losses, "train", "loss"),
        (losses, "validation", "eval_loss"),
        (errors, "validation", "eval_rmse_dn"),
    ):
        logged = [entry for entry in log if key in entry]
        if logged:
            steps, values = ([entry[name] for entry in logged] for name in ("step", key))
            style: dict[str, Any] = {"color": SPLIT_COLOURS[label], "marker": SPLIT_MARKERS[label], "markersize": 3}
            # The validation split has a line in both panels, but only one entry in the legend.
            axes.plot(steps, values, label=label if axes is losses else None, **style)
    errors.axhline(persistence_dn, color="black", linestyle="--", label="persistence, validation")
    if best_step is not None:
        for axes in (losses, errors):
            best_label = f"best step: {best_step}" if axes is errors else None
            axes.axvline(best_step, color="grey", linestyle=":", label=best_label)
    losses.set(ylabel="loss", yscale="log")
    errors.set(xlabel="step of training", ylabel="validation RMSE (DN)", yscale="log")
    errors.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (losses, errors):
        axes.grid(which="both")
        # Plain numbers instead of powers of ten, and fewer of them if the axis spans several.
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    figure.legend(loc="outside upper center", ncols=2)
    return figure
