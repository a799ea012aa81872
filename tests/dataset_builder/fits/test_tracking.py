"""Tracking: the positions and values of the patch's pixels, compared with sunpy, astropy and reproject."""

import astropy.units as u
import numpy as np
import pytest
import sunpy.coordinates  # noqa: F401 (teaches astropy the coordinates of the Sun)
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from reproject import reproject_interp
from sunpy.coordinates.frames import HeliographicCarrington
from sunpy.data.test import get_test_filepath

from dataset_builder.fits import PatchMapper, Pointing, Trajectory
from solared_hf import SolaredError

DAY = np.timedelta64(1, "D")
AU = 149_597_870_691.0


def full_disk(**changes) -> fits.Header:
    """Return the header of a full-disk image from JSOC, with changes; None leaves a keyword out."""
    cards = {
        "NAXIS": 2,
        "NAXIS1": 4096,
        "NAXIS2": 4096,
        "CTYPE1": "HPLN-TAN",
        "CTYPE2": "HPLT-TAN",
        "CUNIT1": "arcsec",
        "CUNIT2": "arcsec",
        "CRPIX1": 2043.718,
        "CRPIX2": 2051.094,
        "CRVAL1": 0.0,
        "CRVAL2": 0.0,
        "CDELT1": 0.504338,
        "CDELT2": 0.504338,
        "CROTA2": 179.929642,
        "DSUN_OBS": 148_205_511_547.72,
        "RSUN_REF": 696_000_000.0,
        "CRLN_OBS": 132.560135,
        "CRLT_OBS": -7.226688,
        "DATE-OBS": "2014-03-01T00:00:27.90",
        "T_OBS": "2014.03.01_00:01:25_TAI",
    }
    return fits.Header({key: value for key, value in (cards | changes).items() if value is not None})


def small_disk(**changes) -> fits.Header:
    """Return the header of `full_disk` with a tenth of the pixels a side."""
    smaller = {"NAXIS1": 400, "NAXIS2": 400, "CRPIX1": 201.3, "CRPIX2": 198.8, "CDELT1": 5.04, "CDELT2": 5.04}
    return full_disk(**(smaller | changes))


def near(header: fits.Header, longitude: float, latitude: float, **options) -> PatchMapper:
    """Return the mapper of a patch centred `longitude` west of the observer's meridian at the header's time."""
    time = Pointing.from_header(header).time
    return PatchMapper(Trajectory((header["CRLN_OBS"] + longitude) % 360, latitude, time), **options)


def patch_wcs(mapper: PatchMapper, header: fits.Header, degrees_per_pixel: float = 0.06) -> WCS:
    """Return the FITS description of the patch."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["CRLN-ARC", "CRLT-ARC"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crpix = [(mapper.size + 1) / 2] * 2
    wcs.wcs.cdelt = [degrees_per_pixel] * 2
    wcs.wcs.crval = [mapper.trajectory.longitude(Pointing.from_header(header).time), mapper.trajectory.latitude]
    wcs.wcs.dateobs = header["DATE-OBS"]
    wcs.wcs.aux.rsun_ref = header["RSUN_REF"]
    wcs.wcs.aux.dsun_obs = header["DSUN_OBS"]
    wcs.wcs.aux.crln_obs = header["CRLN_OBS"]
    wcs.wcs.aux.hglt_obs = header["CRLT_OBS"]
    wcs.array_shape = (mapper.size, mapper.size)
    wcs.wcs.set()
    return wcs


def on_the_sun(longitude, latitude, header: fits.Header) -> SkyCoord:
    frame = wcs_to_celestial_frame(WCS(header))
    carrington = HeliographicCarrington(observer=frame.observer, obstime=frame.obstime, rsun=frame.rsun)
    return SkyCoord(longitude * u.deg, latitude * u.deg, 696 * u.Mm, frame=carrington)


def chain(mapper: PatchMapper, header: fits.Header, pixels: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return where sunpy and astropy see some pixels of the patch in the image."""
    rows, columns = np.mgrid[: mapper.size, : mapper.size][:, pixels, pixels]
    longitude, latitude = patch_wcs(mapper, header).wcs_pix2world(columns.ravel(), rows.ravel(), 0)
    seen = WCS(header).world_to_pixel(on_the_sun(longitude, latitude, header))
    return tuple(axis.reshape(rows.shape) for axis in seen)


