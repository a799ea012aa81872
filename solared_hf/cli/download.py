"""`solared download`: a catalog of regions in, their observations from JSOC out."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm


def download(
    catalog: Annotated[Path, typer.Option(help="File that `solared select` wrote.")],
    output: Annotated[Path, typer.Option(help="Folder for the observations: new, or of an earlier download.")],
    email: Annotated[str | None, typer.Option(help="E-mail address registered at JSOC; a dry run needs none.")] = None,
    ar: Annotated[list[int] | None, typer.Option(help="Only this region; may be given several times.")] = None,
    cadence: Annotated[str, typer.Option(help="Of the steps: 1h or 12min.")] = "1h",
    full_disk: Annotated[
        bool, typer.Option("--full-disk", help="Download whole images instead of cutouts: ten times the bytes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many files and bytes there are.")] = False,
    server: Annotated[str | None, typer.Option(help="Address of another JSOC than Stanford's.")] = None,
) -> None:
    """Download the observations of the selected regions from JSOC; run again to bring what is missing."""
    from dataset_builder.jsoc.download import download_regions
    from dataset_builder.jsoc.server import PUBLIC_SERVER

    report = download_regions(
        catalog,
        output,
        email=email,
        ar_numbers=ar or (),
        cadence=cadence,
        full_disk=full_disk,
        dry_run=dry_run,
        server=PUBLIC_SERVER if server is None else server,
        say=partial(print, flush=True),
        progress=partial(tqdm, file=sys.stderr),
    )
    if dry_run:
        return
    print(f"{output}: {report.files:,} files written, {sum(plan.files for plan in report.plans):,} in all")
    if report.undelivered:
        print(f"JSOC left {report.undelivered:,} frames out of its exports; run again to order them again")
