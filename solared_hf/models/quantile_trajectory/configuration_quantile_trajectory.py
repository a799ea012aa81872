"""Configuration of the quantile trajectory forecaster."""

import math
from dataclasses import field
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# This file is saved beside the weights and must load without the package, so the names are repeated here.
# Copied from solared_hf.models.solared_lstm.configuration_solared_lstm.CHANNELS
CHANNELS = (
    "power_2_3mhz",
    "power_3_4mhz",
    "power_4_5mhz",
    "power_5_6mhz",
    "unsigned_magnetic_flux",
    "continuum_intensity",
)

LAG_HOURS = (3, 6, 9, 12, 18, 24, 36, 72)
FORECAST_HOURS = 24


@strict
class QuantileTrajectoryConfig(PreTrainedConfig):
    r"""
    Configuration of [`QuantileTrajectoryForPrediction`].

    Args:
        input_channels (`list[str]`, *optional*, defaults to all six channels in vocabulary order):
            Names of the channels of `past_values`, in order. The target channel must be an input, because the model
            forecasts the change from its latest value.
        target_channel (`str`, *optional*, defaults to `"continuum_intensity"`):
            Name of the channel that the model forecasts.
        input_zero (`list[float]`, *optional*, defaults to zeros):
            Value of a physical 0 in the (normalised) unit of `past_values`, one for each channel.
        input_scale (`list[float]`, *optional*, defaults to ones):
            Typical magnitude of each channel in the unit of `past_values`, at which inputs turn from linear to
            logarithmic.
        input_steps (`int`, *optional*, defaults to 120):
            Number of steps that the model is trained on, and that windows have. The model accepts any number of steps,
            and warns once if there are fewer. It uses the latest `lag_hours[-1]` hours.
        horizon_hours (`float`, *optional*, defaults to 12.0):
            Time from the last input step to the target, in hours: a whole number of steps, `config.horizon_steps`.
        step_hours (`float`, *optional*, defaults to 1.0):
            Spacing of the steps, in hours.
        forecast_steps (`int`, *optional*, defaults to the steps of 24 h):
            Number of steps after the last input step that the model forecasts.
        quantile_levels (`list[float]`, *optional*, defaults to `[0.1, 0.25, 0.5, 0.75, 0.9]`):
            Levels of the quantiles: increasing, between 0 and 1, and including the median, 0.5.
        lag_hours (`list[float]`, *optional*, defaults to `[3, 6, 9, 12, 18, 24, 36, 72]`):
            Hours before the end of the input at which the past is cut into pieces, each rounded to a step, see
            `config.lag_steps`. The model sees the mean of each piece. The first piece is "now". Older saved
            configurations hold `lag_edges` instead, the same in steps, which is still read.
        num_tile_rows (`int`, *optional*, defaults to 7), num_tile_columns (`int`, *optional*, defaults to 9):
            The grid of tiles, numbered row by row.
        num_members (`int`, *optional*, defaults to 8):
            Number of networks. The forecast is the mean over the networks.
        hidden_size (`int`, *optional*, defaults to 48):
            Width of each network.
        num_neighbour_features (`int`, *optional*, defaults to 16):
            Number of features of a tile that its neighbours see.
        num_layers (`int`, *optional*, defaults to 1):
            Number of residual 3 x 3 convolutions over the grid.
        num_modes (`int`, *optional*, defaults to 12):
            Number of shapes in time that a trajectory is composed of.
        dropout (`float`, *optional*, defaults to 0.2):
            Dropout of hidden features in training.
        input_noise (`float`, *optional*, defaults to 0.2):
            Standard deviation of the noise added to the standardised features in training.
        input_dropout (`float`, *optional*, defaults to 0.05):
            Share of the features that are dropped in all tiles in training.
        max_shift (`int`, *optional*, defaults to 2):
            Largest shift of the patch in training, in tiles. Tiles that leave the patch come back on the other side.
            The patch is also mirrored between north and south. Forecasts then do not depend on the place in the patch
            where a region emerged.

    Raises:
        huggingface_hub.errors.StrictDataclassError: If a field has the wrong type or two fields contradict each other.

    Example:

    ```python
    >>> from solared_hf.models import QuantileTrajectoryConfig
    >>> config = QuantileTrajectoryConfig(horizon_hours=6, step_hours=0.2)
    >>> config.num_channels, config.num_tiles, config.horizon_steps, config.forecast_steps
    (6, 63, 30, 120)
    >>> config.lag_steps
    [15, 30, 45, 60, 90, 120, 180, 360]

    ```
    """

    model_type = "quantile_trajectory"
    # The Trainer evaluates the forecast at the horizon only, so it must not gather whole trajectories.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["trajectory_outputs", "quantile_outputs"]

    input_channels: list[str] | tuple[str, ...] = field(default_factory=lambda: list(CHANNELS))
    target_channel: str = "continuum_intensity"
    input_zero: list[float] | None = None
    input_scale: list[float] | None = None
    input_steps: int = 120
    horizon_hours: float | int = 12.0
    step_hours: float | int = 1.0
    forecast_steps: int | None = None
    quantile_levels: list[float] = field(default_factory=lambda: [0.1, 0.25, 0.5, 0.75, 0.9])
    lag_hours: list[float | int] | None = None
    num_tile_rows: int = 7
    num_tile_columns: int = 9
    num_members: int = 8
    hidden_size: int = 48
    num_neighbour_features: int = 16
    num_layers: int = 1
    num_modes: int = 12
    dropout: float | int = 0.2
    input_noise: float | int = 0.2
    input_dropout: float | int = 0.05
    max_shift: int = 2

    def __post_init__(self, **kwargs):
        # A saved configuration is read back with lists and floats, and a new one must be equal to it.
        self.input_channels = list(self.input_channels)
        self.horizon_hours = float(self.horizon_hours)
        self.step_hours = float(self.step_hours)
        self.input_zero = [0.0] * self.num_channels if self.input_zero is None else self.input_zero
        self.input_scale = [1.0] * self.num_channels if self.input_scale is None else self.input_scale
        if self.forecast_steps is None and self.step_hours > 0:
            self.forecast_steps = max(round(FORECAST_HOURS / self.step_hours), 1)
        self._set_lags(kwargs.pop("lag_edges", None))
        num_channels = kwargs.pop("num_channels", self.num_channels)
        if num_channels != self.num_channels:
            raise ValueError(
                f"num_channels={num_channels} contradicts the {self.num_channels} names in input_channels. Leave out "
                "num_channels and pass input_channels with one name per channel."
            )
        super().__post_init__(**kwargs)

    def _set_lags(self, lag_edges: list[int] | None):
        """Fill in `lag_hours`, from `lag_edges` in steps if an older configuration holds them."""
        if lag_edges is not None:
            lag_hours = [edge * self.step_hours for edge in lag_edges]
            if self.lag_hours not in (None, lag_hours):
                raise ValueError(
                    f"lag_edges={lag_edges} steps of {self.step_hours} h contradict lag_hours={self.lag_hours}. Leave "
                    "out lag_edges."
                )
            self.lag_hours = lag_hours
        self.lag_hours = list(map(float, LAG_HOURS if self.lag_hours is None else self.lag_hours))

    # Copied from solared_hf.models.solared_lstm.configuration_solared_lstm.SolaredLstmConfig.num_channels
    @property
    def num_channels(self) -> int:
        """Number of channels of `past_values`."""
        return len(self.input_channels)

    @property
    def num_tiles(self) -> int:
        """Number of tiles of a patch."""
        return self.num_tile_rows * self.num_tile_columns

    # Copied from solared_hf.models.solared_lstm.configuration_solared_lstm.SolaredLstmConfig.horizon_steps
    @property
    def horizon_steps(self) -> int:
        """Number of steps from the last input step to the target."""
        return round(self.horizon_hours / self.step_hours)

    @property
    def lag_steps(self) -> list[int]:
        """`lag_hours` rounded to steps before the end of the input. Hours that round to the same step count once."""
        assert self.lag_hours is not None
        return sorted({max(round(hours / self.step_hours), 1) for hours in self.lag_hours})

    def validate_channels(self):
        """Raise a ValueError unless each input is named once, the target is an input, and the scales are usable."""
        if len(set(self.input_channels)) != len(self.input_channels):
            raise ValueError(
                f"input_channels is {self.input_channels}, but it must name each channel only once. Remove the "
                "duplicates."
            )
        if self.target_channel not in self.input_channels:
            raise ValueError(
                f"This model forecasts the change of {self.target_channel}, but input_channels is "
                f"{self.input_channels}. Add the target channel to input_channels."
            )
        assert self.input_zero is not None
        assert self.input_scale is not None
        lengths = {len(self.input_zero), len(self.input_scale), self.num_channels}
        finite = all(map(math.isfinite, [*self.input_zero, *self.input_scale]))
        if len(lengths) > 1 or not finite or min(self.input_scale) <= 0:
            raise ValueError(
                f"input_zero={self.input_zero} and input_scale={self.input_scale} need one finite value for each of "
                f"the {self.num_channels} input channels, the scales above 0."
            )

    def validate_sizes(self):
        """Raise a ValueError unless all sizes and probabilities are possible."""
        sizes = ("num_members", "hidden_size", "num_neighbour_features", "num_modes", "num_tile_rows")
        for name in (*sizes, "num_tile_columns"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("num_layers", "input_noise", "max_shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative.")
        if not (0 <= self.dropout < 1 and 0 <= self.input_dropout < 1):
            raise ValueError(
                f"dropout={self.dropout} and input_dropout={self.input_dropout} must be at least 0 and below 1."
            )

    def validate_quantile_levels(self):
        """Raise a ValueError unless the levels increase and include the median."""
        levels = self.quantile_levels
        if 0.5 not in levels or sorted(set(levels)) != levels or not 0 < levels[0] <= levels[-1] < 1:
            raise ValueError(
                f"quantile_levels={levels} must increase, lie between 0 and 1, and include the median, 0.5."
            )

    def validate_lag_hours(self):
        """Raise a ValueError unless the hours increase."""
        hours = self.lag_hours
        # The comparisons are also False for NaN and infinity.
        if not hours or sorted(set(hours)) != hours or not 0 < hours[0] <= hours[-1] < float("inf"):
            raise ValueError(
                f"lag_hours={hours} must be increasing numbers of hours above 0, such as {list(LAG_HOURS)}."
            )

    # Copied from solared_hf.models.solared_lstm.configuration_solared_lstm.SolaredLstmConfig.validate_steps
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


QuantileTrajectoryConfig.register_for_auto_class()

__all__ = ["QuantileTrajectoryConfig"]
