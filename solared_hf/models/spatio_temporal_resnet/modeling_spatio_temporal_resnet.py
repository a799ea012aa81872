"""Spatio-temporal ResNet forecaster (arXiv 2508.14107): torchvision's 3D ResNet-18 over the tiles of a patch.

The file imports nothing of the package but its own configuration, because it travels with saved weights.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torchvision.models.video import R3D_18_Weights
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .configuration_spatio_temporal_resnet import GRID_COLUMNS, GRID_ROWS, SpatioTemporalResnetConfig


@dataclass
class SpatioTemporalResnetOutput(ModelOutput):
    r"""
    Output of [`SpatioTemporalResnetForPrediction`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `future_values` is given):
            Mean squared error over the observed values of `future_values`, in float32.
        prediction_outputs (`torch.FloatTensor` of shape `(batch_size, num_tiles)`):
            Target channel of each tile `horizon_hours` after the last step, in the (normalised) unit of the targets.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned when `output_hidden_states=True`):
            The output of the stem and of each of the eight residual blocks, each of shape
            `(batch_size, width, steps, rows, columns)`; steps, rows and columns halve as the width doubles.
    """

    loss: torch.FloatTensor | None = None
    prediction_outputs: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class SpatioTemporalResnetConv3d(nn.Conv3d):
    """`torch.nn.Conv3d` without the arithmetic on padding, for odd kernels padded by half their length.

    Two pixels of an axis of n pixels are at most n - 1 apart. So of a kernel reaching p pixels to either side, with p
    pixels of padding, only the inner n - 1 to either side ever meet data; the outer ones multiply zeros, and their
    gradient is zero. Weights keep the shape and the names that torchvision gives them.
    """

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Convolve `clip` of shape `(batch_size, channels, steps, rows, columns)`."""
        if torch.compiler.is_exporting():
            # An exported network may be made for any number of steps, and ONNX knows no padding that depends on it.
            return super().forward(clip)
        reach = [min(padding, length - 1) for padding, length in zip(self.padding, clip.shape[2:], strict=True)]
        met = [slice(padding - r, padding + r + 1) for padding, r in zip(self.padding, reach, strict=True)]
        weight = self.weight[:, :, *met]
        if clip.shape[3] > 1:
            return nn.functional.conv3d(clip, weight, self.bias, self.stride, reach)
        # A picture of one row needs no third dimension, and libraries are best tuned for two.
        rowless = nn.functional.conv2d(clip.squeeze(3), weight.squeeze(3), self.bias, self.stride[::2], reach[::2])
        return rowless.unsqueeze(3)


class SpatioTemporalResnetBlockConv3d(SpatioTemporalResnetConv3d, Conv3DSimple):
    """The convolution of the residual blocks, built as torchvision builds its `Conv3DSimple`."""


class SpatioTemporalResnetBlock(BasicBlock):
    """torchvision's residual block, able to recompute its activations in the backward pass.

    The second run changes neither gradients nor running means and variances; `num_batches_tracked`, which nothing
    reads, counts it.
    """

    # Both are set by `gradient_checkpointing_enable`, which looks for the first.
    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Map `clip` of shape `(batch_size, width, steps, rows, columns)` to the next block's."""
        if not (self.gradient_checkpointing and self.training):
            return self.add(clip)
        runs = itertools.count()

        def run(clip: torch.Tensor) -> torch.Tensor:
            with _statistics_held(self) if next(runs) else nullcontext():
                return self.add(clip)

        return self._gradient_checkpointing_func(run, clip)

    def add(self, clip: torch.Tensor) -> torch.Tensor:
        """What torchvision's block computes, but not in place, because backward hooks do not allow that."""
        residual = clip if self.downsample is None else self.downsample(clip)
        return self.relu(self.conv2(self.conv1(clip)) + residual)