def resampled() -> fits.Header:
    return fits.getheader(get_test_filepath("resampled_hmi.fits"))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(resampled(), id="resampled_hmi.fits"),
        pytest.param(full_disk(), id="near 180 degrees"),
        pytest.param(full_disk(CROTA2=-0.0712, CRLT_OBS=7.25, DSUN_OBS=0.98329 * AU), id="perihelion"),
        pytest.param(full_disk(CRLT_OBS=0.01, CRLN_OBS=0.2, DSUN_OBS=1.01671 * AU), id="aphelion"),
        pytest.param(full_disk(NAXIS1=1800, NAXIS2=900, CRPIX1=-231.5, CRPIX2=1203.25), id="cutout"),
        pytest.param(full_disk(CRVAL1=311.5, CRVAL2=-742.25), id="reference away from the centre"),
        pytest.param(full_disk(CDELT1=0.4, CDELT2=0.6, CROTA2=31.0), id="oblong pixels"),
    ],
)
@pytest.mark.parametrize("place", [(0.0, 0.0), (-30.0, 21.5), (38.0, -33.0)])
def test_pixels_lie_where_sunpy_and_astropy_put_them(header, place):
    mapper = near(header, *place)
    some = slice(None, None, 73)
    seen = mapper.pixel_coordinates(Pointing.from_header(header))
    for ours, theirs in zip(seen, chain(mapper, header, some), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours[some, some], theirs, rtol=0, atol=1e-7)


def test_sunpys_radius_of_the_sun_would_shift_the_pixels():
    header = full_disk()
    mapper = near(header, 38.0, -33.0)
    right = np.array(mapper.pixel_coordinates(Pointing.from_header(header)))
    wrong = np.array(mapper.pixel_coordinates(Pointing.from_header(full_disk(RSUN_REF=695_700_000.0))))
    assert 0.3 < np.hypot(*(wrong - right)).max() < 1
    without = mapper.pixel_coordinates(Pointing.from_header(full_disk(RSUN_REF=None)))
    np.testing.assert_array_equal(without, right)


def test_t_obs_is_the_time_of_the_geometry():
    header = full_disk()
    assert Pointing.from_header(header).time == np.datetime64("2014-03-01T00:01:25")
    mapper = near(header, 10.0, 15.0)
    a_day_later = Pointing.from_header(full_disk(T_OBS="2014.03.02_00:01:25_TAI"))
    assert a_day_later.time - Pointing.from_header(header).time == DAY
    # The region falls behind Carrington's rotation, to the east, which is right in an image turned by 180 degrees.
    columns = [mapper.pixel_coordinates(p)[0][256, 256] for p in (Pointing.from_header(header), a_day_later)]
    assert 5 < columns[1] - columns[0] < 20


@pytest.mark.parametrize("angle", [179.93, 12.0])
def test_a_rotation_may_be_stated_in_three_ways(angle):
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turned = full_disk(CROTA2=angle, CDELT1=0.5, CDELT2=0.6)
    pc = {"PC1_1": cosine, "PC1_2": -sine * 0.6 / 0.5, "PC2_1": sine * 0.5 / 0.6, "PC2_2": cosine}
    cd = {"CD1_1": 0.5 * cosine, "CD1_2": -0.6 * sine, "CD2_1": 0.5 * sine, "CD2_2": 0.6 * cosine}
    expected = np.ravel(Pointing.from_header(turned).scale)
    told = full_disk(CROTA2=None, CDELT1=0.5, CDELT2=0.6, **pc)
    np.testing.assert_allclose(np.ravel(Pointing.from_header(told).scale), expected, rtol=1e-12)
    told = full_disk(CROTA2=None, CDELT1=None, CDELT2=None, **cd)
    np.testing.assert_allclose(np.ravel(Pointing.from_header(told).scale), expected, rtol=1e-12)


def test_angles_may_be_stated_in_other_units():
    mapper = near(full_disk(), 10.0, 15.0)
    expected = mapper.pixel_coordinates(Pointing.from_header(full_disk(CRVAL1=31.5, CRVAL2=-72.25)))
    for unit, factor in (("deg", 1 / 3600), ("ARCSEC", 1), ("arcmin", 1 / 60), ("rad", np.radians(1 / 3600))):
        angles = {"CRVAL1": 31.5, "CRVAL2": -72.25, "CDELT1": 0.504338, "CDELT2": 0.504338}
        told = {key: factor * value for key, value in angles.items()}
        seen = mapper.pixel_coordinates(Pointing.from_header(full_disk(CUNIT1=unit, CUNIT2=unit, **told)))
        np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("names", [("solar_x", "solar_y"), ("SOLAR-X", "SOLAR-Y"), ("hpln-tan ", "hplt-tan")])
