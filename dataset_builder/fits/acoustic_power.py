"""Acoustic power of Dopplergrams in four frequency bands, for one window or for a window that slides over a stream.

Differencing neighbouring frames, d[n] = v[n+1] - v[n], removes rotation and the satellite's own motion. Power is that
of the published processing (arXiv 2402.08890): with F the discrete Fourier transform of a window's 639 differences,
`P[k] = (dt^2 / T) |F[k]|^2` where T = 640 dt, bin k is labelled k/T, and a band is the trapezoid sum of its bins with
unit spacing, both ends included.

Only 115 of the 320 bins belong to a band, so matrix products onto these serve better than whole FFTs. As 639 = 9 x 71,
a window's transform splits at n = 71 a + b into two stages (Cooley and Tukey 1965, Mathematics of Computation 19, 297)
with a quarter of the work of one product 639 long:
`H_b[j] = sum_a d[71 a + b] exp(-2 pi i a j / 9)`, then `F[k] = sum_b exp(-2 pi i b k / 639) H_b[k mod 9]`. Velocities
are real, so that H for j = 0 .. 4 is enough. A window that slides needs less still, see `SlidingBandPower`.

Pixels are worked on in chunks that stay in a core's cache through all stages, each chunk by one thread, on as many
threads as torch may use (`torch.set_num_threads`). Their number changes only the
rounding of results.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from dataset_builder.fits.times import SLOT_SECONDS, WINDOW_FRAMES

CADENCE_S = float(SLOT_SECONDS)
BAND_EDGES_MHZ = ((2, 3), (3, 4), (4, 5), (5, 6))

_DIFFERENCES = WINDOW_FRAMES - 1
_OUTER, _INNER = 9, 71
# Windows from one that is transformed as a whole to the next.
_RESET_EVERY = 40
# An update by more differences takes longer than a whole transform.
_LONGEST_UPDATE = 240
# Differences to take in together where windows need fewer.
_ROWS_AT_ONCE = 80
# In m/s, far beyond any of the Sun: to take one so large back from a sum leaves its rounding.
_LARGEST_DIFFERENCE = 1e5


def band_power(
    cube: np.ndarray,
    *,
    cadence_s: float = CADENCE_S,
    exact_frequencies: bool = False,
    density: bool = False,
    repeat_missing: bool = False,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Acoustic power of one window in the bands 2-3, 3-4, 4-5 and 5-6 mHz, pixel by pixel (arXiv 2402.08890).

    Args:
        cube: (640, rows, columns) velocities, m/s; a pixel with NaN or infinity in any frame is NaN in the result, if
            not `repeat_missing`.
        cadence_s: seconds from frame to frame, dt.
        exact_frequencies: take bin k to lie at its own frequency k / (639 dt) instead of k / (640 dt). A band is then
            the sum of the bins from its lower edge up to, but not at, its upper edge, so that every bin counts once.
            (The published bands lose the trapezoid between the last bin of one and the first of the next.)
        density: integrate over frequency: multiply by the spacing of the bins, 1 / T, or 1 / (639 dt) where exact.
        repeat_missing: count differences to and from NaN as 0, as if the value beside it were repeated: right for what
            is missing at one end of a window. It is up to the caller to set aside pixels that lack more than that.
        device: where the products run.

    Returns:
        (4, rows, columns) float32, (m/s)^2 per Hz summed over bins with unit spacing, or (m/s)^2 with `density`.

    Raises:
        ValueError: the cube has another number of frames or axes, or its cadence does not resolve 6 mHz.

    A wave of 100 m/s and 3.5 mHz has its power between 3 and 4 mHz:

    >>> seconds = CADENCE_S * np.arange(640.0)
    >>> velocity = 100 * np.sin(2 * np.pi * 3.5e-3 * seconds)[:, None, None]
    >>> power = band_power(velocity).ravel()
    >>> (power / power.sum()).round(1)
    array([0., 1., 0., 0.], dtype=float32)
    """
    frames, image = _flat(cube, device)
    if len(frames) != WINDOW_FRAMES:
        raise ValueError(f"Expected a cube of shape ({WINDOW_FRAMES}, rows, columns), but got {np.shape(cube)}.")
    transform = _Transform(cadence_s, exact_frequencies, density, device)
    power = torch.empty(len(BAND_EDGES_MHZ), frames.shape[1], dtype=torch.float32, device=device)

    def work(remaining: Iterator[slice]) -> None:
        scratch = _Scratch(device)
        for pixels in remaining:
            width = pixels.stop - pixels.start
            differences, sums = scratch("differences", _DIFFERENCES, width), scratch("sums", transform.rows, width)
            torch.sub(frames[1:, pixels], frames[:-1, pixels], out=differences)
            if repeat_missing and not differences.sum().isfinite():
                _zero_bad(differences)
            transform.whole(differences, scratch, out=sums)
            transform.power(sums, scratch, out=power[:, pixels])

    _on_all_cores(work, _chunks(frames.shape[1], device), device)
    power.masked_fill_(~power.isfinite(), torch.nan)
    return power.cpu().numpy().reshape(len(BAND_EDGES_MHZ), *image)


