"""What the headers of FITS files say about the pixels: quality, units, axes, and unobserved pixels."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from dataset_builder.fits import collect, find_files, read_planes, scan_files, slot_of
from dataset_builder.fits.headers import CUBE, IMAGE, PATCHES
from dataset_builder.fits.times import slot_time

FIRST = slot_of(np.datetime64("2013-04-15T11:00:00"))
VALUES = np.arange(81, dtype=np.float32).reshape(9, 9)


def text(slot: int) -> str:
    return f"{slot_time(slot)}".replace("-", ".").replace("T", "_") + "_TAI"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a tracked patch with changed keywords; None leaves a keyword out."""

    def write(slot: int = FIRST, pixels=VALUES, compressed: bool = False, **keywords) -> Path:
        # Floats without loss, because BLANK would be rounded.
        options = {} if pixels.dtype.kind in "iu" else {"compression_type": "GZIP_2", "quantize_level": 0}
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(pixels, **options)] if compressed else [fits.PrimaryHDU(pixels)]
        cards = {"T_REC": text(slot), "CTYPE1": "CRLN-ARC", "CTYPE2": "CRLT-ARC"} | keywords
        # Afterwards, because the HDU would drop the scale of integers.
        hdus[-1].header.update({key: value for key, value in cards.items() if value is not None})
        fits.HDUList(hdus).writeto(tmp_path / f"{slot}.fits", overwrite=True, output_verify="ignore")
        return tmp_path / f"{slot}.fits"

    return write


def problem(path: Path) -> str | None:
    return scan_files([path])[0].problem


def pixels(path: Path) -> np.ndarray:
    (file,) = scan_files([path])
    assert file.problem is None
    return read_planes(file, slice(0, 1))[0]


@pytest.mark.parametrize(
    ("quality", "why"),
    [
        (-2147483648, "QUALITY marks it as bad: no image"),
        (-2147483648 + 0x200, "QUALITY marks it as bad: no image, eclipse"),
        ("0X80000400", "QUALITY marks it as bad: no image"),
        ("MISSING", "QUALITY marks it as bad: no image"),
        (0x200, "QUALITY marks it as bad: eclipse"),
        (512.0, "QUALITY marks it as bad: eclipse"),
        ("0x220", "QUALITY marks it as bad: eclipse, poor quality"),
        (0x20, "QUALITY marks it as bad: poor quality"),
        ("nan", "QUALITY cannot be read: invalid literal for int() with base 10: 'nan'"),
        ("", "QUALITY cannot be read: invalid literal for int() with base 10: ''"),
        (True, "QUALITY cannot be read: True is not a whole number"),
        (0.5, "QUALITY cannot be read: 0.5 is not a whole number"),
        (2**40, "QUALITY cannot be read: 1099511627776 has more than 32 bits"),
        (0, None),
        ("0", None),
        (0x10400, None),
        (-1 - 0x80000220 + 2**32, None),
        (None, None),
    ],
)
def test_bad_quality_sets_frames_aside_with_the_reason(write, tmp_path, quality, why):
    write(FIRST + 7)
    assert problem(write(QUALITY=quality)) == why
    observed = collect(tmp_path, scan_files(find_files(tmp_path)))
    assert list(observed.frames) == [FIRST, FIRST + 7][why is not None :]
    assert observed.reasons == ({FIRST: why} if why else {})


def test_quality_bits_of_used_frames_are_counted(write, tmp_path):
    for slot, quality in enumerate((0, 0x400, 0x10400, None, 0x600, "0x400", None)):
        write(FIRST + slot, QUALITY=quality, BUNIT=None if slot == 0 else "m/s")
    write(FIRST + 10, np.zeros((5, 9, 9), np.float32), QUALITY=0x8000, BUNIT="m/s")
    observed = collect(tmp_path, scan_files(find_files(tmp_path)))
    assert observed.remarks == {
        "QUALITY 0x400": 3,
        "QUALITY 0x10000": 1,
        "QUALITY 0x8000": 5,
        "no QUALITY": 2,
        "no BUNIT": 1,
    }
    assert observed.rejected == {"QUALITY marks it as bad: eclipse": 1}


