"""What is missing of a stream of patches, filled in between its neighbours in time."""

from collections.abc import Iterable, Iterator

import numpy as np

from solared_hf.errors import SolaredError

# How much of the patch before a patch has to show.
_LEAST_OF_BEFORE = 0.95


class NothingObserved(SolaredError):
    """There is no patch to begin with."""


def interpolate_missing(patches: Iterable[np.ndarray | None]) -> Iterator[tuple[np.ndarray, bool]]:
    """Fill what is missing of a stream of patches, linearly in time; at its ends the nearest is repeated.

    Memory stays at two patches however long a gap is. A pixel that is NaN in either neighbour is NaN.

    Args:
        patches: (rows, columns) float32 each, any unit, one a 45 s slot, or None where the frame is missing or bad. A
            patch without any value is missing too, and so is one that lacks a twentieth more pixels than the one
            before: the limb comes slowly, but a frame that was cut on its way would spoil 8 h of windows.

    Yields:
        For each slot the patch, not to be changed in place, and whether it was filled in.

    Raises:
        NothingObserved: all patches are missing.

    >>> patches = [np.array([[10.0]]), None, np.array([[20.0]])]
    >>> [(patch.item(), filled) for patch, filled in interpolate_missing(patches)]
    [(10.0, False), (15.0, True), (20.0, False)]
    """
    observed = 0
    before, missing = None, 0
    for patch in patches:
        previously = observed
        observed = observed if patch is None else np.count_nonzero(patch == patch)  # NaN differs from itself
        if patch is None or observed == 0 or observed < _LEAST_OF_BEFORE * previously:
            missing += 1
            continue
        for index in range(missing):
            share = np.float32((index + 1) / (missing + 1))
            yield (patch if before is None else before + share * (patch - before)), True
        yield patch, False
        before, missing = patch, 0
    if missing and before is None:
        raise NothingObserved(
            f"All {missing} frames are missing or bad, so there is nothing to interpolate; download others."
        )
    for _ in range(missing):
        yield before, True
