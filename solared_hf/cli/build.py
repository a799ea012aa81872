"""`solared build`: a source of observations in, a dataset folder for the Hub out."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class SourceName(StrEnum):
    published = "published"
    fits = "fits"


def build(
    source: Annotated[
        SourceName, typer.Option(help="What the input folder holds: published .npz files, or FITS files.")
    ],
    input: Annotated[Path, typer.Option(help="Folder with the AR<number> folders.")],
    output: Annotated[Path, typer.Option(help="Folder of the dataset: new, empty, or written by an earlier build.")],
    cadence: Annotated[str, typer.Option(help="Time from step to step: 1h or 12min (fits).")] = "1h",
    correction: Annotated[
        str, typer.Option(help="Background taken from the tiles: latitude_background or none (fits).")
    ] = "latitude_background",
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine; one a core by default (fits).")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler to use instead, such as tcp://host:8786 (fits).")
    ] = None,
) -> None:
    """Build a dataset folder that load_dataset reads; run again to do only what is left."""
    from dataset_builder.build import build_dataset

    if source is SourceName.published:
        from dataset_builder.sources import PublishedSource

        opened = PublishedSource(input)
    else:
        from dataset_builder.fits_source import FitsSource
        from dataset_builder.plan import Settings

        opened = FitsSource(input, Settings(cadence, correction), workers=workers, scheduler=scheduler)
    report = build_dataset(opened, output, progress=True)
    print(f"{report.folder}: {report.regions} regions, {report.rows:,} rows, {report.bytes:,} bytes of Parquet")
    print(f"{report.written} regions written, {report.kept} kept as they were")
