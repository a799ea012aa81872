"""From frames to the tiles of steps: one segment, a run of consecutive steps of one region, at a time.

A segment reads its frames in order of time, tracks them if they are images of the Sun, fills what is missing between
its neighbours, pixel by pixel, and slides the window of 640 frames over them. A pixel that more than `MOST_MISSING` of
a window's frames lack is NaN. Flux and intensity come from the frame nearest the middle of a window, and where that
lacks a pixel, from the next. What a segment gives does not depend on how a region is cut, beyond rounding.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from dataset_builder.fits.acoustic_power import SlidingBandPower, band_power
from dataset_builder.fits.interpolation import MOST_MISSING, NothingObserved, interpolate_missing
from dataset_builder.fits.observations import CUBE, IMAGE, Frame, ObservationFile, read_image, read_planes
from dataset_builder.fits.opened_fits import Unreachable
from dataset_builder.fits.tiles import keep_tiles, remove_latitude_background, tile_means
from dataset_builder.fits.times import WINDOW_FRAMES
from dataset_builder.fits.tracking import PatchMapper, Pointing, Trajectory
from solared_hf.errors import SolaredError
from solared_hf.schema import NUM_PATCH_TILES, POWER_CHANNELS

CORRECTIONS = ("latitude_background", "none")

# Frames that are read and pushed at once: one hour.
_BLOCK = 80
# A smaller file is read whole and held until the next one is needed: opening one takes longer than reading its part.
_HELD_BYTES = 2**26


@dataclass(frozen=True)
class Segment:
    """What one task computes, and all that it needs to know; it holds paths, never pixels.

    Args:
        starts: slot of the first frame of each step's window, evenly spaced for `IMAGE` and `PATCHES`.
        form: what the files of velocity hold, see `observations`.
        velocity: frames by slot, those beyond the segment's ends included; for cubes, the steps' cubes; none where
            too many are missing everywhere.
        field, intensity: for each step, magnetograms and continuum images, the nearest to its middle first.
        trajectory: where images of the Sun are cut out, None for tracked patches.
        patch_pixels, degrees_per_pixel: of the patch that is cut out of them.
        correction: one of `CORRECTIONS`.
    """

    starts: tuple[int, ...]
    form: str
    velocity: dict[int, Frame]
    field: tuple[tuple[Frame, ...], ...]
    intensity: tuple[tuple[Frame, ...], ...]
    trajectory: Trajectory | None
    patch_pixels: int
    degrees_per_pixel: float
    correction: str


@dataclass(frozen=True)
class ReducedSegment:
    """What a segment gives.

    Args:
        values: (steps, 6, 63) float32, in the channels and units of `schema`.
        missing: (steps,) how many of the 640 frames of each window were not there; they were interpolated, or, beyond
            `MOST_MISSING`, the power of the step is NaN.
        patched: (steps,) in how many others some pixels were missing that were interpolated.
        unreadable: why files could not be used after all, by name.
    """

    values: np.ndarray
    missing: np.ndarray
    patched: np.ndarray
    unreadable: dict[str, str]


def reduce_segment(segment: Segment, report: Callable[[int], None] = lambda steps: None) -> ReducedSegment:
    """Compute the steps of a segment.

    Args:
        segment: what to compute.
        report: told now and then how many steps are finished.

    Raises:
        Unreachable: a file cannot be read here and now, which says nothing of the Sun.
        SolaredError: a patch of the segment's size does not fit on a hemisphere.
        ValueError: the patch has fewer than 9 pixels a side.
    """
    reader = _Reader(segment)
    power = np.full((len(segment.starts), len(POWER_CHANNELS), NUM_PATCH_TILES), np.nan)
    missing, patched = np.full(len(segment.starts), WINDOW_FRAMES), np.zeros(len(segment.starts), dtype=int)
    windows = _cube_windows if segment.form == CUBE else _sliding_windows
    for step, (maps, lack) in enumerate(windows(segment, reader)):
        if maps is not None:
            maps[:, np.broadcast_to(lack.pixels > MOST_MISSING, maps.shape[1:])] = np.nan
            power[step] = tile_means(maps)
            missing[step], patched[step] = lack.frames, lack.patched
        report(step + 1)
    # |B| is taken pixel by pixel: opposite polarities in one tile must not cancel.
    field = np.stack([reader.tiles_of_nearest(frames, np.abs) for frames in segment.field])
    intensity = np.stack([reader.tiles_of_nearest(frames) for frames in segment.intensity])
    tiles = np.concatenate([power, field[:, np.newaxis], intensity[:, np.newaxis]], axis=1)
    if segment.correction == "latitude_background":
        tiles = remove_latitude_background(tiles)
    return ReducedSegment(keep_tiles(tiles).astype(np.float32), missing, patched, reader.unreadable)


class _Lack(NamedTuple):
    """What a window lacks, or a stream up to some frame."""

    pixels: np.ndarray  # how many frames lack each pixel, of the shape of a patch, or () where that is 0 everywhere
    frames: int  # how many lack every pixel
    patched: int  # in how many others some pixels were filled in


class _LackOfWindows:
    """Counts what is missing of a stream of patches, for a window of 640 frames every `step` frames."""

    def __init__(self, step: int):
        self._step = step
        self._total = _Lack(np.zeros((), np.uint16), 0, 0)
        self._begun: deque[_Lack] = deque()
        self._complete: deque[_Lack] = deque()
        self.frames_seen = 0

    def count(self, patch: np.ndarray, missing: np.ndarray | None) -> None:
        """Count the next of the stream, as `interpolate_missing` gives it."""
        if self.frames_seen % self._step == 0:
            self._begun.append(self._total)
        if missing is not None:
            pixels, frames, patched = self._total
            whole = bool(missing.all())
            in_part = not whole and not np.isnan(patch[missing]).all()
            # Not in place, because the totals at the starts of windows are kept.
            self._total = _Lack(pixels + missing, frames + whole, patched + in_part)
        self.frames_seen += 1
        if self.frames_seen >= WINDOW_FRAMES and (self.frames_seen - WINDOW_FRAMES) % self._step == 0:
            self._complete.append(self._total)

    def of_next_window(self) -> _Lack:
        """What the next window lacks that is complete."""
        before, after = self._begun.popleft(), self._complete.popleft()
        return _Lack(*(late - early for early, late in zip(before, after, strict=True)))


def _sliding_windows(segment: Segment, reader: "_Reader") -> Iterator[tuple[np.ndarray, _Lack]]:
    """Band power maps of each step's window, and what it lacks; nothing if all frames are missing."""
    first, stop = segment.starts[0], segment.starts[-1] + WINDOW_FRAMES
    step = segment.starts[1] - first if len(segment.starts) > 1 else WINDOW_FRAMES
    sliding, lack = SlidingBandPower(step, repeat_missing=True), _LackOfWindows(step)
    block, held = None, 0
    try:
        for patch, missing in reader.stream(segment.velocity, first, stop):
            lack.count(patch, missing)
            if block is None:  # made once: taking new memory takes longer than filling it
                block = np.empty((_BLOCK, *patch.shape), dtype=np.float32)
            block[held] = patch
            held += 1
            if held == _BLOCK or lack.frames_seen == stop - first:
                for maps in sliding.push(block[:held]):
                    yield maps, lack.of_next_window()
                held = 0
    except NothingObserved:
        return


