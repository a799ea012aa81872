"""The interface of a source of regions, and the `AR<number>` folders in which every source keeps its files."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dataset_builder.shards import Shard
from solared_hf.errors import SolaredError

# AR numbers must fit the int32 column.
_REGION_NAME = re.compile(r"AR([1-9][0-9]{0,8})")
_ALMOST_REGION_NAME = re.compile(r"AR[0-9]")


@dataclass(frozen=True)
class RegionResult:
    """The result of building one region: a new shard or an error, or neither if a finished shard existed."""

    ar_number: int
    shard: Shard | None = None
    error: SolaredError | None = None


class Source(Protocol):
    """A folder of regions from which a build makes shards.

    Attributes:
        name: the name of the source in the manifest.
        folder: the folder of the files.
        shared_settings: the settings that all regions of one dataset must share.
    """

    name: str
    folder: Path
    shared_settings: dict

    def regions(self) -> list[Path]:
        """Return the folders of the regions.

        Raises:
            SolaredError: If the source does not hold a region.
        """
        ...

    def build_regions(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[RegionResult]:
        """Yield one result for each region, in any order.

        Args:
            is_finished: takes an AR number and a key, and returns True if a shard with this key exists.
            progress: show a progress bar on standard error.
        """
        ...


def find_regions(folder: Path | str) -> list[Path]:
    """Return the folders `AR<number>` in `folder`, or in `folder/data`, in ascending order of AR number.

    Broken links are included, so that the build reports a region whose storage is not mounted.

    Raises:
        SolaredError: If `folder` does not exist, cannot be listed, does not hold a region, or holds a folder whose
            name only resembles `AR<number>`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SolaredError(f"The folder {folder} does not exist. Name the folder that holds the AR<number> folders.")
    for candidate in (folder, folder / "data"):
        try:
            found = sorted(path for path in candidate.glob("AR*") if path.is_dir() or not path.exists())
        except OSError as error:
            raise SolaredError(
                f"{candidate} cannot be listed ({error.strerror or error}). Check that the storage is mounted and "
                "readable."
            ) from error
        regions = [path for path in found if _REGION_NAME.fullmatch(path.name)]
        for path in found:
            if path not in regions and _ALMOST_REGION_NAME.match(path.name):
                raise SolaredError(f"{path} is not named AR<number>. Rename it, or move it out of {candidate}.")
        if regions:
            return sorted(regions, key=region_number)
    raise SolaredError(f"{folder} does not hold an AR<number> folder. Name the folder that holds the regions.")


def region_number(folder: Path) -> int:
    """Return the NOAA active region number in the name of a region folder.

    Raises:
        SolaredError: If the name is not `AR<number>`.

    >>> region_number(Path("data/AR11130"))
    11130
    """
    match = _REGION_NAME.fullmatch(folder.name)
    if not match:
        raise SolaredError(f"{folder} is not named AR<number>, so the region is unknown. Rename it, as in AR11130.")
    return int(match[1])
