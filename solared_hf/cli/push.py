"""`solared push`: push a dataset or model folder to the Hub in one commit."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from solared_hf.errors import SolaredError

if TYPE_CHECKING:
    from solared_hf.hub.push import Content, PushReport


def push(
    folder: Annotated[Path, typer.Argument(help="Folder written by `solared build` or `solared train`.")],
    repo_id: Annotated[str, typer.Option(help="Repository on the Hub, owner/name; created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    branch: Annotated[str, typer.Option(help="Branch to push to; created from main if it does not exist.")] = "main",
    tag: Annotated[str | None, typer.Option(help="Name for the commit, such as v1.0.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would change.")] = False,
) -> None:
    """Push a dataset or a model to the Hub in one commit. Unchanged files are not uploaded again."""
    from solared_hf.hub.push import push as push_to_hub
    from solared_hf.schema import MANIFEST_NAME

    if (folder / "config.json").is_file():
        from solared_hf.hub.model_folder import model_to_push

        opened: AbstractContextManager[Content] = nullcontext(model_to_push(folder, repo_id))
    elif (folder / MANIFEST_NAME).is_file():
        from dataset_builder.dataset_folder import dataset_to_push

        opened = dataset_to_push(folder, repo_id)
    else:
        raise SolaredError(
            f"{folder} holds neither a dataset nor a model. Name a folder written by `solared build` or `solared "
            "train`."
        )
    with opened as content:
        report = push_to_hub(content, repo_id, private=private, branch=branch, tag=tag, dry_run=dry_run)
    _print(report, tag, dry_run)


def _print(report: "PushReport", tag: str | None, dry_run: bool) -> None:
    # Name changed and deleted files, because somebody may have edited them on the Hub.
    added = report.added if dry_run else ()
    for word, names in (("add", added), ("change", report.changed), ("delete", report.deleted)):
        for name in names:
            print(f"{word:6} {name}")
    counts = (
        f"{len(report.added)} {'to add' if dry_run else 'added'}, "
        f"{len(report.changed)} {'to change' if dry_run else 'changed'}, "
        f"{len(report.deleted)} {'to delete' if dry_run else 'deleted'}, {report.unchanged} unchanged"
    )
    print(f"files: {counts}; {report.upload_bytes:,} bytes{' to upload' if dry_run else ''}")
    if report.foreign:
        print(f"kept on the Hub: {', '.join(report.foreign[:5])}{' ...' * (len(report.foreign) > 5)}")
    if dry_run:
        print(f"{report.repo_id} {'would be created' if report.creates else 'exists'}; nothing was changed")
    elif not report.is_different:
        print(f"{report.repo_id} was up to date; no commit was made")
    print(f"{report.url}{f', tag {tag}' if tag and not dry_run else ''}")
