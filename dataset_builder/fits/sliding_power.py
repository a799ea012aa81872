"""Acoustic power of Dopplergrams in a window that slides over a stream; see `acoustic_power` for one window."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from dataset_builder.fits.band_transform import (
    BAND_EDGES_MHZ,
    CADENCE_S,
    DIFFERENCES,
    LONGEST_UPDATE,
    BandTransform,
    zero_not_finite,
)
from dataset_builder.fits.pixel_chunks import Scratch, flatten_frames, pixel_chunks, run_on_all_cores

# Every 40th window is transformed as a whole.
_RESET_EVERY = 40
# Windows with short steps are updated together, up to 80 differences: one large product is faster than many small
# ones.
_ROWS_AT_ONCE = 80
# In m/s, far beyond any velocity difference on the Sun. After a larger one is subtracted again, its rounding remains.
_LARGEST_DIFFERENCE = 1e5


class SlidingBandPower:
    """Acoustic power of windows of 640 frames, one every `step` frames of a stream, at a cost that follows the step.

    The method is a sliding Fourier transform (Jacobsen and Lyons 2003, IEEE Signal Processing Magazine 20, 74) that
    slides by many frames at once. With w = exp(-2 pi i / 639), the transform of the window that starts at frame s,
    referred to frame 0 of the stream, is `S_s(k) = sum_n d[n] w^(nk)`, n = s .. s+638. The modulus of S_s is that of
    the window's own transform, and L frames later `S_(s+L) = S_s + sum_i w^((s+i)k) (d[s+639+i] - d[s+i])`, i < L: one
    product of L columns. The updates build up a relative rounding error of some 1e-6, so every 40th window is
    transformed as a whole. So is the first window after an absurdly large velocity has left.

    The state is 870 float32 per pixel, 0.9 GB for 512 x 512 pixels: the last 639 differences, the real and imaginary
    parts of 115 sums, and a frame. While a window is incomplete, the new differences are stored a second time. How a
    stream is split into pushes changes only the rounding of the result. A push that completes several windows reads
    the sums only once.

    Args:
        step: frames from the start of one window to the start of the next.
        cadence_s, exact_frequencies, density, repeat_missing, device: see `band_power`.

    Raises:
        ValueError: If the step is not positive, or the cadence does not resolve 6 mHz.

    >>> hourly = SlidingBandPower(step=80)
    >>> velocity = np.random.default_rng(0).normal(size=(800, 2, 2))  # ten hours
    >>> hourly.push(velocity[:639]).shape, hourly.push(velocity[639:]).shape
    ((0, 4, 2, 2), (3, 4, 2, 2))
    """

    def __init__(
        self,
        step: int,
        *,
        cadence_s: float = CADENCE_S,
        exact_frequencies: bool = False,
        density: bool = False,
        repeat_missing: bool = False,
        device: str | torch.device = "cpu",
    ):
        if step < 1:
            raise ValueError(f"step={step} must be at least 1 frame.")
        self._step = step
        self._repeat_missing = repeat_missing
        self._device = device
        self._transform = BandTransform(cadence_s, exact_frequencies, density, device)
        self._image: tuple[int, ...] | None = None
        self._chunks: list[_Chunk] = []
        self._differences_seen = 0
        # Numbers of the windows to transform as a whole, besides every 40th.
        self._resets: set[int] = set()

    def push(self, frames: np.ndarray) -> np.ndarray:
        """Add the next frames of the stream and return the power of every window that they complete.

        Args:
            frames: (L, rows, columns) velocities, m/s. L is any positive number and may differ from push to push.

        Returns:
            (windows, 4, rows, columns) float32, as `band_power` returns; there may be 0 windows. The first window of
            the stream is the first 640 frames.

        Raises:
            ValueError: If there are no frames, or their shape differs from that of the earlier frames.
        """
        flat, image = flatten_frames(frames, self._device)
        if self._image is None:
            self._image = image
            pixels = pixel_chunks(flat.shape[1], self._device)
            self._chunks = [_Chunk(part, flat[0, part], self._transform, self._repeat_missing) for part in pixels]
            flat = flat[1:]
        elif image != self._image:
            raise ValueError(f"Frames of shape {image} do not continue a stream of shape {self._image}.")
        # At most 639 differences at once, so that no part replaces differences of the same part.
        parts = [self._push(part) for part in flat.split(DIFFERENCES)]
        power = torch.cat(parts) if len(parts) > 1 else parts[0]
        return power.cpu().numpy().reshape(-1, len(BAND_EDGES_MHZ), *image)

    def _push(self, flat: torch.Tensor) -> torch.Tensor:
        plan = self._plan(len(flat))
        windows = sum(isinstance(action, _CompleteWindow) for action in plan.actions)
        power = torch.empty(windows, len(BAND_EDGES_MHZ), flat.shape[1], dtype=torch.float32, device=self._device)

        def work(remaining: Iterator[_Chunk]) -> None:
            scratch = Scratch(self._device)
            for chunk in remaining:
                chunk.push(flat[:, chunk.pixels], plan, scratch, power[:, :, chunk.pixels])

        run_on_all_cores(work, self._chunks, self._device)
        self._differences_seen += len(flat)
        for chunk in self._chunks:
            self._resets.update(number // self._step + 1 for number in chunk.too_large)
            chunk.too_large.clear()
        return power

    def _plan(self, count: int) -> "_Plan":
        """Plan how to add `count` new differences: which differences they replace, and which windows they complete."""
        actions: list[_ReplaceDifferences | _CompleteWindow] = []
        start = position = self._differences_seen
        pending = slice(0)
        while position < start + count:
            window = max(0, (position - DIFFERENCES) // self._step + 1)
            self._resets = {reset for reset in self._resets if reset >= window}
            whole = window % _RESET_EVERY == 0 or self._step > LONGEST_UPDATE or window in self._resets
            # The windows before the next whole transform can be updated together.
            until_whole = min([-window % _RESET_EVERY, *(reset - window for reset in self._resets)])
            together = 1 if whole else min(max(1, _ROWS_AT_ONCE // self._step), until_whole)
            last_window = DIFFERENCES + (window - 1) * self._step
            stop = min(start + count, last_window + together * self._step)
            total = stop - last_window
            pending = slice(0) if whole else slice(total - total % self._step, total)
            while position < stop:
                row = position % DIFFERENCES
                size = min(stop - position, DIFFERENCES - row)
                new = slice(position - start, position - start + size)
                changed = None if whole else slice(position - last_window, position - last_window + size)
                actions.append(_ReplaceDifferences(new, slice(row, row + size), changed, position))
                position += size
            for complete in range(last_window + self._step, stop + 1, self._step):
                changed = None if whole else slice(complete - self._step - last_window, complete - last_window)
                actions.append(_CompleteWindow(changed, complete - DIFFERENCES))
        return _Plan(actions, pending)


class _ReplaceDifferences(NamedTuple):
    """Replace stored differences by new ones."""

    new: slice  # of the pushed frames
    stored: slice  # rows of the differences to replace
    changed: slice | None  # rows in which to keep the change; None if the next window is transformed as a whole
    first: int  # the number, in the stream, of the first new difference


class _CompleteWindow(NamedTuple):
    """Compute the power of a window that is complete."""

    changed: slice | None  # rows with the change since the last window; None to transform the window as a whole
    first: int  # the number, in the stream, of the window's first difference


class _Plan(NamedTuple):
    """The actions of a push, in order, and the changed rows that are left for the next push."""

    actions: list[_ReplaceDifferences | _CompleteWindow]
    pending: slice


class _Chunk:
    """The state of the sliding window for one chunk of pixels."""

    def __init__(self, pixels: slice, first_frame: torch.Tensor, transform: BandTransform, repeat_missing: bool):
        self.pixels = pixels
        self._transform = transform
        self._repeat_missing = repeat_missing
        self._last_frame = first_frame.clone()
        # Difference n of the stream lies in row n mod 639, because w^(nk) depends only on n mod 639.
        self._differences = first_frame.new_zeros(DIFFERENCES, len(first_frame))
        self._sums = first_frame.new_zeros(transform.rows, len(first_frame))
        # While a window is incomplete, the changes of the differences since the last window.
        self._pending = first_frame.new_zeros(0, len(first_frame))
        # For each pixel, the number in the stream of the last difference that was not finite; None if all were.
        self._last_not_finite: torch.Tensor | None = None
        # Numbers of the differences whose rounding stays in the sums after they have left the window.
        self.too_large: set[int] = set()

    def push(self, frames: torch.Tensor, plan: _Plan, scratch: Scratch, power: torch.Tensor) -> None:
        """Add all frames of a push, (frames, pixels), and write the windows' `power`, (windows, 4, pixels)."""
        change = scratch("change", LONGEST_UPDATE, len(self._last_frame))
        change[: len(self._pending)] = self._pending
        windows = 0
        for action in plan.actions:
            if isinstance(action, _ReplaceDifferences):
                self._replace(action, frames, change)
            else:
                if not windows and action.changed is not None:
                    # Reading the sums once in order brings them into the cache; the product reads them out of order.
                    self._sums.sum()
                self._complete(action, change, scratch, power[windows])
                windows += 1
        if len(frames):
            self._last_frame.copy_(frames[-1])
        self._pending = change[plan.pending].clone()

    def _replace(self, action: _ReplaceDifferences, frames: torch.Tensor, change: torch.Tensor) -> None:
        stored = self._differences[action.stored]
        changed = None if action.changed is None else change[action.changed].copy_(stored)
        self._difference(frames, action.new, out=stored)
        least, most = stored.aminmax()
        # Written so that NaN, for which every comparison is false, counts as out of range.
        if not (least.item() >= -_LARGEST_DIFFERENCE and most.item() <= _LARGEST_DIFFERENCE):
            self._zero_not_finite(stored, action.first)
            rows = (stored.abs() > _LARGEST_DIFFERENCE).any(dim=1).nonzero().flatten()
            self.too_large.update((rows + action.first).tolist())
        if changed is not None:
            torch.sub(stored, changed, out=changed)

    def _complete(self, action: _CompleteWindow, change: torch.Tensor, scratch: Scratch, power: torch.Tensor) -> None:
        if action.changed is None:
            self._transform.whole(self._differences, scratch, out=self._sums)
        else:
            changed = change[action.changed]
            self._transform.add(changed, (action.first - len(changed)) % DIFFERENCES, self._sums)
        self._transform.power(self._sums, scratch, out=power)
        if self._last_not_finite is not None:
            power.masked_fill_(self._last_not_finite >= action.first, torch.nan)

    def _difference(self, frames: torch.Tensor, new: slice, out: torch.Tensor) -> None:
        if new.start:
            torch.sub(frames[new], frames[new.start - 1 : new.stop - 1], out=out)
        else:
            torch.sub(frames[0], self._last_frame, out=out[0])
            torch.sub(frames[1 : new.stop], frames[: new.stop - 1], out=out[1:])

    def _zero_not_finite(self, stored: torch.Tensor, first: int) -> None:
        """Store 0 for every NaN and infinity, which could not be subtracted from a sum later, and note the number."""
        not_finite = zero_not_finite(stored)
        if self._repeat_missing:
            return
        numbers = torch.arange(first, first + len(stored), dtype=torch.int32, device=stored.device)[:, None]
        last = torch.where(not_finite, numbers, -1).amax(dim=0)
        self._last_not_finite = last if self._last_not_finite is None else torch.maximum(self._last_not_finite, last)