def test_axes_may_be_spelled_in_other_ways(names):
    spelled = full_disk(CRVAL1=31.5, CTYPE1=names[0], CTYPE2=names[1])
    assert Pointing.from_header(spelled) == Pointing.from_header(full_disk(CRVAL1=31.5))


@pytest.mark.parametrize("rotation", ["CROTA", "PC", "CD"])
def test_the_latitude_may_be_the_first_axis(rotation):
    """Compare with astropy an image whose rows run to the west."""
    header = full_disk(
        CTYPE1="HPLT-TAN", CTYPE2="HPLN-TAN", CRVAL1=31.5, CRVAL2=-12.25, CDELT1=0.4, CDELT2=0.6, CROTA2=None
    )
    turned = {"CROTA1": 31.0} if rotation == "CROTA" else {f"{rotation}1_1": 0.5, f"{rotation}1_2": 0.3}
    header.update(turned if rotation == "CROTA" else turned | {f"{rotation}2_1": -0.25, f"{rotation}2_2": 0.6})
    mapper = near(header, 38.0, -33.0)
    some = slice(None, None, 73)
    seen = mapper.pixel_coordinates(Pointing.from_header(header))
    for ours, theirs in zip(seen, chain(mapper, header, some), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours[some, some], theirs, rtol=0, atol=1e-7)


def test_a_header_may_be_a_plain_mapping():
    assert Pointing.from_header(dict(full_disk())) == Pointing.from_header(full_disk())


@pytest.mark.parametrize(
    "key",
    [
        *("NAXIS1", "NAXIS2", "CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2"),
        *("CDELT1", "CDELT2", "CROTA2", "DSUN_OBS", "CRLN_OBS", "CRLT_OBS"),
    ],
)
def test_a_keyword_that_is_missing_or_not_a_number_is_named(key):
    with pytest.raises(SolaredError, match=f"The header has no {key}, so"):
        Pointing.from_header(full_disk(**{key: None}))
    for value in ("nan", float("nan"), float("inf")):
        with pytest.raises(SolaredError, match=f"The header says {key} = .*, so"):
            Pointing.from_header(dict(full_disk()) | {key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"T_OBS": "MISSING"}, "does not say in T_OBS when.*'MISSING' is not a time"),
        ({"T_OBS": None}, "does not say in T_OBS when"),
        ({"CTYPE1": "CRLN-ARC", "CTYPE2": "CRLT-ARC"}, "not a picture of the Sun: CTYPE1 is 'CRLN-ARC'"),
        ({"CTYPE1": "CRLN-TAN"}, "CTYPE1 is 'CRLN-TAN' and CTYPE2 'HPLT-TAN', which does not say"),
        ({"CTYPE2": None}, "CTYPE2 None, which does not say whether this is an image of the Sun"),
        (
            {"CTYPE1": "HPLN-SIN", "CTYPE2": "HPLT-SIN"},
            "an unknown projection. Use images of the Sun in TAN",
        ),
        ({"CUNIT1": "m"}, "CUNIT is 'm', which is not a unit of angles"),
        ({"CUNIT1": "deg", "CUNIT2": "deg"}, "would have a radius of 0.5.* pixels by CDELT1 .* and CUNIT1 .'deg'."),
        ({"CDELT1": 0.504338 / 3600, "CDELT2": 0.504338 / 3600}, "would have a radius of 6.9.* pixels"),
        ({"RSUN_REF": 696_000.0}, "RSUN_REF is 696000, and 6.9e.08 to 7e.08 m are expected"),
        ({"RSUN_REF": 696_000.0, "DSUN_OBS": 148_205_511.5}, "RSUN_REF is 696000, and"),
        ({"DSUN_OBS": 148_205_511_547_720.0}, "DSUN_OBS is 1.48206e.14, and 1.4e.11 to 1.6e.11 m are expected"),
        ({"DSUN_OBS": 0.9907}, "inside the Sun"),
        ({"RSUN_OBS": 0.26907}, "RSUN_OBS is 0.26907, but RSUN_REF and DSUN_OBS give 968.7 arcsec"),
        ({"CDELT2": 0.0}, "pixels of no size"),
        ({"DSUN_OBS": 148_205_511.5}, "inside the Sun"),
        ({"RSUN_REF": -1.0}, "inside the Sun"),
    ],
)
def test_an_impossible_header_raises(changes, message):
    with pytest.raises(SolaredError, match=message):
        Pointing.from_header(full_disk(**changes))


