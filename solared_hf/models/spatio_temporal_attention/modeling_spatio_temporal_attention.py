"""Spatio-temporal attention forecaster (arXiv 2508.14107): attention over time, then over tiles.

This file is saved beside the weights and must load without the package, so it imports only its neighbours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, logging
from transformers.utils.output_capturing import capture_outputs

from .configuration_spatio_temporal_attention import SpatioTemporalAttentionConfig
from .encoder_layer_on_cpu import faster_on_cpu

logger = logging.get_logger(__name__)


@dataclass
class SpatioTemporalAttentionOutput(ModelOutput):
    r"""
    Output of [`SpatioTemporalAttentionForPrediction`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when `future_values` is given):
            Mean squared error over the observed values of `future_values`, in float32.
        prediction_outputs (`torch.Tensor` of shape `(batch_size, num_tiles)`):
            Target channel of each tile `horizon_hours` after the last step, in the (normalised) unit of the targets.
        hidden_states (`tuple(torch.Tensor)`, *optional*, returned when `output_hidden_states=True`):
            The input of the first layer and the output of each layer, in the layout of the layer:
            `(batch_size, num_tiles, steps, hidden_size)` up to the last temporal layer and
            `(batch_size, steps, num_tiles, hidden_size)` from the first spatial layer on.
        attentions (`tuple(torch.Tensor)`, *optional*, returned when `output_attentions=True`):
            Attention probabilities of each layer: `(batch_size, num_tiles, num_heads, steps, steps)` for temporal and
            `(batch_size, steps, num_heads, num_tiles, num_tiles)` for spatial layers.
    """

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def sinusoidal_table(num_positions: int, hidden_size: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the positional encoding of Vaswani et al. (2017): sines in even columns, cosines in odd columns.

    Args:
        num_positions (`int`): Number of rows.
        hidden_size (`int`): Number of columns, even. The wavelengths run from 2 pi to 10000 * 2 pi.
        device (`torch.device`, *optional*): Device of the table.

    Returns:
        `torch.Tensor` of shape `(num_positions, hidden_size)`, float32 for every default dtype.
    """
    positions = torch.arange(num_positions, dtype=torch.float32, device=device)[:, None]
    columns = torch.arange(0, hidden_size, 2, dtype=torch.float32, device=device)
    angles = positions * torch.exp(columns * (-math.log(10000.0) / hidden_size))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class SpatioTemporalAttentionPositions(nn.Module):
    """Add the sinusoidal encoding along the second last axis, without dropout, as in the original."""

    table: torch.Tensor

    def __init__(self, config: SpatioTemporalAttentionConfig, num_positions: int):
        super().__init__()
        # The table follows from a formula, so it is not saved. `_init_weights` computes it again after loading.
        self.register_buffer("table", sinusoidal_table(num_positions, config.hidden_size), persistent=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.table[: hidden_states.shape[-2]].to(hidden_states.dtype)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention output and the probabilities. No mask is applied: each position sees all others."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    probabilities = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    probabilities = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


# The two projections have their own classes because torch's attention initialises them unlike other linear layers.
class SpatioTemporalAttentionInProjection(nn.Linear):
    """Compute queries, keys and values in one product."""


class SpatioTemporalAttentionOutProjection(nn.Linear):
    """Mix the heads."""


class SpatioTemporalAttentionSelfAttention(nn.Module):
    """Self-attention along the second last axis. The leading axes are independent sequences."""

    def __init__(self, config: SpatioTemporalAttentionConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        # Without this flag, sdpa and flash attention treat the module as a decoder and hide later steps.
        self.is_causal = False
        self.qkv_proj = SpatioTemporalAttentionInProjection(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = SpatioTemporalAttentionOutProjection(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        qkv = self.qkv_proj(hidden_states).flatten(0, 1)
        query, key, value = qkv.unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        implementation = self.config._attn_implementation
        is_followed = torch.is_grad_enabled() or torch.jit.is_tracing()
        if implementation == "sdpa" and hidden_states.device.type == "cpu" and is_followed:
            # On a CPU, torch's own kernel has first derivatives in backward mode only.
            implementation = "eager"
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        attention_output, probabilities = attention_interface(
            self,
            query,
            key,
            value,
            None,
            scaling=self.scaling,
            dropout=self.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        if probabilities is not None:
            probabilities = probabilities.unflatten(0, hidden_states.shape[:2])
        return self.out_proj(attention_output.reshape(hidden_states.shape)), probabilities


class SpatioTemporalAttentionLayer(GradientCheckpointingLayer):
    """A post-norm encoder layer, which computes what `torch.nn.TransformerEncoderLayer` computes."""

    def __init__(self, config: SpatioTemporalAttentionConfig):
        super().__init__()
        self.self_attn = SpatioTemporalAttentionSelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    @faster_on_cpu(SpatioTemporalAttentionSelfAttention)
    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Map `(batch_size, sequences, length, hidden_size)` to the same shape."""
        residual = hidden_states
        hidden_states, _ = self.self_attn(hidden_states, **kwargs)
        hidden_states = self.dropout(hidden_states)
        hidden_states = self.attention_norm(residual + hidden_states)

        residual = hidden_states
        hidden_states = self.activation(self.fc1(hidden_states))
        hidden_states = self.fc2(self.dropout(hidden_states))
        hidden_states = self.dropout(hidden_states)
        return self.feed_forward_norm(residual + hidden_states)


class SpatioTemporalAttentionPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of the family."""

    config: SpatioTemporalAttentionConfig
    main_input_name = "past_values"
    input_modalities = "time"
    # The Trainer passes `num_items_in_batch`, so that the losses of accumulated batches add up to one mean.
    accepts_loss_kwargs = True
    supports_gradient_checkpointing = True
    _no_split_modules = ["SpatioTemporalAttentionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _can_record_outputs = {
        "hidden_states": SpatioTemporalAttentionLayer,
        "attentions": SpatioTemporalAttentionSelfAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise as `torch.nn.TransformerEncoderLayer` and `torch.nn.Linear` do."""
        if isinstance(module, SpatioTemporalAttentionPositions):
            num_positions, hidden_size = module.table.shape
            init.copy_(module.table, sinusoidal_table(num_positions, hidden_size, module.table.device))
        elif isinstance(module, SpatioTemporalAttentionInProjection):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if isinstance(module, SpatioTemporalAttentionOutProjection):
                init.zeros_(module.bias)
            else:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    # Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.SolaredLstmPreTrainedModel.save_pretrained
    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save the weights, the configuration and the code that `trust_remote_code=True` loads.

        See [`~transformers.PreTrainedModel.save_pretrained`] for the arguments.
        """
        # `register_for_auto_class` takes one auto class, and the model can be loaded with two.
        reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        auto_map = dict.fromkeys(("AutoModel", "AutoModelForTimeSeriesPrediction"), reference)
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **auto_map}
        super().save_pretrained(save_directory, *args, **kwargs)


class SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionPreTrainedModel):
    r"""
    Forecasts the target channel of each tile from the past of all tiles (arXiv 2508.14107): a linear projection of the
    channels, encoder layers over the steps of each tile, encoder layers over the tiles of each step, the mean over
    the steps, and a linear head.

    Args:
        config ([`SpatioTemporalAttentionConfig`]): The sizes of the network, and the task.

    Example:

    ```python
    >>> import torch
    >>> from solared_hf.models import SpatioTemporalAttentionConfig, SpatioTemporalAttentionForPrediction
    >>> config = SpatioTemporalAttentionConfig(num_temporal_layers=1, input_steps=24)
    >>> model = SpatioTemporalAttentionForPrediction(config).eval()
    >>> model(past_values=torch.zeros(2, 24, 6, 63)).prediction_outputs.shape
    torch.Size([2, 63])

    ```
    """

    def __init__(self, config: SpatioTemporalAttentionConfig):
        super().__init__(config)
        # `from_pretrained(..., hidden_size=60)` sets fields after the configuration was built.
        config.validate()
        self.input_projection = nn.Linear(config.num_channels, config.hidden_size)
        self.temporal_positions = SpatioTemporalAttentionPositions(config, config.max_position_embeddings)
        self.temporal_layers = nn.ModuleList(
            SpatioTemporalAttentionLayer(config) for _ in range(config.num_temporal_layers)
        )
        self.spatial_positions = SpatioTemporalAttentionPositions(config, config.num_tiles)
        self.spatial_layers = nn.ModuleList(
            SpatioTemporalAttentionLayer(config) for _ in range(config.num_spatial_layers)
        )
        self.prediction_head = nn.Linear(config.hidden_size, 1)
        self.post_init()

    @capture_outputs
    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        future_values: torch.Tensor | None = None,
        return_loss: bool = True,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SpatioTemporalAttentionOutput:
        r"""
        Args:
            past_values (`torch.Tensor` of shape `(batch_size, steps, num_channels, num_tiles)`):
                Normalised channels of the past, in any floating dtype. Any number of steps from 1 to
                `config.max_position_embeddings` works; the model warns once if there are fewer than
                `config.input_steps`.
            past_observed_mask (`torch.BoolTensor` of the shape of `past_values`, *optional*):
                False where a value was not observed. There, NaN is read as 0, and a value that the processor filled
                in is used.
            future_values (`torch.Tensor` of shape `(batch_size, num_tiles)`, *optional*):
                Normalised target channel `config.horizon_hours` after the last step. If given, the loss is computed.
                NaN means not observed and does not count in the loss.
            return_loss (`bool`, defaults to `True`):
                If True, compute the loss when a target is given. The default tells a plain
                [`~transformers.Trainer`] that evaluation has a loss, without `label_names`.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Number of observed target values in the whole batch, over all accumulation steps and processes. The
                loss is then the sum over the observed values divided by this number.
            kwargs:
                `output_hidden_states`, `output_attentions` and `return_dict`, as in all transformers models.

        Returns:
            [`SpatioTemporalAttentionOutput`], or a plain tuple with `return_dict=False`.

        Raises:
            ValueError: If a tensor has the wrong shape, there are too many steps, or `output_attentions` is True and
                the attention implementation is not "eager".
        """
        check_inputs(self.config, past_values, past_observed_mask, future_values)
        if past_values.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"past_values has {past_values.shape[1]} steps, but config.max_position_embeddings is "
                f"{self.config.max_position_embeddings}. Shorten the input or raise max_position_embeddings."
            )
        if kwargs.get("output_attentions") and self.config._attn_implementation != "eager":
            raise ValueError(
                f"{self.config._attn_implementation!r} attention does not return attention weights. Call "
                "model.set_attn_implementation('eager') first."
            )
        if past_observed_mask is not None:
            # Values that the processor filled in stay, because a physical 0 is not 0 in normalised units.
            past_values = past_values.masked_fill(past_values.isnan() & past_observed_mask.logical_not(), 0.0)

        tokens = past_values.permute(0, 3, 1, 2).to(self.dtype)
        hidden_states = self.temporal_positions(self.input_projection(tokens))
        for layer in self.temporal_layers:
            hidden_states = layer(hidden_states, **kwargs)

        # This copy keeps all products of the spatial layers on contiguous memory.
        hidden_states = self.spatial_positions(hidden_states.transpose(1, 2).contiguous())
        for layer in self.spatial_layers:
            hidden_states = layer(hidden_states, **kwargs)

        predictions = self.prediction_head(hidden_states.mean(dim=1)).squeeze(-1)
        loss = None
        if return_loss and future_values is not None:
            loss = mean_squared_error(predictions, future_values, num_items_in_batch)
        return SpatioTemporalAttentionOutput(loss=loss, prediction_outputs=predictions)


# Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.check_inputs
# with SolaredLstm->SpatioTemporalAttention
def check_inputs(
    config: SpatioTemporalAttentionConfig,
    past_values: torch.Tensor,
    past_observed_mask: torch.Tensor | None,
    future_values: torch.Tensor | None,
) -> None:
    """Check the shapes that `forward` is given, and warn once if the past is shorter than in training.

    Raises:
        ValueError: If a tensor has the wrong shape.
    """
    channels, tiles = config.num_channels, config.num_tiles
    if past_values.ndim != 4 or tuple(past_values.shape[2:]) != (channels, tiles) or not past_values.shape[1]:
        raise ValueError(
            f"past_values must have shape (batch_size, steps, {channels} channels, {tiles} tiles) with at least "
            f"one step, got {tuple(past_values.shape)}."
        )
    if past_observed_mask is not None and past_observed_mask.shape != past_values.shape:
        raise ValueError(
            f"past_observed_mask must have the shape of past_values, {tuple(past_values.shape)}, got "
            f"{tuple(past_observed_mask.shape)}."
        )
    if future_values is not None and tuple(future_values.shape) != (past_values.shape[0], tiles):
        raise ValueError(
            f"future_values must have shape (batch_size, tiles) = ({past_values.shape[0]}, {tiles}), got "
            f"{tuple(future_values.shape)}."
        )
    # In a graph that is traced or exported, the number of steps may be a variable.
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if not is_traced and past_values.shape[1] < config.input_steps:
        logger.warning_once(
            f"This {config.model_type} model was configured for {config.input_steps} input steps and got "
            f"{past_values.shape[1]}, so the forecasts may be worse. Pass {config.input_steps} steps."
        )


# Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.mean_squared_error
def mean_squared_error(
    predictions: torch.Tensor, observed: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Return the mean squared error over the observed values, or 0 if no value was observed.

    Args:
        predictions (`torch.Tensor`): Any shape and floating dtype.
        observed (`torch.Tensor`): The same shape, with NaN where a value was not observed.
        num_items_in_batch (`int` or `torch.Tensor`, *optional*):
            Number to divide the sum of squared errors by, instead of the number of observed values. With the number
            of observed values of a larger batch, the losses of the parts add up to the mean over the whole batch.

    Returns:
        `torch.Tensor` of shape `()`, float32. Predictions without an observed value get a gradient of 0.
    """
    missing = observed.isnan()
    errors = (predictions.float() - observed.float()).masked_fill(missing, 0.0)
    if num_items_in_batch is None:
        num_items_in_batch = missing.logical_not().sum()
    return errors.square().sum() / torch.as_tensor(num_items_in_batch, device=errors.device).clamp(min=1)


SpatioTemporalAttentionForPrediction.register_for_auto_class("AutoModel")

__all__ = ["SpatioTemporalAttentionForPrediction", "SpatioTemporalAttentionPreTrainedModel"]
