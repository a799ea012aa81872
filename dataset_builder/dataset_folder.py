"""A finished dataset folder as the Hub gets it: what the manifest lists, checked, with the card for its repository."""

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

_MENDS = "run the same `solared build` again, which mends it, and then push."
# What only a build writes. A repository may hold other files, such as the .npz of which it was made.
_OWNED = (CARD_NAME, MANIFEST_NAME, CATALOG_PATH, *(f"data/{split}/AR*.parquet" for split in SPLITS))


@contextmanager
def dataset_to_push(folder: Path, repo_id: str) -> Iterator[Content]:
    """What a push of a dataset folder brings to the Hub; no build can change the folder meanwhile.

    The card is the folder's own, but tells to load the repository.

    Raises:
        SolaredError: the folder is no finished dataset, a file is missing or not the one that was built, or a build is
            running.
    """
    busy = f"Another command is writing or pushing {folder}; push when it has finished."
    # Who may not write may still push, and the push looks at what arrived.
    with locked(folder / LOCK_NAME, busy) if os.access(folder, os.W_OK) else nullcontext():
        yield _content(folder, repo_id)


def _content(folder: Path, repo_id: str) -> Content:
    unfinished = f"{folder} is no finished dataset; run its `solared build` again until it succeeds, and then push."
    try:
        card, content = ((folder / name).read_bytes() for name in (CARD_NAME, MANIFEST_NAME))
        manifest = json.loads(content)
        described = {part["path"]: part["sha256"] for part in (*manifest["regions"], manifest["catalog"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SolaredError(unfinished) from error
    files: dict[str, bytes | LargeFile] = {CARD_NAME: card_for(repo_id, card), MANIFEST_NAME: content}
    for name, sha256 in described.items():
        try:
            files[name] = LargeFile.of(folder / name)
        except OSError as error:
            raise SolaredError(f"{folder / name} cannot be read ({error.strerror}); {_MENDS}") from error
        if files[name].sha256 != sha256:
            raise SolaredError(f"{folder / name} is not the file that was built; {_MENDS}")
    return Content("dataset", files, _OWNED)
