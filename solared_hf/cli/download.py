"""`solared download`: download the observations of a catalog of regions from JSOC."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm


def download(
    catalog: Annotated[Path, typer.Option(help="File that `solared select` wrote.")],
    output: Annotated[
        Path, typer.Option(help="Folder for the observations: a new folder, or one of an earlier download.")
    ],
    email: Annotated[
        str | None, typer.Option(help="E-mail address registered at JSOC; not needed for a dry run.")
    ] = None,
    ar: Annotated[list[int] | None, typer.Option(help="Only this region. Repeat it for several regions.")] = None,
    cadence: Annotated[str, typer.Option(help="Time between steps: 1h or 12min.")] = "1h",
    full_disk: Annotated[
        bool, typer.Option("--full-disk", help="Download full images instead of cutouts: ten times as many bytes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the number of files and bytes.")] = False,
    server: Annotated[str | None, typer.Option(help="Address of a JSOC server other than Stanford's.")] = None,
) -> None:
    """Download the observations of the selected regions from JSOC. Run it again to download what is missing."""
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
        print(f"JSOC did not deliver {report.undelivered:,} frames. Run the command again to order them again.")
