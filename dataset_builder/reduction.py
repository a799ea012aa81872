"""From frames to the tiles of steps: one segment, a run of consecutive steps of one region, at a time.

A segment reads its frames in order of time, tracks them if they are images of the Sun, fills missing ones between
their neighbours, and slides the window of 640 frames over them. Flux and intensity come from the frame nearest the
middle of a window. What a segment gives does not depend on how a region is cut into segments, beyond rounding.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dataset_builder.acoustic_power import SlidingBandPower, band_power
from dataset_builder.observations import CUBE, IMAGE, Frame, ObservationFile, read_image, read_planes
from dataset_builder.tiles import keep_tiles, remove_latitude_background, tile_means
from dataset_builder.times import WINDOW_FRAMES
from dataset_builder.tracking import PatchMapper, Pointing, Trajectory, interpolate_missing, track
from solared_hf.errors import SolaredError
from solared_hf.schema import NUM_PATCH_TILES, POWER_CHANNELS

# An eclipse takes up to 72 minutes, 96 frames. Each interpolated frame takes about its share of the power.
MOST_MISSING = WINDOW_FRAMES // 5

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
        velocity: frames by slot, those next to the segment's ends included; for cubes, the steps' cubes; none where
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
class Reduced:
    """What a segment gives.

    Args:
        values: (steps, 6, 63) float32, in the channels and units of `schema`.
        missing: (steps,) how many of the 640 frames of each window were not there; they were interpolated, or, beyond
            `MOST_MISSING`, the power of the step is NaN.
        unreadable: names of files whose pixels turned out to be damaged.
    """

    values: np.ndarray
    missing: np.ndarray
    unreadable: tuple[str, ...]


def reduce_segment(segment: Segment, report: Callable[[int], None] = lambda steps: None) -> Reduced:
    """Compute the steps of a segment.

    Args:
        segment: what to compute.
        report: told now and then how many steps are finished.

    Raises:
        SolaredError: no frame of velocity can be read at all.
    """
    reader = _Reader(segment)
    power = np.full((len(segment.starts), len(POWER_CHANNELS), NUM_PATCH_TILES), np.nan)
    missing = np.full(len(segment.starts), WINDOW_FRAMES)
    windows = _cube_windows if segment.form == CUBE else _sliding_windows
    for step, (maps, count) in enumerate(windows(segment, reader) if segment.velocity else ()):
        missing[step] = count
        if count <= MOST_MISSING:
            power[step] = tile_means(maps)
        report(step + 1)
    # |B| is taken pixel by pixel: opposite polarities in one tile must not cancel.
    field = np.stack([reader.tiles_of_first_readable(frames, np.abs) for frames in segment.field])
    intensity = np.stack([reader.tiles_of_first_readable(frames) for frames in segment.intensity])
    tiles = np.concatenate([power, field[:, np.newaxis], intensity[:, np.newaxis]], axis=1)
    if segment.correction == "latitude_background":
        tiles = remove_latitude_background(tiles)
    return Reduced(keep_tiles(tiles).astype(np.float32), missing, tuple(reader.unreadable))


def _sliding_windows(segment: Segment, reader: "_Reader") -> Iterator[tuple[np.ndarray, int]]:
    """Band power maps of each step's window, and how many of its frames were missing."""
    first, stop = segment.starts[0], segment.starts[-1] + WINDOW_FRAMES
    # A frame that is missing at an end of the segment is interpolated with a neighbour beyond it.
    slots = range(min(first, *segment.velocity), max(stop, *(slot + 1 for slot in segment.velocity)))
    missing = np.zeros(stop - first, dtype=bool)
    sliding = SlidingBandPower(segment.starts[1] - first if len(segment.starts) > 1 else WINDOW_FRAMES)
    starts, block, held = iter(segment.starts), None, 0
    for slot, (patch, filled) in zip(slots, reader.stream(segment.velocity, slots), strict=True):
        if not first <= slot < stop:
            continue
        missing[slot - first] = filled
        if block is None:  # made once: taking new memory takes longer than filling it
            block = np.empty((_BLOCK, *patch.shape), dtype=np.float32)
        block[held] = patch
        held += 1
        if held == _BLOCK or slot == stop - 1:
            for maps in sliding.push(block[:held]):
                start = next(starts) - first
                yield maps, int(missing[start : start + WINDOW_FRAMES].sum())
            held = 0


