"""The files of a finished dataset folder that a push uploads: the files of the manifest, checked, and the card."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from dataset_builder.build import LOCK_NAME
from solared_hf.errors import SolaredError
from solared_hf.files import locked
from solared_hf.hub.cards import CARD_NAME, card_for
from solared_hf.hub.push import Content, LargeFile
from solared_hf.schema import CATALOG_PATH, MANIFEST_NAME
from solared_hf.splits import SPLITS

_REMEDY = "Run the same `solared build` again to mend it, and then push."
# The files that only a build writes. A repository may also hold other files, such as the published .npz files.
_OWNED = (CARD_NAME, MANIFEST_NAME, CATALOG_PATH, *(f"data/{split}/AR*.parquet" for split in SPLITS))


@contextmanager
def dataset_to_push(folder: Path, repo_id: str) -> Iterator[Content]:
    """Yield the files of a dataset folder for a push, and lock the folder against builds meanwhile.

    The card is the card of the folder, except that its examples load the repository.

    Raises:
        SolaredError: If the folder is not a finished dataset, a file is missing or differs from the file that was
            built, or a build is running.
    """
    busy = f"Another command is writing or pushing {folder}. Push when it has finished."
    # A user without write permission may push too. The push verifies the uploaded files.
    with locked(folder / LOCK_NAME, busy) if os.access(folder, os.W_OK) else nullcontext():
        yield _content(folder, repo_id)


def _content(folder: Path, repo_id: str) -> Content:
    unfinished = f"{folder} is not a finished dataset. Run `solared build` again until it succeeds, and then push."
    try:
        card, content = ((folder / name).read_bytes() for name in (CARD_NAME, MANIFEST_NAME))
        manifest = json.loads(content)
        described = {part["path"]: part["sha256"] for part in (*manifest["regions"], manifest["catalog"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SolaredError(unfinished) from error
    files: dict[str, bytes | LargeFile] = {CARD_NAME: card_for(repo_id, card), MANIFEST_NAME: content}
    for name, sha256 in described.items():
        try:
            file = LargeFile.of(folder / name)
        except OSError as error:
            raise SolaredError(f"{folder / name} cannot be read ({error.strerror}). {_REMEDY}") from error
        if file.sha256 != sha256:
            raise SolaredError(f"{folder / name} is not the file that was built. {_REMEDY}")
        files[name] = file
    return Content("dataset", files, _OWNED)
