"""`solared build`: a source of observations in, a dataset folder for the Hub out."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm


def build(
    source: Annotated[str, typer.Option(help="What the input folder holds: published, or simulated, .npz files.")],
    input: Annotated[Path, typer.Option(help="Folder with the AR<number> folders.")],
    output: Annotated[Path, typer.Option(help="Folder of the dataset: new, empty, or written by an earlier build.")],
) -> None:
    """Build a dataset folder that load_dataset reads; run again to do only what is left."""
    from dataset_builder.build import build_dataset

    bar = partial(tqdm, desc="building", unit="region", file=sys.stderr)
    report = build_dataset(source, input, output, progress=bar)
    print(f"{report.folder}: {report.regions} regions, {report.rows:,} rows, {report.bytes:,} bytes of Parquet")
    print(f"{report.written} regions written, {report.kept} kept as they were")
