"""From frames to the tiles of steps, one segment at a time: a run of consecutive steps of one region.

A segment reads its frames in order of time, tracks them if they are images of the Sun, interpolates missing pixels in
time, and slides the window of 640 frames over the patches. A pixel is NaN if more than `MOST_MISSING` frames of the
window lack the pixel. Flux and intensity come from the frame nearest the middle of a window; pixels that are missing
there come from the next nearest frame. How a region is cut into segments changes only the rounding of the results.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from dataset_builder.fits.acoustic_power import band_power
from dataset_builder.fits.headers import CUBE, IMAGE, ObservationFile
from dataset_builder.fits.interpolation import MOST_MISSING, NothingObserved, interpolate_missing
from dataset_builder.fits.observations import Frame
from dataset_builder.fits.opened_fits import Unreachable
from dataset_builder.fits.pixels import is_empty, read_patch, read_planes
from dataset_builder.fits.sliding_power import SlidingBandPower
from dataset_builder.fits.tiles import keep_tiles, remove_latitude_background, tile_means
from dataset_builder.fits.times import WINDOW_FRAMES
from dataset_builder.fits.tracking import PatchMapper, Trajectory
from solared_hf.errors import SolaredError
from solared_hf.schema import NUM_PATCH_TILES, POWER_CHANNELS

CORRECTIONS = ("latitude_background", "none")

# Frames that are read and pushed at once: one hour.
_BLOCK = 80
# A file up to this size is read whole and held until another file is needed, because opening a file takes longer than
# reading a part of it.
_HELD_BYTES = 2**26


@dataclass(frozen=True)
class Segment:
    """The input of one task; it holds paths, never pixels.

    Args:
        starts: slot of the first frame of each step's window, evenly spaced for `IMAGE` and `PATCHES`.
        form: the form of the velocity files, see `headers`.
        velocity: velocity frames by slot, with frames beyond both ends of the segment; for cubes, the cube of each
            step. Empty if every window lacks too many frames.
        field, intensity: for each step, magnetograms and continuum images, the nearest to the middle first.
        trajectory: where to cut the patch out of images of the Sun; None for tracked patches.
        patch_pixels, degrees_per_pixel: size and scale of the patch that is cut out of images of the Sun.
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
    """The result of a segment.

    Args:
        values: (steps, 6, 63) float32, in the channels and units of `schema`.
        missing: (steps,) how many of the 640 frames of each window were missing. They were interpolated, or, if more
            than `MOST_MISSING`, the power of the step is NaN.
        patched: (steps,) in how many other frames some pixels were missing and were interpolated.
        unreadable: why files could not be read, by file name.
    """

    values: np.ndarray
    missing: np.ndarray
    patched: np.ndarray
    unreadable: dict[str, str]


def reduce_segment(segment: Segment, report: Callable[[int], None] = lambda steps: None) -> ReducedSegment:
    """Compute the steps of a segment.

    Args:
        segment: what to compute.
        report: called now and then with the number of finished steps.

    Raises:
        Unreachable: If a file cannot be read here and now, which is not a fact about the Sun.
        SolaredError: If a patch of the segment's size does not fit on a hemisphere.
        ValueError: If the patch has fewer than 9 pixels a side.
    """
    reader = _Reader(segment)
    power = np.full((len(segment.starts), len(POWER_CHANNELS), NUM_PATCH_TILES), np.nan)
    missing, patched = np.full(len(segment.starts), WINDOW_FRAMES), np.zeros(len(segment.starts), dtype=int)
    windows = _cube_windows if segment.form == CUBE else _sliding_windows
    for step, window in enumerate(windows(segment, reader)):
        if window is not None:
            maps, lacking = window
            maps[:, np.broadcast_to(lacking.pixels > MOST_MISSING, maps.shape[1:])] = np.nan
            power[step] = tile_means(maps)
            missing[step], patched[step] = lacking.frames, lacking.patched
        report(step + 1)
    # The absolute value is taken pixel by pixel, because opposite polarities in one tile must not cancel.
    field = np.stack([reader.tiles_of_nearest(frames, np.abs) for frames in segment.field])
    intensity = np.stack([reader.tiles_of_nearest(frames) for frames in segment.intensity])
    tiles = np.concatenate([power, field[:, np.newaxis], intensity[:, np.newaxis]], axis=1)
    if segment.correction == "latitude_background":
        tiles = remove_latitude_background(tiles)
    return ReducedSegment(keep_tiles(tiles).astype(np.float32), missing, patched, reader.unreadable)


