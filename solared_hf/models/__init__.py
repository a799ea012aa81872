"""Model families, one folder each: the published networks, and `quantile_trajectory`, which is ours.

`FAMILIES` is the only table of families. The folder of a family is named after the `model_type`, and holds
`configuration_<model_type>` and `modeling_<model_type>`. Registration, the names that this package exports, and the
help of `--model_type` follow from the table.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .quantile_trajectory import QuantileTrajectoryConfig as QuantileTrajectoryConfig
    from .quantile_trajectory import QuantileTrajectoryForPrediction as QuantileTrajectoryForPrediction
    from .solared_lstm import SolaredLstmConfig as SolaredLstmConfig
    from .solared_lstm import SolaredLstmForPrediction as SolaredLstmForPrediction
    from .spatio_temporal_attention import (
        SpatioTemporalAttentionConfig as SpatioTemporalAttentionConfig,
    )
    from .spatio_temporal_attention import (
        SpatioTemporalAttentionForPrediction as SpatioTemporalAttentionForPrediction,
    )
    from .spatio_temporal_resnet import SpatioTemporalResnetConfig as SpatioTemporalResnetConfig
    from .spatio_temporal_resnet import (
        SpatioTemporalResnetForPrediction as SpatioTemporalResnetForPrediction,
    )

# Class names of the configuration and the model, by model_type.
FAMILIES = {
    "quantile_trajectory": ("QuantileTrajectoryConfig", "QuantileTrajectoryForPrediction"),
    "solared_lstm": ("SolaredLstmConfig", "SolaredLstmForPrediction"),
    "spatio_temporal_attention": ("SpatioTemporalAttentionConfig", "SpatioTemporalAttentionForPrediction"),
    "spatio_temporal_resnet": ("SpatioTemporalResnetConfig", "SpatioTemporalResnetForPrediction"),
}

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=FAMILIES)
