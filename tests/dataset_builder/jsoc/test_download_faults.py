"""Faults of the server, the connection and this machine give one sentence and no bad file."""

import logging
import re
import resource
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builder.noaa.selection import selection_features
from solared_hf import SolaredError
from tests.dataset_builder.jsoc.case import (
    AR,
    EMAIL,
    HELD,
    MIDDLE,
    REGION,
    all_files,
    file_of,
    names,
    ordered,
    write_catalog,
)
from tests.dataset_builder.jsoc.images import file_name, time_of


def test_failed_export_says_why_and_how_to_go_on(jsoc, download, tmp_path):
    jsoc.export_error = "im_patch: Output series can not be found"
    with pytest.raises(SolaredError) as caught:
        download()
    message = str(caught.value)
    assert message.startswith(f"AR{AR}: {jsoc.url} could not export 7 records of hmi.V_45s: im_patch: Output series")
    assert "dd --full-disk to download whole" in message
    assert message.endswith("2 more of its orders failed.")
    assert names(tmp_path / "raw") == {f"AR{AR}/region.json"}
    with pytest.raises(SolaredError) as caught:
        download(full_disk=True)
    assert "--full-disk" not in str(caught.value)
    jsoc.export_error = None
    jsoc.orders.clear()
    assert download().files == 9
    assert names(tmp_path / "raw") == all_files()


def cut_in_half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def without_last_block(body: bytes) -> bytes:
    return body[:-2880]


def flip_a_bit(body: bytes) -> bytes:
    # In the middle of the compressed pixels, which fill most of the file.
    place = len(body) * 2 // 3
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


def empty(body: bytes) -> bytes:
    return b""


def another_time(body: bytes) -> bytes:
    return body.replace(time_of(HELD[2]).encode(), time_of(HELD[2] + 1).encode())


@pytest.mark.parametrize("spoil", [cut_in_half, without_last_block, flip_a_bit, empty, another_time])
def test_damaged_file_of_the_right_length(jsoc, download, tmp_path, spoil):
    jsoc.damage = {HELD[2]: (spoil, 2)}
    assert download().files == 9
    assert names(tmp_path / "raw") == all_files()
    assert [name for name, _ in jsoc.served].count(file_name("hmi.v_45s", HELD[2])) == 3


def test_file_that_always_arrives_damaged(jsoc, download, tmp_path):
    jsoc.damage = {HELD[2]: (cut_in_half, 10**6)}
    name = file_name("hmi.v_45s", HELD[2])
    with pytest.raises(SolaredError, match=rf"1 files arrived damaged 3 times .*{name}: it (cannot|does not hold)"):
        download()
    assert names(tmp_path / "raw") == all_files(set(HELD) - {HELD[2]})
    jsoc.damage.clear()
    jsoc.orders.clear()
    jsoc.served.clear()
    assert download().files == 1
    assert ordered(jsoc) == [("hmi.v_45s", [HELD[2]])]
    assert jsoc.served == [(name, None)]


def without_time(body: bytes) -> bytes:
    return body.replace(b"T_REC   =", b"T_WRECK =")


def missing_time(body: bytes) -> bytes:
    return re.sub(
        rb"(T_REC   = ')[^']*", lambda match: match[1] + b"MISSING".ljust(len(match[0]) - len(match[1])), body
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_time, "it is a FITS image without T_REC"),
        (missing_time, "T_REC is .MISSING., which is not a time"),
        (flip_a_bit, "the checksum does not match the data"),
    ],
)
def test_an_order_of_damaged_files_is_stopped_soon(jsoc, download, tmp_path, spoil, reason):
    # The second file is whole; then one after the other is not, from either end.
    jsoc.slots = set(range(MIDDLE - 8, MIDDLE + 8))
    jsoc.damage = {slot: (spoil, 10**6) for slot in jsoc.slots if slot != MIDDLE - 7}
    last = file_name("hmi.v_45s", MIDDLE + 5)
    with pytest.raises(SolaredError, match=rf"3 files in a row arrived damaged 3 times each, .*{last}: {reason}"):
        download()
    # Then one magnetogram and one continuum image, of the middle.
    assert len(jsoc.served) == 3 + 1 + 3 * 3 + 3 * 3 + 3 + 3
    assert names(tmp_path / "raw") == {f"AR{AR}/region.json", file_of("dopplergram", MIDDLE - 7)}
    jsoc.damage.clear()
    assert download().files == 17
    assert names(tmp_path / "raw") == all_files(jsoc.slots)


@pytest.mark.parametrize("stage", ["email", "info", "request", "status"])
def test_http_error_is_reported_without_the_request(jsoc, download, stage):
    """A request contains the e-mail, and drms repeats it in error messages."""
    jsoc.refusals[stage] = 6 * [400]
    jsoc.pending_polls = 1
    with pytest.raises(SolaredError) as caught:
        download()
    message = str(caught.value)
    assert message.startswith(f"{jsoc.url} answers 400 Bad Request. Check")
    for told in (EMAIL, EMAIL.split("@")[0], "op=", "cgi-bin", "does not answer"):
        assert told not in message


@pytest.mark.parametrize("files_at", ["http://localhost/SUM1", "file:///SUM1", "https://127.0.0.1/SUM1"])
def test_files_that_an_export_names_elsewhere(jsoc, command, tmp_path, files_at):
    jsoc.files_at = files_at
    code, _, message = command()
    assert code == 2
    assert "files of the export JSOC_20130415_001 on another server" in message
    assert jsoc.served == []
    assert not list((tmp_path / "raw").rglob("*.fits"))


