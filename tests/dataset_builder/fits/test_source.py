"""From FITS files to timelines: the whole pipeline finds what was put into the simulated Sun."""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from dataset_builder import FitsSource, build_dataset
from dataset_builder.fits import (
    OBSERVABLES,
    WINDOW_FRAMES,
    ReductionSettings,
    RegionFile,
    band_power,
    interpolate_missing,
    keep_tiles,
    read_region_file,
    tile_means,
    write_region_file,
)
from dataset_builder.simulation import (
    emergence,
    expected_timeline,
    fits_files,
    simulate_observations,
    write_observations,
)
from solared_hf import SolaredError, open_dataset
from solared_hf.cli import main
from solared_hf.files import write_atomically
from solared_hf.schema import CHANNELS

STEPS = 4
POWER_3_4, FLUX, INTENSITY = (
    CHANNELS.index(name) for name in ("power_3_4mhz", "unsigned_magnetic_flux", "continuum_intensity")
)


@pytest.fixture(scope="module")
def build(cluster):
    """Return a function that builds a dataset from FITS files on the tests' cluster and returns the report."""

    def build(raw: Path, output: Path, *arguments, **settings):
        return build_dataset(FitsSource(raw, ReductionSettings(*arguments, **settings), scheduler=cluster), output)

    return build


@pytest.fixture(scope="module")
def sequence(build, tmp_path_factory) -> Path:
    """Return a folder with `raw`, sequences of patches of two regions over four steps, and the built `dataset`."""
    folder = tmp_path_factory.mktemp("sequence")
    write_observations(folder / "raw", (90001, 90009), steps=STEPS)
    build(folder / "raw", folder / "dataset")
    return folder


def manifest_of(dataset: Path) -> dict:
    manifest = json.loads((dataset / "manifest.json").read_text())
    return {region["ar_number"]: region for region in manifest["regions"]}


def test_the_pipeline_finds_the_simulated_power_flux_darkening_and_onset(build, tmp_path):
    """The whole timeline of a region: 19,760 frames of 27 x 27 pixels.

    The residual of a step is noise: in power 2 to 5e6, a fiftieth of the change that the field causes in 3-4 mHz. The
    mean over the 50 or more steps of an emerged tile is therefore known to better than 1 % in 3-4 mHz, and to some 3 %
    in 4-5 mHz.
    """
    number = 90001
    write_observations(tmp_path / "raw", (number,))
    build(tmp_path / "raw", tmp_path / "dataset")
    region = open_dataset(tmp_path / "dataset").region(number)
    expected = expected_timeline(number)
    assert region.values.shape == expected.shape
    bipole = emergence(number)
    emerged = expected[:, FLUX, bipole.tile] > 100
    assert emerged.sum() > 50
    for channel, share in ((POWER_3_4, 0.02), (POWER_3_4 + 1, 0.03), (FLUX, 0.02), (INTENSITY, 0.02)):
        measured, truth = (values[emerged, channel, bipole.tile].mean() for values in (region.values, expected))
        assert measured == pytest.approx(truth, rel=share), CHANNELS[channel]
    # Over all tiles and steps, the residual is noise, as large as where nothing emerges.
    for index in range(len(CHANNELS)):
        residual = region.values[:, index] - expected[:, index]
        quiet = residual[: int(bipole.onset_hours) - 10]
        assert abs(residual.mean()) < 0.1 * quiet.std()
        assert residual.std() < 1.3 * quiet.std()
    # Power falls before the intensity does, and the flux begins to grow at the simulated onset.
    hours = (region.times - region.times[0]) / np.timedelta64(1, "h")
    flux, power, intensity = (region.values[:, channel, bipole.tile] for channel in (FLUX, POWER_3_4, INTENSITY))
    seen = hours[np.argmax(flux > 5)]
    assert bipole.onset_hours < seen < bipole.onset_hours + 6
    half_power, half_intensity = (
        hours[np.argmax(series < 0.5 * np.percentile(series, 1))] for series in (power, intensity)
    )
    assert half_power + 6 < half_intensity


@pytest.mark.parametrize("form", ["frames", "cubes"])
def test_every_form_gives_the_same_timeline(sequence, build, tmp_path, form):
    write_observations(tmp_path / "raw", (90001,), steps=STEPS, form=form)
    build(tmp_path / "raw", tmp_path / "dataset")
    expected = open_dataset(sequence / "dataset").region(90001)
    region = open_dataset(tmp_path / "dataset").region(90001)
    np.testing.assert_array_equal(region.times, expected.times)
    scale = np.nanstd(expected.values, axis=(0, 2))[:, np.newaxis]
    difference = (region.values - expected.values) / scale
    # Cubes hold floats, other files scaled integers; a missing frame at the end of a cube has only one neighbour.
    assert abs(difference).max() < (0.05 if form == "cubes" else 2e-3)


