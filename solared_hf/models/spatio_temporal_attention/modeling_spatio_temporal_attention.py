"""Spatio-temporal attention forecaster (arXiv 2508.14107): attention over time, then over tiles.

The file imports nothing of the package but its neighbours, because it travels with saved weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .configuration_spatio_temporal_attention import SpatioTemporalAttentionConfig
from .encoder_layer_on_cpu import computed_on_cpu, encode_on_cpu, is_plain_on_cpu


@dataclass
class SpatioTemporalAttentionOutput(ModelOutput):
    r"""
    Output of [`SpatioTemporalAttentionForPrediction`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `future_values` is given):
            Mean squared error over the observed values of `future_values`, in float32.
        prediction_outputs (`torch.FloatTensor` of shape `(batch_size, num_tiles)`):
            Target channel of each tile `horizon_hours` after the last step, in the (normalised) unit of the targets.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned when `output_hidden_states=True`):
            The input of the first layer and the output of every layer, in the layout the layer works in:
            `(batch_size, num_tiles, steps, hidden_size)` up to the last temporal layer and
            `(batch_size, steps, num_tiles, hidden_size)` from the first spatial layer on.
        attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True`):
            Attention probabilities of every layer: `(batch_size, num_tiles, num_heads, steps, steps)` for temporal and
            `(batch_size, steps, num_heads, num_tiles, num_tiles)` for spatial layers.
    """

    loss: torch.FloatTensor | None = None
    prediction_outputs: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def sinusoidal_table(num_positions: int, hidden_size: int, device: torch.device | None = None) -> torch.Tensor:
    """Positional encoding of Vaswani et al. (2017): sines in the even columns, cosines in the odd ones.

    Args:
        num_positions (`int`): Number of rows.
        hidden_size (`int`): Number of columns, even. The wavelengths run from 2 pi to 10000 * 2 pi.
        device (`torch.device`, *optional*): Where to put the table.

    Returns:
        `torch.Tensor` of shape `(num_positions, hidden_size)`, float32 whatever the default dtype.
    """
    positions = torch.arange(num_positions, dtype=torch.float32, device=device)[:, None]
    columns = torch.arange(0, hidden_size, 2, dtype=torch.float32, device=device)
    angles = positions * torch.exp(columns * (-math.log(10000.0) / hidden_size))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class SpatioTemporalAttentionPositions(nn.Module):
    """Adds the sinusoidal encoding along the second last axis; the original has no dropout after it."""

    def __init__(self, config: SpatioTemporalAttentionConfig, num_positions: int):
        super().__init__()
        # Not persistent: it is a formula, not a weight. `_init_weights` computes it again after loading.
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
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention that also returns its probabilities. There is no mask: every position sees every other."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    probabilities = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    probabilities = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


# The two projections have classes of their own because torch's attention initialises them unlike other linear layers.
class SpatioTemporalAttentionInProjection(nn.Linear):
    """Queries, keys and values in one product."""


class SpatioTemporalAttentionOutProjection(nn.Linear):
    """Mixes the heads."""


@computed_on_cpu
class SpatioTemporalAttentionSelfAttention(nn.Module):
    """Self-attention along the second last axis; the leading axes are independent sequences."""

    def __init__(self, config: SpatioTemporalAttentionConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        # Without this, sdpa and flash attention take the module for a decoder and hide later steps.
        self.is_causal = False
        self.qkv_proj = SpatioTemporalAttentionInProjection(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = SpatioTemporalAttentionOutProjection(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        qkv = self.qkv_proj(hidden_states).flatten(0, 1)
        query, key, value = qkv.unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        implementation = self.config._attn_implementation
        is_followed = torch.is_grad_enabled() or torch.jit.is_tracing()
        if implementation == "sdpa" and hidden_states.device.type == "cpu" and is_followed:
            # On a CPU torch's own kernel can be differentiated once only, and only backwards.
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
    """One post-norm encoder layer; computes what `torch.nn.TransformerEncoderLayer` computes with the same weights."""

    def __init__(self, config: SpatioTemporalAttentionConfig):
        super().__init__()
        self.self_attn = SpatioTemporalAttentionSelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        """Map `(batch_size, sequences, length, hidden_size)` to the same shape."""
        if is_plain_on_cpu(self, hidden_states):
            return encode_on_cpu(self, hidden_states)

        attention_output, _ = self.self_attn(hidden_states, **kwargs)
        hidden_states = self.attention_norm(hidden_states + self.dropout(attention_output))

        feed_forward_output = self.fc2(self.dropout(self.activation(self.fc1(hidden_states))))
        return self.feed_forward_norm(hidden_states + self.dropout(feed_forward_output))


class SpatioTemporalAttentionPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of the family."""

    config: SpatioTemporalAttentionConfig
    main_input_name = "past_values"
    input_modalities = ("time",)
    # With `num_items_in_batch` the loss is a part of that of a larger batch. Without it the Trainer divides the mean.
    accepts_loss_kwargs = True
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["SpatioTemporalAttentionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _can_record_outputs: ClassVar[dict[str, type[nn.Module]]] = {
        "hidden_states": SpatioTemporalAttentionLayer,
        "attentions": SpatioTemporalAttentionSelfAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise as `torch.nn.TransformerEncoderLayer` and `torch.nn.Linear` do."""
        if isinstance(module, SpatioTemporalAttentionPositions):
            init.copy_(module.table, sinusoidal_table(*module.table.shape, device=module.table.device))
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

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save weights, configuration and, for `trust_remote_code=True`, this code.

        See [`~transformers.PreTrainedModel.save_pretrained`] for the arguments.
        """
        # A class can be registered under one auto class only; the model is meant to be found under two.
        reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        auto_map = dict.fromkeys(("AutoModel", "AutoModelForTimeSeriesPrediction"), reference)
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **auto_map}
        super().save_pretrained(save_directory, *args, **kwargs)


class SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionPreTrainedModel):
    r"""
    Forecasts the target channel of every tile from the past of all tiles: a linear projection of the channels, encoder
    layers over the steps of each tile, encoder layers over the tiles of each step, the mean over the steps and a
    linear head (arXiv 2508.14107).

    Args:
        config ([`SpatioTemporalAttentionConfig`]): The sizes, and the task the weights are for.

    Example:

    ```python
    >>> import torch
    >>> from solared_hf.models import SpatioTemporalAttentionConfig, SpatioTemporalAttentionForPrediction
    >>> model = SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionConfig(num_temporal_layers=1)).eval()
    >>> model(past_values=torch.zeros(2, 24, 6, 63)).prediction_outputs.shape
    torch.Size([2, 63])

    ```
    """

    def __init__(self, config: SpatioTemporalAttentionConfig):
        super().__init__(config)
        # Fields can be set after the config was built, as `from_pretrained(..., hidden_size=60)` does.
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpatioTemporalAttentionOutput:
        r"""
        Args:
            past_values (`torch.Tensor` of shape `(batch_size, steps, num_channels, num_tiles)`):
                Normalised channels of the past, any floating dtype; 1 to `config.max_position_embeddings` steps.
            past_observed_mask (`torch.BoolTensor` of the shape of `past_values`, *optional*):
                False where a value was not observed. NaN is read as 0 there; what a processor filled in is used.
            future_values (`torch.Tensor` of shape `(batch_size, num_tiles)`, *optional*):
                Normalised target channel `config.horizon_hours` after the last step, NaN where it was not observed;
                asks for the loss.
            return_loss (`bool`, defaults to `True`):
                Whether the loss is computed when a target is given. Its default tells a plain
                [`~transformers.Trainer`] that evaluation has a loss, without `label_names`.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Number of observed target values in the whole batch that this one is a part of, over all accumulation
                steps and processes: the loss is then the sum over the observed values divided by this number.

        Returns:
            [`SpatioTemporalAttentionOutput`], or a plain tuple with `return_dict=False`.

        Raises:
            ValueError: a tensor has the wrong shape, or attentions are asked of an implementation that has none.
        """
        self._check_inputs(past_values, past_observed_mask, future_values)
        if kwargs.get("output_attentions") and self.config._attn_implementation != "eager":
            raise ValueError(
                f"output_attentions=True needs the eager attention, but this model runs "
                f"{self.config._attn_implementation!r}; call model.set_attn_implementation('eager') first."
            )
        if past_observed_mask is not None:
            # What the processor put in the place of a missing value stays: 0 in physical units is not 0 here.
            past_values = past_values.masked_fill(past_values.isnan() & past_observed_mask.logical_not(), 0.0)

        tokens = past_values.permute(0, 3, 1, 2).to(self.dtype)
        hidden_states = self.temporal_positions(self.input_projection(tokens))
        for layer in self.temporal_layers:
            hidden_states = layer(hidden_states, **kwargs)

        # One copy here keeps every product of the spatial layers on contiguous memory.
        hidden_states = self.spatial_positions(hidden_states.transpose(1, 2).contiguous())
        for layer in self.spatial_layers:
            hidden_states = layer(hidden_states, **kwargs)

        predictions = self.prediction_head(hidden_states.mean(dim=1)).squeeze(-1)
        loss = None
        if return_loss and future_values is not None:
            loss = mean_squared_error(predictions, future_values, num_items_in_batch)
        return SpatioTemporalAttentionOutput(loss=loss, prediction_outputs=predictions)

    def _check_inputs(self, past_values, past_observed_mask, future_values):
        channels, tiles, most = self.config.num_channels, self.config.num_tiles, self.config.max_position_embeddings
        if past_values.ndim != 4 or tuple(past_values.shape[2:]) != (channels, tiles):
            raise ValueError(
                f"past_values must have shape (batch_size, steps, {channels} channels, {tiles} tiles), got "
                f"{tuple(past_values.shape)}."
            )
        if not 1 <= past_values.shape[1] <= most:
            raise ValueError(
                f"past_values must have 1 to {most} steps (config.max_position_embeddings), got "
                f"{past_values.shape[1]}; shorten the input or raise max_position_embeddings."
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


# Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.mean_squared_error
def mean_squared_error(
    predictions: torch.Tensor, observed: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Mean squared error over what was observed, in the squared unit of the arguments; 0 if nothing was.

    Args:
        predictions (`torch.Tensor`): Any shape and floating dtype.
        observed (`torch.Tensor`): The same shape, NaN where it was not observed.
        num_items_in_batch (`int` or `torch.Tensor`, *optional*):
            Divides the sum of squared errors in the place of the number of observed values. With the number of all
            observed values of a larger batch, the results of its parts add up to the mean over the whole.

    Returns:
        `torch.Tensor` of shape `()`, float32. Predictions of what was not observed get a gradient of 0.
    """
    missing = observed.isnan()
    errors = (predictions.float() - observed.float()).masked_fill(missing, 0.0)
    if num_items_in_batch is None:
        num_items_in_batch = missing.logical_not().sum()
    return errors.square().sum() / torch.as_tensor(num_items_in_batch, device=errors.device).clamp(min=1)


SpatioTemporalAttentionForPrediction.register_for_auto_class("AutoModel")

__all__ = ["SpatioTemporalAttentionForPrediction", "SpatioTemporalAttentionPreTrainedModel"]
