"""`solared app`: show forecasts in the browser, or write the folder of a Space that shows them."""

from pathlib import Path
from typing import Annotated

import typer

from solared_hf.app.serving import DEFAULT_MODEL, DEFAULT_PORT, check_installed, load, serve
from solared_hf.cli.options import DatasetRevisionOption, ModelRevisionOption


def show_page(
    model: Annotated[
        str,
        typer.Option(
            help="Model folder, repository or name of a model in the package; or `persistence` or `average`."
        ),
    ] = DEFAULT_MODEL,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset folder or repository.", show_default="the embedded simulated Sun")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, show_default=str(DEFAULT_PORT))] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the folder of a Hub Space instead: a new folder, or one of an earlier export."),
    ] = None,
    model_revision: ModelRevisionOption = None,
    dataset_revision: DatasetRevisionOption = None,
) -> None:
    """Show forecasts in the browser: the map of every tile, observed and forecast intensity, alarms and uploads."""
    if export is None:
        serve(model, dataset, port, model_revision, dataset_revision)
        return
    check_installed()
    from solared_hf.app.space import export_space

    # Fail here if the Space could not show the model or the dataset.
    load(model, dataset, model_revision, dataset_revision)
    export_space(export, model, dataset, model_revision, dataset_revision)
    print(f"{export}: a Space; push it with `hf upload you/solared {export} --repo-type space`, or run its app.py.")