class _Missing(NamedTuple):
    """How much is missing from a window, or from a stream up to some frame."""

    pixels: np.ndarray  # how many frames lack each pixel, (rows, columns), or () if no frame lacks any
    frames: int  # how many frames lack every pixel
    patched: int  # in how many other frames some pixels were interpolated


class _MissingByWindow:
    """Counts what is missing from a stream of patches, for a window of 640 frames every `step` frames."""

    def __init__(self, step: int):
        self._step = step
        self._total = _Missing(np.zeros((), np.uint16), 0, 0)
        self._begun: deque[_Missing] = deque()
        self._complete: deque[_Missing] = deque()
        self.frames_seen = 0

    def count(self, patch: np.ndarray, missing: np.ndarray | None) -> None:
        """Count the next patch of the stream, as `interpolate_missing` yields it."""
        if self.frames_seen % self._step == 0:
            self._begun.append(self._total)
        if missing is not None:
            pixels, frames, patched = self._total
            whole = bool(missing.all())
            in_part = not whole and not np.isnan(patch[missing]).all()
            # A new array, because the totals at the starts of windows are kept.
            self._total = _Missing(pixels + missing, frames + whole, patched + in_part)
        self.frames_seen += 1
        if self.frames_seen >= WINDOW_FRAMES and (self.frames_seen - WINDOW_FRAMES) % self._step == 0:
            self._complete.append(self._total)

    def next_window(self) -> _Missing:
        """Return what is missing from the next complete window."""
        before, after = self._begun.popleft(), self._complete.popleft()
        return _Missing(after.pixels - before.pixels, after.frames - before.frames, after.patched - before.patched)


# The (4, rows, columns) power maps of a window and what is missing from it; None if the window cannot be read.
_Window = tuple[np.ndarray, _Missing] | None


def _sliding_windows(segment: Segment, reader: "_Reader") -> Iterator[_Window]:
    """Yield each step's window; nothing if all frames are missing."""
    first, stop = segment.starts[0], segment.starts[-1] + WINDOW_FRAMES
    step = segment.starts[1] - first if len(segment.starts) > 1 else WINDOW_FRAMES
    sliding, missing_by_window = SlidingBandPower(step, repeat_missing=True), _MissingByWindow(step)
    block, held = None, 0
    try:
        for patch, missing in reader.stream(segment.velocity, first, stop):
            missing_by_window.count(patch, missing)
            if block is None:  # allocated once, because allocating takes longer than filling
                block = np.empty((_BLOCK, *patch.shape), dtype=np.float32)
            block[held] = patch
            held += 1
            if held == _BLOCK or missing_by_window.frames_seen == stop - first:
                for maps in sliding.push(block[:held]):
                    yield maps, missing_by_window.next_window()
                held = 0
    except NothingObserved:
        return


def _cube_windows(segment: Segment, reader: "_Reader") -> Iterator[_Window]:
    for start in segment.starts:
        frame = segment.velocity.get(start)
        yield None if frame is None else _cube_window(frame, reader)


def _cube_window(frame: Frame, reader: "_Reader") -> _Window:
    cube = np.empty(frame.file.shape, dtype=np.float32)
    # In parts, because decoding takes several times the memory of the decoded pixels.
    for plane in range(0, WINDOW_FRAMES, _BLOCK):
        planes = reader.planes(Frame(frame.file, plane), _BLOCK)
        if planes is None:
            return None
        cube[plane : plane + _BLOCK] = planes
    missing_by_window = _MissingByWindow(WINDOW_FRAMES)
    for plane, (patch, missing) in enumerate(interpolate_missing(iter(cube))):
        missing_by_window.count(patch, missing)
        if missing is not None:
            cube[plane] = patch
    return band_power(cube, repeat_missing=True), missing_by_window.next_window()


