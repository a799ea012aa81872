"""An error of one record, file, order or region is reported and does not stop the others."""

import json

import numpy as np
import pytest

from dataset_builder.jsoc.server import Jsoc
from dataset_builder.jsoc.transfer import Patience
from solared_hf import SolaredError
from tests.dataset_builder.jsoc.case import (
    AR,
    HELD,
    MIDDLE,
    QUICK,
    REGION,
    all_files,
    file_of,
    names,
    ordered,
    write_catalog,
)
from tests.dataset_builder.jsoc.images import file_name, time_of

ERROR = {"status": 1, "error": "The database is restarting"}
# Passes the meridian most of a day later.
OTHER = {**REGION, "ar_number": 11727, "carrington_longitude": 310.0}


def of_region(row: dict, order) -> bool:
    return abs(float(order.process["x"]) - row["carrington_longitude"]) < 3


@pytest.fixture
def two_regions(tmp_path):
    return write_catalog(tmp_path / "two.parquet", [REGION, OTHER])


def complete(ar_number: int) -> set[str]:
    return {name.replace(f"AR{AR}", f"AR{ar_number}") for name in all_files()}


@pytest.mark.parametrize("quality", ["MISSING", "Invalid KeyLink", "nan", ""])
def test_a_record_without_a_quality_is_reported_and_not_ordered(jsoc, command, tmp_path, quality):
    jsoc.quality = {("hmi.v_45s", HELD[1]): quality}
    code, out, _ = command()
    assert code == 0
    assert "1 records are bad or without a QUALITY" in out
    assert names(tmp_path / "raw") == all_files(set(HELD) - {HELD[1]})


def test_a_record_without_a_time_is_ignored(jsoc, command, tmp_path):
    jsoc.times = {("hmi.v_45s", HELD[1]): "MISSING"}
    assert command()[0] == 0
    assert names(tmp_path / "raw") == all_files(set(HELD) - {HELD[1]})


def test_records_that_all_lack_their_time_are_an_error(jsoc, command):
    jsoc.times = {("hmi.v_45s", slot): "MISSING" for slot in HELD}
    code, _, message = command()
    assert code == 2
    assert "answers in another form than JSOC does (ValueError: T_REC MISSING)" in message


@pytest.mark.parametrize("count", [1, 3, 5])
def test_records_without_an_image_are_reported_and_never_ordered_again(jsoc, command, tmp_path, count):
    """Some frames in a row from the first of the order, as during an eclipse."""
    empty = HELD[:count]
    jsoc.without_image = {("hmi.v_45s", slot) for slot in empty}
    code, out, _ = command()
    assert code == 0
    assert f"AR{AR}: {count} records lack an image, the first is dopplergram {time_of(HELD[0])}; they are" in out
    raw = tmp_path / "raw"
    assert names(raw) == all_files(set(HELD) - set(empty)) | {f"AR{AR}/without_image.json"}
    kept = json.loads((raw / f"AR{AR}/without_image.json").read_text())
    assert kept == {"dopplergram": [time_of(slot) for slot in empty]}
    # Each was sent once, and the next run orders nothing.
    assert [name for name, _ in jsoc.served].count(file_name("hmi.v_45s", HELD[0])) == 1
    jsoc.orders.clear()
    code, out, _ = command()
    assert code == 0
    assert f"{count} hold no image" in out
    assert jsoc.orders == {}


def test_the_next_run_downloads_the_neighbour_of_a_frame_without_an_image(jsoc, download, tmp_path):
    jsoc.without_image = {("hmi.m_45s", MIDDLE)}
    assert download().without_image == 1
    jsoc.orders.clear()
    assert download().files == 1
    assert ordered(jsoc) == [("hmi.m_45s", [MIDDLE - 1])]
    assert (tmp_path / "raw" / file_of("magnetogram", MIDDLE - 1)).exists()


def test_a_list_of_frames_without_an_image_that_cannot_be_read(jsoc, command, tmp_path):
    path = tmp_path / f"raw/AR{AR}/without_image.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    code, _, message = command()
    assert code == 2
    assert f"{path} cannot be read" in message
    assert message.endswith("Delete it.")


def test_a_failed_export_of_a_region_does_not_stop_the_others(jsoc, download, tmp_path, two_regions):
    jsoc.fails = lambda order: "im_patch: crashed" if of_region(REGION, order) else None
    with pytest.raises(SolaredError) as caught:
        download(catalog=two_regions)
    first, second = str(caught.value).splitlines()
    assert first.startswith("1 of 2 regions failed")
    assert second.startswith(f"AR{AR}: {jsoc.url} could not export 7 records of hmi.V_45s: im_patch: crashed")
    assert names(tmp_path / "raw") == complete(11727) | {f"AR{AR}/region.json"}
    jsoc.fails = None
    assert download(catalog=two_regions).files == 9
    assert names(tmp_path / "raw") == complete(11727) | complete(AR)


def test_a_failed_order_does_not_stop_the_other_orders_of_the_region(jsoc, download, tmp_path):
    jsoc.fails = lambda order: "a tape is lost" if order.series == "hmi.v_45s" else None
    with pytest.raises(SolaredError, match=r"could not export 7 records of hmi.V_45s: a tape is lost"):
        download()
    assert names(tmp_path / "raw") == all_files(dopplergrams=())


