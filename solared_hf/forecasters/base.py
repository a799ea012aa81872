"""What makes a forecast: trained models, by themselves or from a folder or the Hub, and forecasts as a table.

A forecaster takes windows and gives the continuum intensity of each tile at the target time, in DN.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, StrictDataclassError
from safetensors import SafetensorError
from tqdm import tqdm

from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError, reason_of, whole_number
from solared_hf.forecasters.baselines import BASELINES, check_reach
from solared_hf.hub.errors import explain
from solared_hf.hub.model_files import PROCESSOR_NAME, WEIGHTS_NAME
from solared_hf.schema import CHANNELS, NUM_TILES, TILE_COLUMNS, UNITS

# On a CPU more windows at a time take more memory and no less time.
_CPU_BATCH_SIZE, _ACCELERATOR_BATCH_SIZE = 8, 64


class Forecaster(Protocol):
    """What evaluation and prediction ask of a forecaster."""

    name: str
    longest_trajectory: float
    """How many steps `trajectory` reaches: 0 where there is no such method, infinity where any number will do."""

    def windows(self, timelines: Iterable[Timeline], require_target: bool = True) -> SolaredWindows:
        """The windows it was made for."""

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """(N, 63) float32: continuum intensity at each window's target time, in DN; windows may be of any length."""

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """(N, steps, 63) float32: continuum intensity at each of the steps after the last input step, in DN."""


class ModelForecaster:
    """A trained model with its processor.

    Args:
        model: a `PreTrainedModel` that takes `past_values` and gives `prediction_outputs` (B, 63). One whose
            configuration has `forecast_steps` gives `trajectory_outputs` (B, forecast_steps, 63) too, and one with
            `quantile_levels` gives `quantile_outputs` (B, forecast_steps, levels, 63).
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
        step_hours, cadence = getattr(model.config, "step_hours", None), processor.cadence_minutes
        if step_hours is not None and cadence is not None and abs(step_hours * 60 - cadence) > 1e-6:
            raise SolaredError(
                f"The model {name} makes steps of {step_hours:g} h, but its processor was fitted on steps of "
                f"{cadence:g} minutes; use the preprocessor_config.json it was trained with."
            )
        self.name = name
        self.processor = processor
        self.device = torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
        self.model = model.eval().to(self.device)
        self.longest_trajectory = getattr(model.config, "forecast_steps", 0)
        self.quantile_levels = tuple(getattr(model.config, "quantile_levels", ()))

    def windows(self, timelines: Iterable[Timeline], require_target: bool = True) -> SolaredWindows:
        """Windows of the length and horizon that the model was trained with, as its processor normalises them.

        Raises:
            SolaredError: no window can be cut, or the regions have another cadence than the processor.
        """
        return SolaredWindows(timelines, processor=self.processor, require_target=require_target, read=False)

    def forecast(self, windows: SolaredWindows, batch_size: int | None = None) -> np.ndarray:
        """(N, 63) float32: continuum intensity at each window's target time, in DN.

        Args:
            windows: of any length and normalisation; the model sees them as its processor has it.
            batch_size: windows at a time; 8 on a CPU and 64 on an accelerator by default.

        Raises:
            SolaredError: the model does not reach the windows' horizon, or cannot see them (`as_seen_by`).
        """
        if self.longest_trajectory:
            check_reach(self, windows.horizon_steps)
            at_horizon = windows.horizon_steps - 1
            return self._outputs("trajectory_outputs", windows.as_seen_by(self.processor), batch_size, at_horizon)
        own_horizon = timedelta(hours=self.processor.horizon_hours)
        return self._outputs("prediction_outputs", windows.as_seen_by(self.processor, own_horizon), batch_size)

    def trajectory(self, windows: SolaredWindows, steps: int, batch_size: int | None = None) -> np.ndarray:
        """(N, steps, 63) float32: continuum intensity at each step after the last input step, in DN.

        Raises:
            SolaredError: the model does not reach as far, or cannot see the windows.
        """
        check_reach(self, steps)
        return self._outputs("trajectory_outputs", windows.as_seen_by(self.processor), batch_size, slice(steps))

    def quantiles(self, windows: SolaredWindows, steps: int, batch_size: int | None = None) -> np.ndarray:
        """(N, steps, levels, 63) float32: the quantiles of `quantile_levels` at each step after the last one, in DN.

        Raises:
            SolaredError: the model gives no quantiles, or does not reach as far.
        """
        if not self.quantile_levels:
            raise SolaredError(f"{self.name} gives no quantiles; choose a model that does.")
        check_reach(self, steps)
        return self._outputs("quantile_outputs", windows.as_seen_by(self.processor), batch_size, slice(steps))

    def _outputs(
        self, name: str, windows: SolaredWindows, batch_size: int | None, steps: slice | int = slice(None)
    ) -> np.ndarray:
        """One of the model's outputs for all windows, in DN; of trajectories only some steps, or a single one."""
        if batch_size is None:
            batch_size = _CPU_BATCH_SIZE if self.device.type == "cpu" else _ACCELERATOR_BATCH_SIZE
        batch_size = whole_number(batch_size, "batch_size", "it is how many windows are forecast at a time")
        forecasts, done = None, 0
        bar = tqdm(desc=f"Forecasting with {self.name}", unit="window", total=len(windows), leave=False, delay=1)
        with torch.inference_mode(), bar:
            for batch in _batches(windows, batch_size):
                output = self.model(
                    past_values=batch["past_values"].to(self.device),
                    past_observed_mask=batch["past_observed_mask"].to(self.device),
                )[name]
                output = output[:, steps]
                if forecasts is None:
                    # Filled as it goes: batches that are kept and joined at the end would take the memory twice.
                    forecasts = np.empty((len(windows), *output.shape[1:]), np.float32)
                forecasts[done : done + len(output)] = self.processor.inverse(output.float().cpu().numpy())
                done += len(output)
                bar.update(len(output))
        return forecasts


