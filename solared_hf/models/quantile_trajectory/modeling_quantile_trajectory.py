"""Quantile trajectory forecaster: the change of each tile's intensity from its last value, with quantiles.

This file is saved beside the weights and must load without the package, so it imports only its configuration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple, logging

from .configuration_quantile_trajectory import QuantileTrajectoryConfig

logger = logging.get_logger(__name__)

# Standardised features are clamped to this many standard deviations.
_MOST_DEVIATIONS = 8.0


@dataclass
class QuantileTrajectoryOutput(ModelOutput):
    r"""
    Output of [`QuantileTrajectoryForPrediction`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when a target is given):
            Squared error divided by the spread of the forecast, plus the pinball loss of the quantiles (Koenker and
            Bassett 1978, Econometrica 46, 33), in float32.
        prediction_outputs (`torch.Tensor` of shape `(batch_size, num_tiles)`):
            Expected target channel of each tile `horizon_hours` after the last step, in the (normalised) unit of the
            targets.
        trajectory_outputs (`torch.Tensor` of shape `(batch_size, forecast_steps, num_tiles)`):
            Expected target channel 1, 2, ... steps after the last step. `prediction_outputs` is the step at the
            horizon.
        quantile_outputs (`torch.Tensor` of shape `(batch_size, forecast_steps, levels, num_tiles)`):
            Quantiles of the target channel at the levels of `config.quantile_levels`. They never cross.
    """

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None
    trajectory_outputs: torch.Tensor | None = None
    quantile_outputs: torch.Tensor | None = None


class QuantileTrajectoryFeatures(nn.Module):
    """The features that the members see: the mean over each piece of the past, and the difference of "now" from it.

    Each channel is shifted so that a physical 0 is 0, and divided by its typical magnitude. Each feature comes twice:
    compressed by the inverse hyperbolic sine, because spots and strong flux are hundreds of times the quiet Sun, and
    linear, so that large changes can continue in proportion. All features are standardised by the means and variances
    of the training data.
    """

    def __init__(self, config: QuantileTrajectoryConfig):
        super().__init__()
        self.edges = config.lag_steps
        # Plain numbers, because buffers would be rounded with the weights in half precision.
        assert config.input_zero is not None
        assert config.input_scale is not None
        self.zero, self.scale = list(config.input_zero), list(config.input_scale)
        self.grid = (config.num_tile_rows, config.num_tile_columns)
        # "Now", and the differences of "now" from the last step and from each earlier piece, compressed and linear.
        self.num_features = 2 * config.num_channels * (1 + len(self.edges))
        # Without momentum, the statistics are means over the whole training and not over its last steps.
        self.standardise = nn.BatchNorm2d(self.num_features, momentum=None, affine=False)

    def forward(self, past_values: torch.Tensor) -> torch.Tensor:
        """Return `(batch, features, rows, columns)` from normalised values `(batch, steps, channels, tiles)`."""
        zero, scale = (past_values.new_tensor(numbers)[:, None] for numbers in (self.zero, self.scale))
        values = (past_values - zero) / scale
        # A piece that begins before the input is the mean of the steps it has, or the first step if it has none.
        pieces, start = [], 0
        for edge in self.edges:
            first = max(values.shape[1] - edge, 0)
            last = max(values.shape[1] - start, first + 1)
            pieces.append(values[:, first:last].mean(dim=1))
            start = edge
        now = pieces[0]
        features = torch.stack([now, now - values[:, -1], *(now - piece for piece in pieces[1:])], dim=1)
        features = torch.cat([features.asinh(), features], dim=1).flatten(1, 2).unflatten(2, self.grid)
        # Clamped, because features far outside the training data would give wild forecasts.
        assert self.standardise.running_mean is not None
        features = features.to(self.standardise.running_mean.dtype)
        return self.standardise(features).clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)


class QuantileTrajectoryBlock(nn.Module):
    """A residual convolution over the grid of tiles."""

    def __init__(self, config: QuantileTrajectoryConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.neighbours = nn.Conv2d(config.hidden_size, config.hidden_size, 3, padding=1)
        self.mix = nn.Conv2d(config.hidden_size, config.hidden_size, 1)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(batch, hidden_size, rows, columns)` to the same shape."""
        # Each tile is normalised on its own, because other tiles say nothing about its scale.
        normalised = self.norm(hidden_states.movedim(1, -1)).movedim(-1, 1)
        update = self.mix(nn.functional.gelu(self.neighbours(normalised)))
        return hidden_states + self.dropout(update)


