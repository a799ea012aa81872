"""A video ResNet that reads the tiles of a patch as the pixels of a clip."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .configuration_spatio_temporal_resnet import SpatioTemporalResnetConfig as SpatioTemporalResnetConfig
    from .modeling_spatio_temporal_resnet import SpatioTemporalResnetForPrediction as SpatioTemporalResnetForPrediction

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "configuration_spatio_temporal_resnet": ["SpatioTemporalResnetConfig"],
        "modeling_spatio_temporal_resnet": ["SpatioTemporalResnetForPrediction"],
    },
)