def test_an_export_that_is_never_ready_does_not_stop_other_regions(jsoc, download, tmp_path, two_regions):
    jsoc.hangs = lambda order: of_region(REGION, order)
    impatient = Patience(attempts=2, pause_s=0, timeout_s=10, poll_s=0.01, wait_s=0.2)
    with pytest.raises(SolaredError, match=rf"AR{AR}: .*has not finished the export JSOC_20130415_001 .*Run the same"):
        download(catalog=two_regions, patience=impatient)
    assert names(tmp_path / "raw") == complete(11727) | {f"AR{AR}/region.json", f"AR{AR}/.jsoc/order.json"}


def test_exports_that_are_never_ready_are_waited_for_twice(jsoc, download, tmp_path):
    catalog = write_catalog(tmp_path / "three.parquet", [REGION, OTHER, {**OTHER, "ar_number": 11728}])
    jsoc.pending_polls = None
    impatient = Patience(attempts=2, pause_s=0, timeout_s=10, poll_s=0.01, wait_s=0.05)
    with pytest.raises(SolaredError) as caught:
        download(catalog=catalog, patience=impatient)
    _, *lines = str(caught.value).splitlines()
    assert ["has not finished the export" in line for line in lines] == [True, True, False]
    assert lines[2].startswith("AR11728: Not started, because JSOC did not finish the previous exports in time")
    assert len(jsoc.orders) == 2


def test_regions_with_something_wrong_in_the_catalog_or_the_folder(jsoc, download, tmp_path):
    """One region is behind the Sun when it emerges, and one has observations of another position."""
    download()
    broken = tmp_path / "raw/AR11729/region.json"
    broken.parent.mkdir()
    broken.write_text("{")
    moved, behind = {**REGION, "noaa_latitude": 20.0}, {**REGION, "ar_number": 11728, "carrington_longitude": 150.0}
    catalog = write_catalog(tmp_path / "four.parquet", [moved, OTHER, behind, {**OTHER, "ar_number": 11729}])
    for dry_run in (True, False):
        with pytest.raises(SolaredError) as caught:
            download(catalog=catalog, dry_run=dry_run)
        first, *others = str(caught.value).splitlines()
        assert first.startswith("3 of 4 regions failed")
        assert [line.split(":")[0] for line in others] == ["AR11726", "AR11728", "AR11729"]
        assert "holds observations of another position" in others[0]
        assert "is behind the Sun" in others[1]
        assert str(broken) in others[2]
    broken.unlink()
    assert names(tmp_path / "raw") == complete(AR) | complete(11727)


@pytest.mark.parametrize("stage", ["email", "info", "request", "status"])
@pytest.mark.parametrize("error", [ERROR, {"error": "busy"}])
def test_a_temporary_error_in_json_is_retried(jsoc, download, tmp_path, stage, error):
    jsoc.pending_polls = 1
    jsoc.errors[stage] = [error, error]
    assert download().files == 9
    assert names(tmp_path / "raw") == all_files()


@pytest.mark.parametrize("error", [[], "busy", {"keywords": "none"}])
def test_a_temporary_answer_in_another_form_is_retried(jsoc, download, tmp_path, error):
    jsoc.pending_polls = 1
    for stage in ("info", "request", "status"):
        jsoc.errors[stage] = [error, error]
    assert download().files == 9
    assert names(tmp_path / "raw") == all_files()


@pytest.mark.parametrize("stage", ["email", "info"])
def test_a_permanent_error_in_json_is_reported(jsoc, command, stage):
    jsoc.errors = {stage: lambda query: ERROR}
    jsoc.asked.clear()
    one = Jsoc(jsoc.url, QUICK)
    with pytest.raises(SolaredError, match=r"refuses a request: The database is restarting \[status=1\]. Check"):
        one.check_email("you@example.org") if stage == "email" else one.records("continuum", np.array(HELD))
    assert jsoc.asked[stage] == QUICK.attempts


def test_an_error_of_the_server_for_a_region_does_not_stop_the_others(jsoc, download, tmp_path, two_regions):
    jsoc.errors["info"] = [ERROR] * QUICK.attempts
    with pytest.raises(SolaredError, match=rf"(?s)1 of 2 .*AR{AR}: .*refuses a request: The database is restarting"):
        download(catalog=two_regions)
    assert names(tmp_path / "raw") == complete(11727)


def test_sizes_that_the_server_does_not_state_are_estimated(jsoc, download):
    jsoc.errors["info"] = lambda query: ERROR if query.get("key") == "*size*" else None
    lines = []
    download(dry_run=True, full_disk=True, say=lines.append)
    assert "about 135MB, estimated from 15.0MB a full image" in lines[-1]


def test_one_missing_file_is_reported_and_left_out(jsoc, command, tmp_path):
    jsoc.gone = 2  # in the first export, and in that ordered anew
    code, out, _ = command()
    assert code == 0
    assert "JSOC did not deliver 1 frames" in out
    assert names(tmp_path / "raw") == all_files(set(HELD) - {HELD[0]})


def test_one_file_that_the_server_cannot_send_is_reported_and_left_out(jsoc, download, tmp_path):
    jsoc.refusals["file"] = [500] * QUICK.attempts
    name = file_name("hmi.v_45s", HELD[0])
    with pytest.raises(SolaredError, match=rf"1 files .* or did not arrive. .*{name}: the server answers 500"):
        download()
    assert names(tmp_path / "raw") == all_files(set(HELD) - {HELD[0]})


def test_damaged_files_in_a_row_do_not_stop_the_files_after_them(jsoc, download, tmp_path):
    damaged = HELD[:3]
    jsoc.damage = {slot: (lambda body: b"", 10**6) for slot in damaged}
    with pytest.raises(SolaredError, match="3 files arrived damaged 3 times each"):
        download()
    assert names(tmp_path / "raw") == all_files(set(HELD) - set(damaged))
