"""Configuration of the spatio-temporal attention forecaster."""

from dataclasses import field

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


@strict
class SpatioTemporalAttentionConfig(PreTrainedConfig):
    r"""
    Configuration of [`SpatioTemporalAttentionForPrediction`]. The defaults give the size of the spatio-temporal
    attention baseline of SuryaBench (arXiv 2508.14107).

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
        hidden_size (`int`, *optional*, defaults to 64):
            Width of the hidden states. It must be even and divisible by `num_attention_heads`.
        num_temporal_layers (`int`, *optional*, defaults to 2):
            Number of layers that attend over the steps of one tile.
        num_spatial_layers (`int`, *optional*, defaults to 2):
            Number of layers that attend over the tiles of one step.
        num_attention_heads (`int`, *optional*, defaults to 8):
            Number of attention heads of each layer.
        intermediate_size (`int`, *optional*, defaults to 256):
            Width inside the feed-forward part of each layer.
        hidden_act (`str`, *optional*, defaults to `"relu"`):
            Activation of the feed-forward part.
        dropout (`float`, *optional*, defaults to 0.1):
            Dropout of the attention output, of the activations and of the feed-forward output.
        attention_dropout (`float`, *optional*, defaults to 0.1):
            Dropout of the attention probabilities.
        layer_norm_eps (`float`, *optional*, defaults to 1e-05):
            Epsilon of the layer normalisations.
        max_position_embeddings (`int`, *optional*, defaults to 1024):
            Largest number of steps that the model accepts. The positions are computed, not learned, so a larger number
            costs nothing.

    Raises:
        huggingface_hub.errors.StrictDataclassError: If a field has the wrong type or two fields contradict each other.

    Example:

    ```python
    >>> from solared_hf.models import SpatioTemporalAttentionConfig
    >>> config = SpatioTemporalAttentionConfig(input_channels=["unsigned_magnetic_flux", "continuum_intensity"])
    >>> config.num_channels, config.target_channel, config.horizon_hours
    (2, 'continuum_intensity', 12.0)

    ```
    """

    model_type = "spatio_temporal_attention"

    input_channels: list[str] | tuple[str, ...] = field(default_factory=lambda: list(CHANNELS))
    target_channel: str = "continuum_intensity"
    input_steps: int = 120
    horizon_hours: float | int = 12.0
    num_tiles: int = 63
    hidden_size: int = 64
    num_temporal_layers: int = 2
    num_spatial_layers: int = 2
    num_attention_heads: int = 8
    intermediate_size: int = 256
    hidden_act: str = "relu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 1024

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

    def validate_hidden_size(self):
        """Raise a ValueError unless the hidden size is even and divisible by the number of heads."""
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}. "
                "Choose a number of heads that divides it."
            )
        if self.hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} is odd, but the positional encoding pairs a sine with a cosine. "
                "Choose an even hidden_size."
            )

    def validate_steps(self):
        """Raise a ValueError unless the model accepts `input_steps` steps, and the target comes after the input."""
        if not 1 <= self.input_steps <= self.max_position_embeddings:
            raise ValueError(
                f"input_steps={self.input_steps} must lie between 1 and "
                f"max_position_embeddings={self.max_position_embeddings}. Raise max_position_embeddings or shorten "
                "the input."
            )
        if not 0 < self.horizon_hours < float("inf"):  # Also True for NaN.
            raise ValueError(
                f"horizon_hours={self.horizon_hours} must be positive and finite, because the target comes after the "
                "input."
            )


SpatioTemporalAttentionConfig.register_for_auto_class()

__all__ = ["SpatioTemporalAttentionConfig"]
