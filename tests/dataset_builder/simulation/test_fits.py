"""The simulated Sun as FITS: every form holds the same pixels, and the headers describe the form."""

import io
import warnings
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from astropy.io import fits

from dataset_builder.fits import OBSERVABLES, PatchMapper, Pointing, read_region_file, tile_means
from dataset_builder.fits.times import parse_time
from dataset_builder.simulation import fits_files, simulate_observations, write_observations
from dataset_builder.simulation.timelines import FIRST_SIMULATED, GAP_REGION
from solared_hf import SolaredError

REGION = FIRST_SIMULATED
# Half of BSCALE.
ROUNDING = {"dopplergram": 0.25, "magnetogram": 0.05, "continuum": 1.5}
SECOND = np.timedelta64(1, "s")


@pytest.fixture(scope="module")
def observations():
    """Return two steps with a missing and a bad frame near the start, where random dropouts are too rare."""
    sun = simulate_observations(REGION, steps=2, pixels=9)
    sun.missing[[3, 7]], sun.bad[7] = True, True
    sun.velocity[[3, 7]] = np.nan
    return sun


def images(observations, observable, form):
    """Return the image HDUs of the files; astropy verifies the checksums."""
    for _, content in fits_files(observations, observable, form):
        with warnings.catch_warnings():
            warnings.simplefilter("error", fits.verify.VerifyWarning)
            warnings.filterwarnings("error", message="(Checksum|Datasum) verification failed")
            hdus = fits.open(io.BytesIO(content), checksum=True)
        assert b"CHECKSUM=" in content
        assert b"DATASUM =" in content
        yield next(hdu for hdu in hdus if hdu.header["NAXIS"])


def pixels_of(observations, observable):
    return observations.velocity if observable == "dopplergram" else getattr(observations, observable)


@pytest.mark.parametrize("observable", OBSERVABLES)
def test_sequences_hold_every_plane(observations, observable):
    (hdu,) = images(observations, observable, "sequence")
    times = observations.times if observable == "dopplergram" else observations.field_times
    assert hdu.header["BITPIX"] == 16
    assert hdu.header["BSCALE"] == 2 * ROUNDING[observable]
    np.testing.assert_allclose(hdu.data, pixels_of(observations, observable), atol=1.1 * ROUNDING[observable])
    assert hdu.header["T_REC"].endswith(":00:00_TAI")
    assert parse_time(hdu.header["T_REC"]) == times[0]
    assert hdu.header["CDELT3"] == (45.0 if observable == "dopplergram" else 3600.0)
    assert "MIDTIME" not in hdu.header


def test_sequences_are_cut_into_days():
    more = simulate_observations(REGION, steps=30, pixels=9)
    velocity = list(images(more, "dopplergram", "sequence"))
    assert [len(hdu.data) for hdu in velocity] == [1920, len(more.times) - 1920]
    assert parse_time(velocity[1].header["T_REC"]) == more.times[1920]
    np.testing.assert_allclose(velocity[1].data, more.velocity[1920:], atol=0.26)
    assert [len(hdu.data) for hdu in images(more, "continuum", "sequence")] == [24, 6]


def test_each_frame_that_exists_has_a_file(observations):
    found = list(islice(images(observations, "dopplergram", "frames"), 40))
    there = np.flatnonzero(~observations.missing | observations.bad)[: len(found)]
    for hdu, frame in zip(found, there, strict=True):
        header = hdu.header
        assert (header["CTYPE1"], header["CTYPE2"], hdu.data.ndim) == ("CRLN-ARC", "CRLT-ARC", 2)
        assert parse_time(header["T_REC"]) == observations.times[frame]
        # The satellite is nearer than 1 au, so light arrives early.
        assert -10 < (parse_time(header["T_OBS"]) - observations.times[frame]) / SECOND < -5
        assert header["OBS_VR"] == pytest.approx(observations.orbital_velocity[frame])
        assert bool(header["QUALITY"] & 0x80000000) == observations.bad[frame]
        if observations.bad[frame]:
            # The pixels of a bad frame are far off.
            assert hdu.data.std() == 0
        else:
            np.testing.assert_allclose(hdu.data, observations.velocity[frame], atol=0.26)
    assert len(list(images(observations, "continuum", "frames"))) == 2


def test_missing_frames_have_no_file():
    eclipsed = simulate_observations(GAP_REGION, steps=2, pixels=9)
    for observable in ("magnetogram", "continuum"):
        assert list(images(eclipsed, observable, "frames")) == []
    (sequence,) = images(eclipsed, "magnetogram", "sequence")
    assert np.isnan(sequence.data).all()
    (sequence,) = images(eclipsed, "dopplergram", "sequence")
    assert (np.isnan(sequence.data).all(axis=(1, 2)) == eclipsed.missing).all()


