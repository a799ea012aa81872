"""`solared plot`: draw a forecast, a benchmark or a dataset."""

import json
from pathlib import Path
from typing import Annotated

import typer

from solared_hf.cli.options import DatasetOption, DatasetRevisionOption, ModelOption, ModelRevisionOption
from solared_hf.errors import SolaredError, reason_of

FolderOption = Annotated[Path, typer.Option(help="Folder for the PNG files.")]

plot = typer.Typer(help="Draw a forecast, a benchmark or a dataset.", no_args_is_help=True)


@plot.command()
def forecast(
    model: ModelOption,
    dataset: DatasetOption,
    ar: Annotated[int, typer.Option(help="NOAA active region number.")],
    output: Annotated[Path, typer.Option(help="PNG file to write.")],
    model_revision: ModelRevisionOption = None,
    dataset_revision: DatasetRevisionOption = None,
) -> None:
    """Draw the forecast and the observations of a region, with alarms and observed onsets."""
    from solared_hf.data.loading import open_dataset
    from solared_hf.evaluation.alarms import alarm_scale
    from solared_hf.files import write_atomically
    from solared_hf.forecasters.base import load_forecaster
    from solared_hf.plotting.forecasts import plot_region_forecast
    from solared_hf.plotting.style import as_png, mark_as_simulated

    if output.suffix != ".png":
        raise SolaredError(
            f"--output is {output}, which is not a PNG file. Name one such as {output.with_suffix('.png')}."
        )
    forecaster = load_forecaster(model, model_revision)
    opened = open_dataset(dataset, dataset_revision)
    region = opened.region(ar)
    (facts,) = (row for row in opened.catalog if row["ar_number"] == ar)
    try:
        train = opened.timelines("train")
    except SolaredError as error:
        raise SolaredError(
            f"{dataset} has no train split, which the scale of alarms needs. Build the region together with the "
            "published regions."
        ) from error
    scale = alarm_scale(train)
    figure = plot_region_forecast(forecaster, region, scale, facts["noaa_emergence_time"])
    if opened.identity["simulated"]:
        mark_as_simulated(figure)
    write_atomically(output, as_png(figure))
    print(f"{output}: AR{ar} by {forecaster.name}.")


@plot.command()
def scores(
    benchmark: Annotated[Path, typer.Option(help="File that `solared benchmark --json` wrote.")], output: FolderOption
) -> None:
    """Draw the scores of a benchmark: error by lead and by tile, skill by region, reliability of quantiles."""
    from solared_hf.plotting.benchmark_pictures import benchmark_pictures

    try:
        pictures = benchmark_pictures(json.loads(benchmark.read_bytes()))
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise SolaredError(
            f"{benchmark} is not a benchmark ({reason_of(error)}). Name a file written by `solared benchmark --json`."
        ) from error
    _write(pictures, output)


@plot.command()
def dataset(
    dataset: DatasetOption,
    output: FolderOption,
    ar: Annotated[
        int | None, typer.Option(help="Region to show.", show_default="the region that darkens most")
    ] = None,
    dataset_revision: DatasetRevisionOption = None,
) -> None:
    """Draw a dataset: latitudes, lifetimes, distributions, the timeline of a region, and its availability."""
    from solared_hf.data.loading import open_dataset
    from solared_hf.plotting.dataset_pictures import dataset_pictures

    opened = open_dataset(dataset, dataset_revision)
    _write(dataset_pictures(opened.catalog, opened.timelines(), opened.identity["simulated"], ar), output)


def _write(pictures, folder: Path) -> None:
    from solared_hf.files import write_atomically
    from solared_hf.plotting.style import as_png

    if folder.is_file():
        raise SolaredError(f"{folder} is a file. Name a folder for --output.")
    for picture in pictures.pictures:
        write_atomically(folder / picture.name, as_png(picture.figure))
        print(f"{folder / picture.name}: {picture.caption}")
    if pictures.left_out:
        print(pictures.left_out)