class SlidingBandPower:
    """Acoustic power of windows of 640 frames, one every `step` frames of a stream, at a cost that follows the step.

    It is a sliding Fourier transform (Jacobsen and Lyons 2003, IEEE Signal Processing Magazine 20, 74) that slides by
    many frames at once. With w = exp(-2 pi i / 639) the transform of the window that starts at frame s, referred to
    frame 0 of the stream, is `S_s(k) = sum_n d[n] w^(nk)`, n = s .. s+638. Its modulus is that of the window's own
    transform, and L frames later `S_(s+L) = S_s + sum_i w^((s+i)k) (d[s+639+i] - d[s+i])`, i < L: one product of L
    columns. Every 40 windows a whole transform sweeps the rounding of these updates away, a relative error of some
    1e-6. So does the first window after a value that is no velocity has left.

    The state is 870 float32 a pixel, 0.9 GB for 512 x 512 pixels: the last 639 differences, real and imaginary part of
    115 sums, and a frame; while a window is incomplete, its new differences once more. How a stream is split into
    pushes changes only the rounding of the result. A push that completes several windows reads the sums only once.

    Args:
        step: frames from the start of one window to the start of the next.
        cadence_s, exact_frequencies, density, repeat_missing, device: as of `band_power`.

    Raises:
        ValueError: the step is not positive, or the cadence does not resolve 6 mHz.

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
            raise ValueError(f"Windows follow each other by one or more frames, not {step}.")
        self._step = step
        self._repeat_missing = repeat_missing
        self._device = device
        self._transform = _Transform(cadence_s, exact_frequencies, density, device)
        self._image: tuple[int, ...] | None = None
        self._differences_seen = 0
        # Windows to be transformed as a whole, besides every 40th.
        self._resets: set[int] = set()

    def push(self, frames: np.ndarray) -> np.ndarray:
        """Take in the next frames of the stream and give the power of every window that they complete.

        Args:
            frames: (L, rows, columns) velocities, m/s; L may be any positive number, and differ from push to push.

        Returns:
            (windows, 4, rows, columns) float32 as `band_power` gives; there may be 0 windows. The first window of the
            stream is its first 640 frames.

        Raises:
            ValueError: there are no frames, or they have another shape than those before.
        """
        flat, image = _flat(frames, self._device)
        if self._image is None:
            self._image = image
            pixels = _chunks(flat.shape[1], self._device)
            self._chunks = [_Chunk(part, flat[0, part], self._transform, self._repeat_missing) for part in pixels]
            flat = flat[1:]
        elif image != self._image:
            raise ValueError(f"Frames of shape {image} do not continue a stream of shape {self._image}.")
        # What no window holds any more has come in an earlier part.
        parts = [self._push(part) for part in flat.split(_DIFFERENCES)]
        power = torch.cat(parts) if len(parts) > 1 else parts[0]
        return power.cpu().numpy().reshape(-1, len(BAND_EDGES_MHZ), *image)

    def _push(self, flat: torch.Tensor) -> torch.Tensor:
        plan = self._plan(len(flat))
        windows = sum(isinstance(order, _Window) for order in plan.orders)
        power = torch.empty(windows, len(BAND_EDGES_MHZ), flat.shape[1], dtype=torch.float32, device=self._device)

        def work(remaining: Iterator[_Chunk]) -> None:
            scratch = _Scratch(self._device)
            for chunk in remaining:
                chunk.take(flat[:, chunk.pixels], plan, scratch, power[:, :, chunk.pixels])

        _on_all_cores(work, self._chunks, self._device)
        self._differences_seen += len(flat)
        for chunk in self._chunks:
            self._resets.update(number // self._step + 1 for number in chunk.too_large)
            chunk.too_large.clear()
        return power

    def _plan(self, count: int) -> "_Plan":
        """How to take in `count` new differences: what replaces what, and which windows that completes."""
        orders: list[_Exchange | _Window] = []
        start = position = self._differences_seen
        pending = slice(0)
        while position < start + count:
            window = max(0, (position - _DIFFERENCES) // self._step + 1)
            self._resets = {reset for reset in self._resets if reset >= window}
            whole = window % _RESET_EVERY == 0 or self._step > _LONGEST_UPDATE or window in self._resets
            # Windows up to the next that is transformed as a whole need not be taken one by one.
            until_whole = min([-window % _RESET_EVERY, *(reset - window for reset in self._resets)])
            together = 1 if whole else min(max(1, _ROWS_AT_ONCE // self._step), until_whole)
            last_window = _DIFFERENCES + (window - 1) * self._step
            stop = min(start + count, last_window + together * self._step)
            changed = stop - last_window
            pending = slice(0) if whole else slice(changed - changed % self._step, changed)
            while position < stop:
                row = position % _DIFFERENCES
                size = min(stop - position, _DIFFERENCES - row)
                new = slice(position - start, position - start + size)
                changed = None if whole else slice(position - last_window, position - last_window + size)
                orders.append(_Exchange(new, slice(row, row + size), changed, position))
                position += size
            for complete in range(last_window + self._step, stop + 1, self._step):
                changed = None if whole else slice(complete - self._step - last_window, complete - last_window)
                orders.append(_Window(changed, complete - _DIFFERENCES))
        return _Plan(orders, pending)


class _Exchange(NamedTuple):
    """Differences that replace others."""

    new: slice  # of the push
    stored: slice  # rows of those they replace
    changed: slice | None  # rows to keep the change in
    first: int  # the number of the first in the stream


class _Window(NamedTuple):
    """A window that is complete: what changed since the last, None for the transform as a whole."""

    changed: slice | None
    first: int  # the number of its first difference in the stream


class _Plan(NamedTuple):
    """What a push does: its orders in turn, and the changed rows that are left for the next push."""

    orders: list[_Exchange | _Window]
    pending: slice


class _Chunk:
    """Some pixels' part of a sliding window."""

    def __init__(self, pixels: slice, first_frame: torch.Tensor, transform: "_Transform", repeat_missing: bool):
        self.pixels = pixels
        self._transform = transform
        self._repeat_missing = repeat_missing
        self._last_frame = first_frame.clone()
        # Difference n of the stream lies in row n mod 639, where its phase is that of the row, for ever.
        self._differences = first_frame.new_zeros(_DIFFERENCES, len(first_frame))
        self._sums = first_frame.new_zeros(transform.rows, len(first_frame))
        # By how much the differences since the last window changed those they replaced, while the next is incomplete.
        self._pending = first_frame.new_zeros(0, len(first_frame))
        # By pixel the number, in the stream, of the last difference that is not finite; none as long as all are.
        self._last_bad: torch.Tensor | None = None
        # The numbers of differences that are too large to be taken back.
        self.too_large: set[int] = set()

    def take(self, frames: torch.Tensor, plan: _Plan, scratch: "_Scratch", power: torch.Tensor) -> None:
        """Take in all frames of a push, (frames, pixels), and write the windows' `power`, (windows, 4, pixels)."""
        change = scratch("change", _LONGEST_UPDATE, len(self._last_frame))
        change[: len(self._pending)] = self._pending
        windows = 0
        for order in plan.orders:
            if isinstance(order, _Exchange):
                self._exchange(order, frames, change)
            else:
                if not windows and order.changed is not None:
                    # A product goes through the sums in an order that memory is slow at; reading them first is fast.
                    self._sums.sum()
                self._complete(order, change, scratch, power[windows])
                windows += 1
        if len(frames):
            self._last_frame.copy_(frames[-1])
        self._pending = change[plan.pending].clone()

    def _exchange(self, order: _Exchange, frames: torch.Tensor, change: torch.Tensor) -> None:
        stored = self._differences[order.stored]
        if order.changed is not None:
            changed = change[order.changed].copy_(stored)
        self._difference(frames, order.new, out=stored)
        least, most = stored.aminmax()
        # NaN is within no limits.
        if not (least.item() >= -_LARGEST_DIFFERENCE and most.item() <= _LARGEST_DIFFERENCE):
            self._set_aside_bad(stored, order.first)
            rows = (stored.abs() > _LARGEST_DIFFERENCE).any(dim=1).nonzero().flatten()
            self.too_large.update((rows + order.first).tolist())
        if order.changed is not None:
            torch.sub(stored, changed, out=changed)

    def _complete(self, order: _Window, change: torch.Tensor, scratch: "_Scratch", power: torch.Tensor) -> None:
        if order.changed is None:
            self._transform.whole(self._differences, scratch, out=self._sums)
        else:
            changed = change[order.changed]
            self._transform.add(changed, (order.first - len(changed)) % _DIFFERENCES, self._sums)
        self._transform.power(self._sums, scratch, out=power)
        if self._last_bad is not None:
            power.masked_fill_(self._last_bad >= order.first, torch.nan)

    def _difference(self, frames: torch.Tensor, new: slice, out: torch.Tensor) -> None:
        if new.start:
            torch.sub(frames[new], frames[new.start - 1 : new.stop - 1], out=out)
        else:
            torch.sub(frames[0], self._last_frame, out=out[0])
            torch.sub(frames[1 : new.stop], frames[: new.stop - 1], out=out[1:])

    def _set_aside_bad(self, stored: torch.Tensor, seen: int) -> None:
        """Store 0 for what is not finite, which no later sum could take back, and remember when it was."""
        bad = _zero_bad(stored)
        if self._repeat_missing:
            return
        numbers = torch.arange(seen, seen + len(stored), dtype=torch.int32, device=stored.device)[:, None]
        last_bad = torch.where(bad, numbers, -1).amax(dim=0)
        self._last_bad = last_bad if self._last_bad is None else torch.maximum(self._last_bad, last_bad)