@pytest.mark.parametrize("observable", OBSERVABLES)
def test_cubes_are_windows(observations, observable):
    for step, hdu in enumerate(images(observations, observable, "cubes")):
        middle = observations.times[80 * step] + 319.5 * 45_000 * np.timedelta64(1, "ms")
        assert hdu.data.shape == (640, 9, 9)
        assert parse_time(hdu.header["MIDTIME"]) == middle
        assert hdu.header["MIDTIME"].endswith(":59:37.500_TAI")
        if observable == "dopplergram":
            np.testing.assert_array_equal(hdu.data, observations.velocity[80 * step : 80 * step + 640])
        else:
            for plane in (319, 320):
                np.testing.assert_array_equal(hdu.data[plane], pixels_of(observations, observable)[step])
    assert step == 1


@pytest.mark.parametrize("step", [0, 60, 119])
def test_images_of_the_sun_show_the_region_at_the_right_place(step):
    """Tracked patches give the tiles of the simulated patch, near the limb and at the disk centre."""
    region = simulate_observations(REGION, steps=120, pixels=9)
    only = slice(80 * step, None)
    region = replace(
        region,
        times=region.times[only],
        missing=region.missing[only],
        bad=region.bad[only],
        magnetogram=region.magnetogram[step : step + 1],
        continuum=region.continuum[step : step + 1],
    )
    (hdu,) = images(region, "continuum", "full_disk")
    header = hdu.header
    assert header["CTYPE1"] == "HPLN-TAN"
    assert abs(header["CROTA2"] - 180) < 1
    pointing = Pointing.from_header(header)
    assert pointing.radius == 696e6
    assert pointing.time != region.field_times[0]
    assert (pointing.carrington_longitude - region.trajectory.longitude(pointing.time)) % 360 == pytest.approx(
        60 - 0.5 * step, abs=0.1
    )

    tiles = tile_means(PatchMapper(region.trajectory).map(hdu.data, pointing)).reshape(9, 9)
    scene = region.continuum[0].astype(np.float64)
    # A neighbouring tile differs by 800 DN or more at the limb, and by noise of 250 DN everywhere.
    assert np.abs(tiles - scene).max() < 0.25 * np.abs(np.diff(scene, axis=0)).mean() + 100
    assert np.corrcoef(tiles.ravel(), scene.ravel())[0, 1] > 0.99


def test_images_of_the_sun_are_compressed_and_blank_beyond_the_limb(observations):
    _, content = next(fits_files(observations, "continuum", "full_disk"))
    with fits.open(io.BytesIO(content), disable_image_compression=True) as hdus:
        assert hdus[1].header["ZCMPTYPE"] == "RICE_1"
    (first,) = islice(images(observations, "continuum", "full_disk"), 1)
    assert first.header["BLANK"] == -32768
    beyond = np.isnan(first.data)
    radius = np.sqrt((~beyond).sum() / np.pi) * first.header["CDELT1"]
    assert radius == pytest.approx(first.header["RSUN_OBS"], rel=0.005)
    # float32 is exact here, so only the rounding of the scaling is left.
    shown = np.unique(first.data[~beyond])
    assert np.abs(shown[:, None] - observations.continuum[0].ravel()).min(axis=1).max() < 1.6


def test_the_folder_has_the_layout_and_always_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_observations(tmp_path / name, [REGION, REGION + 1], seed=5, steps=2, pixels=9)
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    )
    assert one == two
    folders = {str(path.parent) for path in one}
    assert folders == {f"AR{n}{sub}" for n in (REGION, REGION + 1) for sub in ("", *(f"/{o}" for o in OBSERVABLES))}
    region = read_region_file(tmp_path / "one" / f"AR{REGION}")
    assert region.trajectory == simulate_observations(REGION, seed=5, steps=1, pixels=9).trajectory
    # The compressed form does not hold a date either.
    sun = simulate_observations(REGION, steps=1, pixels=9)
    assert next(fits_files(sun, "continuum", "full_disk")) == next(fits_files(sun, "continuum", "full_disk"))
    assert b"updated" not in next(fits_files(sun, "continuum", "full_disk"))[1]


def test_unknown_forms_and_real_regions_raise(tmp_path):
    with pytest.raises(ValueError, match="form='cube' must be one of sequence, frames, cubes, full_disk"):
        write_observations(tmp_path, [REGION], steps=1, pixels=9, form="cube")
    with pytest.raises(SolaredError, match="AR11130 is not a simulated region"):
        write_observations(tmp_path, [11130], steps=1)
