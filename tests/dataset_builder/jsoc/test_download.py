"""`solared download`: the orders, the files, and the report before the download."""

import random
import re
import shutil
from datetime import date, datetime
from pathlib import Path

import drms
import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from sunpy.coordinates import sun

from dataset_builder.fits import (
    OBSERVABLES,
    PatchMapper,
    Pointing,
    Trajectory,
    collect,
    find_files,
    read_region_file,
    scan_files,
)
from dataset_builder.fits.headers import IMAGE
from dataset_builder.jsoc.plan import cutout, read_catalog, region_slots
from dataset_builder.jsoc.server import FRAMES_AN_EXPORT, PUBLIC_SERVER, RANGES_AN_EXPORT, Jsoc, chunks, record_set
from tests.dataset_builder.jsoc.case import (
    AR,
    HELD,
    MIDDLE,
    QUICK,
    REGION,
    SPAN,
    TRAJECTORY,
    all_files,
    file_of,
    names,
    ordered,
    write_catalog,
)
from tests.dataset_builder.jsoc.images import fits_file, time_of
from tests.dataset_builder.jsoc.loopback import LoopbackJsoc


def test_command_downloads_what_the_pipeline_needs(jsoc, command, tmp_path):
    bad = MIDDLE + 2
    jsoc.quality = {("hmi.v_45s", bad): "0x80000001", ("hmi.v_45s", MIDDLE + 3): "0x00000400"}
    code, out, err = command()
    assert code == 0, err
    raw, good = tmp_path / "raw", [slot for slot in HELD if slot != bad]
    assert names(raw) == all_files(dopplergrams=good)
    assert ordered(jsoc) == [("hmi.v_45s", good), ("hmi.m_45s", [MIDDLE]), ("hmi.ic_45s", [MIDDLE])]
    assert f"AR{AR}, {time_of(SPAN[0])} to {time_of(SPAN[-1])}: 8 files, 0 of them here, 8 to download" in out
    assert "1 records are bad" in out
    assert out.splitlines()[-1] == f"{raw}: 8 files written, 8 in all"

    region = read_region_file(raw / f"AR{AR}")
    assert (region.ar_number, region.trajectory) == (AR, TRAJECTORY)
    assert region.noaa == {
        "noaa_latitude": 13.3,
        "noaa_longitude": -23.0,
        "noaa_emergence_time": "2013-04-19T00:00:00",
        "noaa_area": 420.5,
        "noaa_hale_class": "Beta-Gamma",
        "noaa_lifetime_days": 9,
    }
    for observable in OBSERVABLES:
        folder = raw / f"AR{AR}" / observable
        found = collect(folder, scan_files(find_files(folder)))
        assert (found.form, found.rejected) == (IMAGE, {})
        assert list(found.frames) == (good if observable == "dopplergram" else [MIDDLE])


