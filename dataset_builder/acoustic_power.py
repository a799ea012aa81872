"""Acoustic power of Dopplergrams in four frequency bands, for one window or for a window that slides over a stream.

Differencing neighbouring frames removes rotation and the satellite's own motion. Of the discrete Fourier transform of
the 639 differences only 115 bins belong to a band, so it is one matrix product onto these; and as hourly windows
overlap by seven eighths, a window that slides needs only the product of the frames that come and go.

Power is that of the published processing (arXiv 2402.08890): `P[k] = (dt^2 / T) |F[k]|^2` with T = 640 dt, bin k
labelled k/T, and a band the trapezoid sum of its bins with unit spacing, both ends included.
"""

from collections.abc import Iterator

import numpy as np
import torch

FRAMES = 640
CADENCE_S = 45.0
# First and last bin of 2-3, 3-4, 4-5 and 5-6 mHz, as published: bin 144 belongs to two bands.
BANDS = ((58, 86), (87, 115), (116, 144), (144, 172))

_DIFFERENCES = FRAMES - 1
_BINS = np.arange(BANDS[0][0], BANDS[-1][1] + 1)
# Bounds the memory that differences and transforms take beside the cube.
_PIXELS_AT_ONCE = 16_384
_STEPS_BETWEEN_RESETS = 20


def band_power(cube: np.ndarray, *, cadence_s: float = CADENCE_S, device: str | torch.device = "cpu") -> np.ndarray:
    """Acoustic power of one window in four bands, pixel by pixel.

    Args:
        cube: (640, rows, columns) velocities, m/s; a pixel with NaN in any frame is NaN in the result.
        cadence_s: seconds from frame to frame.
        device: where the products run.

    Returns:
        (4, rows, columns) float32, (m/s)^2 per Hz summed over bins with unit spacing.

    Raises:
        ValueError: the cube has another number of frames or axes.
    """
    cube = np.asarray(cube, dtype=np.float32)
    if cube.ndim != 3 or len(cube) != FRAMES:
        raise ValueError(f"Expected a cube of shape ({FRAMES}, rows, columns), but got {cube.shape}.")
    frames = torch.from_numpy(cube.reshape(FRAMES, -1))
    transform, bands = _matrices(cadence_s, device)
    # Made once: taking new memory for every chunk costs as much time as its product.
    differences = torch.empty(_DIFFERENCES, _PIXELS_AT_ONCE, device=device)
    sums = torch.empty(len(transform), _PIXELS_AT_ONCE, device=device)
    power = torch.empty(len(BANDS), frames.shape[1])
    for pixels in _chunks(frames.shape[1]):
        chunk, width = frames[:, pixels].to(device), slice(pixels.stop - pixels.start)
        torch.sub(chunk[1:], chunk[:-1], out=differences[:, width])
        torch.mm(transform, differences[:, width], out=sums[:, width])
        power[:, pixels] = _power(sums[:, width], bands).cpu()
    return power.numpy().reshape(len(BANDS), *cube.shape[1:])


