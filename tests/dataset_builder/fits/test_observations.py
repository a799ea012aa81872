"""What a folder of FITS files holds, file by file, and which files are set aside."""

import gzip
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from dataset_builder.fits import collect, find_files, read_planes, scan_files, slot_of
from dataset_builder.fits.headers import CUBE, IMAGE, PATCHES
from dataset_builder.fits.observations import Observations
from dataset_builder.fits.opened_fits import Unreachable
from dataset_builder.fits.times import slot_time
from solared_hf import SolaredError

FIRST = slot_of(np.datetime64("2013-04-15T11:00:00"))


def text(slot: int) -> str:
    return f"{slot_time(slot)}".replace("-", ".").replace("T", "_") + "_TAI"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a FITS file: a tracked patch, unless the keywords say otherwise."""

    def write(name: str, pixels=None, compressed: bool = False, **keywords) -> Path:
        pixels = np.full((9, 9), 1.0, np.float32) if pixels is None else pixels
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(pixels)] if compressed else [fits.PrimaryHDU(pixels)]
        # Afterwards, because the HDU would drop the scale of integers.
        hdus[-1].header.update({"CTYPE1": "CRLN-ARC", "CTYPE2": "CRLT-ARC"} | keywords)
        fits.HDUList(hdus).writeto(tmp_path / name, overwrite=True)
        return tmp_path / name

    return write


def frames_of(folder: Path) -> Observations:
    return collect(folder, scan_files(find_files(folder)))


def test_the_header_and_not_the_name_tells_the_slot_of_a_frame(write, tmp_path):
    for name, slot in (("b.fits", FIRST), ("c.fits", FIRST + 7), ("a.fits", FIRST + 3)):
        write(name, T_REC=text(slot), compressed=slot == FIRST + 3)
    write("d.fits", T_OBS=text(FIRST + 9))
    observed = frames_of(tmp_path)
    assert observed.form == PATCHES
    assert list(observed.frames) == [FIRST, FIRST + 3, FIRST + 7, FIRST + 9]
    assert observed.frames[FIRST + 3].file.path.name == "a.fits"
    assert observed.rejected == {}


def test_a_file_of_several_planes_and_cubes(write, tmp_path):
    write("day.fits", np.arange(3 * 81.0).reshape(3, 9, 9), T_REC=text(FIRST), CDELT3=90.0)
    observed = frames_of(tmp_path)
    assert list(observed.frames) == [FIRST, FIRST + 2, FIRST + 4]
    frame = observed.frames[FIRST + 4]
    planes = read_planes(frame.file, slice(frame.plane, frame.plane + 1))
    np.testing.assert_array_equal(planes, np.arange(162.0, 243.0).reshape(1, 9, 9))
    assert planes.dtype == np.float32

    (tmp_path / "day.fits").unlink()
    write("cube.fits", np.zeros((640, 9, 9), np.int16), MIDTIME="2013.04.15_14:59:37.500_TAI")
    observed = frames_of(tmp_path)
    assert observed.form == CUBE
    assert list(observed.frames) == [FIRST]


@pytest.mark.parametrize(
    ("keywords", "pixels", "reason"),
    [
        ({"QUALITY": -2147483648}, None, "QUALITY marks it as bad: no image"),
        ({"QUALITY": 0x80000000}, None, "QUALITY marks it as bad: no image"),
        ({"QUALITY": "0x80000400", "T_OBS": "MISSING"}, None, "QUALITY marks it as bad: no image"),
        ({"T_OBS": text(FIRST + 86)}, None, "T_OBS and T_REC disagree"),
        ({}, np.zeros((9, 12)), "it has 9 x 12 pixels instead of a square of 9 or more"),
        ({}, np.zeros((8, 8)), "it has 8 x 8 pixels instead of a square of 9 or more"),
        ({}, np.zeros((12, 12)), "12 x 12 pixels instead of 9 x 9"),
        ({}, np.zeros((1, 1, 9, 9)), "it has 4 axes"),
        ({"CDELT3": 60.0}, np.zeros((2, 9, 9)), "CDELT3 is not a multiple of 45 s"),
        ({"CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN"}, np.zeros((2, 9, 9)), "it has 3 axes"),
        ({"MIDTIME": text(FIRST)}, np.zeros((639, 9, 9)), "639 frames instead of 640"),
        ({"MIDTIME": text(FIRST), "CDELT3": 60.0}, np.zeros((640, 9, 9)), "CDELT3 is not 45 s"),
        ({"MIDTIME": text(FIRST), "CDELT3": 90.0}, np.zeros((640, 9, 9)), "CDELT3 is not 45 s"),
    ],
)
def test_unusable_files_are_set_aside_with_a_reason(write, tmp_path, keywords, pixels, reason):
    for slot in (FIRST + 100, FIRST + 101):
        write(f"good_{slot}.fits", T_REC=text(slot))
    write("bad.fits", pixels, **{"T_REC": text(FIRST + 6), **keywords})
    observed = frames_of(tmp_path)
    assert list(observed.frames) == [FIRST + 100, FIRST + 101]
    assert list(observed.rejected) == [reason]
    assert set(observed.reasons.values()) == {reason}


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_files_keep_their_time(write, tmp_path, compressed):
    noise = np.random.default_rng(0).integers(0, 30000, (64, 64)).astype(np.int16)
    write("good.fits", noise, T_REC=text(FIRST + 1))
    cut = write("cut.fits", noise, T_REC=text(FIRST), compressed=compressed)
    content = cut.read_bytes()
    for end in (len(content) - 2880, len(content) - 4000):
        cut.write_bytes(content[:end])
        observed = frames_of(tmp_path)
        assert list(observed.frames) == [FIRST + 1]
        assert observed.reasons == {FIRST: "the file is truncated"}


def test_files_that_are_not_fits_or_have_no_time(write, tmp_path):
    write("good.fits", T_REC=text(FIRST))
    (tmp_path / "page.fits").write_text("<html>Service unavailable</html>")
    (tmp_path / "empty.fits").touch()
    (tmp_path / "cut.fits").write_bytes((tmp_path / "good.fits").read_bytes()[:500])
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / ".hidden.fits").write_text("ignored")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "no_image.fits")
    write("timeless.fits")
    write("badly_timed.fits", T_REC="yesterday")
    observed = frames_of(tmp_path)
    assert list(observed.frames) == [FIRST]
    assert observed.rejected.pop("the file cannot be read as FITS") == 3
    assert observed.rejected.pop("the file holds no image") == 1
    assert {reason.split(" is not a time")[0] for reason in observed.rejected} == {"None", "'yesterday'"}


def test_frames_that_claim_one_time(write, tmp_path):
    pixels = np.random.default_rng(0).normal(size=(9, 9))
    pixels[0, 0] = np.nan
    for name in ("a.fits", "b.fits", "c.fits"):
        write(name, pixels, T_REC=text(FIRST))
    write("x.fits", pixels, T_REC=text(FIRST + 1))
    write("an_hour_off.fits", -pixels, T_REC=text(FIRST + 1))
    observed = frames_of(tmp_path)
    assert list(observed.frames) == [FIRST]
    assert observed.rejected == {"the same frame again": 2, "frames that differ claim one time": 2}
    assert observed.reasons == {FIRST + 1: "frames that differ claim one time"}


def test_a_damaged_copy_does_not_cost_the_frame(write, tmp_path):
    noise = np.random.default_rng(0).integers(0, 30000, (64, 64)).astype(np.int16)
    write("good.fits", noise, T_REC=text(FIRST))
    copy = write("copy.fits", noise, compressed=True, T_REC=text(FIRST))
    assert frames_of(tmp_path).rejected == {"the same frame again": 1}
    content = bytearray(copy.read_bytes())
    content[-5000:-3500] = bytes(1500)
    copy.write_bytes(content)
    observed = frames_of(tmp_path)
    assert observed.frames[FIRST].file.path.name == "good.fits"
    assert observed.rejected == {"its pixels cannot be decoded": 1}


def test_cubes_that_claim_one_time(write, tmp_path):
    pixels = np.random.default_rng(0).normal(size=(640, 9, 9))
    midtime = "2013.04.15_14:59:37.500_TAI"
    write("a.fits", pixels, MIDTIME=midtime)
    write("b.fits", pixels, MIDTIME=midtime)
    write("later.fits", pixels, MIDTIME="2013.04.15_15:59:37.500_TAI")
    assert frames_of(tmp_path).rejected == {"the same frame again": 1}
    pixels[5] *= -3
    write("b.fits", pixels, MIDTIME=midtime)
    observed = frames_of(tmp_path)
    assert list(observed.frames) == [FIRST + 80]
    assert observed.rejected == {"cubes that differ claim one time": 2}


def test_names_of_fits_files(write, tmp_path):
    names = ("a.fits", "b.FITS", "c.fts", "d.fits.fz", "e.fits.gz")
    for slot, name in enumerate(names):
        write(name, T_REC=text(FIRST + slot))
    for name in ("a.fits.md5", "a.fits~", ".hidden.fits", "a.txt"):
        (tmp_path / name).write_text("not FITS")
    observed = frames_of(tmp_path)
    assert [frame.file.path.name for frame in observed.frames.values()] == list(names)
    assert observed.rejected == {}
    assert read_planes(observed.frames[FIRST + 4].file, slice(0, 1)).sum() == 81


def test_unusable_folders_raise(write, tmp_path):
    with pytest.raises(SolaredError, match=r"no usable FITS file in .* \(it is empty or missing\)"):
        frames_of(tmp_path / "nowhere")
    write("a.fits", T_REC=text(FIRST), QUALITY=-(2**31))
    with pytest.raises(SolaredError, match=r"no usable FITS file in .* \(1: QUALITY marks it as bad: no image\)"):
        frames_of(tmp_path)
    write("b.fits", T_REC=text(FIRST + 1))
    write("c.fits", T_REC=text(FIRST + 2), CTYPE1="HPLN-TAN", CTYPE2="HPLT-TAN")
    with pytest.raises(SolaredError, match=rf"files of several forms \({IMAGE}, {PATCHES}\). Keep those of one"):
        frames_of(tmp_path)


def test_fingerprints_follow_names_headers_and_pixels(write):
    def fingerprint(path):
        return scan_files([path])[0].fingerprint

    first = fingerprint(write("a.fits", T_REC=text(FIRST)))
    assert fingerprint(write("a.fits", T_REC=text(FIRST))) == first
    different = {
        fingerprint(write("b.fits", T_REC=text(FIRST))),
        fingerprint(write("a.fits", T_REC=text(FIRST), QUALITY=1)),
        fingerprint(write("a.fits", np.full((9, 9), 2.0, np.float32), T_REC=text(FIRST))),
        fingerprint(write("a.fits", T_REC=text(FIRST), compressed=True)),
    }
    assert len({first, *different}) == 5


@pytest.mark.parametrize("compressed", [False, True])
def test_pixels_are_physical_and_nan_where_nothing_was_observed(write, compressed):
    stored = np.arange(81, dtype=np.int32).reshape(9, 9)
    stored[0, 0] = -(2**31)
    path = write("a.fits", stored, compressed, T_REC=text(FIRST), BSCALE=0.5, BZERO=10.0, BLANK=-(2**31))
    expected = 10 + 0.5 * np.arange(81, dtype=np.float32).reshape(9, 9)
    expected[0, 0] = np.nan
    file = scan_files([path])[0]
    np.testing.assert_array_equal(read_planes(file, slice(0, 1))[0], expected)


def test_infinite_values_are_not_observed(write):
    pixels = np.ones((9, 9), np.float32)
    pixels[3, 4] = -np.inf
    file = scan_files([write("a.fits", pixels, T_REC=text(FIRST))])[0]
    assert np.isnan(read_planes(file, slice(0, 1))[0, 3, 4])


def test_files_that_change_or_vanish_after_the_scan(write, tmp_path):
    file = scan_files([write("a.fits", T_REC=text(FIRST))])[0]
    write("a.fits", np.zeros((12, 12)), T_REC=text(FIRST))
    with pytest.raises(SolaredError, match=r"a.fits has changed since it was scanned. Run the same command again"):
        read_planes(file, slice(0, 1))
    file.path.unlink()
    with pytest.raises(Unreachable, match=r"a.fits cannot be read on .* \(No such file or directory\). Check that"):
        read_planes(file, slice(0, 1))


def test_a_file_that_cannot_be_opened_for_lack_of_descriptors_is_not_damaged(write):
    path = write("a.fits", T_REC=text(FIRST))
    (file,) = scan_files([path])
    with path.open("rb") as taken:
        lowest_free = taken.fileno()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(Unreachable, match=r"a.fits cannot be read on .* \(Too many open files\). Check that"):
            read_planes(file, slice(0, 1))
        with pytest.raises(Unreachable, match=r"a.fits cannot be read"):
            scan_files([path])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read_planes(file, slice(0, 1)).shape == (1, 9, 9)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_or_folder_that_may_not_be_read_is_not_missing(write, tmp_path):
    path = write("a.fits", T_REC=text(FIRST))
    path.chmod(0)
    with pytest.raises(Unreachable, match=r"a.fits cannot be read on .* \(Permission denied\)"):
        scan_files([path])
    path.parent.chmod(0)
    try:
        with pytest.raises(Unreachable, match=r"cannot be read on .* \(Permission denied\)"):
            find_files(path.parent)
    finally:
        path.parent.chmod(0o755)


def test_broken_links_do_not_count_as_missing_files(tmp_path):
    (tmp_path / "dopplergram").symlink_to(tmp_path / "unmounted")
    with pytest.raises(Unreachable, match=r"dopplergram is a broken link. Mount the storage"):
        find_files(tmp_path / "dopplergram")
    (tmp_path / "continuum").mkdir()
    link = tmp_path / "continuum" / "a.fits"
    link.symlink_to(tmp_path / "unmounted" / "a.fits")
    os.mkfifo(tmp_path / "continuum" / "pipe.fits")  # opening a pipe would wait for ever
    assert find_files(tmp_path / "continuum") == [link]
    with pytest.raises(Unreachable, match=r"a.fits cannot be read"):
        scan_files([link])


def test_zipped_files_are_read_by_their_content(write, tmp_path):
    pixels = np.arange(81, dtype=np.float32).reshape(9, 9)
    plain = write("a.fits", pixels, T_REC=text(FIRST))
    zipped = [tmp_path / "b.fits.gz", tmp_path / "c.fits"]
    for path in zipped:
        path.write_bytes(gzip.compress(plain.read_bytes()))
    for file in scan_files(zipped):
        assert file.problem is None
        np.testing.assert_array_equal(read_planes(file, slice(0, 1))[0], pixels)
