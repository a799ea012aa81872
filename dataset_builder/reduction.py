"""From frames to the tiles of steps: one segment, a run of consecutive steps of one region, at a time.

A segment reads its frames in order of time, tracks them if they are images of the Sun, fills missing ones between
their neighbours, and slides the window of 640 frames over them. Flux and intensity come from the frame nearest the
middle of a window. What a segment gives does not depend on how a region is cut into segments, beyond rounding, as long
as no gap is longer than those that are filled.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dataset_builder.acoustic_power import SlidingBandPower, band_power
from dataset_builder.interpolation import NothingObserved, interpolate_missing
from dataset_builder.observations import CUBE, IMAGE, Frame, ObservationFile, read_image, read_planes
from dataset_builder.tiles import keep_tiles, remove_latitude_background, tile_means
from dataset_builder.times import WINDOW_FRAMES
from dataset_builder.tracking import PatchMapper, Pointing, Trajectory, track
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
class Reduced:
    """What a segment gives.

    Args:
        values: (steps, 6, 63) float32, in the channels and units of `schema`.
        missing: (steps,) how many of the 640 frames of each window were not there; they were interpolated, or, beyond
            `MOST_MISSING`, the power of the step is NaN.
        unreadable: why files could not be used after all, by name.
    """

    values: np.ndarray
    missing: np.ndarray
    unreadable: dict[str, str]


def reduce_segment(segment: Segment, report: Callable[[int], None] = lambda steps: None) -> Reduced:
    """Compute the steps of a segment.

    Args:
        segment: what to compute.
        report: told now and then how many steps are finished.

    Raises:
        SolaredError: a patch of the segment's size does not fit on a hemisphere.
        ValueError: the patch has fewer than 9 pixels a side.
    """
    reader = _Reader(segment)
    power = np.full((len(segment.starts), len(POWER_CHANNELS), NUM_PATCH_TILES), np.nan)
    missing = np.full(len(segment.starts), WINDOW_FRAMES)
    windows = _cube_windows if segment.form == CUBE else _sliding_windows
    for step, (maps, count) in enumerate(windows(segment, reader)):
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
    return Reduced(keep_tiles(tiles).astype(np.float32), missing, reader.unreadable)


def _sliding_windows(segment: Segment, reader: "_Reader") -> Iterator[tuple[np.ndarray, int]]:
    """Band power maps of each step's window, and how many of its frames were missing; nothing if all frames are."""
    first, stop = segment.starts[0], segment.starts[-1] + WINDOW_FRAMES
    slots = reader.reach(segment.velocity, first, stop)
    missing = np.zeros(stop - first, dtype=bool)
    sliding = SlidingBandPower(segment.starts[1] - first if len(segment.starts) > 1 else WINDOW_FRAMES)
    starts, block, held = iter(segment.starts), None, 0
    try:
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
    except NothingObserved:
        return


def _cube_windows(segment: Segment, reader: "_Reader") -> Iterator[tuple[np.ndarray | None, int]]:
    for start in segment.starts:
        yield _cube_window(segment.velocity.get(start), reader)


def _cube_window(frame: Frame | None, reader: "_Reader") -> tuple[np.ndarray | None, int]:
    """Band power maps of a cube, and how many of its frames were missing."""
    if frame is None:
        return None, WINDOW_FRAMES
    cube, count = np.empty(frame.file.shape, dtype=np.float32), 0
    # In parts, as decoding takes several times the memory of what is decoded.
    for plane in range(0, WINDOW_FRAMES, _BLOCK):
        planes = reader.planes(Frame(frame.file, plane), _BLOCK)
        if planes is None:
            return None, WINDOW_FRAMES
        cube[plane : plane + _BLOCK] = planes
    try:
        for plane, (patch, filled) in enumerate(interpolate_missing(iter(cube))):
            if filled:
                cube[plane] = patch
                count += 1
    except NothingObserved:
        return None, WINDOW_FRAMES
    return band_power(cube), count


class _Reader:
    """Patches of a segment; a file that cannot be read is noted by name, and its frames are missing."""

    def __init__(self, segment: Segment):
        self._mapper = None
        if segment.trajectory is not None:
            self._mapper = PatchMapper(
                segment.trajectory, size=segment.patch_pixels, degrees_per_pixel=segment.degrees_per_pixel
            )
        self._held: tuple[ObservationFile | None, np.ndarray | None] = (None, None)
        self.unreadable: dict[str, str] = {}

    def reach(self, frames: dict[int, Frame], first: int, stop: int) -> range:
        """The slots from `first` to `stop`, and on to a frame that was observed where the outermost was not.

        A frame that is missing at an end of a segment is interpolated, as others are, with neighbours on both sides.
        """
        begin, end = first, stop - 1
        while begin > first - MOST_MISSING and not self._is_there(frames.get(begin)):
            begin -= 1
        while end < stop - 1 + MOST_MISSING and not self._is_there(frames.get(end)):
            end += 1
        return range(begin, end + 1)

    def _is_there(self, frame: Frame | None) -> bool:
        return (
            frame is not None and (self._image(frame) if frame.file.form == IMAGE else self._patch(frame)) is not None
        )

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
                patch = self._patch(frame)
            if patch is not None:
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
        except SolaredError as error:
            self._note(frame, error)
            return None

    def _patch(self, frame: Frame) -> np.ndarray | None:
        planes = self.planes(frame, 1)
        return None if planes is None or _is_empty(planes[0]) else planes[0]

    def _note(self, frame: Frame, error: SolaredError) -> None:
        # Without the folder, so that the same files elsewhere give the same manifest.
        self.unreadable[frame.file.path.name] = str(error).replace(f"{frame.file.path}", "the file")

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
        except SolaredError as error:
            self._note(frame, error)
            return None
        return None if _is_empty(pixels) else (pixels, pointing, self._mapper.rows(pointing).start)


def _is_empty(pixels: np.ndarray) -> bool:
    """Whether nothing was observed; most often the middle row tells that something was."""
    return bool(np.isnan(pixels[len(pixels) // 2 :][:1]).all() and np.isnan(pixels).all())