@pytest.mark.parametrize(
    ("unit", "wanted", "factor"),
    [
        ("m/s", "m/s", 1),
        ("M/S", "m/s", 1),
        ("m s-1", "m/s", 1),
        ("cm/s", "m/s", 0.01),
        ("CM/S", "m/s", 0.01),
        ("km s^-1", "m/s", 1000),
        ("Gauss", "G", 1),
        ("GAUSS", "G", 1),
        ("G", "G", 1),
        ("kG", "G", 1000),
        ("mT", "G", 10),
        ("Mx/cm^2", "G", 1),
        ("DN/s", "DN", 1),
        ("DN", "DN", 1),
        (None, "", 1),
        ("  ", "", 1),
    ],
)
def test_pixels_are_converted_to_the_unit_of_their_observable(write, tmp_path, unit, wanted, factor):
    path = write(BUNIT=unit)
    np.testing.assert_allclose(pixels(path), factor * VALUES, rtol=1e-6)
    assert scan_files([path])[0].unit == wanted
    other = "G" if wanted == "m/s" else "m/s"
    write(FIRST + 1, BUNIT=other)
    observed = collect(tmp_path, scan_files(find_files(tmp_path)), other)
    assert list(observed.frames) == [FIRST, FIRST + 1][bool(wanted) :]
    reason = {f"its BUNIT is {wanted} instead of {other}": 1} if wanted else {}
    assert observed.rejected == reason


@pytest.mark.parametrize("unit", ["none", "MM/S", "m", "ct", "g", "counts / pixel", "m/s^2"])
def test_other_units_are_refused(write, unit):
    assert problem(write(BUNIT=unit)) == (
        f"BUNIT is {unit!r}, which is not a unit of velocity, magnetic flux density or DN"
    )


def test_frames_in_different_units_form_one_timeline(write, tmp_path):
    write(FIRST, VALUES, BUNIT="m/s")
    write(FIRST + 1, 100 * VALUES, BUNIT="cm/s")
    frames = collect(tmp_path, scan_files(find_files(tmp_path)), "m/s").frames
    for frame in frames.values():
        np.testing.assert_allclose(read_planes(frame.file, slice(0, 1))[0], VALUES, rtol=1e-6)


def test_the_same_numbers_on_another_scale_are_another_frame(write, tmp_path):
    for keywords in ({"BUNIT": "cm/s"}, {"BSCALE": 2.0}, {"BZERO": 10.0}):
        write(FIRST, VALUES.astype(np.int16), BUNIT="m/s").rename(tmp_path / "first.fits")
        write(FIRST, VALUES.astype(np.int16), **{"BUNIT": "m/s"} | keywords).rename(tmp_path / "second.fits")
        for path in find_files(tmp_path):
            with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
                hdus[0].add_datasum()
        write(FIRST + 1)
        assert collect(tmp_path, scan_files(find_files(tmp_path))).rejected == {"frames that differ claim one time": 2}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("kind", "keywords"),
    [
        ("float32", {"BLANK": -32768}),
        ("float32", {"BLANK": -32768, "BSCALE": 0.5, "BZERO": 10.0}),
        ("float64", {"BLANK": "-32768"}),
        ("int32", {"BLANK": -32768.0}),
        ("int32", {"BLANK": "-32768", "BSCALE": 0.5}),
        ("int16", {"BLANK": -32768, "BSCALE": 0.1, "BZERO": 3.0}),
        ("int32", {"BLANK": -32768, "BUNIT": "cm/s"}),
        ("float32", {"BLANK": -32768, "BUNIT": "cm/s"}),
    ],
)
def test_blank_pixels_of_any_type_are_not_observed(write, kind, keywords, compressed):
    if compressed and isinstance(keywords["BLANK"], str):
        keywords = {**keywords, "BLANK": int(keywords["BLANK"])}  # astropy cannot write text here
    stored = VALUES.astype(kind)
    stored[2, 3:5] = -32768
    read = pixels(write(pixels=stored, compressed=compressed, **keywords))
    expected = VALUES * keywords.get("BSCALE", 1.0) + keywords.get("BZERO", 0.0)
    expected[2, 3:5] = np.nan
    np.testing.assert_allclose(read, expected * (0.01 if "BUNIT" in keywords else 1), rtol=1e-6)


def test_blank_of_unsigned_and_of_compressed_integers(write):
    unsigned = VALUES.astype(np.uint16)
    # -32768 is stored for 0.
    read = pixels(write(pixels=unsigned, BLANK=-32768))
    assert np.argwhere(np.isnan(read)).tolist() == [[0, 0]]
    path = write(pixels=VALUES.astype(np.int16), compressed=True, BSCALE=0.5)
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        hdus[1].header["ZBLANK"] = 7
    assert np.argwhere(np.isnan(pixels(path))).tolist() == [[0, 7]]


