"""Tiles: their pixels, the effect of NaN, and the published background."""

import numpy as np
import pytest

from dataset_builder.fits import keep_tiles, remove_latitude_background, tile_means


def test_means_of_56_pixels_from_the_south_east_corner():
    patch = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    tiles = tile_means(patch)
    assert tiles.shape == (81,)
    for row, column in np.ndindex(9, 9):
        pixels = patch[56 * row : 56 * (row + 1), 56 * column : 56 * (column + 1)]
        assert tiles[9 * row + column] == pytest.approx(pixels.astype(np.float64).mean(), abs=1e-12)
    patch[504:] = 1e9
    patch[:, 504:] = 1e9
    np.testing.assert_array_equal(tile_means(patch), tiles)


def test_leading_axes_are_kept():
    maps = np.random.default_rng(0).normal(size=(2, 4, 18, 27))
    tiles = tile_means(maps)
    assert tiles.shape == (2, 4, 81)
    np.testing.assert_allclose(tiles[1, 3], tile_means(maps[1, 3]), rtol=0, atol=1e-12)


def test_nan_pixels_are_left_out_of_the_mean_down_to_the_minimum():
    patch = np.ones((18, 18))
    patch[0, 0] = np.nan
    patch[0:2, 2:4] = [[np.nan, 5], [np.nan, 7]]
    patch[0:2, 4:6] = [[np.nan, np.nan], [np.nan, 3]]
    tiles = tile_means(patch)
    assert tiles[0] == 1
    assert tiles[1] == 6
    assert np.isnan(tiles[2])
    assert tile_means(patch, minimum_valid_fraction=0.25)[2] == 3
    assert np.isnan(tile_means(patch, minimum_valid_fraction=1.0)[:3]).all()


def test_sums_of_large_powers_keep_their_digits():
    patch = np.full((512, 512), 3e8, np.float32)
    patch[::2] += 1000
    np.testing.assert_allclose(tile_means(patch), np.float64(patch[:56, :56]).mean(), rtol=1e-12)


def test_the_background_has_the_published_weights():
    tiles = np.random.default_rng(1).normal(size=(3, 81))
    corrected = remove_latitude_background(tiles)
    weights = [0, 2, 4, 6, 9, 12, 14, 16, 18]
    for step, row, column in np.ndindex(3, 9, 9):
        south, north = tiles[step, column], tiles[step, 72 + column]
        background = (1 - weights[row] / 18) * south + weights[row] / 18 * north
        assert corrected[step, 9 * row + column] == pytest.approx(tiles[step, 9 * row + column] - background)
    assert (corrected[:, :9] == 0).all()
    assert (corrected[:, 72:] == 0).all()


def test_a_nan_in_the_first_row_makes_only_that_column_nan():
    tiles = np.ones(81)
    tiles[4] = np.nan
    corrected = remove_latitude_background(tiles).reshape(9, 9)
    assert np.isnan(corrected[:, 4]).all()
    assert np.isfinite(np.delete(corrected, 4, axis=1)).all()


def test_the_kept_tiles_are_the_published_tiles():
    assert keep_tiles(np.arange(81)).tolist() == list(range(9, 72))
    assert keep_tiles(np.zeros((5, 4, 81))).shape == (5, 4, 63)


def test_wrong_shapes_raise():
    with pytest.raises(ValueError, match="at least 9 pixels a side"):
        tile_means(np.zeros((8, 512)))
    with pytest.raises(ValueError, match="must be above 0"):
        tile_means(np.zeros((9, 9)), minimum_valid_fraction=0)
    for function in (remove_latitude_background, keep_tiles):
        with pytest.raises(ValueError, match=r"Expected 81 tiles.*got shape \(63,\)"):
            function(np.zeros(63))
