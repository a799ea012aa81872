"""Missing patches of a stream are lines between their neighbours."""

import weakref

import numpy as np
import pytest

from dataset_builder.interpolation import NothingObserved, interpolate_missing


def patch_of(value: float) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


def filled(*values: float | None) -> tuple[list[float], list[bool]]:
    stream = interpolate_missing(None if value is None else patch_of(value) for value in values)
    patches, marks = zip(*stream, strict=True)
    assert all(patch.shape == (2, 3) and patch.dtype == np.float32 for patch in patches)
    return [float(patch[1, 2]) for patch in patches], list(marks)


def test_missing_patches_are_filled_linearly_and_marked():
    assert filled(1, 2) == ([1, 2], [False, False])
    assert filled(1, None, 3, None, None, None, 11) == (
        [1, 2, 3, 5, 7, 9, 11],
        [False, True, False, True, True, True, False],
    )


def test_at_the_ends_the_nearest_patch_is_repeated():
    assert filled(None, None, 5, 6, None) == ([5, 5, 5, 6, 6], [True, True, False, False, True])


def test_nan_of_a_neighbour_is_nan_in_between_and_nowhere_else():
    before, after = patch_of(1), patch_of(3)
    before[0, 0] = after[1, 1] = np.nan
    (_, _), (between, is_filled), (_, _) = interpolate_missing([before, None, after])
    assert is_filled
    np.testing.assert_array_equal(between, [[np.nan, 2, 2], [2, np.nan, 2]])


def test_a_stream_without_any_frame_is_refused_and_an_empty_one_is_empty():
    with pytest.raises(NothingObserved, match="All 3 frames are missing or bad"):
        list(interpolate_missing([None] * 3))
    assert list(interpolate_missing([])) == []


def test_memory_stays_at_two_patches_however_long_a_gap_is():
    given = []

    def stream():
        for index in range(100):
            patch = patch_of(index)
            given.append(weakref.ref(patch))
            yield patch
            del patch
            yield from [None] * (5000 if index == 50 else 0)

    count = 0
    for _patch, _ in interpolate_missing(stream()):
        count += 1
        assert sum(reference() is not None for reference in given[-5:]) <= 3
    assert count == 5100
