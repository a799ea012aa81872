"""What is missing of a stream of patches, filled in pixel by pixel between its neighbours in time."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from dataset_builder.fits.times import WINDOW_FRAMES
from solared_hf.errors import SolaredError

# An eclipse takes up to 72 minutes, 96 frames. Each interpolated frame takes about its share of the power.
MOST_MISSING = WINDOW_FRAMES // 5

_NEVER = np.iinfo(np.int32).min


class NothingObserved(SolaredError):
    """There is no patch to begin with."""


def interpolate_missing(
    patches: Iterable[np.ndarray | None],
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Fill what is missing of a stream of patches, pixel by pixel, linearly in time.

    A pixel is filled in between its last value and its next if at most `MOST_MISSING` frames lack it. Otherwise it
    stays NaN: a window with that many missing frames has no power, so that a window never needs both ends of a longer
    gap. What a slot becomes depends on the `MOST_MISSING` slots before it and after it, and on nothing else.

    Args:
        patches: (rows, columns) float32 each, any unit, one a 45 s slot, with NaN where a pixel is missing, or None
            where the whole frame is missing or bad.

    Yields:
        For each slot the patch, not to be changed in place, and which of its pixels were missing, (rows, columns)
        bool, or None if all were observed. Up to `MOST_MISSING` patches are held back until their gaps end.

    Raises:
        NothingObserved: There is no patch at all.

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
            f"All {leading} frames are missing or bad, so there is nothing to interpolate; download others."
        )


class _Gaps:
    """The patches that wait for the ends of their gaps, and when each pixel was seen last."""

    def __init__(self, shape: tuple[int, ...]):
        self._slot = -1
        self._waiting: deque[tuple[np.ndarray, np.ndarray | None]] = deque()
        # NaN where a pixel was never seen, or too long ago. Of the slot before those that wait.
        self._before = np.full(shape, np.nan, np.float32)
        self._none, self._nothing = np.ones(shape, dtype=bool), self._before
        # By pixel, while patches wait: the slot in which it was seen last, and its value there.
        self._seen, self._value = np.full(shape, _NEVER, np.int32), self._before.copy()

    def take(self, patch: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Take in the next slot and give those whose gaps have ended."""
        self._slot += 1
        if patch is None:
            patch, missing = self._nothing, self._none
        else:
            missing = patch != patch  # NaN differs from itself
            missing = missing if missing.any() else None
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
        # A copy, because it may be filled later.
        self._waiting.append((patch if missing is None else patch.copy(), missing))
        open_since = self._seen[(self._seen < self._slot) & (self._seen > earliest)]
        yield from self._release(self._slot - int(open_since.min()) if open_since.size else 0)

    def rest(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Give what still waits when the stream has ended."""
        return self._release(0)

    def _release(self, kept: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        while len(self._waiting) > kept:
            patch, missing = self._waiting.popleft()
            self._before = patch
            yield patch, missing

    def _fill(self, pixels: np.ndarray, patch: np.ndarray) -> None:
        """Fill some pixels, whose gaps end with `patch`, in the patches that wait."""
        seen, value = self._seen.ravel()[pixels], self._value.ravel()[pixels]
        rise = (patch.ravel()[pixels] - value) / (self._slot - seen).astype(np.float32)
        first = self._slot - len(self._waiting)
        for slot in range(int(seen.min()) + 1, self._slot):
            inside = seen < slot
            filled = value + (slot - seen).astype(np.float32) * rise
            self._waiting[slot - first][0].ravel()[pixels[inside]] = filled[inside]
