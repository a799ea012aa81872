"""Changes from the last observed intensity, with quantiles at each lead time."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .configuration_quantile_trajectory import QuantileTrajectoryConfig as QuantileTrajectoryConfig
    from .modeling_quantile_trajectory import QuantileTrajectoryForPrediction as QuantileTrajectoryForPrediction

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "configuration_quantile_trajectory": ["QuantileTrajectoryConfig"],
        "modeling_quantile_trajectory": ["QuantileTrajectoryForPrediction"],
    },
)
