"""The interface of forecasters, trained models from a folder or the Hub, and forecasts as a table.

A forecaster takes windows and returns the continuum intensity of each tile at the target time, in DN.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Protocol, runtime_checkable

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

# On a CPU, larger batches take more memory and are not faster.
_CPU_BATCH_SIZE, _ACCELERATOR_BATCH_SIZE = 8, 64


class Forecaster(Protocol):
    """Interface of trained models and baselines."""

    name: str
    longest_trajectory: float
    """Number of steps that `trajectory` can forecast: 0 if it raises always, infinity if there is no limit."""

    def windows(self, timelines: Iterable[Timeline], require_target: bool = True) -> SolaredWindows:
        """Return windows of the length and horizon that the forecaster was made for."""

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """Return the intensity at the target time of each window, (N, 63) float32 in DN; windows of any length."""

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """Return the intensity at each step after the last input step, (N, steps, 63) float32 in DN."""


@runtime_checkable
class QuantileForecaster(Forecaster, Protocol):
    """Interface of forecasters that can also forecast quantiles."""

    quantile_levels: tuple[float, ...]
    """Levels of the quantiles, between 0 and 1; empty for a model without quantiles."""

    def quantiles(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """Return the quantiles at each step after the last input step, (N, steps, levels, 63) float32 in DN."""


class ModelForecaster:
    """A trained model with its processor.

    Args:
        model: A `PreTrainedModel` that takes `past_values` and returns `prediction_outputs` (B, 63). With
            `forecast_steps` in its configuration it also returns `trajectory_outputs` (B, forecast_steps, 63), and
            with `quantile_levels` also `quantile_outputs` (B, forecast_steps, levels, 63).
        processor: The processor that the model was trained with.
        name: Name of the model in tables.
        device: Device of the model; by default an accelerator if one is available, otherwise the CPU.

    Raises:
        SolaredError: If model and processor differ in channels, input steps, horizon or cadence.
    """

    def __init__(self, model, processor: SolaredProcessor, name: str, device: str | torch.device | None = None):
        for task in ("input_channels", "target_channel", "input_steps", "horizon_hours"):
            expected, given = getattr(model.config, task, None), getattr(processor, task, None)
            if expected != given:
                raise SolaredError(
                    f"The model {name} has {task} {expected}, but its processor has {given}. Use the "
                    "preprocessor_config.json that the model was trained with."
                )
        step_hours, cadence = getattr(model.config, "step_hours", None), processor.cadence_minutes
        if step_hours is not None and cadence is not None and abs(step_hours * 60 - cadence) > 1e-6:
            raise SolaredError(
                f"The model {name} makes steps of {step_hours:g} h, but its processor was fitted on steps of "
                f"{cadence:g} minutes. Use the preprocessor_config.json that the model was trained with."
            )
        self.name = name
        self.processor = processor
        self.device = torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
        self.model = model.eval().to(self.device)
        self.longest_trajectory = getattr(model.config, "forecast_steps", 0)
        self.quantile_levels = tuple(getattr(model.config, "quantile_levels", ()))

    def windows(self, timelines: Iterable[Timeline], require_target: bool = True) -> SolaredWindows:
        """Return windows of the length and horizon that the model was trained with, normalised by its processor.

        Raises:
            SolaredError: If the regions give no window, or have another cadence than the processor.
        """
        return SolaredWindows(timelines, processor=self.processor, require_target=require_target, read=False)

    def forecast(self, windows: SolaredWindows, batch_size: int | None = None) -> np.ndarray:
        """Return the intensity at the target time of each window, (N, 63) float32 in DN.

        Args:
            windows: Windows of any length and normalisation; they are normalised by the processor of the model.
            batch_size: Windows per batch; by default 8 on a CPU and 64 on an accelerator.

        Raises:
            SolaredError: If the horizon of the windows is beyond the model, or `as_seen_by` refuses the windows.
        """
        if self.longest_trajectory:
            check_reach(self, windows.horizon_steps)
            at_horizon = windows.horizon_steps - 1
            return self._outputs("trajectory_outputs", windows.as_seen_by(self.processor), batch_size, at_horizon)
        own_horizon = timedelta(hours=self.processor.horizon_hours)
        return self._outputs("prediction_outputs", windows.as_seen_by(self.processor, own_horizon), batch_size)

    def trajectory(self, windows: SolaredWindows, steps: int, batch_size: int | None = None) -> np.ndarray:
        """Return the intensity at each step after the last input step, (N, steps, 63) float32 in DN.

        Raises:
            SolaredError: If the model does not reach that many steps, or `as_seen_by` refuses the windows.
        """
        check_reach(self, steps)
        return self._outputs("trajectory_outputs", windows.as_seen_by(self.processor), batch_size, slice(steps))

    def quantiles(self, windows: SolaredWindows, steps: int, batch_size: int | None = None) -> np.ndarray:
        """Return the quantiles of `quantile_levels` at each step after the last input step, in DN.

        Returns:
            (N, steps, levels, 63) float32 array.

        Raises:
            SolaredError: If the model forecasts no quantiles, or does not reach that many steps.
        """
        if not self.quantile_levels:
            raise SolaredError(f"{self.name} forecasts no quantiles. Choose a model with quantiles.")
        check_reach(self, steps)
        return self._outputs("quantile_outputs", windows.as_seen_by(self.processor), batch_size, slice(steps))

    def _outputs(
        self, name: str, windows: SolaredWindows, batch_size: int | None, steps: slice | int = slice(None)
    ) -> np.ndarray:
        """Return an output of the model for all windows, in DN; `steps` selects steps of a trajectory."""
        if batch_size is None:
            batch_size = _CPU_BATCH_SIZE if self.device.type == "cpu" else _ACCELERATOR_BATCH_SIZE
        batch_size = whole_number(batch_size, "batch_size", "it is how many windows are forecast at a time")
        forecasts, done = np.empty((0, NUM_TILES), np.float32), 0
        bar = tqdm(desc=f"Forecasting with {self.name}", unit="window", total=len(windows), leave=False, delay=1)
        with torch.inference_mode(), bar:
            for batch in _batches(windows, batch_size):
                output = self.model(
                    past_values=batch["past_values"].to(self.device),
                    past_observed_mask=batch["past_observed_mask"].to(self.device),
                )[name]
                output = output[:, steps]
                if not done:
                    # Allocated once, because concatenating all batches at the end would take twice the memory.
                    forecasts = np.empty((len(windows), *output.shape[1:]), np.float32)
                forecasts[done : done + len(output)] = self.processor.inverse(output.float().cpu().numpy())
                done += len(output)
                bar.update(len(output))
        return forecasts


def _batches(windows: SolaredWindows, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield all windows in order, a few regions at a time."""
    for part in windows.parts():
        for first in range(0, len(part), batch_size):
            yield part.batch(range(first, min(first + batch_size, len(part))))


