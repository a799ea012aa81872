"""The matrix products that turn velocity differences into the power of the four frequency bands.

With d[n] = v[n+1] - v[n] the differences of neighbouring frames and F the discrete Fourier transform of a window's 639
differences, the power is that of the published processing (arXiv 2402.08890): `P[k] = (dt^2 / T) |F[k]|^2` with
T = 640 dt. Bin k is labelled k/T, and a band is the trapezoid sum of its bins with unit spacing, both ends included.

Only 115 of the 320 bins belong to a band, so matrix products onto these bins are faster than whole FFTs. Because
639 = 9 x 71, a window's transform splits at n = 71 a + b into two stages (Cooley and Tukey 1965, Mathematics of
Computation 19, 297) with a quarter of the work of one product of length 639:
`H_b[j] = sum_a d[71 a + b] exp(-2 pi i a j / 9)`, then `F[k] = sum_b exp(-2 pi i b k / 639) H_b[k mod 9]`. Velocities
are real, so H for j = 0 .. 4 is enough.
"""

import numpy as np
import torch

from dataset_builder.fits.pixel_chunks import Scratch
from dataset_builder.fits.times import SLOT_SECONDS, WINDOW_FRAMES

CADENCE_S = float(SLOT_SECONDS)
BAND_EDGES_MHZ = ((2, 3), (3, 4), (4, 5), (5, 6))

# Velocity differences in a window.
DIFFERENCES = WINDOW_FRAMES - 1
# `BandTransform.add` takes at most so many differences: more take longer than a whole transform.
LONGEST_UPDATE = 240

_OUTER, _INNER = 9, 71


class BandTransform:
    """The matrices from velocity differences to the sums of the bins, and from the sums to the power of the bands.

    Args:
        cadence_s, exact_frequencies, density, device: see `band_power`.

    Attributes:
        rows: number of sums per pixel: a real and an imaginary part for each bin.

    Raises:
        ValueError: If the cadence does not resolve 6 mHz.
    """

    def __init__(self, cadence_s: float, exact_frequencies: bool, density: bool, device: str | torch.device):
        bins, weights = _bins_of_bands(cadence_s, exact_frequencies)
        if density:
            weights = weights / (cadence_s * (DIFFERENCES if exact_frequencies else WINDOW_FRAMES))
        harmonics = np.arange(_OUTER // 2 + 1)
        outer = _phases(np.outer(harmonics, np.arange(_OUTER)) / _OUTER)
        # The rows are the real and the imaginary part of H[0] .. H[4] in turns, without the imaginary part of H[0],
        # which is 0.
        outer = np.stack([outer.real, outer.imag], axis=1).reshape(-1, _OUTER)
        self._outer = _tensor(np.delete(outer, 1, axis=0), device)

        self._inner: list[tuple[slice, slice, torch.Tensor]] = []
        direct_parts, order, rows = [], [], 0
        for j in range(len(harmonics)):
            # H[9 - j] is the conjugate of H[j], so both serve the bins k with k mod 9 = +-j.
            served = np.flatnonzero((bins % _OUTER == j) | (bins % _OUTER == _OUTER - j))
            phases = _phases(np.outer(bins[served], np.arange(DIFFERENCES)) / DIFFERENCES)
            real, imaginary = phases.real[:, :_INNER], phases.imag[:, :_INNER]
            sign = np.where(bins[served] % _OUTER == j, 1, -1)[:, None]
            inner = np.block([[real, -sign * imaginary], [imaginary, sign * real]])
            needed = slice(0, _INNER) if j == 0 else slice((2 * j - 1) * _INNER, (2 * j + 1) * _INNER)
            self._inner.append(
                (needed, slice(rows, rows + len(inner)), _tensor(inner[:, : needed.stop - needed.start], device))
            )
            direct_parts += [phases.real, phases.imag]
            order += [served, served]
            rows += len(inner)
        # The columns are repeated at the end because an update may run past the last row of differences to the first.
        direct = np.concatenate(direct_parts)
        self._direct = _tensor(np.concatenate([direct, direct[:, :LONGEST_UPDATE]], axis=1), device)
        # P[k] = (dt^2 / T) |F[k]|^2 with T = 640 dt.
        self._bands = _tensor(weights[:, np.concatenate(order)] * cadence_s / WINDOW_FRAMES, device)
        self.rows = rows

    def whole(self, differences: torch.Tensor, scratch: Scratch, out: torch.Tensor) -> None:
        """Compute the sums of all 639 differences, (639, pixels) -> (rows, pixels)."""
        halfway = scratch("halfway", *differences.shape)
        torch.mm(self._outer, differences.view(_OUTER, -1), out=halfway.view(_OUTER, -1))
        for needed, rows, inner in self._inner:
            torch.mm(inner, halfway[needed], out=out[rows])

    def add(self, change: torch.Tensor, row: int, sums: torch.Tensor) -> None:
        """Update the sums for `change`, which is added to the differences from `row` on, modulo 639."""
        sums.addmm_(self._direct[:, row : row + len(change)], change)

    def power(self, sums: torch.Tensor, scratch: Scratch, out: torch.Tensor) -> None:
        """Compute the power of the bands from the sums, (rows, pixels) -> (4, pixels)."""
        torch.mm(self._bands, torch.mul(sums, sums, out=scratch("product", *sums.shape)), out=out)


def zero_not_finite(differences: torch.Tensor) -> torch.Tensor:
    """Set every NaN and infinity to 0 in place, and return the mask of where they were."""
    not_finite = ~differences.isfinite()
    differences.masked_fill_(not_finite, 0)
    return not_finite


def _bins_of_bands(cadence_s: float, exact_frequencies: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the bins of all bands, and the weights, (4, bins), with which each band sums the bins."""
    duration_s = cadence_s * (DIFFERENCES if exact_frequencies else WINDOW_FRAMES)
    # Edges in mHz are whole numbers: dividing last keeps the edge at 5 mHz, which is bin 144, exact.
    lower, upper = np.array(BAND_EDGES_MHZ).T * duration_s / 1000
    first = np.ceil(lower).astype(int)
    last = np.ceil(upper).astype(int) - 1 if exact_frequencies else np.floor(upper).astype(int)
    if last[-1] > DIFFERENCES // 2 or (last <= first).any():
        raise ValueError(f"{WINDOW_FRAMES} frames {cadence_s} s apart do not resolve the bands from 2 to 6 mHz.")
    bins = np.arange(first[0], last[-1] + 1)
    inside = (bins >= first[:, None]) & (bins <= last[:, None])
    ends = (bins == first[:, None]) | (bins == last[:, None])
    return bins, np.where(ends & (not exact_frequencies), 0.5, 1.0) * inside


def _phases(turns: np.ndarray) -> np.ndarray:
    return np.exp(-2j * np.pi * (turns % 1))


def _tensor(array: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32), device=device)
