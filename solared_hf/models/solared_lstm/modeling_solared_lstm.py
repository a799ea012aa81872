"""Encoder-decoder LSTM forecaster (Kasapis et al., arXiv 2409.17421): each tile on its own, many steps ahead.

This file is saved beside the weights and must load without the package, so it imports only its configuration.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple, logging

from .configuration_solared_lstm import SolaredLstmConfig

logger = logging.get_logger(__name__)


@dataclass
class SolaredLstmOutput(ModelOutput):
    r"""
    Output of [`SolaredLstmForPrediction`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when a target is given):
            Mean squared error over the observed values of `future_trajectory`, or of `future_values` if there is no
            trajectory, in float32.
        prediction_outputs (`torch.Tensor` of shape `(batch_size, num_tiles)`):
            Target channel of each tile `horizon_hours` after the last step, in the (normalised) unit of the targets.
        trajectory_outputs (`torch.Tensor` of shape `(batch_size, forecast_steps, num_tiles)`):
            Target channel of each tile 1, 2, ... steps after the last step. `prediction_outputs` is the step at the
            horizon.
        hidden_states (`tuple(torch.Tensor)`, *optional*, returned when `output_hidden_states=True`):
            The output of the last encoder layer, `(batch_size, num_tiles, steps, hidden_size)`, and the output of the
            last decoder layer, `(batch_size, num_tiles, forecast_steps, hidden_size)`.
    """

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None
    trajectory_outputs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class SolaredLstmPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of the family."""

    config: SolaredLstmConfig
    main_input_name = "past_values"
    input_modalities = "time"
    # The Trainer passes `num_items_in_batch`, so that the losses of accumulated batches add up to one mean.
    accepts_loss_kwargs = True
    _no_split_modules = ["LSTM"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise as `torch.nn.LSTM` and `torch.nn.Linear` do. Both use the same rule here."""
        if isinstance(module, nn.LSTM | nn.Linear):
            bound = self.config.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save the weights, the configuration and the code that `trust_remote_code=True` loads.

        See [`~transformers.PreTrainedModel.save_pretrained`] for the arguments.
        """
        # `register_for_auto_class` takes one auto class, and the model can be loaded with two.
        reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        auto_map = dict.fromkeys(("AutoModel", "AutoModelForTimeSeriesPrediction"), reference)
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **auto_map}
        super().save_pretrained(save_directory, *args, **kwargs)