def _cube_windows(segment: Segment, reader: "_Reader") -> Iterator[tuple[np.ndarray | None, int]]:
    for start in segment.starts:
        frame = segment.velocity.get(start)
        cube = None if frame is None else reader.planes(frame, WINDOW_FRAMES)
        if cube is None:
            yield None, WINDOW_FRAMES
            continue
        empty = np.isnan(cube).all(axis=(1, 2))
        if 0 < empty.sum() <= MOST_MISSING:
            planes = (None if gone else plane for plane, gone in zip(cube, empty, strict=True))
            cube = np.stack([plane for plane, _ in interpolate_missing(planes)])
        yield band_power(cube), int(empty.sum())


class _Reader:
    """Patches of a segment; a file that cannot be read is noted by name, and its frames are missing."""

    def __init__(self, segment: Segment):
        self._mapper = None
        if segment.trajectory is not None:
            self._mapper = PatchMapper(
                segment.trajectory, size=segment.patch_pixels, degrees_per_pixel=segment.degrees_per_pixel
            )
        self._held: tuple[ObservationFile | None, np.ndarray | None] = (None, None)
        self.unreadable: list[str] = []

    def stream(self, frames: dict[int, Frame], slots: range) -> Iterator[tuple[np.ndarray, bool]]:
        """One patch for each slot, and whether it was filled in."""
        if any(frame.file.form == IMAGE for frame in frames.values()):
            images = (self._image(frames[slot]) if slot in frames else None for slot in slots)
            return track(images, self._mapper)
        return interpolate_missing(self._patches(frames, slots))

    def tiles_of_first_readable(
        self, frames: tuple[Frame, ...], of_pixels: Callable[[np.ndarray], np.ndarray] = lambda patch: patch
    ) -> np.ndarray:
        """(81,) tile means of the first of some frames that can be read; NaN where there is none."""
        for frame in frames:
            if frame.file.form == IMAGE:
                image = self._image(frame)
                patch = None if image is None else self._mapper.map(*image)
            else:
                planes = self.planes(frame, 1)
                patch = None if planes is None else planes[0]
            if patch is not None and not _is_empty(patch):
                return tile_means(of_pixels(patch))
        return np.full(NUM_PATCH_TILES, np.nan)

    def planes(self, frame: Frame, count: int) -> np.ndarray | None:
        """(count, rows, columns) consecutive planes of a file, from that of `frame` on."""
        wanted = slice(frame.plane, frame.plane + count)
        try:
            if 4 * math.prod(frame.file.shape) > _HELD_BYTES:
                return read_planes(frame.file, wanted)
            if self._held[0] is not frame.file:
                self._held = (frame.file, read_planes(frame.file, slice(None)))
            return self._held[1][wanted]
        except SolaredError:
            self.unreadable.append(frame.file.path.name)
            return None

    def _patches(self, frames: dict[int, Frame], slots: range) -> Iterator[np.ndarray | None]:
        slot = slots.start
        while slot < slots.stop:
            frame = frames.get(slot)
            if frame is None:
                yield None
                slot += 1
                continue
            count = 1
            # Neighbours in a file are read together.
            while count < _BLOCK and frames.get(slot + count) == Frame(frame.file, frame.plane + count):
                count += 1
            planes = self.planes(frame, count)
            for plane in [None] * count if planes is None else planes:
                yield None if plane is None or _is_empty(plane) else plane
            slot += count

    def _image(self, frame: Frame) -> tuple[np.ndarray, Pointing, int] | None:
        """Those rows of an image of the Sun that the patch needs, where the Sun is in the image, and the first row."""
        try:
            pixels, header = read_image(frame.file, lambda header: self._mapper.rows(Pointing.from_header(header)))
            pointing = Pointing.from_header(header)
        except SolaredError:
            self.unreadable.append(frame.file.path.name)
            return None
        return None if _is_empty(pixels) else (pixels, pointing, self._mapper.rows(pointing).start)


def _is_empty(pixels: np.ndarray) -> bool:
    """Whether nothing was observed; most often the middle row tells that something was."""
    return bool(np.isnan(pixels[len(pixels) // 2 :][:1]).all() and np.isnan(pixels).all())
