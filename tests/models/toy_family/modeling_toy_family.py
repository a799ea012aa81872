"""Model of the toy family."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_toy_family import ToyFamilyConfig


@dataclass
class ToyFamilyOutput(ModelOutput):
    """Output of [`ToyFamilyForPrediction`]."""

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None


class ToyFamilyForPrediction(PreTrainedModel):
    """Forecast each tile by a linear function of its channels at the last input step."""

    config: ToyFamilyConfig
    config_class = ToyFamilyConfig
    main_input_name = "past_values"
    accepts_loss_kwargs = False

    def __init__(self, config: ToyFamilyConfig):
        super().__init__(config)
        self.head = nn.Linear(len(config.input_channels), 1)
        self.post_init()

    def forward(self, past_values, past_observed_mask=None, future_values=None, return_loss=True, **kwargs):
        predictions = self.head(past_values[:, -1].transpose(1, 2)).squeeze(-1)
        loss = None
        if return_loss and future_values is not None:
            loss = (predictions - future_values)[~future_values.isnan()].square().mean()
        return ToyFamilyOutput(loss=loss, prediction_outputs=predictions)


ToyFamilyForPrediction.register_for_auto_class("AutoModel")
