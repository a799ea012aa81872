"""Turn a checkpoint of the original spatio-temporal attention baseline into a `save_pretrained` folder.

    python -m solared_hf.models.spatio_temporal_attention.convert_original ORIGINAL.pth OUT

The original is `SpatioTemporalAttention` of SuryaBench (arXiv 2508.14107). Every size is read from the tensors but the
number of heads, which leaves no trace in them.
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
# Sines of the last steps of a long table differ between machines by the rounding of the angle.
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
        output: Must not exist yet.
        num_attention_heads: The number the original was trained with; another one loads too, and forecasts nonsense.
        input_channels: Names of the input channels; guessed when there are five or six.
        input_steps: Steps the original was trained on; the length of its temporal table unless given.
        horizon_hours: Hours from the last step to the target.

    Returns:
        `output`.

    Raises:
        SolaredError: anything about the checkpoint or the folder the user can mend; nothing has been written then.
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
        # The original sizes its table by the tiles; a longer one is a generic table that says nothing about them.
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
    """Command line; returns the exit code."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("--num_attention_heads", type=int, default=8, help="heads of the original (default 8)")
    parser.add_argument("--input_steps", type=int, help="steps of the original (default: length of its table)")
    return run(convert, parser.parse_args(argv))


def _original_name(name: str) -> str:
    for pattern, replacement in _ORIGINAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _count_layers(state_dict: Mapping[str, torch.Tensor], stage: str) -> int:
    """Number of layers, not the highest index: one stray name must not make a million layers."""
    numbers = (re.match(rf"{stage}_encoder\.layers\.(\d+)\.", name) for name in state_dict)
    return len({number[1] for number in numbers if number})


def _pop_table_length(state_dict: dict[str, torch.Tensor], name: str, hidden_size: int) -> int:
    """Remove a positional table and return its number of positions, having checked that ours is the same."""
    if name not in state_dict:
        raise SolaredError(f"The checkpoint lacks {name}; it belongs to another network or version.")
    table = state_dict.pop(name).float()
    num_positions = table.numel() // hidden_size
    ours = sinusoidal_table(num_positions, hidden_size)
    # The axis of the batch, of length 1, stands before or after the positions, or is missing.
    same_size = num_positions > 0 and table.numel() == ours.numel()
    if not same_size or not torch.allclose(table.reshape(ours.shape), ours, rtol=0, atol=_TABLE_TOLERANCE):
        raise SolaredError(
            f"The positional table {name!r} is not the sinusoidal one of width {hidden_size}; this model computes "
            "that one and cannot hold another."
        )
    return num_positions


if __name__ == "__main__":
    sys.exit(main())
