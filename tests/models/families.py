"""A small model of each family, and the same model with its weights elsewhere in memory."""

import copy
from itertools import chain

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

import solared_hf  # noqa: F401  (makes the families known to transformers)

STEPS = 6
# Configuration fields of a small model, by model_type.
SMALL = {
    "quantile_trajectory": {"num_members": 2, "hidden_size": 8},
    "solared_lstm": {"hidden_size": 8, "num_layers": 2, "forecast_steps": 12},
    "spatio_temporal_attention": {
        **{"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12},
        **{"num_temporal_layers": 1, "num_spatial_layers": 1},
    },
    # The sizes of the ResNet are fixed.
    "spatio_temporal_resnet": {},
}
_CACHE_LINE = 64


def small_model(family: str, **fields) -> PreTrainedModel:
    """Return a small model with fresh weights, the same in every call."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{"input_steps": STEPS, **SMALL[family], **fields})
    return AutoModel.from_config(config)


def with_shifted_weights(model: PreTrainedModel, offset: int) -> PreTrainedModel:
    """Return a copy of a model whose weights all begin `offset` bytes after a multiple of 64.

    Initialised weights begin at a multiple of 64, weights from a file at any multiple of 4. The address decides which
    kernel a processor uses, and so how it rounds.
    """
    shifted = copy.deepcopy(model)
    for tensor in chain(shifted.parameters(), shifted.buffers()):
        if tensor.is_floating_point():
            memory = torch.empty(tensor.nbytes + 2 * _CACHE_LINE, dtype=torch.uint8)
            start = -memory.data_ptr() % _CACHE_LINE + offset
            place = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            tensor.data = place.copy_(tensor.detach())
    return shifted
