"""`solared quickstart`: the whole workflow in one command, on the simulated Sun or on real published files."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from solared_hf.errors import SolaredError

# A model small enough to train in a minute on two cores.
TRAINING = {
    "model_type": "spatio_temporal_attention",
    "model_config": '{"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, '
    '"num_temporal_layers": 1, "num_spatial_layers": 1, "dropout": 0.0, "attention_dropout": 0.0}',
    "input_steps": "24",
    "max_steps": "400",
    "per_device_train_batch_size": "16",
    "per_device_eval_batch_size": "128",
    "learning_rate": "5e-3",
    "lr_scheduler_type": "cosine",
    "warmup_steps": "0.1",
    "eval_strategy": "steps",
    "eval_steps": "100",
    "save_strategy": "steps",
    "save_steps": "100",
    "logging_steps": "25",
    "report_to": "none",
}
_MARKER = "quickstart.txt"
_RESULTS = {
    "simulated_sun": "simulated observations, as FITS files",
    "dataset": "dataset folder for load_dataset(...)",
    "model": "trained model for AutoModel.from_pretrained(...)",
    "scores.txt": "errors and skill of the model, persistence, the average and the climatology",
    "scores.json": "the same scores for programs",
    "forecast.parquet": "forecast of one region, in DN",
    "forecast.png": "forecast and observations of the region",
}


def quickstart(
    data: Annotated[
        Path | None, typer.Option(help="Folder with published AR<number> folders, instead of the simulated Sun.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("runs/quickstart"),
) -> None:
    """Build a dataset, train a tiny model for a minute, score it, forecast a region and draw the forecast."""
    from dataset_builder.build import build_dataset
    from dataset_builder.fits.source import FitsSource
    from dataset_builder.published.source import PublishedSource
    from dataset_builder.simulation.fits import write_observations
    from dataset_builder.simulation.timelines import SIMULATED_REGIONS
    from dataset_builder.sources import find_regions
    from solared_hf.cli.predict import predict
    from solared_hf.data.loading import open_dataset
    from solared_hf.evaluation.alarms import alarm_scale
    from solared_hf.evaluation.split_scores import score_on_split
    from solared_hf.files import write_atomically
    from solared_hf.forecasters.base import load_forecaster
    from solared_hf.plotting.forecasts import plot_region_forecast
    from solared_hf.plotting.style import as_png, mark_as_simulated
    from solared_hf.training.arguments import parse_arguments
    from solared_hf.training.run import train

    simulated = data is None
    if data is not None:
        # Check the input before an earlier quickstart is deleted.
        find_regions(data)
        if data.resolve().is_relative_to(output.resolve()):
            raise SolaredError(f"{data} is inside the output folder {output}. Name another folder with --output.")
    _prepare(output)
    dataset, model = str(output / "dataset"), str(output / "model")

    if data is None:
        _say(1, "Observing ten regions of a simulated Sun for ten days, and building the dataset from the FITS files")
        observations = output / "simulated_sun"
        write_observations(observations, tqdm(SIMULATED_REGIONS, desc="observing", unit="region", file=sys.stderr))
        build_dataset(FitsSource(observations), dataset, progress=True)
    else:
        _say(1, "Building the dataset")
        build_dataset(PublishedSource(data), dataset, progress=True)

    _say(2, "Training a tiny spatio-temporal attention model (about a minute on two cores)")
    options = {**TRAINING, "dataset": dataset, "output_dir": model}
    train(parse_arguments([part for name, value in options.items() for part in (f"--{name}", value)]))

    # The test split of the real data is for final scores, not for demonstrations.
    split = "test" if simulated else "validation"
    _say(3, f"Scoring the model on the {split} split")
    forecaster = load_forecaster(model)
    opened = open_dataset(dataset)
    scores = score_on_split(forecaster, opened, split)
    scores.print()
    write_atomically(output / "scores.txt", scores.as_text())
    write_atomically(output / "scores.json", scores.as_json())

    region = opened.timelines(split)[0]
    _say(4, f"Forecasting AR{region.ar_number}")
    predict(model=model, dataset=dataset, ar=region.ar_number, output=output / "forecast.parquet")
    figure = plot_region_forecast(forecaster, region, alarm_scale(opened.timelines("train")))
    if simulated:
        mark_as_simulated(figure)
    write_atomically(output / "forecast.png", as_png(figure))

    print(f"\nEverything is in {output}:")
    for name, meaning in _RESULTS.items():
        if (output / name).exists():
            print(f"  {name:18} {meaning}")


def _prepare(output: Path) -> None:
    """Empty the output folder of an earlier quickstart.

    Raises:
        SolaredError: If the folder holds anything else.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / _MARKER).is_file()):
        raise SolaredError(f"{output} holds other files than a quickstart. Name a new folder with --output.")
    output.mkdir(parents=True, exist_ok=True)
    (output / _MARKER).write_text(
        "This folder was made by `solared quickstart`, which replaces it when it runs again.\n"
    )
    for name in _RESULTS:
        result = output / name
        shutil.rmtree(result) if result.is_dir() else result.unlink(missing_ok=True)


def _say(step: int, action: str) -> None:
    print(f"\n[{step}/4] {action}", flush=True)
