"""From maps to tiles: means over a 9 x 9 grid, and removal of the background that depends on latitude.

Pure functions of arrays; leading axes (bands, steps) are kept. Row 0 is south and column 0 is east, as in FITS.
"""

import numpy as np

from solared_hf.schema import KEPT_TILES, NUM_PATCH_TILES, PATCH_COLUMNS, PATCH_ROWS

# The share of the northern row in the background of each row; the southern row has the rest. As published, and not
# exactly i/8.
_NORTHERN_SHARE = np.array([0, 2, 4, 6, 9, 12, 14, 16, 18]) / 18


def tile_means(maps: np.ndarray, minimum_valid_fraction: float = 0.5) -> np.ndarray:
    """Return the mean of each tile over the pixels that are not NaN (arXiv 2402.08890).

    The patch is cut from the south-east corner into tiles of `size // 9` pixels a side. What is left over in the north
    and west is not used: 8 of 512 pixels, as published. Take the absolute value of a magnetogram before the mean.

    Args:
        maps: (..., rows, columns), any unit, at least 9 pixels a side.
        minimum_valid_fraction: a tile with a smaller fraction of valid pixels is NaN.

    Returns:
        (..., 81) float64, row by row from the south-east.

    Raises:
        ValueError: If the maps are smaller than the grid, or the fraction is not between 0 and 1.

    >>> tile_means(np.arange(81.0).reshape(9, 9))[:3]
    array([0., 1., 2.])
    """
    maps = np.asarray(maps)
    if maps.ndim < 2 or maps.shape[-2] < PATCH_ROWS or maps.shape[-1] < PATCH_COLUMNS:
        raise ValueError(
            f"Maps of shape {maps.shape} cannot be cut into {PATCH_ROWS} x {PATCH_COLUMNS} tiles. Give patches of at "
            "least 9 pixels a side."
        )
    if not 0 < minimum_valid_fraction <= 1:
        raise ValueError(f"minimum_valid_fraction={minimum_valid_fraction} must be above 0 and at most 1.")
    height, width = maps.shape[-2] // PATCH_ROWS, maps.shape[-1] // PATCH_COLUMNS
    used = maps[..., : PATCH_ROWS * height, : PATCH_COLUMNS * width]
    pixels = used.reshape(*maps.shape[:-2], PATCH_ROWS, height, PATCH_COLUMNS, width)
    valid = ~np.isnan(pixels)
    count = valid.sum(axis=(-3, -1))
    total = np.where(valid, pixels, 0).sum(axis=(-3, -1), dtype=np.float64)
    enough = count >= minimum_valid_fraction * height * width
    means = np.where(enough, total / np.maximum(count, 1), np.nan)
    return means.reshape(*maps.shape[:-2], NUM_PATCH_TILES)


def remove_latitude_background(tiles: np.ndarray) -> np.ndarray:
    """Subtract from each column the background between the southern and the northern row.

    `y_ij = x_ij - (1 - w_i) x_0j - w_i x_8j` with w = (0, 2, 4, 6, 9, 12, 14, 16, 18)/18 (the published processing,
    arXiv 2402.08890). Rows 0 and 8 become exactly 0. A column whose row 0 or 8 is NaN becomes NaN.

    Args:
        tiles: (..., 81), any unit.

    Returns:
        (..., 81) float64, the same unit.

    Raises:
        ValueError: If the last axis does not have length 81.

    >>> rows = np.repeat(np.arange(9.0), 9)  # grows from south to north
    >>> remove_latitude_background(10 * rows).reshape(9, 9)[:, 0].round(1)
    array([ 0. ,  1.1,  2.2,  3.3,  0. , -3.3, -2.2, -1.1,  0. ])
    """
    grid = _patch_tiles(tiles).reshape(*np.shape(tiles)[:-1], PATCH_ROWS, PATCH_COLUMNS)
    share = _NORTHERN_SHARE[:, None]
    background = (1 - share) * grid[..., :1, :] + share * grid[..., -1:, :]
    return (grid - background).reshape(*np.shape(tiles))


def keep_tiles(tiles: np.ndarray) -> np.ndarray:
    """Return the 63 tiles of rows 1 to 7, (..., 81) -> (..., 63); rows 0 and 8 hold only background.

    Raises:
        ValueError: If the last axis does not have length 81.

    >>> keep_tiles(np.arange(81.0))[[0, -1]]
    array([ 9., 71.])
    """
    return _patch_tiles(tiles)[..., KEPT_TILES]


def _patch_tiles(tiles: np.ndarray) -> np.ndarray:
    tiles = np.asarray(tiles)
    if tiles.shape[-1:] != (NUM_PATCH_TILES,):
        raise ValueError(f"Expected {NUM_PATCH_TILES} tiles in the last axis, but got shape {tiles.shape}.")
    return tiles.astype(np.float64, copy=False)
