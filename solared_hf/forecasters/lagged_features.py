"""What a tile and its neighbourhood did lately, as one row of numbers for each window and tile.

Rows such as these are what a regression on tables takes.
"""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from solared_hf.errors import SolaredError
from solared_hf.schema import CHANNELS, NUM_TILES, POWER_CHANNELS, TARGET_CHANNEL, TILE_COLUMNS, TILE_ROWS

# Hours over which the change of each channel of the tile itself is a feature, beside its last value.
_CHANGES = {
    TARGET_CHANNEL: (1, 2, 3, 4, 6, 8, 12, 16, 24, 36, 48),
    "unsigned_magnetic_flux": (1, 3, 6, 12, 24, 48),
    **dict.fromkeys(POWER_CHANNELS, (3, 12, 24)),
}
# The same for its neighbours. Regions stretch from east to west, so these reach two columns and one row.
_NEIGHBOUR_CHANGES = {TARGET_CHANNEL: (3, 12), "unsigned_magnetic_flux": (3, 12)}
_ROWS_AWAY, _COLUMNS_AWAY = 1, 2
_LAGS = sorted({0}.union(*_CHANGES.values(), *_NEIGHBOUR_CHANGES.values()))

LONGEST_LAG = timedelta(hours=max(_LAGS))


def steps_per_hour(cadence: timedelta) -> int:
    """How many steps an hour has.

    Raises:
        SolaredError: the cadence does not divide it, so there is no step one hour ago.

    >>> steps_per_hour(timedelta(minutes=12))
    5
    """
    steps, remainder = divmod(timedelta(hours=1), cadence)
    if remainder:
        raise SolaredError(f"Lagged features need steps on the hour, and these are {cadence} apart; build others.")
    return steps


def lagged_features(values: np.ndarray, first: np.ndarray, last: np.ndarray, steps_per_hour: int) -> np.ndarray:
    """Last values and recent changes of each tile and of the 14 tiles around it, then its row and column.

    Where a value was not observed the one before it counts, and 0, the background, where the window has none. Changes
    over more than the window are changes over the window. Beyond the grid there is background.

    Args:
        values: (T, 6, 63) float32 of one region in physical units, with NaN.
        first, last: (N,) int, the first and the last step of each window. Nothing outside is looked at.
        steps_per_hour: lags are in hours.

    Returns:
        (N, 63, features) float32 in physical units.

    >>> values = np.zeros((60, 6, 63), np.float32)
    >>> lagged_features(values, np.array([0, 11]), np.array([48, 59]), steps_per_hour=1).shape
    (2, 63, 121)
    """
    past = _past_values(values, first, last, [hours * steps_per_hour for hours in _LAGS])
    past = dict(zip(_LAGS, past, strict=True))
    own = _values_and_changes(past, _CHANGES)
    around = [shifted for grid in _values_and_changes(past, _NEIGHBOUR_CHANGES) for shifted in _neighbours(grid)]
    place = [
        np.broadcast_to(index.astype(np.float32), own[0].shape)
        for index in np.divmod(np.arange(NUM_TILES), TILE_COLUMNS)
    ]
    return np.stack([*own, *around, *place], axis=-1)


def _past_values(values: np.ndarray, first: np.ndarray, last: np.ndarray, lags: Sequence[int]) -> list[np.ndarray]:
    """(N, 6, 63) for each lag in steps: what was last observed then, within each window."""
    steps = np.arange(len(values))[:, None, None]
    last_observed = np.maximum.accumulate(np.where(np.isnan(values), -1, steps), axis=0)
    past = []
    for lag in lags:
        source = last_observed[np.maximum(last - lag, first)]
        known = source >= first[:, None, None]
        past.append(np.where(known, np.take_along_axis(values, np.maximum(source, 0), axis=0), np.float32(0)))
    return past


def _values_and_changes(past: dict[int, np.ndarray], changes: dict[str, Sequence[int]]) -> list[np.ndarray]:
    """(N, 63) arrays: for each channel its last value, and its change over each number of hours."""
    features = []
    for channel, hours in changes.items():
        then = {lag: past[lag][:, CHANNELS.index(channel)] for lag in (0, *hours)}
        features += [then[0], *(then[0] - then[lag] for lag in hours)]
    return features


def _neighbours(tiles: np.ndarray) -> list[np.ndarray]:
    """(N, 63) arrays that hold, at each tile, the value of one of its neighbours."""
    grid = tiles.reshape(-1, TILE_ROWS, TILE_COLUMNS)
    padded = np.pad(grid, ((0, 0), (_ROWS_AWAY, _ROWS_AWAY), (_COLUMNS_AWAY, _COLUMNS_AWAY)))
    return [
        padded[:, row : row + TILE_ROWS, column : column + TILE_COLUMNS].reshape(tiles.shape)
        for row in range(2 * _ROWS_AWAY + 1)
        for column in range(2 * _COLUMNS_AWAY + 1)
        if (row, column) != (_ROWS_AWAY, _COLUMNS_AWAY)
    ]