class SolaredLstmForPrediction(SolaredLstmPreTrainedModel):
    r"""
    Forecasts the target channel of each tile from the past of the same tile (arXiv 2409.17421). An encoder LSTM reads
    the steps. A decoder LSTM starts from the encoder's state and takes its own last output as the next input. A linear
    head turns each output of the decoder into a value.

    The decoder sees no observed values, so the target channel need not be an input.

    Args:
        config ([`SolaredLstmConfig`]): The sizes of the network, and the task.

    Example:

    ```python
    >>> import torch
    >>> from solared_hf.models import SolaredLstmConfig, SolaredLstmForPrediction
    >>> model = SolaredLstmForPrediction(SolaredLstmConfig(num_layers=1, input_steps=48)).eval()
    >>> output = model(past_values=torch.zeros(2, 48, 6, 63))
    >>> output.prediction_outputs.shape, output.trajectory_outputs.shape
    (torch.Size([2, 63]), torch.Size([2, 24, 63]))

    ```
    """

    def __init__(self, config: SolaredLstmConfig):
        super().__init__(config)
        # `from_pretrained(..., horizon_hours=6)` sets fields after the configuration was built.
        config.validate()
        self.encoder = nn.LSTM(config.num_channels, config.hidden_size, config.num_layers, dropout=config.dropout)
        self.decoder = nn.LSTM(config.hidden_size, config.hidden_size, config.num_layers, dropout=config.dropout)
        self.prediction_head = nn.Linear(config.hidden_size, 1)
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
    ) -> SolaredLstmOutput:
        r"""
        Args:
            past_values (`torch.Tensor` of shape `(batch_size, steps, num_channels, num_tiles)`):
                Normalised channels of the past, in any floating dtype. Any number of steps from 1 works; the model
                warns once if there are fewer than `config.input_steps`.
            past_observed_mask (`torch.BoolTensor` of the shape of `past_values`, *optional*):
                False where a value was not observed. There, NaN is read as 0, and a value that the processor filled
                in is used.
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
                `output_hidden_states` and `return_dict`, as in all transformers models.

        Returns:
            [`SolaredLstmOutput`], or a plain tuple with `return_dict=False`.

        Raises:
            ValueError: If a tensor has the wrong shape, or `output_attentions` is True.
        """
        check_inputs(self.config, past_values, past_observed_mask, future_values)
        check_trajectory(self.config, past_values, future_trajectory)
        if kwargs.get("output_attentions", self.config.output_attentions):
            raise ValueError("solared_lstm has no attention weights. Leave out output_attentions.")
        if past_observed_mask is not None:
            # Values that the processor filled in stay, because a physical 0 is not 0 in normalised units.
            past_values = past_values.masked_fill(past_values.isnan() & past_observed_mask.logical_not(), 0.0)

        # Each tile is one sequence, and the steps are the first axis, as `torch.nn.LSTM` expects.
        sequences = past_values.permute(1, 0, 3, 2).flatten(1, 2).to(self.dtype)
        # torch cannot run an LSTM under autocast on a CPU, so autocast is off there.
        is_on_cpu = sequences.device.type == "cpu"
        with torch.autocast("cpu", enabled=False) if is_on_cpu else nullcontext():
            encoded, state = run_lstm(self.encoder, sequences)
            decoded = self._unroll(state)

        by_tile = (-1, self.config.num_tiles)
        trajectories = self.prediction_head(decoded).squeeze(-1).unflatten(1, by_tile).transpose(0, 1)
        predictions = trajectories[:, self.config.horizon_steps - 1]
        loss = None
        if return_loss and future_trajectory is not None:
            loss = mean_squared_error(trajectories, future_trajectory, num_items_in_batch)
        elif return_loss and future_values is not None:
            loss = mean_squared_error(predictions, future_values, num_items_in_batch)
        hidden_states = None
        if kwargs.get("output_hidden_states", self.config.output_hidden_states):
            hidden_states = tuple(states.unflatten(1, by_tile).permute(1, 2, 0, 3) for states in (encoded, decoded))
        return SolaredLstmOutput(
            loss=loss, prediction_outputs=predictions, trajectory_outputs=trajectories, hidden_states=hidden_states
        )

    def _unroll(self, state: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return the decoder's outputs, `(forecast_steps, sequences, hidden_size)`, from the encoder's state."""
        output = torch.zeros_like(state[0][:1])
        outputs = []
        for _ in range(self.config.forecast_steps):
            output, state = run_lstm(self.decoder, output, state)
            outputs.append(output)
        return torch.cat(outputs)


def check_inputs(
    config: SolaredLstmConfig,
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


def check_trajectory(
    config: SolaredLstmConfig, past_values: torch.Tensor, future_trajectory: torch.Tensor | None
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


def run_lstm(
    lstm: nn.LSTM, sequences: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Run an LSTM, also under the transforms of `torch.func` and with forward-mode derivatives.

    torch's LSTM kernels support neither, so the steps are then computed one by one.

    Args:
        lstm (`torch.nn.LSTM`): One direction, with biases, steps before batch.
        sequences (`torch.Tensor` of shape `(steps, sequences, input_size)`): The input.
        state (`tuple(torch.Tensor)`, *optional*): Hidden and cell state `(num_layers, sequences, hidden_size)`.

    Returns:
        The output of the last layer, `(steps, sequences, hidden_size)`, and the hidden and cell state.
    """
    if not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0:
        return lstm(sequences, state)
    zeros = sequences.new_zeros(lstm.num_layers, sequences.shape[1], lstm.hidden_size)
    last_hidden, last_cell = [], []
    for layer, (hidden, cell) in enumerate(zip(*(state or (zeros, zeros)), strict=True)):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        input_weight, weight, *biases = (getattr(lstm, f"{name}_l{layer}") for name in names)
        outputs = []
        for step in nn.functional.linear(sequences, input_weight, sum(biases)).unbind(0):
            into, forget, new, out = (step + hidden @ weight.t()).chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            outputs.append(hidden)
        sequences = torch.stack(outputs)
        if layer + 1 < lstm.num_layers:
            sequences = nn.functional.dropout(sequences, lstm.dropout, lstm.training)
        last_hidden.append(hidden)
        last_cell.append(cell)
    return sequences, (torch.stack(last_hidden), torch.stack(last_cell))


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


SolaredLstmForPrediction.register_for_auto_class("AutoModel")

__all__ = ["SolaredLstmForPrediction", "SolaredLstmPreTrainedModel"]