def test_images_of_the_sun_are_tracked(build, tmp_path):
    """Track two steps of images of 256 pixels, some Rice-compressed, of a region 60 degrees from the disk centre.

    At that distance a tile covers some two by four pixels of the image, and interpolation damps such fast variations.
    """
    observations = simulate_observations(90001, steps=2, pixels=9)
    for observable in OBSERVABLES:
        for name, content in islice(fits_files(observations, observable, "full_disk"), WINDOW_FRAMES + 16):
            write_atomically(tmp_path / "raw" / "AR90001" / observable / name, content)
    with pytest.raises(SolaredError, match=r"AR90001: there are images of the Sun, but no region.json that"):
        build(tmp_path / "raw", tmp_path / "dataset")
    write_region_file(tmp_path / "raw" / "AR90001", RegionFile(90001, observations.trajectory))
    patch = {"patch_pixels": 54, "degrees_per_pixel": 30.72 / 54}
    build(tmp_path / "raw", tmp_path / "dataset", "12min", "none", **patch)
    region = open_dataset(tmp_path / "dataset").region(90001)
    assert len(region) == 2
    frames = zip(observations.velocity, observations.missing, strict=True)
    velocity = np.stack([frame for frame, _ in interpolate_missing(None if gone else frame for frame, gone in frames)])
    expected = np.stack([tile_means(band_power(velocity[start : start + WINDOW_FRAMES])) for start in (0, 16)])
    ratio = region.values[:, :4] / keep_tiles(expected)
    assert np.nanmin(ratio) > 0.8
    assert np.nanmax(ratio) < 1.05
    continuum = keep_tiles(tile_means(observations.continuum[0]))
    np.testing.assert_allclose(region.values[0, INTENSITY], continuum, rtol=0.02)


def test_twelve_minutes_give_the_hours_and_four_steps_between(sequence, build, tmp_path):
    build(sequence / "raw", tmp_path / "dataset", cadence="12min")
    hourly = open_dataset(sequence / "dataset").region(90001)
    region = open_dataset(tmp_path / "dataset").region(90001)
    assert region.cadence.total_seconds() == 720
    assert len(region) == 5 * (STEPS - 1) + 1
    np.testing.assert_array_equal(region.times[::5], hourly.times)
    np.testing.assert_allclose(region.values[::5, :4], hourly.values[:, :4], rtol=1e-4, atol=1e3)
    # Field and intensity are observed hourly: within six minutes of a window's middle there is no frame.
    assert np.isnan(region.values[1:5, 4:]).all()
    unobserved = manifest_of(tmp_path / "dataset")[90001]["unobserved"]
    assert "no magnetogram at all within 6 minutes of the middle" in unobserved[0]["reasons"]


def test_without_correction_the_background_remains(sequence, build, tmp_path):
    build(sequence / "raw", tmp_path / "dataset", correction="none")
    assert open_dataset(tmp_path / "dataset").region(90001).values[:, INTENSITY].min() > 10_000


def test_regions_of_different_settings_are_not_mixed(sequence, build, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(sequence / "dataset", dataset)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "AR90001").symlink_to(sequence / "raw" / "AR90001")
    with pytest.raises(SolaredError, match=r"AR90009.parquet was built with correction latitude_background, but this"):
        build(tmp_path / "one", dataset, correction="none")
    build(sequence / "raw", dataset, correction="none")
    assert "No background was subtracted" in (dataset / "README.md").read_text()
    assert "latitude background removed" not in (dataset / "README.md").read_text()


def test_a_rerun_keeps_regions_and_builds_changed_regions_again(
    sequence, build, tmp_path, assert_same_dataset, times_of
):
    raw, dataset = tmp_path / "raw", tmp_path / "dataset"
    shutil.copytree(sequence / "raw", raw)
    assert build(raw, dataset).written == 2
    # The same files in another folder give the same dataset.
    assert_same_dataset(dataset, sequence / "dataset")
    before = times_of(dataset)
    report = build(raw, dataset)
    assert (report.written, report.kept) == (0, 2)
    assert times_of(dataset) == before
    path = sorted((raw / "AR90009" / "continuum").iterdir())[0]
    with fits.open(path, mode="update") as hdus:
        hdus[0].data = hdus[0].data + 100
        hdus[0].add_checksum()
    assert build(raw, dataset).written == 1
    region = read_region_file(raw / "AR90001")
    write_region_file(raw / "AR90001", type(region)(90001, region.trajectory, {"noaa_hale_class": "Beta"}))
    assert build(raw, dataset).written == 1
    assert manifest_of(dataset)[90001]["noaa_hale_class"] == "Beta"
    assert build(raw, dataset, "12min").written == 2


