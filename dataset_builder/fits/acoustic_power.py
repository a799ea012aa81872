"""Acoustic power of one window of Dopplergrams in four frequency bands.

The differences of neighbouring frames, d[n] = v[n+1] - v[n], do not contain the rotation of the Sun and the motion of
the satellite. `band_transform` turns the differences into power. For a window that slides over a stream, see
`sliding_power`.
"""

from collections.abc import Iterator

import numpy as np
import torch

from dataset_builder.fits.band_transform import (
    BAND_EDGES_MHZ,
    CADENCE_S,
    DIFFERENCES,
    BandTransform,
    zero_not_finite,
)
from dataset_builder.fits.pixel_chunks import Scratch, flatten_frames, pixel_chunks, run_on_all_cores
from dataset_builder.fits.times import WINDOW_FRAMES


def band_power(
    cube: np.ndarray,
    *,
    cadence_s: float = CADENCE_S,
    exact_frequencies: bool = False,
    density: bool = False,
    repeat_missing: bool = False,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Return the acoustic power of one window in the bands 2-3, 3-4, 4-5 and 5-6 mHz, pixel by pixel.

    The power is that of the published processing (arXiv 2402.08890).

    Args:
        cube: (640, rows, columns) velocities, m/s. A pixel with NaN or infinity in any frame is NaN in the result,
            unless `repeat_missing`.
        cadence_s: seconds from frame to frame, dt.
        exact_frequencies: place bin k at its exact frequency k / (639 dt) instead of k / (640 dt). A band is then
            the sum of the bins from its lower edge up to, but not at, its upper edge, so that every bin counts once.
            (The published bands lose the trapezoid between the last bin of one band and the first of the next.)
        density: integrate over frequency: multiply by the spacing of the bins, 1 / T, or 1 / (639 dt) with
            `exact_frequencies`.
        repeat_missing: count differences to and from NaN as 0, as if the neighbouring value were repeated. This is
            right for frames that are missing at one end of a window. The caller must set aside pixels that lack more.
        device: the torch device of the matrix products.

    Returns:
        (4, rows, columns) float32, (m/s)^2 per Hz summed over bins with unit spacing, or (m/s)^2 with `density`.

    Raises:
        ValueError: If the cube has another number of frames or axes, or the cadence does not resolve 6 mHz.

    A wave of 100 m/s and 3.5 mHz has its power between 3 and 4 mHz:

    >>> seconds = CADENCE_S * np.arange(640.0)
    >>> velocity = 100 * np.sin(2 * np.pi * 3.5e-3 * seconds)[:, None, None]
    >>> power = band_power(velocity).ravel()
    >>> (power / power.sum()).round(1)
    array([0., 1., 0., 0.], dtype=float32)
    """
    frames, image = flatten_frames(cube, device)
    if len(frames) != WINDOW_FRAMES:
        raise ValueError(f"Expected a cube of shape ({WINDOW_FRAMES}, rows, columns), but got {np.shape(cube)}.")
    transform = BandTransform(cadence_s, exact_frequencies, density, device)
    power = torch.empty(len(BAND_EDGES_MHZ), frames.shape[1], dtype=torch.float32, device=device)

    def work(remaining: Iterator[slice]) -> None:
        scratch = Scratch(device)
        for pixels in remaining:
            width = pixels.stop - pixels.start
            differences, sums = scratch("differences", DIFFERENCES, width), scratch("sums", transform.rows, width)
            torch.sub(frames[1:, pixels], frames[:-1, pixels], out=differences)
            if repeat_missing and not differences.sum().isfinite():
                zero_not_finite(differences)
            transform.whole(differences, scratch, out=sums)
            transform.power(sums, scratch, out=power[:, pixels])

    run_on_all_cores(work, pixel_chunks(frames.shape[1], device), device)
    power.masked_fill_(~power.isfinite(), torch.nan)
    return power.cpu().numpy().reshape(len(BAND_EDGES_MHZ), *image)
