"""`solared import`: make a dataset folder from the published repository on the Hub."""

from pathlib import Path
from typing import Annotated

import typer


def import_dataset(
    repo_id: Annotated[str, typer.Argument(help="Dataset repository on the Hub: nasa-impact/ar_emergence.")],
    output: Annotated[Path, typer.Option(help="Folder of the dataset: new, empty, or written by an earlier build.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; main by default.")] = None,
    leave_out: Annotated[
        list[int] | None, typer.Option(help="Leave out this region. Repeat it for several regions.")
    ] = None,
) -> None:
    """Download the published data from the Hub and build a dataset folder. Run it again to do the remaining work."""
    from dataset_builder.hub_import import import_repository

    report = import_repository(repo_id, output, revision, leave_out or (), progress=True)
    print(f"{repo_id}, commit {report.commit}")
    build = report.build
    print(f"{build.folder}: {build.regions} regions, {build.rows:,} rows, {build.bytes:,} bytes of Parquet")
    print(f"{build.written} regions written, {build.kept} kept")
    for remark in report.remarks:
        print(remark)
