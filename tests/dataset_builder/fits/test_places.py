"""The places that FITS headers state, compared with region.json, and the step of November 2020 in the longitudes."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from dataset_builder.fits import OBSERVABLES, RegionFile, Trajectory, collect, find_files, format_time, scan_files
from dataset_builder.fits.plan import ReductionSettings, assemble, plan_region
from dataset_builder.fits.reduction import reduce_segment
from solared_hf import SolaredError

HOUR = 80
START = np.datetime64("2013-04-15T11:00:00", "ms")
PATCH = {"CTYPE1": "CRLN-ARC", "CTYPE2": "CRLT-ARC", "CUNIT1": "deg", "CUNIT2": "deg", "CRPIX1": 5.0, "CRPIX2": 5.0}
HERE = {"CRVAL1": 100.0, "CRVAL2": -12.0}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes some hours of frames of every observable, or of some."""

    def write(hours: int, first: int = 0, start=START, observables=OBSERVABLES, **keywords) -> None:
        for observable in observables:
            (tmp_path / observable).mkdir(exist_ok=True)
            pixels = np.random.default_rng(first).normal(size=(hours * HOUR, 9, 9)).astype(np.float32)
            time = start + first * HOUR * np.timedelta64(45, "s")
            header = fits.Header({**PATCH, **HERE, "T_REC": format_time(time), **keywords})
            fits.writeto(tmp_path / observable / f"{first}.fits", pixels, header)

    return write


def plan(folder: Path, trajectory: Trajectory | None = None):
    observations = {name: collect(folder / name, scan_files(find_files(folder / name))) for name in OBSERVABLES}
    region = None if trajectory is None else RegionFile(90001, trajectory)
    return plan_region(region, observations, ReductionSettings(correction="none"))


def changes(folder: Path) -> dict:
    planned = plan(folder)
    _, processing = assemble(90001, planned, [reduce_segment(segment) for segment in planned.segments])
    return processing["longitude_changes"]


@pytest.mark.parametrize("latitude", [-12.0, -11.0])
@pytest.mark.parametrize("longitude", [100.0, 102.5])
def test_patches_at_the_place_in_region_json_are_accepted(write, tmp_path, longitude, latitude):
    write(8)
    assert len(plan(tmp_path, Trajectory(longitude, latitude, START)).starts) == 1


@pytest.mark.parametrize(("longitude", "latitude"), [(110.0, -12.0), (280.0, -12.0), (100.0, 12.0)])
def test_patches_far_from_the_place_in_region_json_are_refused(write, tmp_path, longitude, latitude):
    write(8)
    message = r"dopplergram/0.fits shows Carrington longitude 100.0 and latitude -12.0, but region.json puts the "
    message += rf"region at {longitude} and {latitude}. Correct region.json"
    with pytest.raises(SolaredError, match=message):
        plan(tmp_path, Trajectory(longitude, latitude, START))


def test_the_place_is_compared_at_the_time_of_the_file(write, tmp_path):
    """After 200 days the region has fallen behind Carrington's rotation by half a turn."""
    trajectory = Trajectory(100.0, -12.0, START - np.timedelta64(200, "D"))
    write(8, CRVAL1=trajectory.longitude(START))
    plan(tmp_path, trajectory)
    with pytest.raises(SolaredError, match=r"but region.json puts the region at 100.0"):
        plan(tmp_path, Trajectory(100.0, -12.0, START))


@pytest.mark.parametrize(
    "keywords", [{"CRVAL1": "MISSING"}, {"CRPIX1": -100.0}, {"CTYPE1": "HGLN-ARC", "CTYPE2": "HGLT-ARC"}]
)
def test_patches_that_do_not_state_their_place_are_not_compared(write, tmp_path, keywords):
    write(8, **keywords)
    assert len(plan(tmp_path, Trajectory(280.0, 40.0, START)).starts) == 1


def test_observables_in_different_maps_are_refused(write, tmp_path):
    write(8, observables=OBSERVABLES[:2])
    write(8, observables=OBSERVABLES[2:], CTYPE1="CRLN-CEA", CTYPE2="CRLT-CEA")
    with pytest.raises(SolaredError, match=r"different maps \(magnetogram in CRLN-ARC, continuum in CRLN-CEA\)"):
        plan(tmp_path)


OLD, NEW = 0x1112, 0x10001112


@pytest.mark.parametrize("versions", [(OLD, NEW), (NEW, OLD), ("0x1112", "0x10001112")])
def test_calver64_tells_where_the_longitudes_change(write, tmp_path, versions):
    write(5, 0, CALVER64=versions[0])
    write(6, 5, CALVER64=versions[1])
    change = {"degrees": 0.081894, "times_tai": ["2013-04-15T16:00:00.000"], "known_from": "CALVER64"}
    assert changes(tmp_path) == dict.fromkeys(OBSERVABLES, change)


@pytest.mark.parametrize("version", [None, -1])
def test_without_calver64_the_date_tells_where_the_longitudes_change(write, tmp_path, version):
    start = np.datetime64("2020-11-28T18:00:00", "ms")
    keywords = {} if version is None else {"CALVER64": version}
    for first, hours in ((0, 4), (4, 6)):
        write(hours, first, start, **keywords)
    change = {"degrees": 0.081894, "times_tai": ["2020-11-29T00:00:00.000"], "known_from": "date"}
    assert changes(tmp_path) == dict.fromkeys(OBSERVABLES, change)


@pytest.mark.parametrize(
    ("start", "version"),
    [("2013-04-15", OLD), ("2013-04-15", NEW), ("2020-11-28T18:00:00", NEW), ("2021-01-01", None)],
)
def test_longitudes_without_a_change_are_not_reported(write, tmp_path, start, version):
    write(8, start=np.datetime64(start, "ms"), **({} if version is None else {"CALVER64": version}))
    assert changes(tmp_path) == {}


def test_changes_beyond_the_timeline_are_not_reported(write, tmp_path):
    """After a long gap, the last hour is too short for a window."""
    write(9, 0, CALVER64=OLD)
    write(1, 40, CALVER64=NEW)
    assert changes(tmp_path) == {}


def test_a_single_observable_may_have_the_change(write, tmp_path):
    write(9, 0, observables=OBSERVABLES[:2], CALVER64=NEW)
    write(3, 0, observables=OBSERVABLES[2:], CALVER64=OLD)
    write(6, 3, observables=OBSERVABLES[2:], CALVER64=NEW)
    assert list(changes(tmp_path)) == ["continuum"]