class QuantileTrajectoryMember(nn.Module):
    """One network of the ensemble: from features to changes in units of the target's typical magnitude."""

    def __init__(self, config: QuantileTrajectoryConfig, num_features: int):
        super().__init__()
        assert config.forecast_steps is not None
        self.num_levels = len(config.quantile_levels)
        self.forecast_steps = config.forecast_steps
        # A linear path beside the hidden features, for trends that continue.
        self.linear = nn.Conv2d(num_features, config.num_modes, 1)
        self.seen_by_neighbours = nn.Conv2d(num_features, config.num_neighbour_features, 1)
        self.neighbours = nn.Conv2d(config.num_neighbour_features, config.hidden_size, 3, padding=1)
        self.own = nn.Conv2d(num_features, config.hidden_size, 1)
        self.position = nn.Parameter(torch.empty(config.hidden_size, config.num_tile_rows, config.num_tile_columns))
        self.dropout = nn.Dropout(config.dropout)
        self.mix = nn.Conv2d(config.hidden_size, config.hidden_size, 1)
        self.blocks = nn.ModuleList(QuantileTrajectoryBlock(config) for _ in range(config.num_layers))
        self.modes = nn.Conv2d(config.hidden_size, config.num_modes, 1)
        self.spread_modes = nn.Conv2d(config.hidden_size, config.num_modes, 1)
        self.trajectory = nn.Linear(config.num_modes, config.forecast_steps, bias=False)
        self.spread = nn.Linear(config.num_modes, config.forecast_steps * self.num_levels)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return expected changes `(batch, steps, rows, columns)` and raw spreads.

        The raw spreads have the shape `(batch, steps, levels, rows, columns)`.
        """
        neighbours = self.neighbours(self.seen_by_neighbours(features))
        hidden_states = self.dropout(nn.functional.gelu(self.own(features) + neighbours + self.position))
        hidden_states = hidden_states + self.dropout(nn.functional.gelu(self.mix(hidden_states)))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        modes = (self.modes(hidden_states) + self.linear(features)).movedim(1, -1)
        spreads = self.spread(self.spread_modes(hidden_states).movedim(1, -1))
        spreads = spreads.unflatten(-1, (self.forecast_steps, self.num_levels))
        return self.trajectory(modes).movedim(-1, 1), spreads.movedim((-2, -1), (1, 2))


class QuantileTrajectoryPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of the family."""

    config: QuantileTrajectoryConfig
    main_input_name = "past_values"
    input_modalities = "time"
    # The Trainer passes `num_items_in_batch`, so that the losses of accumulated batches add up to one mean.
    accepts_loss_kwargs = True
    # Half precision would round the statistics of the features.
    _keep_in_fp32_modules_strict = {"standardise"}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise layers as torch does, except that an untrained model forecasts persistence."""
        if isinstance(module, QuantileTrajectoryMember):
            init.zeros_(module.position)
            for weight in (*module.modes.parameters(), *module.linear.parameters()):
                init.zeros_(weight)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
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


class QuantileTrajectoryForPrediction(QuantileTrajectoryPreTrainedModel):
    r"""
    Forecasts the target channel of each tile at each step up to `config.forecast_steps` ahead, with quantiles. A
    forecast is the last observed value plus a change. The change is the mean over several small networks. They see
    means of all channels over pieces of the past, of the tile and of its neighbours.

    An untrained model forecasts persistence.

    Args:
        config ([`QuantileTrajectoryConfig`]): The sizes of the network, and the task.

    Example:

    ```python
    >>> import torch
    >>> from solared_hf.models import QuantileTrajectoryConfig, QuantileTrajectoryForPrediction
    >>> model = QuantileTrajectoryForPrediction(QuantileTrajectoryConfig(num_members=2, input_steps=96)).eval()
    >>> output = model(past_values=torch.zeros(2, 96, 6, 63))
    >>> output.prediction_outputs.shape, output.trajectory_outputs.shape, output.quantile_outputs.shape
    (torch.Size([2, 63]), torch.Size([2, 24, 63]), torch.Size([2, 24, 5, 63]))

    ```
    """

    def __init__(self, config: QuantileTrajectoryConfig):
        super().__init__(config)
        # `from_pretrained(..., horizon_hours=6)` sets fields after the configuration was built.
        config.validate()
        self.features = QuantileTrajectoryFeatures(config)
        self.members = nn.ModuleList(
            QuantileTrajectoryMember(config, self.features.num_features) for _ in range(config.num_members)
        )
        self.target = config.input_channels.index(config.target_channel)
        self.median = config.quantile_levels.index(0.5)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        future_values: torch.Tensor | None = None,
        future_trajectory: torch.Tensor | None = None,
        return_loss: bool = True,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> QuantileTrajectoryOutput:
        r"""
        Args:
            past_values (`torch.Tensor` of shape `(batch_size, steps, num_channels, num_tiles)`):
                Normalised channels of the past, in any floating dtype. Any number of steps from 1 works; the model
                warns once if there are fewer than `config.input_steps`. The latest `config.lag_hours[-1]` hours are
                used.
            past_observed_mask (`torch.BoolTensor` of the shape of `past_values`, *optional*):
                False where a value was not observed. There, the latest observed value before it is read, or a
                physical 0 if there is none. A value that the processor filled in is not used.
            future_values (`torch.Tensor` of shape `(batch_size, num_tiles)`, *optional*):
                Normalised target channel `config.horizon_hours` after the last step. If given, the loss is computed.
                NaN means not observed and does not count in the loss.
            future_trajectory (`torch.Tensor` of shape `(batch_size, forecast_steps, num_tiles)`, *optional*):
                Normalised target channel at each step after the last one, with NaN where it was not observed. If
                given, the loss is over all these steps, and `future_values` is ignored.
            return_loss (`bool`, defaults to `True`):
                If True, compute the loss when a target is given. The default tells a plain
                [`~transformers.Trainer`] that evaluation has a loss, without `label_names`.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Number of observed target values in the whole batch, over all accumulation steps and processes. The
                loss is then the sum over the observed values divided by this number.
            kwargs:
                `return_dict`, as in all transformers models.

        Returns:
            [`QuantileTrajectoryOutput`], or a plain tuple with `return_dict=False`.

        Raises:
            ValueError: If a tensor has the wrong shape, or `output_attentions` is True.
        """
        check_inputs(self.config, past_values, past_observed_mask, future_values)
        check_trajectory(self.config, past_values, future_trajectory)
        if kwargs.get("output_attentions", self.config.output_attentions):
            raise ValueError("quantile_trajectory has no attention weights. Leave out output_attentions.")
        # The values and the forecast are float32, because half precision would round away small changes.
        past_values = past_values[:, -self.features.edges[-1] :].float()
        if past_observed_mask is not None:
            observed = past_observed_mask[:, -self.features.edges[-1] :].bool()
            past_values = self._hold_last_observed(past_values, observed)
        features, restore = self._vary(self.features(past_values))
        features = features.to(self.dtype)

        member_changes, member_spreads = [], []
        for member in self.members:
            change, spread = member(features)
            member_changes.append(restore(change))
            member_spreads.append(restore(spread))
        # (members, batch, steps, tiles) and (members, batch, steps, levels, tiles), in typical magnitudes.
        changes = torch.stack(member_changes).flatten(-2).float()
        offsets = self._around_median(torch.stack(member_spreads).flatten(-2).float())
        quantiles = changes.detach().unsqueeze(-2) + offsets

        assert self.config.input_scale is not None
        scale = self.config.input_scale[self.target]
        last = past_values[:, -1, self.target]
        loss = None
        if return_loss and future_trajectory is not None:
            observed_change = (future_trajectory.float() - last[:, None]) / scale
            loss = self._loss(changes, quantiles, observed_change, num_items_in_batch)
        elif return_loss and future_values is not None:
            at_horizon = slice(self.config.horizon_steps - 1, self.config.horizon_steps)
            observed_change = (future_values.float() - last)[:, None] / scale
            at_target = (changes[:, :, at_horizon], quantiles[:, :, at_horizon])
            loss = self._loss(*at_target, observed_change, num_items_in_batch)
        trajectories = last[:, None] + changes.mean(0) * scale
        return QuantileTrajectoryOutput(
            loss=loss,
            prediction_outputs=trajectories[:, self.config.horizon_steps - 1],
            trajectory_outputs=trajectories,
            quantile_outputs=last[:, None, None] + quantiles.mean(0) * scale,
        )

    def _hold_last_observed(self, past_values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Replace each value that was not observed with the latest observed value before it."""
        # The observed values of a series move to slots 1, 2, ... Slot 0 is for steps before the first observed value.
        # A cumulative maximum would be shorter, but ONNX has none.
        latest = observed.cumsum(dim=1)
        slots = torch.cat([past_values[:, :1], past_values], dim=1)
        slots = slots.scatter(1, torch.where(observed, latest, 0), past_values)[:, 1:]
        unseen = past_values.new_tensor(self.config.input_zero)[:, None].expand_as(past_values[:, :1])
        return torch.cat([unseen, slots], dim=1).gather(1, latest)

    def _vary(self, features: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Return varied features, and a function that maps a forecast back to the original patch.

        In training, add noise, drop features, and mirror and shift the patch. In evaluation, change nothing.
        """
        if not self.training:
            return features, lambda forecast: forecast
        noisy = features + torch.randn_like(features) * self.config.input_noise
        noisy = nn.functional.dropout2d(noisy, self.config.input_dropout)
        most = self.config.max_shift
        shift = torch.randint(-most, most + 1, (2,)).tolist()
        mirror = [-2] if torch.rand(()) < 0.5 else []
        varied = noisy.flip(mirror).roll(shift, (-2, -1))
        return varied, lambda forecast: forecast.roll([-shift[0], -shift[1]], (-2, -1)).flip(mirror)

    def _around_median(self, raw: torch.Tensor) -> torch.Tensor:
        """Return offsets of the quantiles that increase with the level, along the last axis but one."""
        below, median, above = raw.split([self.median, 1, raw.shape[-2] - self.median - 1], dim=-2)
        above = nn.functional.softplus(above).cumsum(-2)
        below = nn.functional.softplus(below).flip(-2).cumsum(-2).flip(-2)
        return torch.cat([median - below, median, median + above], dim=-2)

    def _loss(
        self,
        changes: torch.Tensor,
        quantiles: torch.Tensor,
        observed_change: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the squared error divided by the forecast spread, plus the pinball loss, over the observed values.

        Dividing by the spread weights tiles alike, as a mean over tiles of root mean squared errors does. Otherwise
        the few tiles with spots would outweigh all others. The spread gets no gradient from the squared error, so the
        forecast is still the expected value.
        """
        missing = observed_change.isnan()
        errors = (observed_change - changes).masked_fill(missing, 0.0)
        spread = (quantiles[..., -1, :] - quantiles[..., 0, :]).detach()
        pinball_errors = (observed_change.unsqueeze(-2) - quantiles).masked_fill(missing.unsqueeze(-2), 0.0)
        levels = torch.tensor(self.config.quantile_levels, device=errors.device)[:, None]
        pinball = torch.maximum(levels * pinball_errors, (levels - 1) * pinball_errors).sum(-2)
        loss = (errors.square() / (spread + 0.1) + pinball).sum()
        if num_items_in_batch is None:
            num_items_in_batch = missing.logical_not().sum()
        observed = torch.as_tensor(num_items_in_batch, device=errors.device).clamp(min=1)
        return loss / (observed * len(changes))


# Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.check_inputs
# with SolaredLstm->QuantileTrajectory
def check_inputs(
    config: QuantileTrajectoryConfig,
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


# Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.check_trajectory
# with SolaredLstm->QuantileTrajectory
def check_trajectory(
    config: QuantileTrajectoryConfig, past_values: torch.Tensor, future_trajectory: torch.Tensor | None
) -> None:
    """Check the shape of the trajectory that `forward` is given.

    Raises:
        ValueError: If the trajectory has the wrong shape.
    """
    size, steps, tiles = past_values.shape[0], config.forecast_steps, config.num_tiles
    if future_trajectory is not None and tuple(future_trajectory.shape) != (size, steps, tiles):
        raise ValueError(
            f"future_trajectory must have shape (batch_size, forecast_steps, tiles) = ({size}, {steps}, {tiles}), got "
            f"{tuple(future_trajectory.shape)}."
        )


QuantileTrajectoryForPrediction.register_for_auto_class("AutoModel")

__all__ = ["QuantileTrajectoryForPrediction", "QuantileTrajectoryPreTrainedModel"]
