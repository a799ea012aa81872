"""A small model of every family, and the same model with its weights elsewhere in memory."""

import copy
from itertools import chain

import torch
from transformers import PreTrainedModel

from solared_hf import (
    QuantileTrajectoryConfig,
    QuantileTrajectoryForPrediction,
    SolaredLstmConfig,
    SolaredLstmForPrediction,
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
    SpatioTemporalResnetConfig,
    SpatioTemporalResnetForPrediction,
)

STEPS = 6
_CACHE_LINE = 64


def small_attention() -> PreTrainedModel:
    fields = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "dropout": 0.0}
    return SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionConfig(**fields, input_steps=STEPS))


def small_resnet() -> PreTrainedModel:
    return SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig(input_steps=STEPS, spatial_layout="grid"))


def small_lstm() -> PreTrainedModel:
    return SolaredLstmForPrediction(SolaredLstmConfig(hidden_size=16, input_steps=STEPS, dropout=0.0))


def small_trajectory() -> PreTrainedModel:
    return QuantileTrajectoryForPrediction(QuantileTrajectoryConfig(num_members=1, input_steps=STEPS))


FAMILIES = {
    "quantile_trajectory": small_trajectory,
    "solared_lstm": small_lstm,
    "spatio_temporal_attention": small_attention,
    "spatio_temporal_resnet": small_resnet,
}


def with_shifted_weights(model: PreTrainedModel, offset: int) -> PreTrainedModel:
    """Return a copy of a model whose weights all begin `offset` bytes beyond a multiple of 64.

    Initialised weights begin at a multiple of 64, weights from a file at any multiple of 4. Which kernel a processor
    uses, and so how it rounds, depends on that.
    """
    shifted = copy.deepcopy(model)
    for tensor in chain(shifted.parameters(), shifted.buffers()):
        if tensor.is_floating_point():
            memory = torch.empty(tensor.nbytes + 2 * _CACHE_LINE, dtype=torch.uint8)
            start = -memory.data_ptr() % _CACHE_LINE + offset
            place = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            tensor.data = place.copy_(tensor.detach())
    return shifted
