"""`solared build`: make a dataset folder for the Hub from published files or from FITS files."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from solared_hf.errors import SolaredError

if TYPE_CHECKING:
    from dataset_builder.sources import Source


class SourceName(StrEnum):
    published = "published"
    fits = "fits"


def build(
    source: Annotated[
        SourceName, typer.Option(help="Content of the input folder: published .npz files, or FITS files.")
    ],
    input: Annotated[Path, typer.Option(help="Folder with the AR<number> folders.")],
    output: Annotated[Path, typer.Option(help="Folder of the dataset: new, empty, or written by an earlier build.")],
    cadence: Annotated[str | None, typer.Option(help="Time between steps: 1h (default) or 12min (only fits).")] = None,
    correction: Annotated[
        str | None, typer.Option(help="Correction of the tiles: latitude_background (default) or none (only fits).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine; one per core by default (only fits).")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler to use instead, such as tcp://host:8786 (only fits).")
    ] = None,
    worker_timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait while there are no workers; 600 by default (only fits).")
    ] = None,
) -> None:
    """Build a dataset folder that load_dataset reads. Run it again to do only the remaining work."""
    from dataset_builder.build import build_dataset

    settings: dict[str, Any] = {"cadence": cadence, "correction": correction}
    settings = {name: value for name, value in settings.items() if value is not None}
    opened: Source
    if source is SourceName.published:
        from dataset_builder.published.source import PublishedSource

        running = {"workers": workers, "scheduler": scheduler, "worker-timeout": worker_timeout}
        given = [*settings, *(name for name, value in running.items() if value is not None)]
        if given:
            raise SolaredError(f"--{given[0]} has no effect on published files. Leave it out, or use --source fits.")
        opened = PublishedSource(input)
    else:
        from dataset_builder.fits import FitsSource, ReductionSettings

        patience = {} if worker_timeout is None else {"worker_timeout_s": worker_timeout}
        opened = FitsSource(input, ReductionSettings(**settings), workers=workers, scheduler=scheduler, **patience)
    report = build_dataset(opened, output, progress=True)
    print(f"{report.folder}: {report.regions} regions, {report.rows:,} rows, {report.bytes:,} bytes of Parquet")
    print(f"{report.written} regions written, {report.kept} kept")