@contextmanager
def _statistics_held(block: nn.Module) -> Iterator[None]:
    """Keep a batch out of the running means and variances, which have seen it in the forward pass already."""
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
    input_modalities = ("time",)
    # With `num_items_in_batch` the loss is a part of that of a larger batch. Without it the Trainer divides the mean.
    accepts_loss_kwargs = True
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["SpatioTemporalResnetBlock"]
    _can_record_outputs: ClassVar[dict[str, type[nn.Module]]] = {"hidden_states": SpatioTemporalResnetBlock}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise as torchvision's video ResNets do."""
        if isinstance(module, nn.Conv3d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm3d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save weights, configuration and, for `trust_remote_code=True`, this code.

        See [`~transformers.PreTrainedModel.save_pretrained`] for the arguments.
        """
        # A class can be registered under one auto class only; the model is meant to be found under two.
        reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        auto_map = dict.fromkeys(("AutoModel", "AutoModelForTimeSeriesPrediction"), reference)
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **auto_map}
        super().save_pretrained(save_directory, *args, **kwargs)


class SpatioTemporalResnetForPrediction(SpatioTemporalResnetPreTrainedModel):
    r"""
    Forecasts the target channel of every tile with `torchvision.models.video.r3d_18` (Tran et al. 2018, arXiv
    1711.11248), the past of the patch being the clip, its channels the colours and its tiles the pixels (arXiv
    2508.14107).

    Args:
        config ([`SpatioTemporalResnetConfig`]): The layout, and the task the weights are for.

    Example:

    ```python
    >>> import torch
    >>> from solared_hf.models import SpatioTemporalResnetConfig, SpatioTemporalResnetForPrediction
    >>> model = SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig(spatial_layout="grid")).eval()
    >>> model(past_values=torch.zeros(2, 8, 6, 63)).prediction_outputs.shape
    torch.Size([2, 63])

    ```
    """

    def __init__(self, config: SpatioTemporalResnetConfig):
        super().__init__(config)
        # Fields can be set after the config was built, as `from_pretrained(..., num_tiles=81)` does.
        config.validate()
        # `r3d_18` but for the classes of its blocks and convolutions, which change no name and no number.
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpatioTemporalResnetOutput:
        r"""
        Args:
            past_values (`torch.Tensor` of shape `(batch_size, steps, num_channels, num_tiles)`):
                Normalised channels of the past, any floating dtype; at least one step.
            past_observed_mask (`torch.BoolTensor` of the shape of `past_values`, *optional*):
                False where a value was not observed. NaN is read as 0 there; what a processor filled in is used.
            future_values (`torch.Tensor` of shape `(batch_size, num_tiles)`, *optional*):
                Normalised target channel `config.horizon_hours` after the last step, NaN where it was not observed;
                asks for the loss.
            return_loss (`bool`, defaults to `True`):
                Whether the loss is computed when a target is given. Its default tells a plain
                [`~transformers.Trainer`] that evaluation has a loss, without `label_names`.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Number of observed target values in the whole batch that this one is a part of, over all accumulation
                steps and processes: the loss is then the sum over the observed values divided by this number.

        Returns:
            [`SpatioTemporalResnetOutput`], or a plain tuple with `return_dict=False`.

        Raises:
            ValueError: a tensor has the wrong shape, or attentions are asked of a network that has none.
        """
        self._check_inputs(past_values, past_observed_mask, future_values)
        if kwargs.get("output_attentions"):
            raise ValueError("output_attentions=True has no meaning for a convolutional network; leave it out.")
        if past_observed_mask is not None:
            # What the processor put in the place of a missing value stays: 0 in physical units is not 0 here.
            past_values = past_values.masked_fill(past_values.isnan() & past_observed_mask.logical_not(), 0.0)

        layout = (GRID_ROWS, GRID_COLUMNS) if self.config.spatial_layout == "grid" else (1, self.config.num_tiles)
        clip = past_values.transpose(1, 2).unflatten(-1, layout).to(self.dtype)
        predictions = self.backbone(clip)
        loss = None
        if return_loss and future_values is not None:
            loss = mean_squared_error(predictions, future_values, num_items_in_batch)
        return SpatioTemporalResnetOutput(loss=loss, prediction_outputs=predictions)

    def _check_inputs(self, past_values, past_observed_mask, future_values):
        channels, tiles = self.config.num_channels, self.config.num_tiles
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


# Copied from solared_hf.models.solared_lstm.modeling_solared_lstm.mean_squared_error
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


def load_kinetics_weights(
    model: SpatioTemporalResnetForPrediction, weights: Mapping[str, torch.Tensor] | str | os.PathLike | None = None
) -> list[str]:
    """Overwrite the weights of `model` by those torchvision trained on Kinetics-400, wherever the shapes agree.

    Call it on a finished model: weights loaded while the model is built are overwritten by its initialisation.

    Args:
        model (`SpatioTemporalResnetForPrediction`): Changed in place.
        weights (`Mapping[str, torch.Tensor]` or path, *optional*):
            State dict of `r3d_18`, or a file holding one. Downloaded through torchvision when left out.

    Returns:
        `list[str]`: The weights of the stem and the head that `model` kept because their shapes differ.

    Raises:
        ValueError: the weights are not those of an `r3d_18`.
    """
    if weights is None:
        weights = R3D_18_Weights.KINETICS400_V1.get_state_dict(progress=True, check_hash=True)
    elif not isinstance(weights, Mapping):
        weights = torch.load(weights, map_location="cpu", weights_only=True)
    own = model.backbone.state_dict()
    kept = [name for name, tensor in own.items() if name not in weights or weights[name].shape != tensor.shape]
    foreign = [name for name in (*kept, *(weights.keys() - own.keys())) if not name.startswith(("stem.0.", "fc."))]
    if foreign:
        raise ValueError(
            f"The weights are not those of torchvision's r3d_18: {sorted(foreign)[0]!r} is missing, unknown or of "
            "another shape; pass R3D_18_Weights.KINETICS400_V1.get_state_dict()."
        )
    model.backbone.load_state_dict({name: weights[name] for name in own if name not in kept}, strict=False)
    return kept


SpatioTemporalResnetForPrediction.register_for_auto_class("AutoModel")

__all__ = ["SpatioTemporalResnetForPrediction", "SpatioTemporalResnetPreTrainedModel", "load_kinetics_weights"]