def test_files_to_which_a_server_redirects(jsoc, command, tmp_path):
    jsoc.sends_to = jsoc.url.replace("127.0.0.1", "localhost")
    code, _, message = command()
    assert code == 2
    assert "127.0.0.1 redirects to localhost, but files" in message
    assert len(jsoc.served) == 1
    assert not list((tmp_path / "raw").rglob("*.fits"))


def test_drms_does_not_log_into_the_progress_bar(caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("drms").info("Waiting for 15 seconds...")
    assert caplog.records == []


@pytest.mark.parametrize("stage", ["email", "info", "request", "status", "file"])
def test_web_page_instead_of_an_answer(jsoc, download, tmp_path, stage):
    jsoc.web_page_at.add(stage)
    jsoc.pending_polls = 1
    with pytest.raises(SolaredError, match=r"answers with .*web page.*again later") as caught:
        download()
    assert "\n" not in str(caught.value)
    # What was known to work is given time to come back.
    assert jsoc.asked[stage] + len(jsoc.served) == {"email": 1, "file": 2 * 3}.get(stage, 3)
    assert not [name for name in names(tmp_path / "raw") if name.endswith(".fits")]
    jsoc.web_page_at.clear()
    assert download().files == 9
    assert names(tmp_path / "raw") == all_files()


def test_address_that_is_not_registered(jsoc, command, tmp_path):
    code, _, message = command(email="you+me@example.com")
    assert code == 2
    assert "you+me@example.com is not registered at JSOC" in message
    assert "http://jsoc.stanford.edu/ajax/register_email.html" in message
    assert jsoc.orders == {}
    assert names(tmp_path / "raw") == set()
    jsoc.registered.add("you+me@example.com")
    assert command(email="you+me@example.com")[0] == 0


def test_server_that_cannot_be_reached(command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code, _, message = command(server=nobody)
    assert code == 2
    assert message.startswith(f"solared: {nobody} does not answer (")
    assert "Check the connection" in message


def test_server_that_is_not_jsoc(jsoc, command):
    code, _, message = command(server=f"{jsoc.url}/elsewhere")
    assert code == 2
    assert "/elsewhere answers 404 Not Found. Check" in message


@pytest.mark.parametrize("server", ["jsoc.stanford.edu", "ftp://127.0.0.1", "http://", ""])
def test_invalid_server_address(command, server):
    code, _, message = command(server=server)
    assert code == 2
    assert "is not the address of a server. Use one such as http://jsoc.stanford.edu" in message


def test_server_without_cutouts(jsoc, command, tmp_path):
    jsoc.makes_cutouts = False
    code, _, message = command()
    assert code == 2
    assert "an image 2064 arcsec wide instead of a cutout" in message
    assert "dd --full-disk to download whole" in message
    assert not list((tmp_path / "raw").rglob("*.fits"))
    assert command("--full-disk")[0] == 0
    assert names(tmp_path / "raw") == all_files()


def test_no_address_given(command, tmp_path):
    code, _, message = command(email=None)
    assert code == 2
    assert "Name yours with --email" in message
    assert not (tmp_path / "raw").exists()


def test_unknown_cadence(command):
    code, _, message = command("--cadence", "45s")
    assert code == 2
    assert "Choose one of 1h, 12min" in message


def test_files_that_are_not_a_usable_catalog(command, tmp_path):
    none = write_catalog(tmp_path / "none.parquet", [{**REGION, "selected": False, "reason": "too small"}])
    behind = write_catalog(tmp_path / "behind.parquet", [{**REGION, "carrington_longitude": 150.0}])
    nowhere = write_catalog(tmp_path / "nowhere.parquet", [{**REGION, "carrington_longitude": None}])
    (tmp_path / "text.parquet").write_text("ar_number\n11726\n")
    pq.write_table(pa.table({"ar_number": [AR]}), tmp_path / "columns.parquet")
    text = selection_features().arrow_schema.set(0, pa.field("ar_number", pa.string()))
    pq.write_table(pa.Table.from_pylist([{**REGION, "ar_number": "eleven"}], schema=text), tmp_path / "types.parquet")
    for catalog, arguments, expected in (
        (tmp_path / "missing.parquet", [], "does not exist"),
        (tmp_path, [], "does not exist"),
        (tmp_path / "text.parquet", [], "is not a catalog of regions"),
        (tmp_path / "columns.parquet", [], "is not a catalog of regions"),
        (tmp_path / "types.parquet", [], "is not a catalog of regions"),
        (none, [], "No region is selected"),
        (none, ["--ar", AR], "is not selected in"),
        (none, ["--ar", 11158], "AR11158 is not in"),
        (behind, [], "is behind the Sun"),
        (nowhere, [], "has no carrington_longitude"),
    ):
        code, _, message = command(*arguments, catalog=catalog)
        assert code == 2
        assert expected in message
        assert not list((tmp_path / "raw").glob("AR*"))


def test_full_disk_of_this_machine(download, tmp_path):
    """The limit on file sizes stands in for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(SolaredError, match=r"Could not write .*part .*Make room"):
            download()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "raw").rglob("*.fits"))
    assert download().files == 9
    assert names(tmp_path / "raw") == all_files()


def test_output_that_cannot_be_a_folder(command, tmp_path):
    (tmp_path / "raw").write_text("mine")
    code, _, message = command()
    assert code == 2
    assert "Could not write" in message
    assert (tmp_path / "raw").read_text() == "mine"