class _Transform:
    """The matrices from differences to the sums of the bins, and from these to the bands."""

    def __init__(self, cadence_s: float, exact_frequencies: bool, density: bool, device: str | torch.device):
        bins, weights = _bins_of_bands(cadence_s, exact_frequencies)
        if density:
            weights = weights / (cadence_s * (_DIFFERENCES if exact_frequencies else WINDOW_FRAMES))
        harmonics = np.arange(_OUTER // 2 + 1)
        outer = _phases(np.outer(harmonics, np.arange(_OUTER)) / _OUTER)
        # Real and imaginary part of H[0] .. H[4] in turns, but for the imaginary part of H[0], which is 0.
        outer = np.stack([outer.real, outer.imag], axis=1).reshape(-1, _OUTER)
        self._outer = _tensor(np.delete(outer, 1, axis=0), device)

        self._inner: list[tuple[slice, slice, torch.Tensor]] = []
        direct, order, rows = [], [], 0
        for j in harmonics:
            # H[9 - j] is the conjugate of H[j], so both serve the bins k with k mod 9 = +-j.
            served = np.flatnonzero((bins % _OUTER == j) | (bins % _OUTER == _OUTER - j))
            phases = _phases(np.outer(bins[served], np.arange(_DIFFERENCES)) / _DIFFERENCES)
            real, imaginary = phases.real[:, :_INNER], phases.imag[:, :_INNER]
            sign = np.where(bins[served] % _OUTER == j, 1, -1)[:, None]
            inner = np.block([[real, -sign * imaginary], [imaginary, sign * real]])
            needed = slice(0, _INNER) if j == 0 else slice((2 * j - 1) * _INNER, (2 * j + 1) * _INNER)
            inner = _tensor(inner[:, : needed.stop - needed.start], device)
            self._inner.append((needed, slice(rows, rows + len(inner)), inner))
            direct += [phases.real, phases.imag]
            order += [served, served]
            rows += len(inner)
        # A step may run past the last row to the first again.
        direct = np.concatenate(direct)
        self._direct = _tensor(np.concatenate([direct, direct[:, :_LONGEST_UPDATE]], axis=1), device)
        # P[k] = (dt^2 / T) |F[k]|^2 with T = 640 dt.
        self._bands = _tensor(weights[:, np.concatenate(order)] * cadence_s / WINDOW_FRAMES, device)
        self.rows = rows

    def whole(self, differences: torch.Tensor, scratch: "_Scratch", out: torch.Tensor) -> None:
        """The sums of all 639 differences, (639, pixels) -> (rows, pixels)."""
        halfway = scratch("halfway", *differences.shape)
        torch.mm(self._outer, differences.view(_OUTER, -1), out=halfway.view(_OUTER, -1))
        for needed, rows, inner in self._inner:
            torch.mm(inner, halfway[needed], out=out[rows])

    def add(self, change: torch.Tensor, row: int, sums: torch.Tensor) -> None:
        """Add to the sums what changes if `change` is added to the differences from `row` on, modulo 639."""
        sums.addmm_(self._direct[:, row : row + len(change)], change)

    def power(self, sums: torch.Tensor, scratch: "_Scratch", out: torch.Tensor) -> None:
        """The bands' power, (rows, pixels) -> (4, pixels)."""
        torch.mm(self._bands, torch.mul(sums, sums, out=scratch("product", *sums.shape)), out=out)


class _Scratch:
    """Memory for what is not kept, made once for each thread: taking it anew costs as much time as the products."""

    def __init__(self, device: str | torch.device):
        self._device = device
        self._memory: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, rows: int, columns: int) -> torch.Tensor:
        memory = self._memory.get(name)
        if memory is None or len(memory) < rows * columns:
            memory = self._memory[name] = torch.empty(rows * columns, dtype=torch.float32, device=self._device)
        return memory[: rows * columns].view(rows, columns)


