"""Regions whose download fails while that of the others goes on."""

from collections.abc import Iterator
from contextlib import contextmanager

from solared_hf.errors import SolaredError


class RegionFailed(SolaredError):
    """What is wrong with one region, and nothing else."""


class Failures:
    """What went wrong with which region: one sentence each, to be told when all others are done.

    Args:
        regions: how many there are in all.
    """

    def __init__(self, regions: int):
        self._regions = regions
        self._sentences: dict[int, str] = {}

    @contextmanager
    def of(self, ar_number: int) -> Iterator[None]:
        """Take the `RegionFailed` that is raised within; any other error stops everything."""
        try:
            yield
        except RegionFailed as error:
            self._sentences[ar_number] = str(error)

    def tell(self) -> None:
        """Do nothing if all went well.

        Raises:
            SolaredError: some regions failed; the message has a line for each.
        """
        if not self._sentences:
            return
        lines = [f"AR{number}: {sentence}" for number, sentence in sorted(self._sentences.items())]
        if self._regions > 1:
            lines.insert(0, f"{len(lines)} of {self._regions} regions failed, and the others were gone on with:")
        raise SolaredError("\n".join(lines))
