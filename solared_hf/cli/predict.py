"""`solared predict`: write the forecasts of a region to a Parquet file."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from solared_hf.cli.options import DatasetOption, DatasetRevisionOption, ModelOption, ModelRevisionOption
from solared_hf.errors import SolaredError


def predict(
    model: ModelOption,
    dataset: DatasetOption,
    ar: Annotated[int, typer.Option(help="NOAA active region number.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write.")],
    model_revision: ModelRevisionOption = None,
    dataset_revision: DatasetRevisionOption = None,
) -> None:
    """Forecast the tiles of a region in physical units, for every window of its timeline and the latest steps."""
    from solared_hf.data.loading import open_dataset
    from solared_hf.files import write_atomically
    from solared_hf.forecasters.base import forecast_file, load_forecaster

    forecaster = load_forecaster(model, model_revision)
    windows = forecaster.windows([open_dataset(dataset, dataset_revision).region(ar)], require_target=False)
    content = forecast_file(windows, forecaster.forecast(windows))
    if output.is_dir():
        raise SolaredError(f"{output} is a folder. Name a file for --output, such as {output / 'forecast.parquet'}.")
    write_atomically(output, content)
    print(
        f"{output}: {len(windows)} forecasts of AR{ar} by {forecaster.name}, for {windows.target_times[0]} to "
        f"{windows.target_times[-1]} TAI, each {windows.horizon / timedelta(hours=1):g} h after its last input step."
    )
