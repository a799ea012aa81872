"""Interpolation of missing pixels in a stream of patches, between neighbours in time."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from dataset_builder.fits.times import WINDOW_FRAMES
from solared_hf.errors import SolaredError

# An eclipse takes up to 72 minutes, 96 frames. A window loses about the share of its power that is interpolated.
MOST_MISSING = WINDOW_FRAMES // 5

_NEVER = np.iinfo(np.int32).min


class NothingObserved(SolaredError):
    """Raised if a stream holds no patch at all."""


def interpolate_missing(
    patches: Iterable[np.ndarray | None],
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Interpolate missing pixels in a stream of patches, linearly in time.

    A pixel is interpolated between its last value and its next value if at most `MOST_MISSING` frames lack the pixel.
    In a longer gap the pixel stays NaN: a window that lacks so many frames has no power, and no window needs both ends
    of a longer gap. The result for a slot depends only on the `MOST_MISSING` slots before it and after it.

    Args:
        patches: (rows, columns) float32 each, any unit, one patch per 45 s slot, with NaN for missing pixels, or None
            if the whole frame is missing or bad.

    Yields:
        For each slot, the patch, which must not be changed in place, and a (rows, columns) bool mask of the pixels
        that were missing, or None if all were observed. Up to `MOST_MISSING` patches are held until their gaps end.

    Raises:
        NothingObserved: If every patch is None.

    >>> patches = [np.array([[10.0, 1.0]]), np.array([[np.nan, 2.0]]), np.array([[20.0, 3.0]])]
    >>> [(patch.tolist(), missing is not None) for patch, missing in interpolate_missing(patches)]
    [([[10.0, 1.0]], False), ([[15.0, 2.0]], True), ([[20.0, 3.0]], False)]
    """
    gaps: _Gaps | None = None
    leading = 0
    for patch in patches:
        if gaps is None:
            if patch is None:
                leading += 1
                continue
            gaps = _Gaps(patch.shape)
            for _ in range(leading):
                yield from gaps.take(None)
        yield from gaps.take(patch)
    if gaps is not None:
        yield from gaps.rest()
    elif leading:
        raise NothingObserved(
            f"All {leading} frames are missing or bad, so nothing can be interpolated. Download other frames."
        )


class _Gaps:
    """The patches whose gaps are still open, and when each pixel was last observed."""

    def __init__(self, shape: tuple[int, ...]):
        self._slot = -1
        self._waiting: deque[tuple[np.ndarray, np.ndarray | None]] = deque()
        # The patch before those that wait: NaN if a pixel was never observed, or too long ago.
        self._before = np.full(shape, np.nan, np.float32)
        self._all_missing, self._nothing = np.ones(shape, dtype=bool), self._before
        # For each pixel, while patches wait: the slot in which it was last observed, and the value there.
        self._seen, self._value = np.full(shape, _NEVER, np.int32), self._before.copy()

    def take(self, patch: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Add the next slot, and yield the patches whose gaps have ended."""
        self._slot += 1
        missing: np.ndarray | None
        if patch is None:
            patch, missing = self._nothing, self._all_missing
        else:
            is_nan = patch != patch  # only NaN differs from itself
            missing = is_nan if is_nan.any() else None
        if not self._waiting:
            if missing is None or not (missing & (self._before == self._before)).any():
                self._before = patch
                yield patch, missing
                return
            # A gap begins.
            np.copyto(self._value, self._before)
            self._seen[:] = np.where(np.isnan(self._before), _NEVER, self._slot - 1)
        observed = True if missing is None else ~missing
        earliest = self._slot - 1 - MOST_MISSING
        ending = observed & (self._seen < self._slot - 1) & (self._seen >= earliest)
        if ending.any():
            self._fill(np.flatnonzero(ending), patch)
        np.copyto(self._value, patch, where=observed)
        np.copyto(self._seen, self._slot, where=observed)
        # A copy, because the patch may be filled in later.
        self._waiting.append((patch if missing is None else patch.copy(), missing))
        open_since = self._seen[(self._seen < self._slot) & (self._seen > earliest)]
        yield from self._release(self._slot - int(open_since.min()) if open_since.size else 0)

    def rest(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield the patches that still wait at the end of the stream."""
        return self._release(0)

    def _release(self, kept: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        while len(self._waiting) > kept:
            patch, missing = self._waiting.popleft()
            self._before = patch
            yield patch, missing

    def _fill(self, pixels: np.ndarray, patch: np.ndarray) -> None:
        """Interpolate, in the patches that wait, some pixels whose gaps end with `patch`."""
        seen, value = self._seen.ravel()[pixels], self._value.ravel()[pixels]
        rise = (patch.ravel()[pixels] - value) / (self._slot - seen).astype(np.float32)
        first = self._slot - len(self._waiting)
        for slot in range(int(seen.min()) + 1, self._slot):
            inside = seen < slot
            filled = value + (slot - seen).astype(np.float32) * rise
            self._waiting[slot - first][0].ravel()[pixels[inside]] = filled[inside]
