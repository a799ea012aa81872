"""Windows as a dataset for a `Trainer`, which gathers a batch at once instead of stacking items."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from solared_hf.data.windows import SolaredWindows


class WindowReferences(Dataset):
    """The pairs `(windows, index)` of all windows. Not a list, because there may be millions of windows."""

    def __init__(self, windows: "SolaredWindows"):
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple["SolaredWindows", int]:
        return self._windows, range(len(self))[index]


def batch_of(references: Sequence[tuple["SolaredWindows", int]]) -> dict[str, torch.Tensor]:
    """Return the batch of some pairs of `SolaredWindows.references`, all of the same windows.

    It is the collator for all datasets of a `Trainer`.
    """
    return references[0][0].batch([index for _, index in references])
