"""Attention over the steps of each tile, then over the tiles of each step."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .configuration_spatio_temporal_attention import SpatioTemporalAttentionConfig as SpatioTemporalAttentionConfig
    from .modeling_spatio_temporal_attention import (
        SpatioTemporalAttentionForPrediction as SpatioTemporalAttentionForPrediction,
    )

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "configuration_spatio_temporal_attention": ["SpatioTemporalAttentionConfig"],
        "modeling_spatio_temporal_attention": ["SpatioTemporalAttentionForPrediction"],
    },
)
