"""Configuration of the toy family."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class ToyFamilyConfig(PreTrainedConfig):
    """Configuration of [`ToyFamilyForPrediction`], with the fields that every family has."""

    model_type = "toy_family"

    input_channels: list[str] = field(default_factory=lambda: ["continuum_intensity"])
    target_channel: str = "continuum_intensity"
    input_steps: int = 6
    horizon_hours: float | int = 12.0


ToyFamilyConfig.register_for_auto_class()