@pytest.mark.parametrize(
    ("keywords", "why"),
    [
        ({"BLANK": "MISSING"}, "BLANK is 'MISSING', so it is unknown which pixels were observed"),
        ({"BSCALE": 0.0}, "BSCALE is 0.0"),
        ({"BSCALE": "half"}, "BSCALE is 'half'"),
        ({"CDELT3": "fast"}, "CDELT3 is not a multiple of 45 s"),
    ],
)
def test_unreadable_scales_are_refused(write, keywords, why):
    assert problem(write(pixels=np.ones((2, 9, 9), np.int16), **keywords)) == why


@pytest.mark.parametrize(
    ("axes", "form"),
    [
        (("HPLN-TAN", "HPLT-TAN"), IMAGE),
        (("hpln-tan", "hplt-tan"), IMAGE),
        (("solar_x", "solar_y"), IMAGE),
        (("SOLAR-X", "SOLAR-Y"), IMAGE),
        (("SOLARX", "SOLARY"), IMAGE),
        (("HPLT-TAN", "HPLN-TAN"), IMAGE),
        (("CRLN-ARC", "CRLT-ARC"), PATCHES),
        (("crln-cea", "crlt-cea"), PATCHES),
        (("CRLN-CAR", "CRLT-CAR"), PATCHES),
        (("HGLN-ARC", "HGLT-ARC"), PATCHES),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_the_axes_tell_the_form_of_a_file(write, axes, form, compressed):
    (file,) = scan_files([write(CTYPE1=axes[0], CTYPE2=axes[1], compressed=compressed)])
    assert (file.problem, file.form) == (None, form)


UNKNOWN_AXES = (
    r"CTYPE1 is {!r} and CTYPE2 {!r}, which does not say whether this is an image of the Sun or a tracked patch"
)


@pytest.mark.parametrize(
    "axes",
    [
        *[
            (None, None),
            ("", ""),
            ("HPLN-TAN", None),
            (None, "CRLT-ARC"),
            ("LINEAR", "LINEAR"),
            ("X", "Y"),
            (1.0, 2.0),
        ],
        *[("HPLN-TAN", "CRLT-TAN"), ("HPLN-TAN", "HPLN-TAN"), ("CRLN-ARC", "CRLT-CEA"), ("HPLN", "HPLT")],
        *[("solar_x", "solar_x"), ("RA---TAN", "DEC--TAN"), ("HPLN-TAN-SIP", "HPLT-TAN-SIP")],
    ],
)
def test_unknown_axes_are_refused(write, axes):
    assert problem(write(CTYPE1=axes[0], CTYPE2=axes[1])) == UNKNOWN_AXES.format(*axes)


@pytest.mark.parametrize(("axis", "projection"), [("HP", "SIN"), ("HP", "ARC"), ("CR", "XYZ"), ("HG", "COE")])
def test_unknown_projections_are_refused(write, axis, projection):
    found = problem(write(CTYPE1=f"{axis}LN-{projection}", CTYPE2=f"{axis}LT-{projection}"))
    assert found == f"CTYPE1 is '{axis}LN-{projection}', an unknown projection"


@pytest.mark.parametrize("keywords", [{"CDELT1": -0.06}, {"CDELT2": -0.06}, {"CROTA2": 180.0}, {"swapped": True}])
def test_maps_that_are_not_upright_are_refused(write, keywords):
    if "swapped" in keywords:
        keywords = {"CTYPE1": "CRLT-ARC", "CTYPE2": "CRLN-ARC"}
    assert problem(write(**keywords)) == "it is not a map with west to the right and north up"


def test_maps_in_other_projections_do_not_mix(write, tmp_path):
    for slot in range(3):
        write(FIRST + slot)
    write(FIRST + 3, CTYPE1="CRLN-CEA", CTYPE2="CRLT-CEA")
    observed = collect(tmp_path, scan_files(find_files(tmp_path)))
    assert (observed.axes, observed.rejected) == ("CRLN-ARC", {"a map in CRLN-CEA instead of CRLN-ARC": 1})


def test_midtime_marks_a_cube(write):
    cube = np.zeros((640, 9, 9), np.int16)
    keywords = {"pixels": cube, "MIDTIME": "2013.04.15_14:59:37.500_TAI"}
    for axes in ((None, None), ("CRLN-ARC", "CRLT-ARC")):
        (file,) = scan_files([write(CTYPE1=axes[0], CTYPE2=axes[1], **keywords)])
        assert (file.problem, file.form) == (None, CUBE)
    found = problem(write(CTYPE1="HPLN-TAN", CTYPE2="HPLT-TAN", **keywords))
    assert found == "it is an image of the Sun by CTYPE1, 'HPLN-TAN', and a cube of patches by MIDTIME"
