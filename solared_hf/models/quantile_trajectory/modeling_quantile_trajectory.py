"""Quantile trajectory forecaster: how the intensity of every tile will go on from its last value, and how surely.

The file imports nothing of the package but its own configuration, because it travels with saved weights.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_quantile_trajectory import QuantileTrajectoryConfig

_MOST_DEVIATIONS = 8.0


@dataclass
class QuantileTrajectoryOutput(ModelOutput):
    r"""
    Output of [`QuantileTrajectoryForPrediction`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when a target is given):
            Squared error in units of the forecast's own spread, plus the pinball loss of the quantiles (Koenker and
            Bassett 1978, Econometrica 46, 33), in float32.
        prediction_outputs (`torch.FloatTensor` of shape `(batch_size, num_tiles)`):
            Expected target channel of each tile `horizon_hours` after the last step, in the (normalised) unit of the
            targets.
        trajectory_outputs (`torch.FloatTensor` of shape `(batch_size, forecast_steps, num_tiles)`):
            Expected target channel 1, 2, ... steps after the last step; `prediction_outputs` is one of them.
        quantile_outputs (`torch.FloatTensor` of shape `(batch_size, forecast_steps, levels, num_tiles)`):
            Quantiles of the target channel at the levels of `config.quantile_levels`, which never cross.
    """

    loss: torch.FloatTensor | None = None
    prediction_outputs: torch.FloatTensor | None = None
    trajectory_outputs: torch.FloatTensor | None = None
    quantile_outputs: torch.FloatTensor | None = None


class QuantileTrajectoryFeatures(nn.Module):
    """What the members see of the past: means over pieces of it, and how "now" differs from them.

    Every channel is taken about 0 in units of its typical magnitude. Differences and levels are compressed by the
    inverse hyperbolic sine, for spots and strong flux are hundreds of times the quiet Sun; and kept as they are, so
    that large changes can be carried on in proportion. All are standardised by what was seen in
    training.
    """

    def __init__(self, config: QuantileTrajectoryConfig):
        super().__init__()
        self.edges = config.lag_steps
        # Plain numbers: as buffers they would be rounded with the weights in half precision.
        self.zero, self.scale = list(config.input_zero), list(config.input_scale)
        self.grid = (config.num_tile_rows, config.num_tile_columns)
        # The last step, "now", and now against the last step and every piece before: compressed and linear.
        self.num_features = 2 * config.num_channels * (1 + len(self.edges))
        # The mean over the whole training, rather than over its last steps.
        self.standardise = nn.BatchNorm2d(self.num_features, momentum=None, affine=False)

    def forward(self, past_values: torch.Tensor) -> torch.Tensor:
        """`(batch, features, rows, columns)` from normalised values `(batch, steps, channels, tiles)`."""
        zero, scale = (past_values.new_tensor(of_channels)[:, None] for of_channels in (self.zero, self.scale))
        values = (past_values - zero) / scale
        # A piece that the input does not fill is what there is of it, and the first step where there is nothing.
        pieces, start = [], 0
        for edge in self.edges:
            first = max(values.shape[1] - edge, 0)
            last = max(values.shape[1] - start, first + 1)
            pieces.append(values[:, first:last].mean(dim=1))
            start = edge
        now = pieces[0]
        features = torch.stack([now, now - values[:, -1], *(now - piece for piece in pieces[1:])], dim=1)
        features = torch.cat([features.asinh(), features], dim=1).flatten(1, 2).unflatten(2, self.grid)
        # Compressed or not, what lies far beyond everything seen shall not lead the networks astray.
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
        # Each tile by itself: what a patch does elsewhere says nothing of the scale here.
        normalised = self.norm(hidden_states.movedim(1, -1)).movedim(-1, 1)
        update = self.mix(nn.functional.gelu(self.neighbours(normalised)))
        return hidden_states + self.dropout(update)


class QuantileTrajectoryMember(nn.Module):
    """One network of the ensemble, from features to changes in units of the target's typical magnitude."""

    def __init__(self, config: QuantileTrajectoryConfig, num_features: int):
        super().__init__()
        self.num_levels = len(config.quantile_levels)
        self.forecast_steps = config.forecast_steps
        # A linear path, for trends that simply go on, beside the hidden features.
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
        """Expected changes `(batch, steps, rows, columns)`, raw spreads `(batch, steps, levels, rows, columns)`."""
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
    input_modalities = ("time",)
    # With `num_items_in_batch` the loss is a part of that of a larger batch. Without it the Trainer divides the mean.
    accepts_loss_kwargs = True
    # Statistics of the features, which half precision would round.
    _keep_in_fp32_modules_strict: ClassVar[set[str]] = {"standardise"}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise layers as torch does, but so that an untrained model forecasts persistence."""
        if isinstance(module, QuantileTrajectoryMember):
            init.zeros_(module.position)
            for layer in (module.modes, module.linear):
                init.zeros_(layer.weight)
                init.zeros_(layer.bias)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.BatchNorm2d):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
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


class QuantileTrajectoryForPrediction(QuantileTrajectoryPreTrainedModel):
    r"""
    Forecasts the target channel of every tile at every step up to `config.forecast_steps` ahead, with quantiles, as
    the last observed value plus a change. The change comes from means of all channels over pieces of the past, of the
    tile and of its neighbours; several small networks are averaged.

    An untrained model forecasts persistence.

    Args:
        config ([`QuantileTrajectoryConfig`]): The sizes, and the task the weights are for.

    Example:

    ```python
    >>> import torch
    >>> from solared_hf.models import QuantileTrajectoryConfig, QuantileTrajectoryForPrediction
    >>> model = QuantileTrajectoryForPrediction(QuantileTrajectoryConfig(num_members=2)).eval()
    >>> output = model(past_values=torch.zeros(2, 96, 6, 63))
    >>> output.prediction_outputs.shape, output.trajectory_outputs.shape, output.quantile_outputs.shape
    (torch.Size([2, 63]), torch.Size([2, 24, 63]), torch.Size([2, 24, 5, 63]))

    ```
    """

    def __init__(self, config: QuantileTrajectoryConfig):
        super().__init__(config)
        # Fields can be set after the config was built, as `from_pretrained(..., horizon_hours=6)` does.
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuantileTrajectoryOutput:
        r"""
        Args:
            past_values (`torch.Tensor` of shape `(batch_size, steps, num_channels, num_tiles)`):
                Normalised channels of the past, any floating dtype; at least one step.
            past_observed_mask (`torch.BoolTensor` of the shape of `past_values`, *optional*):
                False where a value was not observed: the latest observed value before it is read there, and 0 in
                physical units where there is none. What a processor filled in is not used.
            future_values (`torch.Tensor` of shape `(batch_size, num_tiles)`, *optional*):
                Normalised target channel `config.horizon_hours` after the last step, NaN where it was not observed;
                asks for the loss.
            future_trajectory (`torch.Tensor` of shape `(batch_size, forecast_steps, num_tiles)`, *optional*):
                Normalised target channel at each of the steps after the last one, NaN where it was not observed; the
                loss is then that of all these steps, and `future_values` has no part in it.
            return_loss (`bool`, defaults to `True`):
                Whether the loss is computed when a target is given. Its default tells a plain
                [`~transformers.Trainer`] that evaluation has a loss, without `label_names`.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Number of observed target values in the whole batch that this one is a part of, over all accumulation
                steps and processes: the loss is then the sum over the observed values divided by this number.

        Returns:
            [`QuantileTrajectoryOutput`], or a plain tuple with `return_dict=False`.

        Raises:
            ValueError: a tensor has the wrong shape.
        """
        self._check_inputs(past_values, past_observed_mask, future_values, future_trajectory)
        # Sums of forecast and change lose minutes of the forecast in half precision, so it is float32 throughout.
        past_values = past_values[:, -self.features.edges[-1] :].float()
        if past_observed_mask is not None:
            observed = past_observed_mask[:, -self.features.edges[-1] :].bool()
            past_values = self._hold_last_observed(past_values, observed)
        features, restore = self._vary(self.features(past_values))
        features = features.to(self.dtype)

        changes, offsets = [], []
        for member in self.members:
            change, spread = member(features)
            changes.append(restore(change))
            offsets.append(restore(spread))
        # (members, batch, steps, tiles) and (members, batch, steps, levels, tiles), in typical magnitudes.
        changes = torch.stack(changes).flatten(-2).float()
        offsets = self._around_median(torch.stack(offsets).flatten(-2).float())
        quantiles = changes.detach().unsqueeze(-2) + offsets

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
        """Values with the latest observed one in the place of what was not observed."""
        # The observed values of a series are moved to slots 1, 2, ...; slot 0 is for what comes before the first one.
        # (ONNX knows no cumulative maximum, by which this would be shorter.)
        latest = observed.cumsum(dim=1)
        slots = torch.cat([past_values[:, :1], past_values], dim=1)
        slots = slots.scatter(1, torch.where(observed, latest, 0), past_values)[:, 1:]
        unseen = past_values.new_tensor(self.config.input_zero)[:, None].expand_as(past_values[:, :1])
        return torch.cat([unseen, slots], dim=1).gather(1, latest)

    def _vary(self, features: torch.Tensor):
        """In training: noise, missing features, a mirrored and shifted patch, and the way back for its forecast."""
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
        """Offsets of the quantiles that rise with the level, along the last axis but one."""
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
        """Squared error in units of the forecast's own spread, plus the pinball loss, over what was observed.

        An error counts against the spread that was forecast for it, as it does in a mean over tiles of root mean
        squared errors: otherwise the few tiles with spots would outweigh all others. The spread depends on the input
        alone and gets no gradient from here, so that the forecast is still the expected value.
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

    def _check_inputs(self, past_values, past_observed_mask, future_values, future_trajectory):
        channels, steps, tiles = self.config.num_channels, self.config.forecast_steps, self.config.num_tiles
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
        if future_trajectory is not None and tuple(future_trajectory.shape) != (past_values.shape[0], steps, tiles):
            raise ValueError(
                f"future_trajectory must have shape (batch_size, forecast_steps, tiles) = ({past_values.shape[0]}, "
                f"{steps}, {tiles}), got {tuple(future_trajectory.shape)}."
            )


QuantileTrajectoryForPrediction.register_for_auto_class("AutoModel")

__all__ = ["QuantileTrajectoryForPrediction", "QuantileTrajectoryPreTrainedModel"]