def _bins_of_bands(cadence_s: float, exact_frequencies: bool) -> tuple[np.ndarray, np.ndarray]:
    """The bins that any band holds, and the weights, (4, bins), with which the bands sum them."""
    duration_s = cadence_s * (_DIFFERENCES if exact_frequencies else WINDOW_FRAMES)
    # Edges in mHz are whole numbers: dividing last keeps the edge at 5 mHz, which is bin 144, exact.
    lower, upper = np.array(BAND_EDGES_MHZ).T * duration_s / 1000
    first = np.ceil(lower).astype(int)
    last = np.ceil(upper).astype(int) - 1 if exact_frequencies else np.floor(upper).astype(int)
    if last[-1] > _DIFFERENCES // 2 or (last <= first).any():
        raise ValueError(f"{WINDOW_FRAMES} frames {cadence_s} s apart do not resolve the bands from 2 to 6 mHz.")
    bins = np.arange(first[0], last[-1] + 1)
    inside = (bins >= first[:, None]) & (bins <= last[:, None])
    ends = (bins == first[:, None]) | (bins == last[:, None])
    return bins, np.where(ends & (not exact_frequencies), 0.5, 1.0) * inside


def _zero_bad(differences: torch.Tensor) -> torch.Tensor:
    """Set to 0 what is not finite, and say where that was."""
    bad = ~differences.isfinite()
    differences.masked_fill_(bad, 0)
    return bad


