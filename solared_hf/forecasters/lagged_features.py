"""Features for regression: recent values and changes of a tile and its neighbours, one row per window and tile."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from solared_hf.errors import SolaredError
from solared_hf.schema import CHANNELS, NUM_TILES, POWER_CHANNELS, TARGET_CHANNEL, TILE_COLUMNS, TILE_ROWS

# Features of the tile: for each channel the last value, and the changes over these hours.
_CHANGES: dict[str, Sequence[int]] = {
    TARGET_CHANNEL: (1, 2, 3, 4, 6, 8, 12, 16, 24, 36, 48),
    "unsigned_magnetic_flux": (1, 3, 6, 12, 24, 48),
    **dict.fromkeys(POWER_CHANNELS, (3, 12, 24)),
}
# The same for the neighbours. Regions extend from east to west, so neighbours are up to two columns and one row away.
_NEIGHBOUR_CHANGES: dict[str, Sequence[int]] = {TARGET_CHANNEL: (3, 12), "unsigned_magnetic_flux": (3, 12)}
_ROWS_AWAY, _COLUMNS_AWAY = 1, 2
_LAGS = sorted({0}.union(*_CHANGES.values(), *_NEIGHBOUR_CHANGES.values()))

LONGEST_LAG = timedelta(hours=max(_LAGS))


def steps_per_hour(cadence: timedelta) -> int:
    """Return the number of steps per hour.

    Raises:
        SolaredError: If the cadence does not divide an hour.

    >>> steps_per_hour(timedelta(minutes=12))
    5
    """
    steps, remainder = divmod(timedelta(hours=1), cadence)
    if remainder:
        raise SolaredError(f"The cadence {cadence} does not divide one hour. Build a dataset with another cadence.")
    return steps


def lagged_features(values: np.ndarray, first: np.ndarray, last: np.ndarray, steps_per_hour: int) -> np.ndarray:
    """Return last values and recent changes of each tile and of the 14 tiles around it, and its row and column.

    A missing value is replaced by the last observed value of the window, or by 0 (the background) if there is none.
    Changes over more hours than the window are changes over the window. Neighbours outside the grid are 0.

    Args:
        values: (T, 6, 63) float32 array of one region in physical units, NaN where not observed.
        first, last: (N,) arrays of int, the first and the last step of each window. Other steps are not used.
        steps_per_hour: Number of steps per hour.

    Returns:
        (N, 63, features) float32 array in physical units.

    >>> values = np.zeros((60, 6, 63), np.float32)
    >>> lagged_features(values, np.array([0, 11]), np.array([48, 59]), steps_per_hour=1).shape
    (2, 63, 121)
    """
    lagged_values = _past_values(values, first, last, [hours * steps_per_hour for hours in _LAGS])
    past = dict(zip(_LAGS, lagged_values, strict=True))
    own = _values_and_changes(past, _CHANGES)
    around = [shifted for grid in _values_and_changes(past, _NEIGHBOUR_CHANGES) for shifted in _neighbours(grid)]
    place = [
        np.broadcast_to(index.astype(np.float32), own[0].shape)
        for index in np.divmod(np.arange(NUM_TILES), TILE_COLUMNS)
    ]
    return np.stack([*own, *around, *place], axis=-1)


def _past_values(values: np.ndarray, first: np.ndarray, last: np.ndarray, lags: Sequence[int]) -> list[np.ndarray]:
    """Return the last value observed before each lag in steps, within each window: (N, 6, 63) arrays."""
    steps = np.arange(len(values))[:, None, None]
    last_observed = np.maximum.accumulate(np.where(np.isnan(values), -1, steps), axis=0)
    past = []
    for lag in lags:
        source = last_observed[np.maximum(last - lag, first)]
        known = source >= first[:, None, None]
        past.append(np.where(known, np.take_along_axis(values, np.maximum(source, 0), axis=0), np.float32(0)))
    return past


def _values_and_changes(past: dict[int, np.ndarray], changes: dict[str, Sequence[int]]) -> list[np.ndarray]:
    """Return (N, 63) arrays: the last value of each channel, and its change over each number of hours."""
    features = []
    for channel, hours in changes.items():
        then = {lag: past[lag][:, CHANNELS.index(channel)] for lag in (0, *hours)}
        features += [then[0], *(then[0] - then[lag] for lag in hours)]
    return features


def _neighbours(tiles: np.ndarray) -> list[np.ndarray]:
    """Return (N, 63) arrays, one per neighbour, with the value of this neighbour at each tile."""
    grid = tiles.reshape(-1, TILE_ROWS, TILE_COLUMNS)
    padded = np.pad(grid, ((0, 0), (_ROWS_AWAY, _ROWS_AWAY), (_COLUMNS_AWAY, _COLUMNS_AWAY)))
    return [
        padded[:, row : row + TILE_ROWS, column : column + TILE_COLUMNS].reshape(tiles.shape)
        for row in range(2 * _ROWS_AWAY + 1)
        for column in range(2 * _COLUMNS_AWAY + 1)
        if (row, column) != (_ROWS_AWAY, _COLUMNS_AWAY)
    ]