def test_cutouts_hold_the_whole_patch_over_the_whole_span(jsoc, download, tmp_path):
    """At both ends and in the middle of the ten days, the patch of a cutout is that of the whole image."""
    jsoc.slots = {SPAN[0], MIDDLE, SPAN[len(SPAN) // 2], SPAN[-1]}
    download()
    mapper = PatchMapper(TRAJECTORY, size=128, degrees_per_pixel=0.24)
    for slot in jsoc.slots:
        patches = []
        whole = tmp_path / "whole.fits"
        whole.write_bytes(fits_file("hmi.v_45s", slot))
        for path in (tmp_path / "raw" / file_of("dopplergram", slot), whole):
            with fits.open(path) as hdus:
                image = hdus[1].data.astype(np.float32)
                patches.append(mapper.map(image, Pointing.from_header(hdus[1].header)))
        assert image.size > 8 * fits.getdata(tmp_path / "raw" / file_of("dopplergram", slot)).size
        np.testing.assert_array_equal(np.isnan(patches[0]), np.isnan(patches[1]))
        np.testing.assert_allclose(patches[0], patches[1], atol=0.05)
        assert np.isfinite(patches[0]).mean() > 0.9


def test_whole_images(jsoc, command, tmp_path):
    code, out, _ = command("--full-disk")
    assert code == 0
    assert all(not order.process for order in jsoc.orders.values())
    assert {fits.getdata(path).shape for path in (tmp_path / "raw").rglob("*.fits")} == {(512, 512)}
    # 16 MB a storage unit, which 8 records share.
    assert "9 to download, about 18.0MB, estimated from the sizes that JSOC states" in out


def test_twelve_minutes(jsoc, command, tmp_path):
    jsoc.slots = {MIDDLE - 16, MIDDLE, MIDDLE + 1, MIDDLE + 16}
    assert command("--cadence", "12min")[0] == 0
    assert names(tmp_path / "raw") == all_files(jsoc.slots, (MIDDLE - 16, MIDDLE, MIDDLE + 16))


@pytest.mark.parametrize("reason", ["bad", "absent"])
def test_neighbour_stands_in_for_the_middle(jsoc, download, tmp_path, reason):
    for slot in (MIDDLE - 1, MIDDLE):
        if reason == "bad":
            jsoc.quality["hmi.m_45s", slot] = "0x80000000"
        else:
            jsoc.absent.add(("hmi.m_45s", slot))
    download()
    field, intensity = ((tmp_path / f"raw/AR{AR}" / name) for name in ("magnetogram", "continuum"))
    assert [path.name for path in field.iterdir()] == [Path(file_of("magnetogram", MIDDLE + 1)).name]
    assert [path.name for path in intensity.iterdir()] == [Path(file_of("continuum", MIDDLE)).name]


@pytest.mark.parametrize(
    ("quality", "good"),
    [
        ("0x80000000", False),
        ("0xC0000000", False),
        ("2147483648", False),
        ("-2147483648", False),
        ("MISSING", False),
        ("0x00000200", False),
        ("0x00000020", False),
        ("0x00000000", True),
        ("0x00000500", True),
        ("0", True),
        ("1280", True),
    ],
)
def test_quality_in_every_form(jsoc, quality, good):
    jsoc.quality = {("hmi.v_45s", slot): quality for slot in HELD}
    found = Jsoc(jsoc.url, QUICK).records("dopplergram", np.array(HELD))
    assert [len(slots) for slots in found] == ([len(HELD), 0] if good else [0, len(HELD)])


def test_dry_run_states_and_does_nothing(jsoc, command, tmp_path):
    jsoc.registered.clear()
    code, out, _ = command("--dry-run", "--full-disk", email=None)
    assert code == 0
    region, total = out.splitlines()
    assert "9 files, 0 of them here, 9 to download, about 18.0MB; 0 records are bad" in region
    # Ten days and eight hours of frames, and 240 steps.
    assert f"{19840 - 7 + 2 * 239:,} times have none" in region
    assert total.startswith("in all 9 files, 9 to download, about 18.0MB")
    assert not (tmp_path / "raw").exists()
    assert jsoc.orders == {}
    assert jsoc.served == []
    jsoc.sizes = False
    assert "about 135MB, estimated from 15.0MB a full image" in command("--dry-run", "--full-disk", email=None)[1]
    # A cutout has an eighth of the pixels of the disk.
    (size,) = re.findall(r"to download, about ([\d.]+)MB, est", command("--dry-run", email=None)[1])
    assert 135 / 12 < float(size) < 135 / 6


def test_estimate_of_cutouts_is_that_of_the_whole_span(jsoc, command):
    """Cutouts are larger near the meridian than at the ends of the span, and larger where they hold a day's drift."""
    jsoc.slots, jsoc.sizes = set(SPAN[::160]), False
    whole = float(re.findall(r"to download, about ([\d.]+)GB, est", command("--dry-run", "--full-disk")[1])[0])
    cutouts = float(re.findall(r"to download, about ([\d.]+)MB, est", command("--dry-run")[1])[0]) / 1000
    areas = [
        box["width"] * box["height"]
        for first in range(0, len(SPAN), FRAMES_AN_EXPORT)
        for box in cutout(TRAJECTORY, np.array(SPAN[first : first + FRAMES_AN_EXPORT])).values()
    ]
    # The disk is 1,910 arcsec wide in April.
    assert cutouts / whole == pytest.approx(np.mean(areas) / (np.pi / 4 * 1910**2), rel=0.03)


@pytest.mark.parametrize(("cadence", "earliest", "latest"), [("1h", -40, 39), ("12min", -8, 7)])
def test_frames_are_fetched_wherever_the_build_takes_them(jsoc, download, tmp_path, cadence, earliest, latest):
    """The build takes the nearest within half a cadence of the middle, which is half a slot before MIDDLE."""
    folder = tmp_path / f"raw/AR{AR}/magnetogram"
    for held, expected in (
        ({earliest}, earliest),
        ({latest}, latest),
        ({earliest, latest - 1}, latest - 1),
        ({earliest + 1, 2, latest}, 2),
    ):
        jsoc.slots = {MIDDLE + offset for offset in held}
        download(cadence=cadence)
        assert [path.name for path in folder.iterdir()] == [Path(file_of("magnetogram", MIDDLE + expected)).name]
        shutil.rmtree(tmp_path / "raw")


def test_sizes_are_asked_once_for_each_observable(jsoc, tmp_path, download):
    jsoc.asked.clear()
    one = Jsoc(jsoc.url, QUICK)
    sizes = {one.bytes_a_frame("continuum", np.array(HELD)) for _ in range(3)}
    assert sizes == {2e6}
    asked = jsoc.asked["info"]
    one.bytes_a_frame("continuum", np.array(HELD))
    assert jsoc.asked["info"] == asked


# Of the year 2000: HMI was not there yet.
BEFORE_HMI = {
    **REGION,
    "ar_number": 9166,
    "carrington_longitude": 138.0,
    "noaa_emergence_time": datetime(2000, 9, 22),
    "first_report": date(2000, 9, 22),
    "last_report": date(2000, 9, 27),
}
# Half a year later, for which the server has no records.
WITHOUT_RECORDS = {
    **REGION,
    "ar_number": 11877,
    "carrington_longitude": 63.0,
    "noaa_emergence_time": datetime(2013, 10, 19),
}


def test_regions_without_observations_are_skipped(jsoc, command, tmp_path):
    catalog = write_catalog(tmp_path / "three.parquet", [BEFORE_HMI, REGION, WITHOUT_RECORDS])
    code, out, _ = command(catalog=catalog)
    assert code == 0
    lines = {line.split(",")[0]: line for line in out.splitlines()}
    assert lines["AR9166"].endswith("no HMI observations; they begin in May 2010; skipped")
    assert lines["AR11877"].endswith("no good HMI observations at JSOC; skipped")
    assert names(tmp_path / "raw") == all_files()
    assert not (tmp_path / "raw/AR9166").exists()
    assert not (tmp_path / "raw/AR11877").exists()


def test_only_regions_without_observations(jsoc, command, tmp_path):
    catalog = write_catalog(tmp_path / "two.parquet", [BEFORE_HMI, WITHOUT_RECORDS])
    for arguments in ([], ["--dry-run"]):
        code, _, message = command("--ar", 9166, *arguments, catalog=catalog)
        assert code == 2
        assert "There are no HMI observations of these regions: they begin in May 2010" in message
        assert not jsoc.asked
    code, _, message = command(catalog=catalog)
    assert code == 2
    assert "has no good observations of these regions" in message
    assert names(tmp_path / "raw") == set()


def test_cutouts_of_another_position_are_not_mixed(jsoc, command, tmp_path):
    assert command()[0] == 0
    before = (tmp_path / f"raw/AR{AR}/region.json").read_bytes()
    moved = write_catalog(tmp_path / "moved.parquet", [{**REGION, "carrington_longitude": 327.5}])
    jsoc.asked.clear()
    for arguments in ([], ["--dry-run"], ["--full-disk"]):
        code, _, message = command(*arguments, catalog=moved)
        assert code == 2
        assert (
            f"raw/AR{AR} holds observations of another position, Carrington longitude 321 and latitude 13.3" in message
        )
        assert "Move it away, or name another folder with --output" in message
    assert not jsoc.asked["info"]
    assert not jsoc.asked["request"]
    assert (tmp_path / f"raw/AR{AR}/region.json").read_bytes() == before
    # Facts of NOAA do not move it.
    larger = write_catalog(tmp_path / "larger.parquet", [{**REGION, "noaa_area": 500.0}])
    assert command(catalog=larger)[0] == 0
    assert read_region_file(tmp_path / f"raw/AR{AR}").noaa["noaa_area"] == 500


def test_several_regions_and_a_choice_of_them(jsoc, tmp_path, command):
    other = {**REGION, "ar_number": 11727, "noaa_area": None}
    rejected = {**REGION, "ar_number": 11728, "selected": False, "reason": "too small"}
    catalog = write_catalog(tmp_path / "three.parquet", [REGION, other, rejected])
    code, out, _ = command("--ar", 11727, catalog=catalog)
    assert code == 0
    assert {path.name for path in (tmp_path / "raw").glob("AR*")} == {"AR11727"}
    assert "noaa_area" not in read_region_file(tmp_path / "raw/AR11727").noaa
    code, out, _ = command(catalog=catalog)
    assert code == 0
    assert {path.name for path in (tmp_path / "raw").glob("AR*")} == {"AR11726", "AR11727"}
    assert "in all 18 files, 9 to download" in out


def test_queries_name_exactly_the_slots():
    """The test server parses the queries independently and finds the same slots."""
    jsoc = LoopbackJsoc(set(range(20_000)))
    chance = random.Random(1)
    cases = [
        list(range(5_000)),
        list(range(0, 20_000, 80)),
        [7],
        [3, 4, 90, 91, 92, 94, 96, 98, 99],
        sorted(chance.sample(range(20_000), 3_000)),
        sorted(set(range(4_000)) - set(chance.sample(range(4_000), 90))),
    ]
    for slots in cases:
        parts = list(chunks(np.array(slots)))
        assert np.concatenate(parts).tolist() == slots
        for part in parts:
            query = record_set("continuum", part)
            assert len(part) <= FRAMES_AN_EXPORT
            assert query.count(",") < RANGES_AN_EXPORT
            assert len(query) < 3_000
            assert jsoc.records(query) == ("hmi.ic_45s", part.tolist())
    assert len(list(chunks(np.arange(5_000)))) == 3
    assert list(chunks(np.array([], dtype=np.int64))) == []


@pytest.mark.parametrize(("east", "latitude"), [(-25.0, 20.0), (0.0, -5.0), (28.0, -31.0)])
def test_span_is_centred_on_the_meridian(east, latitude):
    t0 = np.datetime64("2014-02-03T00:00:35")
    trajectory = Trajectory((sun.L0(Time(str(t0), scale="tai")).deg + east) % 360, latitude, t0)
    slots = region_slots(trajectory)
    assert len(slots) == 19_200 + 640
    assert slots[0] % 80 == 0  # a whole hour, as slots count from one
    middle = np.datetime64("1993-01-01") + (slots[0] + len(slots) // 2) * np.timedelta64(45, "s")
    past = trajectory.longitude(middle) - sun.L0(Time(str(middle), scale="tai")).deg
    # To the half hour that whole hours allow.
    assert abs((past + 180) % 360 - 180) < 13.3 / 48 + 0.02


def test_default_server_is_the_one_that_drms_knows(catalog):
    ours, theirs = (client.server.to_dict() for client in (Jsoc()._client._json, drms.Client("jsoc")._json))
    used = ("url_jsoc_info", "url_jsoc_fetch", "url_check_address", "http_download_baseurl", "encoding")
    assert {key: ours[key] for key in used} == {key: theirs[key] for key in used}
    assert PUBLIC_SERVER == "http://jsoc.stanford.edu"
    assert read_catalog(catalog)[0].trajectory == TRAJECTORY
