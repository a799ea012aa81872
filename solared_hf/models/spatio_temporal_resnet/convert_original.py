"""Turn a checkpoint of the original ST-ResNet baseline into a `save_pretrained` folder.

    python -m solared_hf.models.spatio_temporal_resnet.convert_original ORIGINAL.pth OUT

The original is `SpatioTemporalResNet` of SuryaBench (arXiv 2508.14107). It has the same names as our model, so the
weights are copied unchanged.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from solared_hf.models.original_checkpoints import (
    load_weights,
    make_config,
    make_parser,
    name_channels,
    read_state_dict,
    run,
    save_whole,
    sizes,
)
from solared_hf.models.spatio_temporal_resnet.configuration_spatio_temporal_resnet import SpatioTemporalResnetConfig
from solared_hf.models.spatio_temporal_resnet.modeling_spatio_temporal_resnet import SpatioTemporalResnetForPrediction


def convert(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    spatial_layout: str = "flat",
    input_channels: Sequence[str] | None = None,
    input_steps: int = 120,
    horizon_hours: float = 12.0,
) -> Path:
    """Convert `checkpoint` into the new folder `output`.

    Args:
        checkpoint: See [`~solared_hf.models.original_checkpoints.read_state_dict`].
        output: A folder that does not exist yet.
        spatial_layout: The layout of the original. The weights fit both layouts.
        input_channels: Names of the input channels. May be left out if there are five or six.
        input_steps: Number of steps that the original was trained on.
        horizon_hours: Hours from the last step to the target.

    Returns:
        `output`.

    Raises:
        SolaredError: If the checkpoint or the folder cannot be used. Nothing is written then.
    """
    state_dict = read_state_dict(checkpoint)
    _, num_channels, *_ = sizes(state_dict, "backbone.stem.0.weight", 5)
    num_tiles, _ = sizes(state_dict, "backbone.fc.weight", 2)
    config = make_config(
        SpatioTemporalResnetConfig,
        input_channels=name_channels(num_channels, input_channels),
        input_steps=input_steps,
        horizon_hours=horizon_hours,
        num_tiles=num_tiles,
        spatial_layout=spatial_layout,
    )
    model = SpatioTemporalResnetForPrediction(config)
    load_weights(model, state_dict, lambda name: name)
    return save_whole(model, output)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("--spatial_layout", choices=("flat", "grid"), default="flat", help="layout of the original")
    parser.add_argument("--input_steps", type=int, default=120, help="steps of the original (default 120)")
    return run(convert, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
