"""From the frames of one region to the tiles of its steps, in this process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from dataset_builder import plan as planning
from dataset_builder.acoustic_power import band_power
from dataset_builder.observations import collect, find_files, scan_files
from dataset_builder.plan import Settings, plan_region
from dataset_builder.reduction import Reduced, reduce_segment
from dataset_builder.region_file import OBSERVABLES
from dataset_builder.tiles import keep_tiles, remove_latitude_background, tile_means
from dataset_builder.times import WINDOW_FRAMES

HOUR = 80
HOURS = 14


@pytest.fixture
def velocity() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 200, (HOURS * HOUR, 9, 9)).astype(np.float32)


@pytest.fixture
def write(tmp_path):
    """Writes planes as a file of one observable that begins some slots after the start."""

    def write(observable: str, pixels: np.ndarray, slot: int = 0, spacing: float = 45.0) -> Path:
        time = np.datetime64("2013-04-15T11:00:00") + slot * np.timedelta64(45, "s")
        text = str(time).replace("-", ".").replace("T", "_") + "_TAI"
        header = fits.Header({"T_REC": text, "CDELT3": spacing})
        (tmp_path / observable).mkdir(exist_ok=True)
        path = tmp_path / observable / f"{slot}.fits"
        fits.writeto(path, pixels.astype(np.float32), header, overwrite=True)
        return path

    return write


@pytest.fixture
def fields(write):
    """Magnetogram and continuum near the middle of each window: planes whose pixels hold the hour."""
    pixels = np.ones((HOURS, 9, 9)) * np.arange(HOURS)[:, np.newaxis, np.newaxis]
    write("magnetogram", np.where(np.arange(9) % 2, pixels, -pixels), spacing=3600.0)
    write("continuum", pixels, spacing=3600.0)


def reduce(folder: Path, correction: str = "none") -> list[Reduced]:
    observations = {name: collect(folder / name, scan_files(find_files(folder / name))) for name in OBSERVABLES}
    plan = plan_region(None, observations, Settings(correction=correction))
    return [reduce_segment(segment) for segment in plan.segments]


def test_a_step_is_its_window_and_the_nearest_field(write, fields, velocity, tmp_path):
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


def test_missing_frames_are_lines_between_their_neighbours(write, fields, velocity, tmp_path):
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


@pytest.mark.parametrize("empty_planes", [False, True])
def test_steps_do_not_depend_on_how_a_region_is_cut(write, fields, velocity, tmp_path, monkeypatch, empty_planes):
    # Frames are missing on both sides of where the cuts will be.
    if empty_planes:
        velocity[155:169] = velocity[798:804] = np.nan
        write("dopplergram", velocity)
    else:
        for first, stop in ((0, 155), (169, 798), (804, HOURS * HOUR)):
            write("dopplergram", velocity[first:stop], first)
    whole = reduce(tmp_path)
    monkeypatch.setattr(planning, "_SEGMENT_SLOTS", 2 * HOUR)
    pieces = reduce(tmp_path)
    assert len(whole) == 1
    assert len(pieces) == 4
    np.testing.assert_array_equal(np.concatenate([piece.missing for piece in pieces]), whole[0].missing)
    assert whole[0].missing.max() > 10
    np.testing.assert_allclose(np.concatenate([piece.values for piece in pieces]), whole[0].values, rtol=1e-5)


def test_a_file_that_rots_after_the_scan_is_missing_and_named(write, fields, velocity, tmp_path):
    for hour in range(HOURS):
        write("dopplergram", velocity[hour * HOUR : (hour + 1) * HOUR], hour * HOUR)
    write("continuum", np.full((1, 9, 9), 77.0), 4 * HOUR)
    (tmp_path / "continuum" / "0.fits").unlink()
    last = write("continuum", np.full((1, 9, 9), 88.0), 5 * HOUR)
    observations = {name: collect(tmp_path / name, scan_files(find_files(tmp_path / name))) for name in OBSERVABLES}
    plan = plan_region(None, observations, Settings(correction="none"))
    for path in (tmp_path / "dopplergram" / "800.fits", last):
        path.write_bytes(b"rotten")
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


def test_a_frame_that_was_cut_on_its_way_is_missing(write, fields, velocity, tmp_path):
    """Five of its nine rows would take eight hours of their tiles, and with the background all others too."""
    velocity[300, 4:] = np.nan
    write("dopplergram", velocity)
    (reduced,) = reduce(tmp_path, "latitude_background")
    assert np.isfinite(reduced.values).all()
    assert reduced.missing.tolist() == [1, 1, 1, 1, 0, 0, 0]


def test_pixels_that_stay_away_are_not_observed_and_no_frame_is_missing(write, fields, velocity, tmp_path):
    velocity[300:, :, 0] = np.nan
    write("dopplergram", velocity)
    (reduced,) = reduce(tmp_path)
    assert reduced.missing.max() == 1  # the first that lacks them is taken for a damaged one
    assert np.isnan(reduced.values[4:, 0]).reshape(-1, 7, 9).any(axis=(0, 1)).tolist() == [True] + [False] * 8


def test_a_cube_of_full_size_takes_little_more_memory_than_itself(tmp_path):
    """640 x 512 x 512 scaled integers, as they come from JSOC, in a process of its own."""
    program = f"""
import resource, sys
import numpy as np
from astropy.io import fits
from pathlib import Path
from dataset_builder import reduction
from dataset_builder.observations import CUBE, Frame, scan_files
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
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    before, largest = map(int, finished.stdout.split())
    assert (largest - before) * 1024 < 1.9 * 640 * 512 * 512 * 4
