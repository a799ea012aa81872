"""Waiting, resuming and running again: finished files are kept, and only the rest is requested."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from astropy.io import fits

from dataset_builder.jsoc.download import LOCK_NAME
from dataset_builder.jsoc.transfer import Patience
from solared_hf import SolaredError
from tests.dataset_builder.jsoc.case import (
    AR,
    EMAIL,
    HELD,
    SERIES,
    all_files,
    file_of,
    names,
    ordered,
)
from tests.dataset_builder.jsoc.images import file_name, fits_file
from tests.processes import PATIENCE


def test_second_run_orders_nothing(jsoc, command):
    assert command()[0] == 0
    orders, served = len(jsoc.orders), len(jsoc.served)
    code, out, _ = command()
    assert code == 0
    assert "9 files, 9 of them here, nothing to download; 0 records are bad" in out
    assert "in all 9 files, nothing to download; " in out
    assert "about" not in out
    assert (len(jsoc.orders), len(jsoc.served)) == (orders, served)


def test_only_what_is_missing_is_ordered(jsoc, download, tmp_path):
    download()
    missing = [HELD[0], HELD[4], HELD[6]]
    for slot in missing:
        (tmp_path / "raw" / file_of("dopplergram", slot)).unlink()
    jsoc.orders.clear()
    assert download().files == 3
    assert ordered(jsoc) == [("hmi.v_45s", missing)]
    assert names(tmp_path / "raw") == all_files()


def test_waits_while_an_export_is_pending(jsoc, download, tmp_path):
    jsoc.pending_polls = 3
    assert download().files == 9
    assert [order.polls for order in jsoc.orders.values()] == [3, 3, 3]


def test_failures_while_waiting_do_not_add_up(jsoc, download):
    """Each of three questions fails twice and is answered at the third attempt, the last that it has."""
    jsoc.pending_polls = 3
    jsoc.refusals["status"] = 3 * [503, 503, 200]
    assert download().files == 9
    assert jsoc.refusals["status"] == []


def test_an_order_that_the_server_forgets_while_it_is_waited_for(jsoc, download):
    jsoc.pending_polls, jsoc.forgets_orders = None, True
    with pytest.raises(SolaredError, match=r"could not export 7 records .*there is no export JSOC_20130415_001"):
        download()
    assert jsoc.asked["status"] == 3 * 3  # for each of three orders


def test_an_export_that_is_never_ready_is_taken_up_again(jsoc, download, tmp_path):
    jsoc.pending_polls = None
    impatient = Patience(attempts=2, pause_s=0, poll_s=0.01, wait_s=0.05)
    with pytest.raises(SolaredError, match=r"has not finished the export JSOC_20130415_001 .*Run the same command"):
        download(patience=impatient)
    assert json.loads((tmp_path / f"raw/AR{AR}/.jsoc/order.json").read_text())["request"] == "JSOC_20130415_001"
    jsoc.pending_polls = 0
    jsoc.asked.clear()
    assert download().files == 9
    assert jsoc.asked["request"] == 2  # magnetogram and continuum; the Dopplergrams were ordered before
    assert len(jsoc.orders) == 3
    assert names(tmp_path / "raw") == all_files()


@pytest.mark.parametrize("loss", ["expired", "unknown", "unreadable", "full_disk"])
def test_a_lost_order_is_ordered_again(jsoc, download, tmp_path, loss):
    jsoc.pending_polls = None
    with pytest.raises(SolaredError, match="has not finished"):
        download(patience=Patience(attempts=2, pause_s=0, poll_s=0.01, wait_s=0.05))
    jsoc.pending_polls = 0
    first = jsoc.orders["JSOC_20130415_001"]
    if loss == "expired":
        first.expired = True
    elif loss == "unknown":
        jsoc.orders["JSOC_20010101_001"] = jsoc.orders.pop("JSOC_20130415_001")
        first.expired = True
    elif loss == "unreadable":
        (tmp_path / f"raw/AR{AR}/.jsoc/order.json").write_text("{")
        first.expired = True
    assert download(full_disk=loss == "full_disk").files == 9
    assert len(jsoc.orders) == 4
    assert names(tmp_path / "raw") == all_files()


def test_waits_while_other_exports_are_pending(jsoc, download):
    jsoc.too_many = 2
    assert download().files == 9
    assert jsoc.asked["request"] == 5


def test_other_exports_that_stay_pending(jsoc, download):
    jsoc.too_many = 10**6
    with pytest.raises(SolaredError, match=r"could not export 7 records of hmi.V_45s, because .* your other exp"):
        download(patience=Patience(poll_s=0.01, wait_s=0.03))


def test_frames_missing_from_an_export_are_reported_and_ordered_again(jsoc, command, tmp_path):
    lacking = {HELD[1], HELD[2]}
    jsoc.undelivered = set(lacking)
    code, out, _ = command()
    assert code == 0
    assert "JSOC did not deliver 2 frames. Run the command again" in out
    assert names(tmp_path / "raw") == all_files(set(HELD) - lacking)
    jsoc.undelivered.clear()
    jsoc.orders.clear()
    assert command()[0] == 0
    assert ordered(jsoc) == [("hmi.v_45s", sorted(lacking))]
    assert names(tmp_path / "raw") == all_files()


@pytest.mark.parametrize("ranges", [True, False])
def test_connection_cut_once_is_resumed(jsoc, download, tmp_path, ranges):
    jsoc.cuts, jsoc.ranges = 1, ranges
    assert download().files == 9
    first = file_name("hmi.v_45s", HELD[0])
    asked = [asked for name, asked in jsoc.served if name == first]
    (process,) = {tuple(sorted(order.process.items())) for order in jsoc.orders.values() if len(order.slots) > 1}
    whole = fits_file("hmi.v_45s", HELD[0], process)
    assert asked == [None, f"bytes={len(whole) // 2}-"]
    assert (tmp_path / "raw" / file_of("dopplergram", HELD[0])).read_bytes() == whole
    assert names(tmp_path / "raw") == all_files()


def test_connection_that_is_always_cut(jsoc, download, tmp_path):
    jsoc.cuts, jsoc.ranges = float("inf"), False
    with pytest.raises(SolaredError, match=r"Could not download .* in 3 attempts .*cut after .* Run the same command"):
        download()
    # Nothing bears a final name, and the rest is kept for the next run, which needs no new order.
    left = names(tmp_path / "raw")
    assert left == {f"AR{AR}/region.json", f"AR{AR}/.jsoc/order.json", *(name for name in left if ".part" in name)}
    assert len(jsoc.served) == 2 * 3  # two files: it is not the first alone
    jsoc.cuts, jsoc.ranges = 0, True
    jsoc.asked.clear()
    jsoc.served.clear()
    assert download().files == 9
    assert jsoc.asked["request"] == 2
    assert jsoc.served[0][1].startswith("bytes=")
    assert names(tmp_path / "raw") == all_files()


def test_part_of_a_file_of_another_order_is_not_used(jsoc, download, tmp_path):
    jsoc.cuts = float("inf")
    with pytest.raises(SolaredError, match="Could not download"):
        download()
    jsoc.cuts = 0
    jsoc.served.clear()
    assert download(full_disk=True).files == 9
    assert {asked for _, asked in jsoc.served} == {None}
    assert names(tmp_path / "raw") == all_files()


def test_files_deleted_while_they_are_downloaded(jsoc, download, tmp_path):
    def expire(slot):
        if slot == HELD[4] and len(jsoc.orders) == 1:
            jsoc.orders["JSOC_20130415_001"].expired = True

    jsoc.before_half = expire
    assert download().files == 9
    assert ordered(jsoc)[:2] == [("hmi.v_45s", list(HELD)), ("hmi.v_45s", list(HELD[5:]))]
    assert names(tmp_path / "raw") == all_files()


def test_files_that_are_never_there(jsoc, download, tmp_path):
    jsoc.gone = float("inf")
    with pytest.raises(SolaredError, match=r"fits was just exported but is missing. Run the same"):
        download()
    assert names(tmp_path / "raw") == {f"AR{AR}/region.json"}


def test_second_download_at_the_same_time_is_refused(jsoc, download, tmp_path):
    download()
    with (tmp_path / "raw" / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # stands in for another process
        jsoc.asked.clear()
        with pytest.raises(SolaredError, match="Another download is writing"):
            download()
        assert not jsoc.asked
        download(dry_run=True)
    assert download().files == 0


def test_killed_in_the_middle_of_a_file_then_resumed(jsoc, catalog, download, tmp_path):
    """The real command, SIGKILL when half of the fifth file is there; the rerun brings the other half and the rest."""
    reached, killed = threading.Event(), threading.Event()

    def halfway(slot):
        if slot == HELD[4] and not reached.is_set():
            reached.set()
            killed.wait(PATIENCE)

    jsoc.before_half = halfway
    options = ["--catalog", catalog, "--output", tmp_path / "raw", "--email", EMAIL, "--server", jsoc.url]
    # A proxy that does not exist makes every other host unreachable.
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    process = subprocess.Popen(
        [sys.executable, "-m", "solared_hf", "download", *options], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        assert reached.wait(PATIENCE)
        part = tmp_path / f"raw/AR{AR}/.jsoc" / (Path(file_of("dopplergram", HELD[4])).name + ".part")
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        killed.set()
    raw = tmp_path / "raw"
    finished = {name for name in names(raw) if name.endswith(".fits")}
    assert finished == {file_of("dopplergram", slot) for slot in HELD[:4]}
    for name in finished:
        assert fits.getheader(raw / name, 1)["QUALITY"] == 0
    assert names(raw) - finished == {
        f"AR{AR}/region.json",
        f"AR{AR}/.jsoc/order.json",
        part.relative_to(raw).as_posix(),
    }
    have = part.stat().st_size
    jsoc.asked.clear()
    jsoc.served.clear()
    assert download().files == 5
    assert jsoc.served[0] == (file_name("hmi.v_45s", HELD[4]), f"bytes={have}-")
    assert len(jsoc.served) == 5
    assert jsoc.asked["request"] == 2  # the order of the Dopplergrams was taken up again
    assert names(raw) == all_files()
    for order in jsoc.orders.values():
        for slot in order.slots:
            (observable,) = [name for name, series in SERIES.items() if series == order.series]
            expected = fits_file(order.series, slot, tuple(sorted(order.process.items())))
            assert (raw / file_of(observable, slot)).read_bytes() == expected
