"""Figures of forecasts, of training, of scores and of a dataset: arrays in, matplotlib figures with units out."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .benchmark_pictures import benchmark_pictures as benchmark_pictures
    from .dataset_pictures import dataset_pictures as dataset_pictures
    from .forecasts import plot_forecast as plot_forecast
    from .forecasts import plot_tile as plot_tile
    from .regions import plot_availability as plot_availability
    from .regions import plot_distributions as plot_distributions
    from .regions import plot_latitudes as plot_latitudes
    from .regions import plot_lifetimes as plot_lifetimes
    from .regions import plot_timeline as plot_timeline
    from .scores import plot_error_by_lead as plot_error_by_lead
    from .scores import plot_error_by_tile as plot_error_by_tile
    from .scores import plot_reliability as plot_reliability
    from .scores import plot_skill_by_region as plot_skill_by_region
    from .style import STYLE as STYLE
    from .style import as_png as as_png
    from .style import as_svg as as_svg
    from .style import mark_as_simulated as mark_as_simulated
    from .training import plot_training as plot_training

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "benchmark_pictures": ["benchmark_pictures"],
        "dataset_pictures": ["dataset_pictures"],
        "forecasts": ["plot_forecast", "plot_tile"],
        "regions": ["plot_availability", "plot_distributions", "plot_latitudes", "plot_lifetimes", "plot_timeline"],
        "scores": ["plot_error_by_lead", "plot_error_by_tile", "plot_reliability", "plot_skill_by_region"],
        "style": ["STYLE", "as_png", "as_svg", "mark_as_simulated"],
        "training": ["plot_training"],
    },
)
