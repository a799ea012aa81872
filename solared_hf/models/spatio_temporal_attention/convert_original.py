"""Turn a checkpoint of the original spatio-temporal attention baseline into a `save_pretrained` folder.

    python -m solared_hf.models.spatio_temporal_attention.convert_original ORIGINAL.pth OUT

The original is `SpatioTemporalAttention` of SuryaBench (arXiv 2508.14107). All sizes are read from the tensors, except
the number of heads, which the tensors do not show.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from solared_hf.errors import SolaredError
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
from solared_hf.models.spatio_temporal_attention.configuration_spatio_temporal_attention import (
    SpatioTemporalAttentionConfig,
)
from solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention import (
    SpatioTemporalAttentionForPrediction,
    sinusoidal_table,
)

_TABLES = {"temporal": "temporal_pos_enc.pe", "spatial": "spatial_pos_enc.pe"}
_ORIGINAL_NAMES = (
    (r"^input_projection\.", "input_proj."),
    (r"^(temporal|spatial)_layers\.", r"\1_encoder.layers."),
    (r"\.qkv_proj\.", ".in_proj_"),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.feed_forward_norm\.", ".norm2."),
    (r"\.fc([12])\.", r".linear\1."),
    (r"^prediction_head\.", "fc."),
)
# Sines of the last steps of a long table differ between machines, because the angles are rounded.
_TABLE_TOLERANCE = 1e-3


def convert(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    num_attention_heads: int = 8,
    input_channels: Sequence[str] | None = None,
    input_steps: int | None = None,
    horizon_hours: float = 12.0,
) -> Path:
    """Convert `checkpoint` into the new folder `output`.

    Args:
        checkpoint: See [`~solared_hf.models.original_checkpoints.read_state_dict`].
        output: A folder that does not exist yet.
        num_attention_heads: Number of heads of the original. A wrong number loads too, and gives wrong forecasts.
        input_channels: Names of the input channels. May be left out if there are five or six.
        input_steps: Number of steps that the original was trained on. Default: the length of its temporal table.
        horizon_hours: Hours from the last step to the target.

    Returns:
        `output`.

    Raises:
        SolaredError: If the checkpoint or the folder cannot be used. Nothing is written then.
    """
    state_dict = read_state_dict(checkpoint)
    hidden_size, num_channels = sizes(state_dict, "input_proj.weight", 2)
    intermediate_size, _ = sizes(state_dict, "temporal_encoder.layers.0.linear1.weight", 2)
    lengths = {stage: _pop_table_length(state_dict, name, hidden_size) for stage, name in _TABLES.items()}
    default = SpatioTemporalAttentionConfig()
    config = make_config(
        SpatioTemporalAttentionConfig,
        input_channels=name_channels(num_channels, input_channels),
        input_steps=lengths["temporal"] if input_steps is None else input_steps,
        horizon_hours=horizon_hours,
        # The table of the original has one row for each tile. A longer table is generic and does not count tiles.
        num_tiles=min(lengths["spatial"], default.num_tiles),
        hidden_size=hidden_size,
        num_temporal_layers=_count_layers(state_dict, "temporal"),
        num_spatial_layers=_count_layers(state_dict, "spatial"),
        num_attention_heads=num_attention_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=lengths["temporal"],
    )
    model = SpatioTemporalAttentionForPrediction(config)
    load_weights(model, state_dict, _original_name)
    return save_whole(model, output)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("--num_attention_heads", type=int, default=8, help="heads of the original (default 8)")
    parser.add_argument("--input_steps", type=int, help="steps of the original (default: length of its table)")
    return run(convert, parser.parse_args(argv))


def _original_name(name: str) -> str:
    for pattern, replacement in _ORIGINAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _count_layers(state_dict: Mapping[str, torch.Tensor], stage: str) -> int:
    """Return the number of layers, and not the highest index, because a damaged name could hold any index."""
    numbers = (re.match(rf"{stage}_encoder\.layers\.(\d+)\.", name) for name in state_dict)
    return len({number[1] for number in numbers if number})


def _pop_table_length(state_dict: dict[str, torch.Tensor], name: str, hidden_size: int) -> int:
    """Remove a positional table from the state dict, check that it equals ours, and return its number of positions."""
    if name not in state_dict:
        raise SolaredError(f"The checkpoint lacks {name}. Pass a checkpoint of this network and version.")
    table = state_dict.pop(name).float()
    num_positions = table.numel() // hidden_size
    ours = sinusoidal_table(num_positions, hidden_size)
    # The batch axis, of length 1, comes before or after the positions, or is missing.
    same_size = num_positions > 0 and table.numel() == ours.numel()
    if not same_size or not torch.allclose(table.reshape(ours.shape), ours, rtol=0, atol=_TABLE_TOLERANCE):
        raise SolaredError(
            f"The positional table {name!r} is not the sinusoidal table of width {hidden_size}. This model computes "
            "the sinusoidal table and cannot hold another table."
        )
    return num_positions


if __name__ == "__main__":
    sys.exit(main())
