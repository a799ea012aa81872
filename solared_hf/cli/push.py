"""`solared push`: a dataset or model folder in, one commit on the Hub out."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from solared_hf.errors import SolaredError

if TYPE_CHECKING:
    from solared_hf.hub.push import PushReport


def push(
    folder: Annotated[Path, typer.Argument(help="Folder written by `solared build` or `solared train`.")],
    repo_id: Annotated[str, typer.Option(help="Repository on the Hub, owner/name; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    branch: Annotated[str, typer.Option(help="Branch to push to; made from main if it is not there.")] = "main",
    tag: Annotated[str | None, typer.Option(help="Name for the commit, such as v1.0.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Push a dataset or a model to the Hub in one commit; what is there already is not uploaded again."""
    from solared_hf.hub.push import push as push_to_hub
    from solared_hf.schema import MANIFEST_NAME

    if (folder / "config.json").is_file():
        from solared_hf.hub.model_folder import model_to_push

        opened = nullcontext(model_to_push(folder, repo_id))
    elif (folder / MANIFEST_NAME).is_file():
        from dataset_builder.dataset_folder import dataset_to_push

        opened = dataset_to_push(folder, repo_id)
    else:
        raise SolaredError(
            f"{folder} holds neither a dataset nor a model; name a folder written by `solared build` or `solared "
            "train`."
        )
    with opened as content:
        report = push_to_hub(content, repo_id, private=private, branch=branch, tag=tag, dry_run=dry_run)
    _print(report, tag, dry_run)


def _print(report: "PushReport", tag: str | None, dry_run: bool) -> None:
    # What is changed or deleted may have been changed on the Hub by somebody, who should find it named.
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
        print(f"left as they are on the Hub: {', '.join(report.foreign[:5])}{' ...' * (len(report.foreign) > 5)}")
    if dry_run:
        print(f"{report.repo_id} {'would be made' if report.creates else 'is there'}; nothing was changed")
    elif not report.is_different:
        print(f"{report.repo_id} was up to date; no commit was made")
    print(f"{report.url}{f', tag {tag}' if tag and not dry_run else ''}")
