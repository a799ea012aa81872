"""What a build asks of a source of regions, and the `AR<number>` folders in which every source keeps its files."""

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

    def build_regions(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[RegionResult]:
        """One result for each region, in any order.

        Args:
            is_finished: whether there is a shard of that AR number and key already.
            progress: show a bar on standard error.
        """


def find_regions(folder: Path | str) -> list[Path]:
    """Folders `AR<number>` inside `folder`, or inside its `data` folder, in ascending order of AR number.

    Links to folders that are not there are among them, because a region whose storage is away must not go unnoticed.

    Raises:
        SolaredError: `folder` does not exist or cannot be listed, holds no region, or holds a folder whose name only
            resembles a region's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SolaredError(f"There is no folder {folder}; name the folder that holds the AR<number> folders.")
    for candidate in (folder, folder / "data"):
        try:
            found = sorted(path for path in candidate.glob("AR*") if path.is_dir() or not path.exists())
        except OSError as error:
            raise SolaredError(
                f"{candidate} cannot be listed ({error.strerror or error}); see that its storage is there and may be "
                "read."
            ) from error
        regions = [path for path in found if _REGION_NAME.fullmatch(path.name)]
        for path in found:
            if path not in regions and _ALMOST_REGION_NAME.match(path.name):
                raise SolaredError(f"{path} is not named AR<number>; rename it, or move it out of {candidate}.")
        if regions:
            return sorted(regions, key=region_number)
    raise SolaredError(f"There is no AR<number> folder in {folder}; name the folder that holds the regions.")


def region_number(folder: Path) -> int:
    """NOAA active region number in the name of a region's folder.

    >>> region_number(Path("data/AR11130"))
    11130

    Raises:
        SolaredError: the name is not `AR<number>`.
    """
    match = _REGION_NAME.fullmatch(folder.name)
    if not match:
        raise SolaredError(f"{folder} is not named AR<number>, so its region is unknown; rename it, as in AR11130.")
    return int(match[1])
