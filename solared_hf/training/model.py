"""Build the model and the processor that a training starts with."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForTimeSeriesPrediction, PreTrainedConfig, PreTrainedModel

from solared_hf.data.loading import DatasetIdentity
from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError
from solared_hf.schema import CHANNELS
from solared_hf.training.arguments import DataArguments, ModelArguments


def build_model(model: ModelArguments, data: DataArguments, fitted: Mapping[str, object]) -> PreTrainedModel:
    """Return the model that the arguments describe, with fresh weights.

    Args:
        model: The family and the fields of its configuration.
        data: The task.
        fitted: Fields that follow from the data (`fitted_fields`). A family uses the fields that it has.

    Raises:
        SolaredError: If the family or a field is unknown, or a field has an impossible value.
    """
    task = {
        "input_channels": list(data.input_channels),
        "input_steps": data.input_steps,
        "horizon_hours": data.horizon_hours,
    }
    for field_name in (task.keys() | fitted.keys()) & model.config_fields.keys():
        raise SolaredError(
            f"{field_name} is a separate argument, or follows from the data. Remove {field_name} from model_config."
        )
    try:
        config = AutoConfig.for_model(model.model_type)
        given = _known_fields(model, config)
        following = {name: fitted[name] for name in _field_names(config) if name in fitted}
        return AutoModelForTimeSeriesPrediction.from_config(type(config)(**{**task, **following, **given}))
    except (OSError, StrictDataclassError, ValueError) as error:
        raise SolaredError(f"The model could not be built: {error}") from error


def fit_processor(data: DataArguments, regions: list[Timeline], identity: DatasetIdentity) -> SolaredProcessor:
    """Return a processor with the normalisation of the train split.

    Raises:
        SolaredError: If the regions have several cadences, or an argument does not suit them.
    """
    cadences = {timeline.cadence for timeline in regions if len(timeline) > 1}
    if len(cadences) != 1:
        raise SolaredError(
            f"The train split has steps every {' and '.join(map(str, sorted(cadences)))}. Train on one cadence."
        )
    try:
        return SolaredProcessor.fit(
            (timeline.values for timeline in regions),
            CHANNELS,
            input_channels=data.input_channels,
            input_steps=data.input_steps,
            horizon_hours=data.horizon_hours,
            cadence_minutes=cadences.pop() / timedelta(minutes=1),
            nan_policy=data.nan_policy,
            fitted_on={
                **identity,
                "split": "train",
                "regions": [timeline.ar_number for timeline in regions],
            },
        )
    except ValueError as error:
        raise SolaredError(str(error)) from error


def fitted_fields(processor: SolaredProcessor, regions: list[Timeline]) -> dict[str, object]:
    """Return configuration fields that follow from the train split, in the normalised units of the processor.

    `step_hours` is the cadence. `input_zero` is the normalised value of a physical 0. `input_scale` is the median
    magnitude of each input channel where the channel is not 0: the median over regions, because a few regions have
    spots and strong flux.
    """
    channels = [CHANNELS.index(channel) for channel in processor.input_channels]
    magnitudes = []
    for values in (timeline.values[:, channels] for timeline in regions):
        # A 0 means that nothing was observed in the published files, and that there is no flux in simulated ones.
        magnitudes.append(np.nanmedian(np.where(values == 0, np.nan, np.abs(values)), axis=(0, 2)))
    physical = np.stack([np.zeros(len(channels)), np.nanmedian(magnitudes, axis=0)])[..., None]
    zero, magnitude = processor.normalise(physical, processor.input_channels)[..., 0].astype(float)
    assert processor.cadence_minutes is not None
    return {
        "step_hours": processor.cadence_minutes / 60,
        "input_zero": zero.tolist(),
        "input_scale": (magnitude - zero).tolist(),
    }


def _known_fields(model: ModelArguments, config: PreTrainedConfig) -> dict:
    """Return the given configuration fields; a transformers configuration silently accepts unknown fields."""
    known = _field_names(config)
    unknown = sorted(set(model.config_fields) - known)
    if unknown:
        own = sorted(known - _field_names(PreTrainedConfig))
        raise SolaredError(f"{model.model_type} has no field {', '.join(unknown)}. The fields are {', '.join(own)}.")
    return model.config_fields


def _field_names(config: PreTrainedConfig | type[PreTrainedConfig]) -> set[str]:
    return {field.name for field in fields(config)}