class SlidingBandPower:
    """Acoustic power of the last 640 frames of a stream, at a cost that follows the new frames.

    With w = exp(-2 pi i / 639) the transform of the window that starts at frame s, referred to frame 0 of the stream,
    is `S_s(k) = sum_n d[n] w^(nk)`, n = s .. s+638. Its modulus is that of the window's own transform, and L frames
    later `S_(s+L) = S_s + sum_i w^((s+i)k) (d[s+639+i] - d[s+i])`, i < L. Rounding is swept away by a whole transform
    every 20 steps, and whenever a NaN leaves the window, which no sum can take back.

    Args:
        cadence_s: seconds from frame to frame.
        device: where the products run.
    """

    def __init__(self, *, cadence_s: float = CADENCE_S, device: str | torch.device = "cpu"):
        self._device = device
        self._transform, self._bands = _matrices(cadence_s, device)
        self._image: tuple[int, ...] | None = None
        self._differences_seen = 0
        self._steps_since_reset = 0

    def push(self, frames: np.ndarray) -> np.ndarray | None:
        """Take in the frames of one step and give the power of the last 640.

        Args:
            frames: (L, rows, columns) velocities, m/s, the next of the stream; L may differ from call to call.

        Returns:
            (4, rows, columns) float32 as `band_power` gives, or None while fewer than 640 frames have come.

        Raises:
            ValueError: the frames have another shape than those before.
        """
        frames = np.asarray(frames, dtype=np.float32)
        if frames.ndim != 3 or not len(frames):
            raise ValueError(f"Expected one or more frames, (frames, rows, columns), but got {frames.shape}.")
        flat = torch.from_numpy(frames.reshape(len(frames), -1)).to(self._device)
        if self._image is None:
            self._begin(frames.shape[1:], flat[0])
            flat = flat[1:]
        elif frames.shape[1:] != self._image:
            raise ValueError(f"Frames of shape {frames.shape[1:]} do not continue a stream of shape {self._image}.")
        if len(flat) > _DIFFERENCES:
            self._last_frame, flat = flat[-FRAMES], flat[-_DIFFERENCES:]
        power = self._slide(flat) if len(flat) else None
        return None if power is None else power.numpy().reshape(len(BANDS), *self._image)

    def _begin(self, image: tuple[int, ...], first_frame: torch.Tensor) -> None:
        self._image = image
        self._last_frame = first_frame.clone()
        # Difference n of the stream lies in row n mod 639, where its phase is that of the row, for ever.
        self._differences = torch.zeros(_DIFFERENCES, len(first_frame), device=self._device)
        self._sums = torch.empty(len(self._transform), len(first_frame), device=self._device)

    def _slide(self, frames: torch.Tensor) -> torch.Tensor | None:
        """Power after `frames`, (L, pixels) with L from 1 to 639, or None where the window is not full yet."""
        count, total = frames.shape
        first = self._differences_seen % _DIFFERENCES
        before_wrap = min(count, _DIFFERENCES - first)
        # Rows of the stored differences, and which of the new ones go there.
        pieces = [(slice(first, first + before_wrap), slice(before_wrap))]
        if before_wrap < count:
            pieces.append((slice(count - before_wrap), slice(before_wrap, count)))
        was_full = self._differences_seen >= _DIFFERENCES
        self._differences_seen += count
        full = self._differences_seen >= _DIFFERENCES
        reset = not was_full or count == _DIFFERENCES or self._steps_since_reset >= _STEPS_BETWEEN_RESETS - 1
        self._steps_since_reset = 0 if reset else self._steps_since_reset + 1

        coming = torch.empty(count, min(total, _PIXELS_AT_ONCE), device=self._device)
        change = torch.empty_like(coming)
        power = torch.empty(len(BANDS), total) if full else None
        for pixels in _chunks(total):
            width = slice(pixels.stop - pixels.start)
            torch.sub(frames[0, pixels], self._last_frame[pixels], out=coming[0, width])
            torch.sub(frames[1:, pixels], frames[:-1, pixels], out=coming[1:, width])
            nan_leaves = False
            for rows, new in pieces:
                stored = self._differences[rows, pixels]
                torch.sub(coming[new, width], stored, out=change[new, width])
                nan_leaves = nan_leaves or bool(stored.isnan().any())
                stored.copy_(coming[new, width])
            if not full:
                continue
            sums = self._sums[:, pixels]
            if reset or nan_leaves:
                torch.mm(self._transform, self._differences[:, pixels], out=sums)
            else:
                for rows, new in pieces:
                    sums.addmm_(self._transform[:, rows], change[new, width])
            power[:, pixels] = _power(sums, self._bands).cpu()
        self._last_frame = frames[-1].clone()
        return power


def _chunks(total: int) -> Iterator[slice]:
    for start in range(0, total, _PIXELS_AT_ONCE):
        yield slice(start, min(start + _PIXELS_AT_ONCE, total))


def _matrices(cadence_s: float, device: str | torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The transform onto the bins, (230, 639): cosines above sines; and the bands, (4, 115), with all factors."""
    angles = 2 * np.pi * (np.outer(_BINS, np.arange(_DIFFERENCES)) % _DIFFERENCES) / _DIFFERENCES
    transform = np.concatenate([np.cos(angles), np.sin(angles)])
    bands = np.zeros((len(BANDS), len(_BINS)))
    for band, (first, last) in enumerate(BANDS):
        inside = (first <= _BINS) & (last >= _BINS)
        ends = (first == _BINS) | (last == _BINS)
        bands[band] = np.where(ends, 0.5, 1.0) * inside
    # (dt^2 / T) with T = 640 dt.
    return _tensor(transform, device), _tensor(bands * cadence_s / FRAMES, device)


def _power(sums: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    real, imaginary = sums.chunk(2)
    return bands @ (real.square() + imaginary.square())


def _tensor(array: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32), device=device)
