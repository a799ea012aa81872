"""Tiny models that were saved before the package was reorganised load and forecast the same.

`frozen/<model_type>/` holds a model folder, `inputs.npz` and `outputs.npz`. The ResNet is too large to keep, so its
folder has `shapes.json` instead of weights, and `weights` computes them from their names.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

from solared_hf.models import FAMILIES

FROZEN = Path(__file__).with_name("frozen")


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Return the weights that the frozen ResNet had."""
    tensors = {}
    for name, shape in shapes.items():
        if not shape:
            tensors[name] = torch.tensor(0)
            continue
        values = np.sin(np.arange(np.prod(shape)) * 1.7 + zlib.crc32(name.encode()) % 1000)
        if len(shape) > 1:
            values *= (2 / np.prod(shape[1:])) ** 0.5
        else:
            values = 0.3 * values + name.endswith(("running_var", ".1.weight"))
        tensors[name] = torch.from_numpy(values.astype(np.float32).reshape(shape))
    return tensors


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path) -> Path:
    """Return a model folder with weights."""
    frozen = FROZEN / request.param
    if not (frozen / "shapes.json").is_file():
        return frozen
    save_file(weights(json.loads((frozen / "shapes.json").read_text())), tmp_path / "model.safetensors")
    for path in frozen.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_a_model_that_was_saved_before_forecasts_the_same(folder):
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with np.load(folder / "inputs.npz") as arrays:
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    with np.load(folder / "outputs.npz") as arrays:
        assert set(arrays) == {name for name, value in outputs.items() if isinstance(value, torch.Tensor)}
        for name, expected in arrays.items():
            difference = np.abs(outputs[name].numpy() - expected).max()
            assert difference <= 1e-4 * np.abs(expected).max(), name


def test_a_processor_that_was_saved_before_loads(folder):
    processor = AutoProcessor.from_pretrained(folder)
    assert (processor.input_steps, processor.cadence_minutes) == (6, 60)
