"""The published `.npz` files as a source of regions."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from tqdm import tqdm

from dataset_builder.published.files import parse_timeline, read_sources
from dataset_builder.shards import Shard, source_key
from dataset_builder.sources import RegionResult, find_regions, region_number
from solared_hf.errors import SolaredError

# Raise it whenever parse_timeline gives other values for the same files: finished shards are then built again.
PARSER_VERSION = 1


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

    def build_regions(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[RegionResult]:
        """One result for each region, in their order; see `Source`."""
        regions = tqdm(self.regions(), desc="building", unit="region", file=sys.stderr, disable=not progress)
        for region in regions:
            ar_number = region_number(region)
            try:
                files = read_sources(region)
                key = source_key({"source": self.name, "parser_version": PARSER_VERSION}, files)
                if is_finished(ar_number, key):
                    yield RegionResult(ar_number)
                else:
                    shard = Shard(parse_timeline(region, files), key, {"source": self.name})
                    yield RegionResult(ar_number, shard=shard)
            except SolaredError as error:
                yield RegionResult(ar_number, error=error)
