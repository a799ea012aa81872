"""Collect the errors of regions, so that the download of the other regions continues."""

from collections.abc import Iterator
from contextlib import contextmanager

from solared_hf.errors import SolaredError


class RegionFailed(SolaredError):
    """An error that concerns only one region."""


class Failures:
    """The errors of regions, to be raised together when all regions are done.

    Args:
        regions: number of all regions.
    """

    def __init__(self, regions: int):
        self._regions = regions
        self._sentences: dict[int, str] = {}

    @contextmanager
    def of(self, ar_number: int) -> Iterator[None]:
        """Record a `RegionFailed` that the block raises. All other errors pass through."""
        try:
            yield
        except RegionFailed as error:
            self._sentences[ar_number] = str(error)

    def tell(self) -> None:
        """Raise one error for all failed regions.

        Raises:
            SolaredError: If regions failed. The message has a line for each of them.
        """
        if not self._sentences:
            return
        lines = [f"AR{number}: {sentence}" for number, sentence in sorted(self._sentences.items())]
        if self._regions > 1:
            lines.insert(0, f"{len(lines)} of {self._regions} regions failed; the others were downloaded:")
        raise SolaredError("\n".join(lines))
