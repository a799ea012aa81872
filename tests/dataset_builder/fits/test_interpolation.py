"""Interpolation of missing pixels in a stream of patches, linearly in time."""

import weakref
from itertools import pairwise

import numpy as np
import pytest

from dataset_builder.fits import interpolate_missing
from dataset_builder.fits.interpolation import MOST_MISSING, NothingObserved


def patch_of(value: float) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


def filled(*values: float | None) -> tuple[list[float], list[bool]]:
    stream = interpolate_missing(None if value is None else patch_of(value) for value in values)
    patches, missing = zip(*stream, strict=True)
    assert all(patch.shape == (2, 3) and patch.dtype == np.float32 for patch in patches)
    return [float(patch[1, 2]) for patch in patches], [mask is not None for mask in missing]


def by_pixel(values: np.ndarray) -> np.ndarray:
    """Return the values of one pixel in all slots, interpolated by the documented rule."""
    values = values.copy()
    there = np.flatnonzero(~np.isnan(values))
    for before, after in pairwise(there):
        if after - before - 1 <= MOST_MISSING:
            values[before:after] = np.linspace(values[before], values[after], after - before, endpoint=False)
    return values


def test_missing_patches_are_interpolated_and_marked():
    assert filled(1, 2) == ([1, 2], [False, False])
    assert filled(1, None, 3, None, None, None, 11) == (
        [1, 2, 3, 5, 7, 9, 11],
        [False, True, False, True, True, True, False],
    )


def test_missing_patches_at_the_ends_stay_nan():
    nan = pytest.approx(np.nan, nan_ok=True)
    assert filled(None, None, 5, 6, None) == ([nan, nan, 5, 6, nan], [True, True, False, False, True])


@pytest.mark.parametrize(("missing", "is_filled"), [(MOST_MISSING, True), (MOST_MISSING + 1, False)])
def test_a_gap_too_long_for_any_window_stays_nan(missing, is_filled):
    values, marks = filled(0, *[None] * missing, missing + 1, 500)
    assert np.isfinite(values[1:-2]).all() == is_filled
    assert np.isfinite(values[1:-2]).any() == is_filled
    assert marks == [False, *[True] * missing, False, False]


def test_each_pixel_is_interpolated_between_its_own_neighbours():
    """Lone pixels, whole frames, missing rows, pixels that come and go, and a pixel that is never observed."""
    random = np.random.default_rng(0)
    frames = random.normal(size=(900, 4, 5)).astype(np.float32)
    frames[random.uniform(size=frames.shape) < 0.02] = np.nan
    frames[random.uniform(size=900) < 0.05] = np.nan
    for first, stop, rows in ((0, 3, slice(0, 2)), (100, 130, slice(2, 4)), (120, 260, slice(1, 3)), (880, 900, 0)):
        frames[first:stop, rows] = np.nan
    frames[400:530] = np.nan
    frames[:, 3, 4] = np.nan
    given = [frame if np.isfinite(frame).any() or index % 2 else None for index, frame in enumerate(frames.copy())]
    patches, missing = zip(*interpolate_missing(given), strict=True)
    expected = np.apply_along_axis(by_pixel, 0, frames)
    assert np.isnan(expected).any()
    np.testing.assert_allclose(np.stack(patches), expected, rtol=1e-5, atol=1e-5)
    for frame, mask in zip(frames, missing, strict=True):
        assert np.array_equal(np.isnan(frame), np.zeros((4, 5), bool) if mask is None else mask)
    # The given patches are not changed.
    for frame, patch in zip(frames, given, strict=True):
        np.testing.assert_array_equal(frame, np.nan if patch is None else patch)


def test_a_slot_depends_only_on_the_slots_around_it():
    random = np.random.default_rng(1)
    frames = random.normal(size=(700, 3, 3)).astype(np.float32)
    frames[random.uniform(size=frames.shape) < 0.3] = np.nan
    frames[200:320] = np.nan
    whole = [patch for patch, _ in interpolate_missing(frames)]
    for first in range(MOST_MISSING, 560, 37):
        around = frames[first - MOST_MISSING : first + 1 + MOST_MISSING]
        part = [patch for patch, _ in interpolate_missing(around)]
        np.testing.assert_allclose(part[MOST_MISSING], whole[first], rtol=1e-6)


def test_a_stream_without_patches_raises_and_an_empty_stream_is_empty():
    with pytest.raises(NothingObserved, match="All 3 frames are missing or bad"):
        list(interpolate_missing([None] * 3))
    assert list(interpolate_missing([])) == []


def test_memory_is_bounded_in_gaps_of_any_length():
    given = []

    def stream():
        for index in range(600):
            patch = patch_of(index)
            if index > 50:
                patch[0, 0] = np.nan
            given.append(weakref.ref(patch))
            yield patch
            del patch
            yield from [None] * (5000 if index == 300 else 0)

    count = 0
    for _patch, _ in interpolate_missing(stream()):
        count += 1
        assert sum(reference() is not None for reference in given) <= MOST_MISSING + 3
    assert count == 5600