def test_the_card_states_the_source(sequence):
    card = (sequence / "dataset" / "README.md").read_text()
    assert "**Simulated data.**" in card
    assert "| AR90001 | 880 | 0 |" in card


def test_regions_with_real_numbers_are_not_described_as_simulated(sequence, build, tmp_path):
    shutil.copytree(sequence / "raw" / "AR90001", tmp_path / "raw" / "AR13500")
    (tmp_path / "raw" / "AR13500" / "region.json").unlink()
    build(tmp_path / "raw", tmp_path / "dataset")
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "SOLARED, from SDO/HMI observations" in card
    assert "Courtesy of" in card
    assert "imulated" not in card


def test_noaa_facts_reach_the_catalog(sequence, build, tmp_path):
    from datasets import load_dataset

    shutil.copytree(sequence / "raw", tmp_path / "raw")
    region = read_region_file(tmp_path / "raw" / "AR90001")
    facts = {"noaa_latitude": -12.0, "noaa_area": 310.0, "noaa_emergence_time": "2001-01-05T00:00:00"}
    write_region_file(tmp_path / "raw" / "AR90001", type(region)(90001, region.trajectory, facts))
    build(tmp_path / "raw", tmp_path / "dataset")
    first, second = load_dataset(str(tmp_path / "dataset"), "catalog", split="regions")
    assert first["noaa_latitude"] == -12.0
    assert first["noaa_emergence_time"].isoformat() == "2001-01-05T00:00:00"
    assert second["noaa_area"] is None


@pytest.mark.parametrize("missing", OBSERVABLES)
def test_a_missing_observable_is_named(sequence, build, tmp_path, missing):
    shutil.copytree(sequence / "raw", tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "AR90001" / missing)
    with pytest.raises(SolaredError, match=rf"1 of 2 regions (.|\n)*no usable FITS file in .*AR90001/{missing}"):
        build(tmp_path / "raw", tmp_path / "dataset")
    assert list((tmp_path / "dataset" / "data").rglob("*.parquet"))


def test_a_region_file_of_another_region(sequence, build, tmp_path):
    shutil.copytree(sequence / "raw" / "AR90001", tmp_path / "raw" / "AR90002")
    with pytest.raises(SolaredError, match=r"AR90002 describes AR90001 in region.json. Correct the folder"):
        build(tmp_path / "raw", tmp_path / "dataset")
    path = tmp_path / "raw" / "AR90002" / "region.json"
    correct = {**json.loads(path.read_text()), "ar_number": 90002}
    for wrong in ({"noaa_area": "big"}, {"noaa_emergence_time": "yesterday"}, {"colour": "red"}):
        path.write_text(json.dumps({**correct, **wrong}))
        with pytest.raises(SolaredError, match=r"region.json does not say where the region is"):
            build(tmp_path / "raw", tmp_path / "dataset")
    path.write_text('{"ar_number": 90002}')
    with pytest.raises(SolaredError, match=r"region.json does not say where the region is"):
        build(tmp_path / "raw", tmp_path / "dataset")


def test_regions_of_different_sources_are_not_mixed(sequence, simulated_published, tmp_path):
    from dataset_builder.published import PublishedSource

    shutil.copytree(sequence / "dataset", tmp_path / "dataset")
    with pytest.raises(SolaredError, match=r"was built with --source fits, but this build has --source published"):
        build_dataset(PublishedSource(simulated_published), tmp_path / "dataset")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "published", "--workers", "7"), "--workers has no effect on published files. Leave it out"),
        (("--cadence", "1d"), "Unknown cadence '1d'. Choose one of 1h, 12min."),
        (("--correction", "some"), "Unknown correction 'some'. Choose one of latitude_background, none."),
        (("--workers", "0"), "A build cannot run on 0 workers. Give --workers 1 or more."),
        (("--workers", "2", "--scheduler", "tcp://localhost:1"), "Give --workers or --scheduler, not both."),
        (("--scheduler", "nonsense://localhost:1"), "There is no Dask scheduler at nonsense://localhost:1"),
        (("--scheduler", "tcp://127.0.0.1:1"), "There is no Dask scheduler at tcp://127.0.0.1:1"),
    ],
)
def test_unusable_arguments_raise(sequence, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("dataset_builder.fits.cluster._SECONDS_TO_CONNECT", 1)
    folders = ("--input", str(sequence / "raw"), "--output", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as stopped:
        main(["build", "--source", "fits", *folders, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
