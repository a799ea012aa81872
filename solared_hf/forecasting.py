"""Whatever makes a forecast: trained models, and the baselines every forecast is measured against.

A forecaster takes windows and gives the continuum intensity of each tile at the target time, in DN.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, StrictDataclassError
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from tqdm import tqdm

from solared_hf.errors import SolaredError, reason_of
from solared_hf.hub_errors import explain
from solared_hf.processing_solared import SolaredProcessor
from solared_hf.schema import CHANNELS, NUM_TILES, TILE_COLUMNS, UNITS
from solared_hf.timelines import Timeline
from solared_hf.windows import SolaredWindows

# On a CPU more windows at a time take more memory and no less time.
_CPU_BATCH_SIZE, _ACCELERATOR_BATCH_SIZE = 8, 64


class Forecaster(Protocol):
    """What evaluation and prediction ask of a forecaster."""

    name: str

    def windows(self, timelines: Iterable[Timeline], require_target: bool = True) -> SolaredWindows:
        """The windows it takes."""

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """(N, 63) float32: continuum intensity at each window's target time, in DN."""


class _Baseline:
    def windows(self, timelines: Iterable[Timeline], require_target: bool = True) -> SolaredWindows:
        return SolaredWindows(timelines, require_target=require_target)


class Persistence(_Baseline):
    """The last observed intensity of each tile; 0 DN, the background, where the window has none."""

    name = "persistence"

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        return np.stack([_last_observed(intensity) for intensity in windows.past_intensities()])


class Average(_Baseline):
    """The mean intensity of each tile over the input; 0 DN, the background, where the window has none."""

    name = "average"

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        return np.stack([_mean_observed(intensity) for intensity in windows.past_intensities()])


BASELINES = {baseline.name: baseline for baseline in (Persistence, Average)}


class ModelForecaster:
    """A trained model with its processor.

    Args:
        model: a `PreTrainedModel` that takes `past_values` and gives `prediction_outputs` (B, 63).
        processor: the processor it was trained with.
        name: how tables call it.
        device: where it runs; an accelerator where there is one.

    Raises:
        SolaredError: the model and the processor disagree on the channels, the steps or the horizon.
    """

    def __init__(self, model, processor: SolaredProcessor, name: str, device: str | torch.device | None = None):
        for task in ("input_channels", "target_channel", "input_steps", "horizon_hours"):
            expected, given = getattr(model.config, task, None), getattr(processor, task, None)
            if expected != given:
                raise SolaredError(
                    f"The model {name} has {task} {expected}, but its processor has {given}; use the "
                    "preprocessor_config.json it was trained with."
                )
        self.name = name
        self.processor = processor
        self.device = torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
        self.model = model.eval().to(self.device)

    def windows(self, timelines: Iterable[Timeline], require_target: bool = True) -> SolaredWindows:
        return SolaredWindows(timelines, processor=self.processor, require_target=require_target)

    def forecast(self, windows: SolaredWindows, batch_size: int | None = None) -> np.ndarray:
        if batch_size is None:
            batch_size = _CPU_BATCH_SIZE if self.device.type == "cpu" else _ACCELERATOR_BATCH_SIZE
        forecasts = np.empty((len(windows), NUM_TILES), np.float32)
        done = 0
        batches = DataLoader(windows, batch_size=batch_size)
        with torch.inference_mode():
            for batch in tqdm(batches, desc=f"Forecasting with {self.name}", unit="batch", leave=False, delay=1):
                output = self.model(
                    past_values=batch["past_values"].to(self.device),
                    past_observed_mask=batch["past_observed_mask"].to(self.device),
                ).prediction_outputs
                forecasts[done : done + len(output)] = self.processor.inverse(output.float().cpu().numpy())
                done += len(output)
        return forecasts