def _cube_windows(segment: Segment, reader: "_Reader") -> Iterator[tuple[np.ndarray | None, _Lack | None]]:
    for start in segment.starts:
        frame = segment.velocity.get(start)
        yield (None, None) if frame is None else _cube_window(frame, reader)


def _cube_window(frame: Frame, reader: "_Reader") -> tuple[np.ndarray | None, _Lack | None]:
    """Band power maps of a cube, and what it lacks; None if it cannot be read."""
    cube = np.empty(frame.file.shape, dtype=np.float32)
    # In parts, as decoding takes several times the memory of what is decoded.
    for plane in range(0, WINDOW_FRAMES, _BLOCK):
        planes = reader.planes(Frame(frame.file, plane), _BLOCK)
        if planes is None:
            return None, None
        cube[plane : plane + _BLOCK] = planes
    lack = _LackOfWindows(WINDOW_FRAMES)
    for plane, (patch, missing) in enumerate(interpolate_missing(iter(cube))):
        lack.count(patch, missing)
        if missing is not None:
            cube[plane] = patch
    return band_power(cube, repeat_missing=True), lack.of_next_window()


class _Reader:
    """Patches of a segment; a damaged file is noted by name, and its frames are missing."""

    def __init__(self, segment: Segment):
        self._mapper = None
        if segment.trajectory is not None:
            self._mapper = PatchMapper(
                segment.trajectory, size=segment.patch_pixels, degrees_per_pixel=segment.degrees_per_pixel
            )
        self._held: tuple[ObservationFile | None, np.ndarray | None] = (None, None)
        self.unreadable: dict[str, str] = {}

    def stream(
        self, frames: dict[int, Frame], first: int, stop: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """The patch of each slot from `first` to `stop`, filled, and what was missing; see `interpolate_missing`.

        What is missing at an end is filled as elsewhere, between frames on both sides; these are read if needed.
        """
        patches = self._patches(frames, range(first, stop))
        begin, earlier = next(patches), []
        unseen = np.True_ if begin is None else np.isnan(begin)
        for slot in range(first - 1, first - 1 - MOST_MISSING, -1):
            if not unseen.any():
                break
            patch = self._patch(frames.get(slot))
            earlier.append(patch)
            if patch is not None:
                unseen = unseen & np.isnan(patch)
        # Read when a gap is still open at the end, and only then.
        later = self._patches(frames, range(stop, stop + MOST_MISSING))
        filled = interpolate_missing(chain(reversed(earlier), [begin], patches, later))
        return islice(filled, len(earlier), len(earlier) + stop - first)

    def tiles_of_nearest(
        self, frames: tuple[Frame, ...], of_pixels: Callable[[np.ndarray], np.ndarray] = lambda patch: patch
    ) -> np.ndarray:
        """(81,) tile means of some frames, each pixel from the first that has it; NaN where there is none."""
        patch, missing = None, None
        for frame in frames:
            other = self._patch(frame)
            if other is None:
                continue
            patch = other if patch is None else np.where(missing, other, patch)
            before, missing = missing, np.isnan(patch)
            # The same pixels in two frames: beyond the limb or the image.
            if not missing.any() or (before is not None and np.array_equal(before, missing)):
                break
        return np.full(NUM_PATCH_TILES, np.nan) if patch is None else tile_means(of_pixels(patch))

    def planes(self, frame: Frame, count: int) -> np.ndarray | None:
        """(count, rows, columns) consecutive planes of a file, from that of `frame` on."""
        wanted = slice(frame.plane, frame.plane + count)
        try:
            if 4 * math.prod(frame.file.shape) > _HELD_BYTES:
                return read_planes(frame.file, wanted)
            if self._held[0] is not frame.file:
                self._held = (frame.file, read_planes(frame.file, slice(None)))
            return self._held[1][wanted]
        except Unreachable:
            raise
        except SolaredError as error:
            self._note(frame, error)
            return None

    def _patch(self, frame: Frame | None) -> np.ndarray | None:
        """The patch of a frame, or None if it is missing, cannot be read, or is empty."""
        if frame is None:
            return None
        if frame.file.form == IMAGE:
            image = self._image(frame)
            return None if image is None else self._mapper.map(*image)
        planes = self.planes(frame, 1)
        return None if planes is None or _is_empty(planes[0]) else planes[0]

    def _note(self, frame: Frame, error: SolaredError) -> None:
        # Without the folder, so that the same files elsewhere give the same manifest.
        self.unreadable[frame.file.path.name] = str(error).replace(f"{frame.file.path}", "the file")

    def _patches(self, frames: dict[int, Frame], slots: range) -> Iterator[np.ndarray | None]:
        slot = slots.start
        while slot < slots.stop:
            frame = frames.get(slot)
            if frame is None or frame.file.form == IMAGE:
                yield self._patch(frame)
                slot += 1
                continue
            count = 1
            # Neighbours in a file are read together.
            most = min(_BLOCK, slots.stop - slot)
            while count < most and frames.get(slot + count) == Frame(frame.file, frame.plane + count):
                count += 1
            planes = self.planes(frame, count)
            yield from [None] * count if planes is None else planes
            slot += count

    def _image(self, frame: Frame) -> tuple[np.ndarray, Pointing, int] | None:
        """Those rows of an image of the Sun that the patch needs, where the Sun is in the image, and the first row."""
        try:
            pixels, header = read_image(frame.file, lambda header: self._mapper.rows(Pointing.from_header(header)))
            pointing = Pointing.from_header(header)
        except Unreachable:
            raise
        except SolaredError as error:
            self._note(frame, error)
            return None
        return None if _is_empty(pixels) else (pixels, pointing, self._mapper.rows(pointing).start)


def _is_empty(pixels: np.ndarray) -> bool:
    """Whether nothing was observed; most often the middle row tells that something was."""
    return bool(np.isnan(pixels[len(pixels) // 2 :][:1]).all() and np.isnan(pixels).all())