class _Reader:
    """Reads the patches of a segment; a damaged file is recorded by name, and its frames count as missing."""

    def __init__(self, segment: Segment):
        self._mapper = None
        if segment.trajectory is not None:
            self._mapper = PatchMapper(
                segment.trajectory, size=segment.patch_pixels, degrees_per_pixel=segment.degrees_per_pixel
            )
        # The file whose planes are held in memory, and the planes.
        self._held: tuple[ObservationFile, np.ndarray] | None = None
        self.unreadable: dict[str, str] = {}

    def stream(
        self, frames: dict[int, Frame], first: int, stop: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Return an iterator over the slots from `first` to `stop`, as `interpolate_missing` gives them.

        Gaps at both ends are interpolated too, between frames inside and outside; the frames outside are read if
        needed.
        """
        patches = self._patches(frames, range(first, stop))
        begin = next(patches)
        earlier: list[np.ndarray | None] = []
        unseen = np.ones((), dtype=bool) if begin is None else np.isnan(begin)
        for slot in range(first - 1, first - 1 - MOST_MISSING, -1):
            if not unseen.any():
                break
            patch = self._patch(frames.get(slot))
            earlier.append(patch)
            if patch is not None:
                unseen = unseen & np.isnan(patch)
        # Read lazily, only if a gap is still open at the end.
        later = self._patches(frames, range(stop, stop + MOST_MISSING))
        filled = interpolate_missing(chain(reversed(earlier), [begin], patches, later))
        return islice(filled, len(earlier), len(earlier) + stop - first)

    def tiles_of_nearest(
        self, frames: tuple[Frame, ...], of_pixels: Callable[[np.ndarray], np.ndarray] = lambda patch: patch
    ) -> np.ndarray:
        """Return the (81,) tile means of some frames, each pixel from the first frame that has it; NaN if none has."""
        patch: np.ndarray | None = None
        missing: np.ndarray | None = None
        for frame in frames:
            other = self._patch(frame)
            if other is None:
                continue
            patch = other if patch is None or missing is None else np.where(missing, other, patch)
            before, missing = missing, np.isnan(patch)
            # If another frame lacks the same pixels, they lie beyond the limb or outside the image.
            if not missing.any() or (before is not None and np.array_equal(before, missing)):
                break
        return np.full(NUM_PATCH_TILES, np.nan) if patch is None else tile_means(of_pixels(patch))

    def planes(self, frame: Frame, count: int) -> np.ndarray | None:
        """Return `count` planes of a file from that of `frame` on, or None if the file cannot be decoded."""
        wanted = slice(frame.plane, frame.plane + count)
        try:
            if 4 * math.prod(frame.file.shape) > _HELD_BYTES:
                return read_planes(frame.file, wanted)
            if self._held is None or self._held[0] is not frame.file:
                self._held = (frame.file, read_planes(frame.file, slice(None)))
            return self._held[1][wanted]
        except Unreachable:
            raise
        except SolaredError as error:
            self._record(frame, error)
            return None

    def _patch(self, frame: Frame | None) -> np.ndarray | None:
        """Return the patch of a frame, or None if the frame is missing, cannot be read, or is empty."""
        if frame is None:
            return None
        if frame.file.form == IMAGE:
            return self._image_patch(frame)
        planes = self.planes(frame, 1)
        return None if planes is None or is_empty(planes[0]) else planes[0]

    def _image_patch(self, frame: Frame) -> np.ndarray | None:
        assert self._mapper is not None, "a plan with images of the Sun has a trajectory"
        try:
            return read_patch(frame.file, self._mapper)
        except Unreachable:
            raise
        except SolaredError as error:
            self._record(frame, error)
            return None

    def _record(self, frame: Frame, error: SolaredError) -> None:
        # Without the folder, so that the same files in another place give the same manifest.
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
            # Consecutive planes of a file are read together.
            most = min(_BLOCK, slots.stop - slot)
            while count < most and frames.get(slot + count) == Frame(frame.file, frame.plane + count):
                count += 1
            planes = self.planes(frame, count)
            yield from [None] * count if planes is None else planes
            slot += count
