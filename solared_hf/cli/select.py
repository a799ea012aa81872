"""`solared select`: select regions from NOAA's daily reports, and write a catalog."""

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from solared_hf.errors import SolaredError


def select(
    srs: Annotated[Path, typer.Option(help="Folder with NOAA's Solar Region Summaries, *SRS.txt, at any depth.")],
    output: Annotated[
        Path, typer.Option(help="Parquet file to write, with a row for each region and the reason for its rejection.")
    ],
) -> None:
    """Select regions that emerged on the visible disk, lived long enough and grew large enough."""
    from rich.console import Console
    from rich.table import Table

    from dataset_builder.noaa.selection import read_reports, select_regions, write_selection

    if output.is_dir():
        raise SolaredError(f"{output} is a folder. Name a file for --output, such as {output / 'catalog.parquet'}.")
    reports = read_reports(srs, progress=partial(tqdm, desc="reading", unit="report", file=sys.stderr))
    regions = select_regions(reports)
    write_selection(regions, output)

    days = {report.day for report in reports}
    missing = (max(days) - min(days)).days + 1 - len(days)
    rows = regions.to_pylist()
    selected = [row for row in rows if row["selected"]]
    print(f"{len(reports):,} reports of {len(days):,} days, {min(days)} to {max(days)}; without a report: {missing:,}")
    print(f"{output}: {len(rows):,} regions, {len(selected):,} selected")

    noted = [row for row in rows if row["notes"]]
    if noted:
        print(f"{len(noted):,} regions have contradictory reports, see the column notes of {output}")
    console = Console()
    reasons = Counter(reason for row in rows if not row["selected"] for reason in row["reason"].split("; "))
    if reasons:
        rejected = Table(title="rejected", caption="a region can fail several rules")
        rejected.add_column("reason")
        rejected.add_column("regions", justify="right")
        for reason, count in reasons.most_common():
            rejected.add_row(reason, str(count))
        console.print(rejected)
    if selected:
        found = Table(title="selected", caption="position in degrees, north and west positive; area in millionths")
        for heading in ("region", "first spots, UTC", "latitude", "longitude", "area", "days"):
            found.add_column(heading, justify="right")
        found.add_column("Hale class")
        for row in selected:
            found.add_row(
                str(row["ar_number"]),
                f"{row['noaa_emergence_time']:%Y-%m-%d}",
                f"{row['noaa_latitude']:+.0f}",
                f"{row['noaa_longitude']:+.0f}",
                f"{row['noaa_area']:.0f}",
                str(row["noaa_lifetime_days"]),
                row["noaa_hale_class"],
            )
        console.print(found)
        for row in selected:
            if row["notes"]:
                print(f"AR{row['ar_number']}, {row['notes']}")
