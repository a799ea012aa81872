"""Spatio-temporal ResNet forecaster (arXiv 2508.14107): torchvision's 3D ResNet-18 over the tiles of a patch.

This file is saved beside the weights and must load without the package, so it imports only its configuration.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.models.video import R3D_18_Weights
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, logging
from transformers.utils.output_capturing import capture_outputs

from .configuration_spatio_temporal_resnet import GRID_COLUMNS, GRID_ROWS, SpatioTemporalResnetConfig

logger = logging.get_logger(__name__)


@dataclass
class SpatioTemporalResnetOutput(ModelOutput):
    r"""
    Output of [`SpatioTemporalResnetForPrediction`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when `future_values` is given):
            Mean squared error over the observed values of `future_values`, in float32.
        prediction_outputs (`torch.Tensor` of shape `(batch_size, num_tiles)`):
            Target channel of each tile `horizon_hours` after the last step, in the (normalised) unit of the targets.
        hidden_states (`tuple(torch.Tensor)`, *optional*, returned when `output_hidden_states=True`):
            The output of the stem and of each of the eight residual blocks, each of shape
            `(batch_size, width, steps, rows, columns)`. Steps, rows and columns halve when the width doubles.
    """

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class SpatioTemporalResnetConv3d(nn.Conv3d):
    """`torch.nn.Conv3d` without the arithmetic on padding, for odd kernels padded by half their length.

    Two pixels of an axis of n pixels are at most n - 1 apart. A kernel that reaches p pixels to either side, with p
    pixels of padding, therefore meets data only with the inner n - 1 weights to either side. The outer weights
    multiply zeros, and their gradient is zero. The weights keep the shapes and names of torchvision.
    """

    padding: tuple[int, ...]

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Convolve `clip` of shape `(batch_size, channels, steps, rows, columns)`."""
        if torch.compiler.is_exporting():
            # An exported network may take any number of steps, and in ONNX the padding cannot depend on the steps.
            return super().forward(clip)
        reach = [min(padding, length - 1) for padding, length in zip(self.padding, clip.shape[2:], strict=True)]
        met = [slice(padding - r, padding + r + 1) for padding, r in zip(self.padding, reach, strict=True)]
        weight = self.weight[:, :, *met]
        if clip.shape[3] > 1:
            return nn.functional.conv3d(clip, weight, self.bias, self.stride, reach)
        # A picture of one row needs only two dimensions, and libraries are best tuned for two.
        rowless = nn.functional.conv2d(clip.squeeze(3), weight.squeeze(3), self.bias, self.stride[::2], reach[::2])
        return rowless.unsqueeze(3)


class SpatioTemporalResnetBlockConv3d(SpatioTemporalResnetConv3d, Conv3DSimple):
    """The convolution of the residual blocks, with the arguments of torchvision's `Conv3DSimple`."""


class SpatioTemporalResnetBlock(BasicBlock):
    """torchvision's residual block, able to recompute its activations in the backward pass.

    The second run changes neither the gradients nor the running means and variances. It does count in
    `num_batches_tracked`, which is not used.
    """

    # `gradient_checkpointing_enable` finds blocks by the first attribute and sets both.
    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Return the input of the next block, from `clip` of shape `(batch_size, width, steps, rows, columns)`."""
        if not (self.gradient_checkpointing and self.training):
            return self.add(clip)
        runs = itertools.count()

        def run(clip: torch.Tensor) -> torch.Tensor:
            with _statistics_held(self) if next(runs) else nullcontext():
                return self.add(clip)

        return self._gradient_checkpointing_func(run, clip)

    def add(self, clip: torch.Tensor) -> torch.Tensor:
        """Return what torchvision's block computes, but not in place, because backward hooks do not allow that."""
        residual = clip if self.downsample is None else self.downsample(clip)
        return self.relu(self.conv2(self.conv1(clip)) + residual)


