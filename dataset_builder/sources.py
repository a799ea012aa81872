"""Where regions come from: what a build asks of a source, and the source of the published files."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from tqdm import tqdm

from dataset_builder.published import parse_timeline, read_sources
from dataset_builder.region_folders import find_regions, region_number
from dataset_builder.shards import Shard, source_key
from solared_hf.errors import SolaredError

# Raised whenever parse_timeline gives other values for the same files, so that finished shards are built again.
PARSER_VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a region: a new shard, or an error; or neither, where its shard was finished before."""

    ar_number: int
    shard: Shard | None = None
    error: SolaredError | None = None


class Source(Protocol):
    """A folder of regions that can be made into shards.

    Attributes:
        name: what the manifest calls the source.
        folder: where its files lie.
        shared_settings: those that all regions of one dataset must share.
    """

    name: str
    folder: Path
    shared_settings: dict

    def regions(self) -> list[Path]:
        """Folders of the regions.

        Raises:
            SolaredError: there is none.
        """

    def outcomes(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[Outcome]:
        """One outcome for each region, in any order.

        Args:
            is_finished: whether there is a shard of that AR number and key already.
            progress: show a bar on standard error.
        """


class PublishedSource:
    """The published `.npz` files; see `published`.

    Args:
        folder: the folder that holds the AR<number> folders, or whose folder `data` does.
        regions: the folders to read; by default all that `folder` holds.
    """

    name = "published"
    shared_settings: ClassVar[dict] = {}

    def __init__(self, folder: Path | str, regions: Sequence[Path] | None = None):
        self.folder = Path(folder)
        self._regions = regions

    def regions(self) -> list[Path]:
        """Folders `AR<number>`, ascending.

        Raises:
            SolaredError: there is none.
        """
        return find_regions(self.folder) if self._regions is None else list(self._regions)

    def outcomes(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[Outcome]:
        """One outcome for each region, in their order; see `Source`."""
        regions = tqdm(self.regions(), desc="building", unit="region", file=sys.stderr, disable=not progress)
        for region in regions:
            ar_number = region_number(region)
            try:
                files = read_sources(region)
                key = source_key({"source": self.name, "parser_version": PARSER_VERSION}, files)
                if is_finished(ar_number, key):
                    yield Outcome(ar_number)
                else:
                    shard = Shard(parse_timeline(region, files), key, {"source": self.name})
                    yield Outcome(ar_number, shard=shard)
            except SolaredError as error:
                yield Outcome(ar_number, error=error)
