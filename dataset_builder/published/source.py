"""The published `.npz` files as a source of regions."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from dataset_builder.published.files import parse_timeline, read_sources
from dataset_builder.shards import Shard, source_key
from dataset_builder.sources import RegionResult, find_regions, region_number
from solared_hf.errors import SolaredError

# Raise this whenever parse_timeline gives other values for the same files, so that finished shards are built again.
PARSER_VERSION = 1


class PublishedSource:
    """Source of regions that reads the published `.npz` files.

    Args:
        folder: holds the AR<number> folders, either directly or in its folder `data`.
        regions: the region folders to read; by default all in `folder`.
    """

    name = "published"

    def __init__(self, folder: Path | str, regions: Sequence[Path] | None = None):
        self.folder = Path(folder)
        self.shared_settings: dict = {}
        self._regions = regions

    def regions(self) -> list[Path]:
        """Return the folders `AR<number>`, by default all of the source in ascending order of AR number.

        Raises:
            SolaredError: If the folder does not hold a region.
        """
        return find_regions(self.folder) if self._regions is None else list(self._regions)

    def build_regions(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[RegionResult]:
        """Yield one result for each region, in the order of `regions`; see `Source`."""
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
