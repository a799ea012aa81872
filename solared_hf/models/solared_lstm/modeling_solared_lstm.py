"""Encoder-decoder LSTM forecaster (Kasapis et al., arXiv 2409.17421): every tile by itself, many steps ahead.

The file imports nothing of the package but its own configuration, because it travels with saved weights.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.autograd import forward_ad
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_solared_lstm import SolaredLstmConfig


@dataclass
class SolaredLstmOutput(ModelOutput):
    r"""
    Output of [`SolaredLstmForPrediction`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when a target is given):
            Mean squared error over the observed values of `future_trajectory`, or of `future_values` where there is
            no trajectory, in float32.
        prediction_outputs (`torch.FloatTensor` of shape `(batch_size, num_tiles)`):
            Target channel of each tile `horizon_hours` after the last step, in the (normalised) unit of the targets.
        trajectory_outputs (`torch.FloatTensor` of shape `(batch_size, forecast_steps, num_tiles)`):
            Target channel of each tile 1, 2, ... steps after the last step; `prediction_outputs` is one of them.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned when `output_hidden_states=True`):
            The output of the encoder's last layer, `(batch_size, num_tiles, steps, hidden_size)`, and that of the
            decoder's, `(batch_size, num_tiles, forecast_steps, hidden_size)`.
    """

    loss: torch.FloatTensor | None = None
    prediction_outputs: torch.FloatTensor | None = None
    trajectory_outputs: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class SolaredLstmPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of the family."""

    config: SolaredLstmConfig
    main_input_name = "past_values"
    input_modalities = ("time",)
    # With `num_items_in_batch` the loss is a part of that of a larger batch. Without it the Trainer divides the mean.
    accepts_loss_kwargs = True
    _no_split_modules: ClassVar[list[str]] = ["LSTM"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise as `torch.nn.LSTM` and `torch.nn.Linear` do, which share their rule here."""
        if isinstance(module, nn.LSTM | nn.Linear):
            bound = self.config.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save weights, configuration and, for `trust_remote_code=True`, this code.

        See [`~transformers.PreTrainedModel.save_pretrained`] for the arguments.
        """
        # A class can be registered under one auto class only; the model is meant to be found under two.
        reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        auto_map = dict.fromkeys(("AutoModel", "AutoModelForTimeSeriesPrediction"), reference)
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **auto_map}
        super().save_pretrained(save_directory, *args, **kwargs)


class SolaredLstmForPrediction(SolaredLstmPreTrainedModel):
    r"""
    Forecasts the target channel of every tile from the past of the same tile: an encoder LSTM reads the steps, a
    decoder LSTM goes on from its state, fed with its own last output, and a linear head reads a value off each of its
    steps (arXiv 2409.17421).

    Nothing observed enters the decoder, so the target channel need not be among the inputs.

    Args:
        config ([`SolaredLstmConfig`]): The sizes, and the task the weights are for.

    Example:

    ```python
    >>> import torch
    >>> from solared_hf.models import SolaredLstmConfig
    >>> from solared_hf.models import SolaredLstmForPrediction
    >>> model = SolaredLstmForPrediction(SolaredLstmConfig(num_layers=1)).eval()
    >>> output = model(past_values=torch.zeros(2, 48, 6, 63))
    >>> output.prediction_outputs.shape, output.trajectory_outputs.shape
    (torch.Size([2, 63]), torch.Size([2, 24, 63]))

    ```
    """

    def __init__(self, config: SolaredLstmConfig):
        super().__init__(config)
        # Fields can be set after the config was built, as `from_pretrained(..., horizon_hours=6)` does.
        config.validate()
        layers = {"num_layers": config.num_layers, "dropout": config.dropout}
        self.encoder = nn.LSTM(config.num_channels, config.hidden_size, **layers)
        self.decoder = nn.LSTM(config.hidden_size, config.hidden_size, **layers)
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> SolaredLstmOutput:
        r"""
        Args:
            past_values (`torch.Tensor` of shape `(batch_size, steps, num_channels, num_tiles)`):
                Normalised channels of the past, any floating dtype; at least one step.
            past_observed_mask (`torch.BoolTensor` of the shape of `past_values`, *optional*):
                False where a value was not observed. NaN is read as 0 there; what a processor filled in is used.
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
            [`SolaredLstmOutput`], or a plain tuple with `return_dict=False`.

        Raises:
            ValueError: a tensor has the wrong shape, or attentions are asked of a network that has none.
        """
        self._check_inputs(past_values, past_observed_mask, future_values, future_trajectory)
        if kwargs.get("output_attentions"):
            raise ValueError("output_attentions=True has no meaning for a recurrent network; leave it out.")
        if past_observed_mask is not None:
            # What the processor put in the place of a missing value stays: 0 in physical units is not 0 here.
            past_values = past_values.masked_fill(past_values.isnan() & past_observed_mask.logical_not(), 0.0)

        # Every tile is a sequence; the steps come first, as the LSTMs work through them.
        sequences = past_values.permute(1, 0, 3, 2).flatten(1, 2).to(self.dtype)
        # On a CPU, torch cannot run an LSTM under autocast: there it works in the dtype of its weights.
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
        """`(forecast_steps, sequences, hidden_size)`: the decoder's output at each step, from the encoder's state."""
        output = torch.zeros_like(state[0][:1])
        outputs = []
        for _ in range(self.config.forecast_steps):
            output, state = run_lstm(self.decoder, output, state)
            outputs.append(output)
        return torch.cat(outputs)

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


def run_lstm(
    lstm: nn.LSTM, sequences: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Return what an LSTM returns, also under the transforms of `torch.func` and with derivatives forwards.

    torch's own kernels know neither, so that the steps are then computed one by one.

    Args:
        lstm (`torch.nn.LSTM`): One direction, with biases, steps before batch.
        sequences (`torch.Tensor` of shape `(steps, sequences, input_size)`): Its input.
        state (`tuple(torch.Tensor)`, *optional*): Hidden and cell state `(num_layers, sequences, hidden_size)`.
    """
    if not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0:
        return lstm(sequences, state)
    zeros = sequences.new_zeros(lstm.num_layers, sequences.shape[1], lstm.hidden_size)
    last = []
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
        last.append((hidden, cell))
    return sequences, tuple(torch.stack(states) for states in zip(*last, strict=True))


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


SolaredLstmForPrediction.register_for_auto_class("AutoModel")

__all__ = ["SolaredLstmForPrediction", "SolaredLstmPreTrainedModel"]