def keys(distance: float) -> float:
    distance = abs(distance)
    if distance <= 1:
        return 1.5 * distance**3 - 2.5 * distance**2 + 1
    return -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2 if distance < 2 else 0.0


def plainly(image: np.ndarray, column: float, row: float) -> float:
    """Return the cubic convolution at one point; NaN if one of the 16 pixels is NaN or outside."""
    if np.isnan(column) or np.isnan(row):
        return np.nan
    total = 0.0
    for j in range(int(np.floor(row)) - 1, int(np.floor(row)) + 3):
        for i in range(int(np.floor(column)) - 1, int(np.floor(column)) + 3):
            inside = 0 <= j < image.shape[0] and 0 <= i < image.shape[1]
            total += float(image[j, i]) * keys(row - j) * keys(column - i) if inside else np.nan
    return total


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", ">i2", "<i4"])
def test_values_are_the_cubic_convolution_of_16_pixels(dtype):
    header = small_disk(NAXIS1=65, CRPIX1=201.3 - 30)
    pointing = Pointing.from_header(header)
    # The patch runs past both ends of the rows, beyond the western limb, and over a bad pixel.
    mapper = near(header, 62.0, -20.0, size=40, degrees_per_pixel=1.6)
    image = np.random.default_rng(0).normal(0, 1000, pointing.shape).astype(dtype)
    columns, rows = mapper.pixel_coordinates(pointing)
    if image.dtype.kind == "f":
        image[int(rows[20, 12]), int(columns[20, 12])] = np.nan
    expected = np.array(
        [plainly(image, column, row) for column, row in zip(columns.ravel(), rows.ravel(), strict=True)]
    )
    patch = mapper.map(image, pointing)
    assert patch.dtype == np.float32
    assert patch.shape == (40, 40)
    np.testing.assert_allclose(patch.ravel(), expected, rtol=0, atol=2e-3)
    assert np.isnan(columns).sum() > 50
    assert np.isfinite(patch).sum() > 500
    for outside in (columns < 1, columns >= 63):
        assert 0 < outside.sum() < 500
        assert np.isnan(patch[outside]).all()
    assert np.isnan(patch[20, 12]) == (image.dtype.kind == "f")


def test_a_map_equals_that_of_reproject():
    header = small_disk()
    pointing = Pointing.from_header(header)
    row, column = np.indices(pointing.shape)
    image = np.sin(column / 20) * np.cos(row / 17) + row / 100
    mapper = near(header, -25.0, 18.0, size=64, degrees_per_pixel=0.5)
    theirs, covered = reproject_interp((image, WCS(header)), patch_wcs(mapper, header, 0.5), order="bicubic")
    assert covered.all()
    np.testing.assert_allclose(mapper.map(image, pointing), theirs, rtol=0, atol=1e-4)


def test_south_is_the_first_row_and_east_the_first_column():
    header = small_disk()
    mapper = near(header, 0.0, 10.0, size=65, degrees_per_pixel=0.5)
    longitude, latitude = patch_wcs(mapper, header, 0.5).wcs_pix2world([32, 0, 32], [32, 32, 0], 0)
    assert (longitude[0], latitude[0]) == pytest.approx((132.560135, 10))
    assert longitude[1] < longitude[0] - 15
    assert latitude[2] == pytest.approx(-6)
    # With CROTA2 = 180 degrees, south is up and east is right in the image.
    columns, rows = mapper.pixel_coordinates(Pointing.from_header(header))
    assert columns[32, 0] > columns[32, 32] > columns[32, 64]
    assert rows[0, 32] > rows[32, 32] > rows[64, 32]