def load_forecaster(model: str | Path, revision: str | None = None) -> Forecaster:
    """A forecaster by name: `persistence`, `average`, a model folder, or a model repository on the Hub.

    Raises:
        SolaredError: there is no such model, or it came without its processor.
    """
    if str(model) in BASELINES:
        return BASELINES[str(model)]()
    is_folder = Path(model).is_dir()
    # What can be neither a folder nor a repository is refused before anything asks the network for it.
    if not is_folder and str(model).count("/") != 1:
        raise SolaredError(
            f"There is no model {model}; name {', '.join(BASELINES)}, a folder written by `solared train`, or a model "
            "repository on the Hub, such as `owner/model`."
        )
    from transformers import AutoModelForTimeSeriesPrediction
    from transformers.utils import FEATURE_EXTRACTOR_NAME

    try:
        # One snapshot, so that a push in between cannot give the weights of one revision the processor of another.
        files = {"allow_patterns": ["*.json", "*.safetensors"], "ignore_patterns": ["*/*"]}
        folder = model if is_folder else snapshot_download(str(model), revision=revision, **files)
        if not (Path(folder) / FEATURE_EXTRACTOR_NAME).is_file():
            raise SolaredError(
                f"{model} came without its processor, {FEATURE_EXTRACTOR_NAME}; put there the one that it was trained "
                "with, by processor.save_pretrained(...) or processor.push_to_hub(...)."
            )
        processor = SolaredProcessor.from_pretrained(folder)
        network = AutoModelForTimeSeriesPrediction.from_pretrained(folder, use_safetensors=True)
    except SolaredError:
        raise
    except (HTTPError, OSError, RuntimeError, SafetensorError, StrictDataclassError, TypeError, ValueError) as error:
        otherwise = (
            f"{model} could not be loaded as a model with its processor ({reason_of(error)}); name a folder written "
            "by `solared train`, or a repository that one was pushed to."
        )
        raise SolaredError(explain(error, str(model), revision) or otherwise) from error
    return ModelForecaster(network, processor, name=Path(str(model)).name)


def forecast_table(windows: SolaredWindows, forecast: np.ndarray) -> pa.Table:
    """A forecast as a table, one row per window and tile.

    Columns: `ar_number`, `last_input_time_tai`, `target_time_tai`, `tile` (0..62, row by row from the
    south-east), `row` (1..7) and `column` (0..8) of the 9 x 9 grid, `forecast_intensity` in DN, and
    `observed_intensity` in DN, null where the target was not observed.
    """
    tiles = np.tile(np.arange(NUM_TILES, dtype=np.int8), len(windows))
    observed = windows.observed_targets.ravel()
    unit = {"unit": UNITS[CHANNELS[-1]]}
    columns = {
        "ar_number": pa.array(np.repeat(windows.ar_numbers.astype(np.int32), NUM_TILES)),
        "last_input_time_tai": pa.array(np.repeat(windows.last_input_times, NUM_TILES)),
        "target_time_tai": pa.array(np.repeat(windows.target_times, NUM_TILES)),
        "tile": pa.array(tiles),
        "row": pa.array((tiles // TILE_COLUMNS + 1).astype(np.int8)),
        "column": pa.array((tiles % TILE_COLUMNS).astype(np.int8)),
        "forecast_intensity": pa.array(forecast.astype(np.float32).ravel()),
        "observed_intensity": pa.array(observed, mask=np.isnan(observed)),
    }
    fields = [
        pa.field(name, array.type, metadata=unit if name.endswith("_intensity") else None)
        for name, array in columns.items()
    ]
    return pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields))


def _last_observed(intensity: np.ndarray) -> np.ndarray:
    observed = ~np.isnan(intensity)
    last = len(intensity) - 1 - observed[::-1].argmax(axis=0)
    return np.where(observed.any(axis=0), np.take_along_axis(intensity, last[None], axis=0)[0], np.float32(0))


def _mean_observed(intensity: np.ndarray) -> np.ndarray:
    observed = ~np.isnan(intensity)
    total = np.where(observed, intensity, np.float32(0)).sum(axis=0, dtype=np.float64)
    return (total / np.maximum(observed.sum(axis=0), 1)).astype(np.float32)
