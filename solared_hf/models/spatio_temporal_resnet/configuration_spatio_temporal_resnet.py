"""Configuration of the spatio-temporal ResNet forecaster."""

from dataclasses import field
from typing import Literal

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
GRID_ROWS, GRID_COLUMNS = 7, 9


@strict
class SpatioTemporalResnetConfig(PreTrainedConfig):
    r"""
    Configuration of [`SpatioTemporalResnetForPrediction`]. The network is torchvision's `r3d_18` (Tran et al. 2018),
    with fixed widths and depths. The defaults give the ST-ResNet baseline of SuryaBench (arXiv 2508.14107).

    Args:
        input_channels (`list[str]`, *optional*, defaults to all six channels in vocabulary order):
            Names of the channels of `past_values`, in order. `config.num_channels` is their number.
        target_channel (`str`, *optional*, defaults to `"continuum_intensity"`):
            Name of the channel that the model forecasts. It need not be an input.
        input_steps (`int`, *optional*, defaults to 120):
            Number of steps that the model is trained on, and that windows have. The model warns once if it gets fewer.
        horizon_hours (`float`, *optional*, defaults to 12.0):
            Time from the last input step to the target, in hours.
        num_tiles (`int`, *optional*, defaults to 63):
            Number of tiles of a patch.
        spatial_layout (`str`, *optional*, defaults to `"flat"`):
            `"flat"` arranges the tiles as a picture of 1 x `num_tiles` pixels, as published. `"grid"` arranges the
            tiles as 7 x 9 pixels, so that neighbours on the Sun are neighbours in the picture.

    Raises:
        huggingface_hub.errors.StrictDataclassError: If a field has the wrong type or two fields contradict each other.

    Example:

    ```python
    >>> from solared_hf.models import SpatioTemporalResnetConfig
    >>> SpatioTemporalResnetConfig(spatial_layout="grid").num_channels
    6

    ```
    """

    model_type = "spatio_temporal_resnet"

    input_channels: list[str] | tuple[str, ...] = field(default_factory=lambda: list(CHANNELS))
    target_channel: str = "continuum_intensity"
    input_steps: int = 120
    horizon_hours: float | int = 12.0
    num_tiles: int = GRID_ROWS * GRID_COLUMNS
    spatial_layout: Literal["flat", "grid"] = "flat"

    # Copied from solared_hf.models.spatio_temporal_attention.configuration_spatio_temporal_attention.SpatioTemporalAttentionConfig.__post_init__  # noqa: E501
    def __post_init__(self, **kwargs):
        # A saved configuration is read back with lists and floats, and a new one must be equal to it.
        self.input_channels = list(self.input_channels)
        self.horizon_hours = float(self.horizon_hours)
        num_channels = kwargs.pop("num_channels", self.num_channels)
        if num_channels != self.num_channels:
            raise ValueError(
                f"num_channels={num_channels} contradicts the {self.num_channels} names in input_channels. Leave out "
                "num_channels and pass input_channels with one name per channel."
            )
        super().__post_init__(**kwargs)

    # Copied from solared_hf.models.solared_lstm.configuration_solared_lstm.SolaredLstmConfig.num_channels
    @property
    def num_channels(self) -> int:
        """Number of channels of `past_values`."""
        return len(self.input_channels)

    # Copied from solared_hf.models.solared_lstm.configuration_solared_lstm.SolaredLstmConfig.validate_channels
    def validate_channels(self):
        """Raise a ValueError unless at least one input channel is named, and each only once."""
        if not self.input_channels or len(set(self.input_channels)) != len(self.input_channels):
            raise ValueError(
                f"input_channels is {self.input_channels}, but it must name at least one channel and each only once. "
                "Remove the duplicates."
            )

    def validate_layout(self):
        """Raise a ValueError unless the tiles fill the grid."""
        if self.spatial_layout == "grid" and self.num_tiles != GRID_ROWS * GRID_COLUMNS:
            raise ValueError(
                f"spatial_layout='grid' has {GRID_ROWS} x {GRID_COLUMNS} tiles, but num_tiles={self.num_tiles}. "
                "Choose spatial_layout='flat'."
            )

    def validate_steps(self):
        """Raise a ValueError unless there is an input, and the target comes after it."""
        if self.input_steps < 1:
            raise ValueError(f"input_steps={self.input_steps} must be at least 1.")
        if not 0 < self.horizon_hours < float("inf"):  # Also True for NaN.
            raise ValueError(
                f"horizon_hours={self.horizon_hours} must be positive and finite, because the target comes after the "
                "input."
            )


SpatioTemporalResnetConfig.register_for_auto_class()

__all__ = ["SpatioTemporalResnetConfig"]