def load_forecaster(model: str | Path, revision: str | None = None) -> Forecaster:
    """Load a forecaster by name: a baseline, a model of the package, a model folder, or a repository.

    The baselines that need no training are `persistence` and `average`; `committed_models` lists the models of the
    package.

    Args:
        model: Name of a baseline or of a model of the package, folder, or repository `owner/name` on the Hub.
        revision: Branch, tag or commit of a repository; `main` by default.

    Raises:
        SolaredError: If the model or its processor is missing or cannot be loaded.

    >>> load_forecaster("persistence").name
    'persistence'
    """
    if str(model) in BASELINES:
        return BASELINES[str(model)]()
    committed = committed_models()
    model = Path(model).expanduser() if str(model).startswith("~/") else model
    # A folder wins over a model of the package with the same name, because it may be a changed copy.
    if not Path(model).is_dir() and str(model) in committed:
        model = committed[str(model)]
    is_folder = Path(model).is_dir()
    # Refuse names that cannot be a repository before asking the Hub.
    if not is_folder and str(model).count("/") != 1:
        raise SolaredError(
            f"There is no model {model}. Name {', '.join([*BASELINES, *committed])}, a folder written by `solared "
            "train`, or a model repository on the Hub, such as `owner/model`."
        )
    from transformers import AutoModelForTimeSeriesPrediction

    try:
        folder = model if is_folder else _snapshot(str(model), revision)
        if not (Path(folder) / PROCESSOR_NAME).is_file():
            raise SolaredError(
                f"{model} lacks its processor, {PROCESSOR_NAME}. Add the processor that the model was trained with "
                "by processor.save_pretrained(...) or processor.push_to_hub(...)."
            )
        processor = SolaredProcessor.from_pretrained(folder)
        network = AutoModelForTimeSeriesPrediction.from_pretrained(folder, use_safetensors=True)
    except SolaredError:
        raise
    except (HTTPError, OSError, RuntimeError, SafetensorError, StrictDataclassError, TypeError, ValueError) as error:
        otherwise = (
            f"{model} cannot be loaded as a model with its processor ({reason_of(error)}). Name a folder written by "
            "`solared train`, or a repository that such a folder was pushed to."
        )
        raise SolaredError(explain(error, str(model), revision) or otherwise) from error
    name = Path(model).resolve().name if is_folder else str(model).rpartition("/")[2]
    if name in BASELINES:
        raise SolaredError(f"The model {model} has the name of a baseline. Rename its folder.")
    return ModelForecaster(network, processor, name)


def _snapshot(repo_id: str, revision: str | None) -> str:
    """Return the folder of one revision; one snapshot, so that weights and processor are of the same revision."""
    return snapshot_download(
        repo_id, revision=revision, allow_patterns=["*.json", "*.safetensors"], ignore_patterns=["*/*"]
    )


def committed_models() -> dict[str, Path]:
    """Return the folders of the trained models of the package that include weights, by name."""
    return {folder.name: folder for folder in _model_folders() if (folder / WEIGHTS_NAME).is_file()}


def folders_without_weights() -> list[str]:
    """Return the names of the models of the package whose weights are too large to be included."""
    return [folder.name for folder in _model_folders() if not (folder / WEIGHTS_NAME).is_file()]


def _model_folders() -> list[Path]:
    # The package is installed as files, so the resources have paths.
    return sorted(
        path.parent for path in Path(str(resources.files("solared_hf.model_cards"))).glob("solared-*/config.json")
    )


def forecast_table(windows: SolaredWindows, forecast: np.ndarray) -> pa.Table:
    """Return a forecast as a table with one row per window and tile.

    Args:
        windows: N windows.
        forecast: (N, 63) array in DN.

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
    """Return `forecast_table` as the content of a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(forecast_table(windows, forecast), buffer, compression="zstd")
    return buffer.getvalue().to_pybytes()
