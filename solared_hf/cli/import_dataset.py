"""`solared import`: the published repository on the Hub in, a dataset folder out."""

from pathlib import Path
from typing import Annotated

import typer


def import_dataset(
    repo_id: Annotated[str, typer.Argument(help="Dataset repository on the Hub: nasa-impact/ar_emergence.")],
    output: Annotated[Path, typer.Option(help="Folder of the dataset: new, empty, or written by an earlier build.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; main by default.")] = None,
    leave_out: Annotated[list[int] | None, typer.Option(help="Not this region; may be given several times.")] = None,
) -> None:
    """Download the published data from the Hub and build a dataset folder; run again to do only what is left."""
    from dataset_builder.hub_import import import_repository

    report = import_repository(repo_id, output, revision, leave_out or (), progress=True)
    print(f"{repo_id}, commit {report.commit}")
    build = report.build
    print(f"{build.folder}: {build.regions} regions, {build.rows:,} rows, {build.bytes:,} bytes of Parquet")
    print(f"{build.written} regions written, {build.kept} kept as they were")
    for remark in report.remarks:
        print(remark)