def _batches(windows: SolaredWindows, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
    """All windows in their order, a part of the regions after the other."""
    for part in windows.parts():
        for first in range(0, len(part), batch_size):
            yield part.batch(range(first, min(first + batch_size, len(part))))


def load_forecaster(model: str | Path, revision: str | None = None) -> Forecaster:
    """A forecaster by name: a baseline, a model that comes with the package, a model folder, or a repository.

    Baselines that need no training are `persistence` and `average`; `committed_models` are those of the package.

    Args:
        model: name of a baseline or of a model of the package, folder, or repository `owner/name` on the Hub.
        revision: branch, tag or commit of a repository; `main` by default.

    Raises:
        SolaredError: there is no such model, or it came without its processor.

    >>> load_forecaster("persistence").name
    'persistence'
    """
    if str(model) in BASELINES:
        return BASELINES[str(model)]()
    committed = committed_models()
    model = Path(model).expanduser() if str(model).startswith("~/") else model
    # A folder that is named wins: somebody is at work on the model.
    if not Path(model).is_dir() and str(model) in committed:
        model = committed[str(model)]
    is_folder = Path(model).is_dir()
    # What can be neither a folder nor a repository is refused before anything asks the network for it.
    if not is_folder and str(model).count("/") != 1:
        raise SolaredError(
            f"There is no model {model}; name {', '.join([*BASELINES, *committed])}, a folder written by `solared "
            "train`, or a model repository on the Hub, such as `owner/model`."
        )
    from transformers import AutoModelForTimeSeriesPrediction

    try:
        # One snapshot, so that a push in between cannot give the weights of one revision the processor of another.
        files = {"allow_patterns": ["*.json", "*.safetensors"], "ignore_patterns": ["*/*"]}
        folder = model if is_folder else snapshot_download(str(model), revision=revision, **files)
        if not (Path(folder) / PROCESSOR_NAME).is_file():
            raise SolaredError(
                f"{model} came without its processor, {PROCESSOR_NAME}; put there the one that it was trained "
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
    name = Path(model).resolve().name if is_folder else str(model).rpartition("/")[2]
    if name in BASELINES:
        raise SolaredError(f"The model {model} has the name of a baseline; rename its folder to tell them apart.")
    return ModelForecaster(network, processor, name)


def committed_models() -> dict[str, Path]:
    """Folders of the trained models that come with the package, with their weights, by name."""
    return {folder.name: folder for folder in _model_folders() if (folder / WEIGHTS_NAME).is_file()}


def folders_without_weights() -> list[str]:
    """Names of the models whose weights are too large to come with the package; only their cards do."""
    return [folder.name for folder in _model_folders() if not (folder / WEIGHTS_NAME).is_file()]


def _model_folders() -> list[Path]:
    # A package in an archive would have no folders to load from; ours is installed as files.
    return sorted(
        path.parent for path in Path(str(resources.files("solared_hf.model_cards"))).glob("solared-*/config.json")
    )


def forecast_table(windows: SolaredWindows, forecast: np.ndarray) -> pa.Table:
    """A forecast as a table, one row per window and tile.

    Args:
        windows: N windows.
        forecast: (N, 63) in DN.

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


def forecast_file(windows: SolaredWindows, forecast: np.ndarray) -> bytes:
    """`forecast_table` as the content of a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(forecast_table(windows, forecast), buffer, compression="zstd")
    return buffer.getvalue().to_pybytes()