def _phases(turns: np.ndarray) -> np.ndarray:
    return np.exp(-2j * np.pi * (turns % 1))


def _tensor(array: np.ndarray, device: str | torch.device) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32), device=device)


def _flat(frames: np.ndarray, device: str | torch.device) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The frames, (frames, pixels), and the shape of their image."""
    frames = np.require(frames, dtype=np.float32, requirements=["C", "W"])
    if frames.ndim != 3 or not frames.size:
        raise ValueError(f"Expected one or more frames, (frames, rows, columns), but got {frames.shape}.")
    return torch.from_numpy(frames.reshape(len(frames), -1)).to(device), frames.shape[1:]


def _chunks(total: int, device: str | torch.device) -> list[slice]:
    # On a processor the sums of a chunk and their squares fit the cache of a core, and rows do not lie a power of two
    # apart, where they would compete for the same places of it. Elsewhere kernels are kept busy.
    size = 1040 if torch.device(device).type == "cpu" else 65_536
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _on_all_cores(work: Callable[[Iterator], None], chunks: list, device: str | torch.device) -> None:
    """Let as many threads as torch may use take chunk after chunk, each running torch on itself alone.

    Threads that meet after each of many short operations would wait for each other most of the time.
    """
    remaining = iter(chunks)
    threads = torch.get_num_threads()
    if threads == 1 or torch.device(device).type != "cpu":
        work(remaining)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for finished in [pool.submit(work, remaining) for _ in range(threads)]:
                finished.result()
    finally:
        # Threads begun later would take the workers' number for their own.
        torch.set_num_threads(threads)
