"""Folders `AR<number>`, one a region, in which every source keeps its files."""

import re
from pathlib import Path

from solared_hf.errors import SolaredError

# AR numbers must fit the int32 column.
_REGION_NAME = re.compile(r"AR([1-9][0-9]{0,8})")
_ALMOST_REGION_NAME = re.compile(r"AR[0-9]")


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