@pytest.mark.parametrize("place", [(0.0, 10.0), (-30.0, -25.0), (80.0, 5.0), (5.0, 85.0)])
def test_map_needs_exactly_the_rows_that_rows_returns(place):
    header = small_disk()
    pointing = Pointing.from_header(header)
    mapper = near(header, *place, size=64, degrees_per_pixel=0.5)
    image = np.random.default_rng(1).normal(size=pointing.shape)
    rows = mapper.rows(pointing)
    assert 10 < rows.stop - rows.start < 130
    whole = mapper.map(image, pointing)
    assert np.isfinite(whole).any()
    np.testing.assert_allclose(mapper.map(image[rows], pointing, rows.start), whole, rtol=1e-5, atol=1e-5)
    # Every one of these rows is needed.
    for fewer in (slice(rows.start + 1, rows.stop), slice(rows.start, rows.stop - 1)):
        patch = mapper.map(image[fewer], pointing, fewer.start)
        lost = np.isnan(patch) & np.isfinite(whole)
        assert 0 < lost.sum() < 100
        np.testing.assert_allclose(patch[~lost], whole[~lost], rtol=1e-5, atol=1e-5)
    assert np.isnan(mapper.map(image[:5], pointing)).all()


@pytest.mark.parametrize(("longitude", "columns"), [(180.0, slice(None)), (-40.0, slice(0, 90))])
def test_a_patch_out_of_sight_or_out_of_the_image_needs_no_rows(longitude, columns):
    header = small_disk()
    mapper = near(header, longitude, 0.0, size=32, degrees_per_pixel=0.5)
    header["NAXIS1"] = len(range(400)[columns])
    pointing = Pointing.from_header(header)
    rows = mapper.rows(pointing)
    assert rows.start == rows.stop
    image = np.ones(pointing.shape)
    assert np.isnan(mapper.map(image, pointing)).all()
    assert np.isnan(mapper.map(image[rows], pointing, rows.start)).all()


def test_the_limb_is_where_the_line_of_sight_is_tangent_to_the_sun():
    header = full_disk()
    mapper = near(header, 76.0, 5.0)
    longitude, latitude = patch_wcs(mapper, header).wcs_pix2world(*np.indices((512, 512))[::-1].reshape(2, -1), 0)
    place = np.radians([longitude - header["CRLN_OBS"], latitude])
    b = np.radians(header["CRLT_OBS"])
    from_disk_centre = np.degrees(
        np.arccos(np.sin(b) * np.sin(place[1]) + np.cos(b) * np.cos(place[1]) * np.cos(place[0]))
    )
    limb = np.degrees(np.arccos(header["RSUN_REF"] / header["DSUN_OBS"]))
    assert 89 < limb < 90
    columns, _ = mapper.pixel_coordinates(Pointing.from_header(header))
    clear = np.abs(from_disk_centre - limb) > 1e-6
    np.testing.assert_array_equal(np.isnan(columns).ravel()[clear], (from_disk_centre > limb)[clear])


def test_a_cutout_gives_the_patch_of_the_full_disk():
    header = small_disk()
    mapper = near(header, -25.0, 18.0, size=64, degrees_per_pixel=0.5)
    image = np.random.default_rng(2).normal(size=(400, 400)).astype(np.float32)
    whole = mapper.map(image, Pointing.from_header(header))
    assert np.isfinite(whole).all()
    cutout = small_disk(NAXIS1=200, NAXIS2=250, CRPIX1=201.3 - 180, CRPIX2=198.8 - 30)
    patch = mapper.map(image[30:280, 180:380], Pointing.from_header(cutout))
    np.testing.assert_allclose(patch, whole, rtol=0, atol=1e-5)


def test_rows_that_are_not_part_of_the_image_raise():
    pointing = Pointing.from_header(small_disk())
    mapper = near(small_disk(), 0.0, 0.0, size=8)
    for shape, first_row in [((400, 399), 0), ((401, 400), 0), ((10, 400), 391), ((10, 400), -1), ((1, 400, 400), 0)]:
        with pytest.raises(ValueError, match="are not part of an image of shape"):
            mapper.map(np.zeros(shape), pointing, first_row)


