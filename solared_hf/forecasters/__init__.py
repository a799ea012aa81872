"""Forecasters: trained models and baselines behind one interface.

`base` has the interface and the trained models, `baselines` the simple rules, `lagged_regression` ridge regression and
boosted trees on `lagged_features`, and `pipeline` the transformers pipeline.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .base import Forecaster as Forecaster
    from .base import ModelForecaster as ModelForecaster
    from .base import QuantileForecaster as QuantileForecaster
    from .base import committed_models as committed_models
    from .base import forecast_table as forecast_table
    from .base import load_forecaster as load_forecaster
    from .baselines import BASELINES as BASELINES
    from .baselines import Average as Average
    from .baselines import Climatology as Climatology
    from .baselines import DampedPersistence as DampedPersistence
    from .baselines import Persistence as Persistence
    from .lagged_regression import GradientBoostedTrees as GradientBoostedTrees
    from .lagged_regression import RidgeRegression as RidgeRegression
    from .pipeline import SolarActiveRegionForecastingPipeline as SolarActiveRegionForecastingPipeline

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": [
            "Forecaster",
            "ModelForecaster",
            "QuantileForecaster",
            "committed_models",
            "forecast_table",
            "load_forecaster",
        ],
        "baselines": ["Average", "BASELINES", "Climatology", "DampedPersistence", "Persistence"],
        "lagged_regression": ["GradientBoostedTrees", "RidgeRegression"],
        "pipeline": ["SolarActiveRegionForecastingPipeline"],
    },
)
