"""Configuration of the encoder-decoder LSTM forecaster."""

import math
from dataclasses import field
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# This file is saved beside the weights and must load without the package, so the names are repeated here.
CHANNELS = (
    "power_2_3mhz",
    "power_3_4mhz",
    "power_4_5mhz",
    "power_5_6mhz",
    "unsigned_magnetic_flux",
    "continuum_intensity",
)


@strict
class SolaredLstmConfig(PreTrainedConfig):
    r"""
    Configuration of [`SolaredLstmForPrediction`]. The defaults give the size of the LSTM of Kasapis et al. (arXiv
    2409.17421), with trajectories of 24 instead of 12 steps.

    Args:
        input_channels (`list[str]`, *optional*, defaults to all six channels in vocabulary order):
            Names of the channels of `past_values`, in order. `config.num_channels` is their number.
        target_channel (`str`, *optional*, defaults to `"continuum_intensity"`):
            Name of the channel that the model forecasts. It need not be an input.
        input_steps (`int`, *optional*, defaults to 120):
            Number of steps that the model is trained on, and that windows have. The model accepts any number of steps,
            and warns once if there are fewer.
        horizon_hours (`float`, *optional*, defaults to 12.0):
            Time from the last input step to the target, in hours: a whole number of steps, `config.horizon_steps`.
        step_hours (`float`, *optional*, defaults to 1.0):
            Spacing of the steps, in hours.
        forecast_steps (`int`, *optional*, defaults to 24):
            Number of steps after the last input step that the model forecasts.
        num_tiles (`int`, *optional*, defaults to 63):
            Number of tiles of a patch. The weights do not depend on it.
        hidden_size (`int`, *optional*, defaults to 64):
            Width of the hidden states of encoder and decoder.
        num_layers (`int`, *optional*, defaults to 3):
            Number of layers of the encoder, and of the decoder.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout of the output of each layer except the last, in encoder and decoder.

    Raises:
        huggingface_hub.errors.StrictDataclassError: If a field has the wrong type or two fields contradict each other.

    Example:

    ```python
    >>> from solared_hf.models import SolaredLstmConfig
    >>> config = SolaredLstmConfig(horizon_hours=6, step_hours=0.5)
    >>> config.num_channels, config.horizon_steps, config.forecast_steps
    (6, 12, 24)

    ```
    """

    model_type = "solared_lstm"
    # The Trainer evaluates the forecast at the horizon only, so it must not gather whole trajectories.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["trajectory_outputs"]

    input_channels: list[str] | tuple[str, ...] = field(default_factory=lambda: list(CHANNELS))
    target_channel: str = "continuum_intensity"
    input_steps: int = 120
    horizon_hours: float | int = 12.0
    step_hours: float | int = 1.0
    forecast_steps: int = 24
    num_tiles: int = 63
    hidden_size: int = 64
    num_layers: int = 3
    dropout: float | int = 0.0

    def __post_init__(self, **kwargs):
        # A saved configuration is read back with lists and floats, and a new one must be equal to it.
        self.input_channels = list(self.input_channels)
        self.horizon_hours = float(self.horizon_hours)
        self.step_hours = float(self.step_hours)
        num_channels = kwargs.pop("num_channels", self.num_channels)
        if num_channels != self.num_channels:
            raise ValueError(
                f"num_channels={num_channels} contradicts the {self.num_channels} names in input_channels. Leave out "
                "num_channels and pass input_channels with one name per channel."
            )
        super().__post_init__(**kwargs)

    @property
    def num_channels(self) -> int:
        """Number of channels of `past_values`."""
        return len(self.input_channels)

    @property
    def horizon_steps(self) -> int:
        """Number of steps from the last input step to the target."""
        return round(self.horizon_hours / self.step_hours)

    def validate_channels(self):
        """Raise a ValueError unless at least one input channel is named, and each only once."""
        if not self.input_channels or len(set(self.input_channels)) != len(self.input_channels):
            raise ValueError(
                f"input_channels is {self.input_channels}, but it must name at least one channel and each only once. "
                "Remove the duplicates."
            )

    def validate_layers(self):
        """Raise a ValueError unless the sizes are positive, and dropout has two layers to lie between."""
        if self.hidden_size < 1 or self.num_layers < 1:
            raise ValueError(f"hidden_size={self.hidden_size} and num_layers={self.num_layers} must be at least 1.")
        if self.dropout and self.num_layers == 1:
            raise ValueError(
                f"dropout={self.dropout} acts between layers, but num_layers is 1. Add a layer or leave dropout at 0."
            )

    def validate_steps(self):
        """Raise a ValueError unless there is an input, and the trajectory has a step at the horizon."""
        if self.input_steps < 1:
            raise ValueError(f"input_steps={self.input_steps} must be at least 1.")
        # These comparisons are also False for NaN.
        if not (0 < self.horizon_hours < float("inf") and 0 < self.step_hours < float("inf")):
            raise ValueError(
                f"horizon_hours={self.horizon_hours} and step_hours={self.step_hours} must be positive and finite, "
                "because the target comes after the input."
            )
        steps = self.horizon_hours / self.step_hours
        if self.horizon_steps < 1 or not math.isclose(steps, self.horizon_steps):
            raise ValueError(
                f"horizon_hours={self.horizon_hours} must be a whole number of steps of {self.step_hours} h. Choose "
                "another horizon."
            )
        if self.forecast_steps is None or self.horizon_steps > self.forecast_steps:
            raise ValueError(
                f"horizon_hours={self.horizon_hours} is {self.horizon_steps} steps of {self.step_hours} h ahead, but "
                f"forecast_steps is {self.forecast_steps}. Choose a shorter horizon, or raise forecast_steps to "
                f"{self.horizon_steps} or more: `forecast_steps={self.horizon_steps}` in Python, "
                f"`--model_config '{{\"forecast_steps\": {self.horizon_steps}}}'` for `solared train`."
            )


SolaredLstmConfig.register_for_auto_class()

__all__ = ["SolaredLstmConfig"]