def test_spots_stay_in_the_patch_only_at_the_rotation_rate_of_their_latitude():
    """Spots that rotate at the rate of their latitude, drawn with sunpy for a moving observer, a day apart."""
    latitude, north = 20.0, 28.0
    start = np.datetime64("2014-03-01T00:01:25")
    mapper = PatchMapper(Trajectory(120.0, latitude, start), size=96, degrees_per_pixel=0.3)

    def rate(degrees):
        """Return mtrack's sidereal rotation rate in degrees per day."""
        squared = np.sin(np.radians(degrees)) ** 2
        return np.degrees((2.836399 - 0.3441 * squared - 0.5037 * squared**2) * 1e-6) * 86_400

    carrington = np.degrees(2.865329e-6) * 86_400
    spots = {latitude: [], north: []}
    for days in (0, 0.5, 1):
        time = start + np.timedelta64(int(days * 86_400), "s")
        header = small_disk(
            CRLN_OBS=132.56 - 13.2 * days,
            CRLT_OBS=-7.22 + 0.01 * days,
            DSUN_OBS=148.2e9 + 3e7 * days,
            CROTA2=179.93 - 0.01 * days,
            CRPIX1=201.3 + days,
            T_OBS=f"{time.item():%Y.%m.%d_%H:%M:%S}_TAI",
        )
        row, column = np.indices((400, 400))
        seen = WCS(header).pixel_to_world(column.ravel(), row.ravel())
        on_disk = np.hypot(seen.Tx, seen.Ty) < 930 * u.arcsec
        observer = on_the_sun(0, 0, header).frame
        place = seen[on_disk].transform_to(
            HeliographicCarrington(observer=observer.observer, obstime=observer.obstime)
        )
        for spot in spots:
            longitude = 120.0 + (rate(spot) - carrington) * days
            centre = on_the_sun(longitude, spot, header)
            image = np.full(400 * 400, np.nan)
            distance = place.separation(centre).deg
            image[on_disk] = np.exp(-((distance / 1.5) ** 2))
            patch = mapper.map(image.reshape(400, 400), Pointing.from_header(header))
            assert np.isfinite(patch).all()
            spots[spot].append([(axis * patch).sum() / patch.sum() for axis in np.indices(patch.shape)])
    spots = {spot: np.array(centres) for spot, centres in spots.items()}
    np.testing.assert_allclose(spots[latitude], 47.5, rtol=0, atol=0.02)
    # At Carrington's own rate the patch would miss the spot by more than a pixel.
    assert (carrington - rate(latitude)) * np.cos(np.radians(latitude)) / 0.3 > 1
    # The patch moves rigidly: a spot further north falls back to the east, by the difference of the rates.
    drift = spots[north][:, 1] - spots[north][0, 1]
    expected = (rate(north) - rate(latitude)) * np.cos(np.radians(north)) / 0.3 * np.array([0, 0.5, 1])
    assert expected[2] < -0.5
    np.testing.assert_allclose(drift, expected, rtol=0, atol=0.03)


def test_a_trajectory_moves_at_the_rate_of_mtrack():
    trajectory = Trajectory(100.0, 0.0, np.datetime64("2011-02-15T00:00:00", "s"))
    assert trajectory.t0.dtype == np.dtype("datetime64[ms]")
    assert trajectory.longitude(trajectory.t0) == 100
    assert trajectory.longitude(trajectory.t0 + DAY) - 100 == pytest.approx(np.degrees(-0.02893e-6 * 86_400))
    rate = np.degrees((-0.02893 - 0.3441 * 0.25 - 0.5037 * 0.0625) * 1e-6)
    for latitude in (-30.0, 30.0):
        trajectory = Trajectory(100.0, latitude, np.datetime64("2011-02-15"))
        for seconds in (-864_000, 45, 864_000):
            time = trajectory.t0 + np.timedelta64(seconds, "s")
            assert trajectory.longitude(time) - 100 == pytest.approx(rate * seconds)
    assert 359 < Trajectory(0.1, 30.0, trajectory.t0).longitude(trajectory.t0 + DAY) < 360
    assert Trajectory(-20.0, 0.0, trajectory.t0).longitude(trajectory.t0) == 340


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((361.0, 0.0, np.datetime64("2011-02-15")), "Carrington longitude 361.0 is not in degrees"),
        ((float("nan"), 0.0, np.datetime64("2011-02-15")), "Carrington longitude nan"),
        ((10.0, -90.5, np.datetime64("2011-02-15")), "Latitude -90.5 is not in degrees"),
        ((10.0, float("nan"), np.datetime64("2011-02-15")), "Latitude nan"),
        ((10.0, 0.0, np.datetime64("NaT")), "no time t0"),
    ],
)
def test_an_impossible_trajectory_raises(arguments, message):
    with pytest.raises(SolaredError, match=message):
        Trajectory(*arguments)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 2200}, {"degrees_per_pixel": float("nan")}])
def test_a_patch_that_does_not_fit_on_a_hemisphere_raises(options):
    with pytest.raises(SolaredError, match="does not fit on a hemisphere"):
        PatchMapper(Trajectory(0.0, 0.0, np.datetime64("2011-02-15")), **options)