@contextmanager
def _statistics_held(block: nn.Module) -> Iterator[None]:
    """Keep a batch out of the running means and variances, because the forward pass has added it already."""
    norms = [module for module in block.modules() if isinstance(module, (nn.BatchNorm3d, nn.SyncBatchNorm))]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class SpatioTemporalResnetPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of the family."""

    config: SpatioTemporalResnetConfig
    main_input_name = "past_values"
    input_modalities = "time"
    # The Trainer passes `num_items_in_batch`, so that the losses of accumulated batches add up to one mean.
    accepts_loss_kwargs = True
    supports_gradient_checkpointing = True
    _no_split_modules = ["SpatioTemporalResnetBlock"]
    _can_record_outputs = {"hidden_states": SpatioTemporalResnetBlock}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise as torchvision's video ResNets do."""
        if isinstance(module, nn.Conv3d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm3d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            assert module.running_mean is not None
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)

    # Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.SolaredLstmPreTrainedModel.save_pretrained
    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save the weights, the configuration and the code that `trust_remote_code=True` loads.

        See [`~transformers.PreTrainedModel.save_pretrained`] for the arguments.
        """
        # `register_for_auto_class` takes one auto class, and the model can be loaded with two.
        reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        auto_map = dict.fromkeys(("AutoModel", "AutoModelForTimeSeriesPrediction"), reference)
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **auto_map}
        super().save_pretrained(save_directory, *args, **kwargs)


class SpatioTemporalResnetForPrediction(SpatioTemporalResnetPreTrainedModel):
    r"""
    Forecasts the target channel of each tile with `torchvision.models.video.r3d_18` (Tran et al. 2018, arXiv
    1711.11248). The past of the patch is the clip, the channels are the colours, and the tiles are the pixels (arXiv
    2508.14107).

    Args:
        config ([`SpatioTemporalResnetConfig`]): The layout, and the task.

    Example:

    ```python
    >>> import torch
    >>> from solared_hf.models import SpatioTemporalResnetConfig, SpatioTemporalResnetForPrediction
    >>> config = SpatioTemporalResnetConfig(spatial_layout="grid", input_steps=8)
    >>> model = SpatioTemporalResnetForPrediction(config).eval()
    >>> model(past_values=torch.zeros(2, 8, 6, 63)).prediction_outputs.shape
    torch.Size([2, 63])

    ```
    """

    def __init__(self, config: SpatioTemporalResnetConfig):
        super().__init__(config)
        # `from_pretrained(..., num_tiles=81)` sets fields after the configuration was built.
        config.validate()
        # `r3d_18` with our classes of blocks and convolutions, which have the same names and give the same numbers.
        self.backbone = VideoResNet(
            block=SpatioTemporalResnetBlock,
            conv_makers=4 * [SpatioTemporalResnetBlockConv3d],
            layers=[2, 2, 2, 2],
            stem=BasicStem,
            num_classes=config.num_tiles,
        )
        self.backbone.stem[0] = SpatioTemporalResnetConv3d(
            config.num_channels, 64, kernel_size=(3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False
        )
        for module in self.backbone.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        future_values: torch.Tensor | None = None,
        return_loss: bool = True,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SpatioTemporalResnetOutput:
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
            return_loss (`bool`, defaults to `True`):
                If True, compute the loss when a target is given. The default tells a plain
                [`~transformers.Trainer`] that evaluation has a loss, without `label_names`.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Number of observed target values in the whole batch, over all accumulation steps and processes. The
                loss is then the sum over the observed values divided by this number.
            kwargs:
                `output_hidden_states` and `return_dict`, as in all transformers models.

        Returns:
            [`SpatioTemporalResnetOutput`], or a plain tuple with `return_dict=False`.

        Raises:
            ValueError: If a tensor has the wrong shape, or `output_attentions` is True.
        """
        check_inputs(self.config, past_values, past_observed_mask, future_values)
        if kwargs.get("output_attentions", self.config.output_attentions):
            raise ValueError("spatio_temporal_resnet has no attention weights. Leave out output_attentions.")
        if past_observed_mask is not None:
            # Values that the processor filled in stay, because a physical 0 is not 0 in normalised units.
            past_values = past_values.masked_fill(past_values.isnan() & past_observed_mask.logical_not(), 0.0)

        layout = (GRID_ROWS, GRID_COLUMNS) if self.config.spatial_layout == "grid" else (1, self.config.num_tiles)
        clip = past_values.transpose(1, 2).unflatten(-1, layout).to(self.dtype)
        predictions = self.backbone(clip)
        loss = None
        if return_loss and future_values is not None:
            loss = mean_squared_error(predictions, future_values, num_items_in_batch)
        return SpatioTemporalResnetOutput(loss=loss, prediction_outputs=predictions)


# Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.check_inputs
# with SolaredLstm->SpatioTemporalResnet
def check_inputs(
    config: SpatioTemporalResnetConfig,
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


# Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.mean_squared_error
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


def load_kinetics_weights(
    model: SpatioTemporalResnetForPrediction, weights: Mapping[str, torch.Tensor] | str | os.PathLike | None = None
) -> list[str]:
    """Replace the weights of `model` with weights trained on Kinetics-400 by torchvision, where the shapes agree.

    Call it on a finished model, because building a model initialises its weights.

    Args:
        model (`SpatioTemporalResnetForPrediction`): Changed in place.
        weights (`Mapping[str, torch.Tensor]` or path, *optional*):
            State dict of `r3d_18`, or a file that holds one. If left out, torchvision downloads the weights.

    Returns:
        `list[str]`: The weights of the stem and the head that `model` kept because their shapes differ.

    Raises:
        ValueError: If the weights do not belong to an `r3d_18`.
    """
    if weights is None:
        given = R3D_18_Weights.KINETICS400_V1.get_state_dict(progress=True, check_hash=True)
    elif isinstance(weights, Mapping):
        given = weights
    else:
        given = torch.load(weights, map_location="cpu", weights_only=True)
    own = model.backbone.state_dict()
    kept = [name for name, tensor in own.items() if name not in given or given[name].shape != tensor.shape]
    foreign = [name for name in (*kept, *(given.keys() - own.keys())) if not name.startswith(("stem.0.", "fc."))]
    if foreign:
        raise ValueError(
            f"The weights are not those of torchvision's r3d_18: {sorted(foreign)[0]!r} is missing, unknown or of "
            "another shape. Pass R3D_18_Weights.KINETICS400_V1.get_state_dict()."
        )
    model.backbone.load_state_dict({name: given[name] for name in own if name not in kept}, strict=False)
    return kept


SpatioTemporalResnetForPrediction.register_for_auto_class("AutoModel")

__all__ = ["SpatioTemporalResnetForPrediction", "SpatioTemporalResnetPreTrainedModel", "load_kinetics_weights"]
