"""From the frames of one region to the tiles of its steps, in this process."""

import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from dataset_builder.fits import (
    OBSERVABLES,
    WINDOW_FRAMES,
    PatchMapper,
    Pointing,
    ReductionSettings,
    band_power,
    collect,
    find_files,
    keep_tiles,
    read_patch,
    remove_latitude_background,
    scan_files,
    tile_means,
)
from dataset_builder.fits import plan as planning
from dataset_builder.fits.plan import plan_region
from dataset_builder.fits.reduction import MOST_MISSING, ReducedSegment, reduce_segment
from dataset_builder.simulation import fits_files, simulate_observations
from tests.processes import run

HOUR = 80
HOURS = 14


@pytest.fixture
def velocity() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 200, (HOURS * HOUR, 9, 9)).astype(np.float32)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes planes as a file of one observable, beginning some slots after the start."""

    def write(observable: str, pixels: np.ndarray, slot: int = 0, spacing: float = 45.0) -> Path:
        time = np.datetime64("2013-04-15T11:00:00") + slot * np.timedelta64(45, "s")
        text = str(time).replace("-", ".").replace("T", "_") + "_TAI"
        header = fits.Header({"T_REC": text, "CDELT3": spacing, "CTYPE1": "CRLN-ARC", "CTYPE2": "CRLT-ARC"})
        (tmp_path / observable).mkdir(exist_ok=True)
        path = tmp_path / observable / f"{slot}.fits"
        fits.writeto(path, pixels.astype(np.float32), header, overwrite=True)
        return path

    return write


@pytest.fixture
def fields(write):
    """Write a magnetogram and a continuum image near the middle of each window, whose pixels hold the hour."""
    pixels = np.ones((HOURS, 9, 9)) * np.arange(HOURS)[:, np.newaxis, np.newaxis]
    write("magnetogram", np.where(np.arange(9) % 2, pixels, -pixels), spacing=3600.0)
    write("continuum", pixels, spacing=3600.0)


def reduce(folder: Path, correction: str = "none") -> list[ReducedSegment]:
    observations = {name: collect(folder / name, scan_files(find_files(folder / name))) for name in OBSERVABLES}
    plan = plan_region(None, observations, ReductionSettings(correction=correction))
    return [reduce_segment(segment) for segment in plan.segments]


def test_a_step_comes_from_its_window_and_the_nearest_field(write, fields, velocity, tmp_path):
    write("dopplergram", velocity)
    (reduced,) = reduce(tmp_path)
    assert reduced.values.shape == (HOURS - 7, 6, 63)
    assert reduced.values.dtype == np.float32
    for step, values in enumerate(reduced.values):
        power = band_power(velocity[step * HOUR : step * HOUR + WINDOW_FRAMES])
        np.testing.assert_allclose(values[:4], keep_tiles(tile_means(power)), rtol=1e-5)
        # The absolute value is taken before the mean.
        assert values[4:].tolist() == [[step + 4.0] * 63] * 2
    (corrected,) = reduce(tmp_path, "latitude_background")
    expected = keep_tiles(remove_latitude_background(tile_means(band_power(velocity[:WINDOW_FRAMES]))))
    np.testing.assert_allclose(corrected.values[0, :4], expected, atol=1e-5 * power.max())


def test_missing_frames_are_interpolated_linearly(write, fields, velocity, tmp_path):
    filled = velocity.copy()
    for first, stop in ((100, 101), (630, 700)):
        before, after = filled[first - 1], filled[stop]
        for frame in range(first, stop):
            share = (frame - first + 1) / (stop - first + 1)
            filled[frame] = (1 - share) * before + share * after
        velocity[first:stop] = np.nan
    write("dopplergram", velocity)
    (reduced,) = reduce(tmp_path)
    assert reduced.missing.tolist() == [11, 71, 70, 70, 70, 70, 70]
    expected = tile_means(band_power(filled[HOUR : HOUR + WINDOW_FRAMES]))
    np.testing.assert_allclose(reduced.values[1, :4], keep_tiles(expected), rtol=1e-4)


def spoil(velocity: np.ndarray) -> None:
    """Remove pixels in every way that a stream may lack them, on both sides of each possible end of a segment."""
    random = np.random.default_rng(1)
    velocity[random.uniform(size=velocity.shape) < 0.01] = np.nan
    velocity[random.uniform(size=len(velocity)) < 0.01] = np.nan
    velocity[155:169] = velocity[630:700] = np.nan
    for hour in range(HOURS):  # frames that were truncated, one or several in a row
        velocity[hour * HOUR - hour % 4 : hour * HOUR + hour % 3, hour % 9 :] = np.nan
    velocity[:5, 0] = velocity[-3:, 1] = np.nan
    velocity[500:900, 2, 3] = velocity[300:430, 4:6, 4] = np.nan  # too long to be interpolated
    velocity[:, 8, 8] = velocity[:700, 7, 8] = velocity[700:, 6, 8] = np.nan


@pytest.mark.parametrize("files", ["one", "gaps between"])
def test_steps_do_not_depend_on_how_a_region_is_cut(write, fields, velocity, tmp_path, monkeypatch, files):
    spoil(velocity)
    if files == "one":
        write("dopplergram", velocity)
    else:
        for first, stop in ((0, 155), (169, 630), (700, HOURS * HOUR)):
            write("dopplergram", velocity[first:stop], first)
    (whole,) = reduce(tmp_path)
    observed = np.isfinite(whole.values[:, :4])
    assert 0.5 < observed.mean() < 1
    assert not observed.any(axis=0).all()
    assert whole.missing.max() > 70
    assert whole.patched.min() > 300
    for hours in range(1, HOURS - 7):
        monkeypatch.setattr(planning, "_SEGMENT_SLOTS", hours * HOUR)
        pieces = reduce(tmp_path)
        assert len(pieces) == -(-(HOURS - 7) // hours)
        for name in ("missing", "patched"):
            together = np.concatenate([getattr(piece, name) for piece in pieces])
            np.testing.assert_array_equal(together, getattr(whole, name), name)
        values = np.concatenate([piece.values for piece in pieces])
        np.testing.assert_allclose(values, whole.values, rtol=1e-4)


def test_a_file_that_is_damaged_after_the_scan_counts_as_missing_and_is_named(write, fields, velocity, tmp_path):
    for hour in range(HOURS):
        write("dopplergram", velocity[hour * HOUR : (hour + 1) * HOUR], hour * HOUR)
    write("continuum", np.full((1, 9, 9), 77.0), 4 * HOUR)
    (tmp_path / "continuum" / "0.fits").unlink()
    last = write("continuum", np.full((1, 9, 9), 88.0), 5 * HOUR)
    observations = {name: collect(tmp_path / name, scan_files(find_files(tmp_path / name))) for name in OBSERVABLES}
    plan = plan_region(None, observations, ReductionSettings(correction="none"))
    for path in (tmp_path / "dopplergram" / "800.fits", last):
        path.write_bytes(b"rotten".ljust(path.stat().st_size))
    (reduced,) = (reduce_segment(segment) for segment in plan.segments)
    assert reduced.missing.tolist() == [0, 0, 0, 80, 80, 80, 80]
    assert np.isfinite(reduced.values[:, :4]).all()
    assert set(reduced.unreadable) == {"800.fits", "400.fits"}
    assert all(reason.startswith("the file cannot be decoded") for reason in reduced.unreadable.values())
    assert reduced.values[:2, 5, 0].tolist() == [77.0, pytest.approx(np.nan, nan_ok=True)]


def test_a_segment_without_any_frame_is_nan(write, fields, velocity, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_SEGMENT_SLOTS", HOUR)
    velocity[2 * HOUR :] = np.nan
    write("dopplergram", velocity)
    pieces = reduce(tmp_path)
    assert [piece.missing.tolist() for piece in pieces] == [[480], [560], *[[640]] * 5]
    assert all(np.isnan(piece.values[:, :4]).all() for piece in pieces)
    assert np.isfinite(np.stack([piece.values[:, 4:] for piece in pieces])).all()


LOSSES = {
    "six pixels": (slice(300, 301), 4, slice(0, 6)),
    "rows at the start of a window": (slice(80, 81), slice(0, 5)),
    "rows of the first frame": (slice(0, 1), slice(4, 9)),
    "rows of the last frame": (slice(HOURS * HOUR - 1, None), slice(4, 9)),
    "one tile": (slice(200, 202), 3, 3),
    "different rows in turn": (slice(300, 301), slice(0, 5)),
    "most of many in a row": (slice(400, 500), slice(0, 8)),
}


@pytest.mark.parametrize("lost", LOSSES.values(), ids=LOSSES)
def test_losing_pixels_costs_no_more_than_losing_the_frames(write, fields, velocity, tmp_path, lost):
    if lost == LOSSES["different rows in turn"]:
        velocity[301, 4:] = np.nan
    clean = velocity.copy()
    velocity[lost] = np.nan
    write("dopplergram", velocity)
    (reduced,) = reduce(tmp_path, "latitude_background")
    assert np.isfinite(reduced.values).all()
    assert reduced.missing.tolist() == [0] * (HOURS - 7)
    # The other pixels keep their values.
    write("dopplergram", clean)
    (untouched,) = reduce(tmp_path)
    write("dopplergram", velocity)
    (reduced,) = reduce(tmp_path)
    same = keep_tiles(np.isfinite(velocity).all(axis=0).ravel()).astype(bool)
    np.testing.assert_allclose(reduced.values[:, :4, same], untouched.values[:, :4, same], rtol=1e-5)
    assert (reduced.values[:, :4, ~same] / untouched.values[:, :4, ~same]).min() > 0.5


def test_frames_with_interpolated_pixels_are_counted(write, fields, velocity, tmp_path):
    velocity[300, 4:] = np.nan
    velocity[301] = np.nan
    velocity[302, 0, 0] = np.nan
    velocity[:, 8, 8] = np.nan  # never observed, so nothing is interpolated
    write("dopplergram", velocity)
    (reduced,) = reduce(tmp_path)
    assert reduced.missing.tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert reduced.patched.tolist() == [2, 2, 2, 2, 0, 0, 0]


def test_pixels_that_are_never_observed_do_not_make_a_frame_missing(write, fields, tmp_path):
    """Beyond the limb or the image, a tile is the mean of the other pixels, if they are at least half of the tile."""
    velocity = np.random.default_rng(0).normal(0, 200, (HOURS * HOUR, 18, 18)).astype(np.float32)
    whole = keep_tiles(tile_means(band_power(velocity[-WINDOW_FRAMES:])))
    velocity[300:, :, :2] = velocity[:, ::2, 16] = velocity[:, :, 17] = np.nan
    velocity[:, :, 2] = np.nan
    write("dopplergram", velocity)
    (reduced,) = reduce(tmp_path)
    assert reduced.missing.max() == reduced.patched.max() == 0
    columns = np.isnan(reduced.values[:, 0]).reshape(-1, 7, 9)
    assert columns.any(axis=(0, 1)).tolist() == [True] + [False] * 7 + [True]
    assert columns[4:, :, 0].all()
    assert columns[..., 8].all()
    half = whole.reshape(4, 7, 9)[..., 1], reduced.values[-1, :4].reshape(4, 7, 9)[..., 1]
    np.testing.assert_allclose(half[0], half[1], rtol=0.5)


def test_a_pixel_that_disappears_within_a_window_counts_as_missing_frames(write, fields, velocity, tmp_path):
    """The pixel counts as if the frames had ended there; it is NaN in windows that lack more than a fifth of it."""
    leaves = WINDOW_FRAMES - MOST_MISSING + HOUR
    velocity[leaves:, 4, 4] = np.nan
    write("dopplergram", velocity)
    (reduced,) = reduce(tmp_path)
    assert np.isnan(reduced.values[:, 0, 31]).tolist() == [False] * 2 + [True] * (HOURS - 9)
    assert np.isfinite(np.delete(reduced.values, 31, axis=2)).all()
    held = velocity[HOUR : HOUR + WINDOW_FRAMES].copy()
    held[leaves - HOUR :, 4, 4] = held[leaves - HOUR - 1, 4, 4]
    expected = keep_tiles(tile_means(band_power(held)))
    np.testing.assert_allclose(reduced.values[1, :4], expected, rtol=1e-4)


def test_flux_and_intensity_take_each_pixel_from_the_nearest_frame_that_has_it(write, velocity, tmp_path):
    write("dopplergram", velocity[:WINDOW_FRAMES])
    nearest = np.full((9, 9), 1.0)
    nearest[4:] = np.nan
    second = np.full((9, 9), 2.0)
    second[4, 4] = second[0] = np.nan
    last = np.full((9, 9), 3.0)
    for observable in OBSERVABLES[1:]:
        for slot, pixels in ((320, nearest), (322, second), (326, last)):
            write(observable, pixels, slot)
    (reduced,) = reduce(tmp_path)
    for channel in (4, 5):
        tiles = reduced.values[0, channel].reshape(7, 9)
        assert (tiles[:3] == 1).all()
        assert tiles[3, 4] == 3
        assert np.delete(tiles[3:].ravel(), 4).tolist() == [2.0] * 35


def test_the_patch_of_an_image_is_the_patch_of_its_rows(tmp_path):
    observations = simulate_observations(90001, steps=1, pixels=9)
    mapper = PatchMapper(observations.trajectory, size=27, degrees_per_pixel=1.12)
    for observable in ("dopplergram", "magnetogram"):  # stored as it is, and compressed
        name, content = next(fits_files(observations, observable, "full_disk"))
        path = tmp_path / name
        path.write_bytes(content)
        patch = read_patch(scan_files([path])[0], mapper)
        with fits.open(path) as hdus:
            expected = mapper.map(hdus[-1].data, Pointing.from_header(hdus[-1].header))
        np.testing.assert_array_equal(patch, expected)
        assert np.isfinite(patch).any()


@pytest.mark.parametrize("missing", [{0: 5}, {639: 1, 0: 1}, {100: 128}, {100: 30, 300: 90}])
def test_cubes_are_interpolated_pixel_by_pixel(tmp_path, write, missing):
    cube = np.random.default_rng(0).normal(0, 200, (WINDOW_FRAMES, 9, 9)).astype(np.float32)
    clean = keep_tiles(tile_means(band_power(cube)))
    for first, count in missing.items():
        cube[first : first + count, 2:4, 2:8] = np.nan
    cube[::4, 6, 6] = np.nan  # too many, although never two in a row
    path = write("dopplergram", cube)
    fits.setval(path, "MIDTIME", value="2013.04.15_14:59:37.500_TAI")
    for observable in OBSERVABLES[1:]:
        write(observable, np.ones((9, 9)), 320)
    (reduced,) = reduce(tmp_path)
    assert reduced.missing.tolist() == [0]
    assert reduced.patched[0] >= 159
    assert np.flatnonzero(np.isnan(reduced.values[0, 0])).tolist() == [5 * 9 + 6]
    ratio = np.delete(reduced.values[0, :4] / clean, 5 * 9 + 6, axis=1)
    assert 0.5 < ratio.min() < 0.999
    assert ratio.max() < 1.2


def test_a_cube_of_full_size_takes_little_more_memory_than_itself(tmp_path):
    """640 x 512 x 512 scaled integers, as they come from JSOC, in a process of its own."""
    program = f"""
import resource, sys
import numpy as np
from astropy.io import fits
from pathlib import Path
from dataset_builder.fits import reduction
from dataset_builder.fits.headers import CUBE
from dataset_builder.fits.observations import Frame
from dataset_builder.fits import scan_files
path = Path({str(tmp_path / "cube.fits")!r})
frame = Frame(scan_files([path])[0], 0)
segment = reduction.Segment((0,), CUBE, {{0: frame}}, ((),), ((),), None, 512, 0.06, "none")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
assert np.isfinite(reduction.reduce_segment(segment).values[:, :4]).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    hdu = fits.PrimaryHDU(np.random.default_rng(0).integers(-900, 900, (640, 512, 512), dtype=np.int32))
    hdu.header.update({"MIDTIME": "2013.04.15_14:59:37.500_TAI", "BSCALE": 0.5, "BZERO": 0.0})
    hdu.writeto(tmp_path / "cube.fits")
    finished = run([sys.executable, "-c", program])
    assert finished.returncode == 0, finished.stderr
    before, largest = map(int, finished.stdout.split())
    assert (largest - before) * 1024 < 1.9 * 640 * 512 * 512 * 4
