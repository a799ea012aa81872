"""Every wait for a server ends, even if it is silent, too slow, sends too much, or redirects in circles."""

import io

import pytest

from dataset_builder.jsoc import connection
from dataset_builder.jsoc.connection import LEAST_BYTES_A_SECOND, open_url
from dataset_builder.jsoc.transfer import Patience
from solared_hf import SolaredError
from tests.dataset_builder.jsoc.case import AR, names

IMPATIENT = Patience(attempts=1, pause_s=0, timeout_s=1, poll_s=0.01, wait_s=10)


@pytest.mark.parametrize(
    # Within the head of the answer, and within what follows.
    ("stage", "at_once"),
    [("email", 0), ("info", 0), ("info", 200), ("file", 0), ("file", 10_000)],
)
def test_an_answer_that_is_too_slow_is_cut_off(jsoc, download, tmp_path, stage, at_once):
    jsoc.drips_at[stage] = at_once
    # A byte every tenth of a second keeps within the timeout, unless this machine is very busy.
    with pytest.raises(SolaredError, match=r"(does not answer|Could not download).*(only [\d,]+ bytes|timed out)"):
        download(patience=IMPATIENT)
    assert not [name for name in names(tmp_path / "raw") if name.endswith(".fits")]


@pytest.mark.parametrize("stage", ["email", "info", "request", "file"])
def test_a_silent_server_is_an_error(jsoc, download, stage):
    jsoc.silent_at.add(stage)
    with pytest.raises(SolaredError, match=r"(does not answer|Could not download).*timed out"):
        download(patience=IMPATIENT)


@pytest.mark.parametrize("stage", ["email", "info", "status", "file"])
def test_redirects_without_end(jsoc, download, stage):
    jsoc.pending_polls = 1
    jsoc.circle_at.add(stage)
    with pytest.raises(SolaredError, match="the server redirects in a circle"):
        download()


def test_an_answer_without_end(jsoc, command, monkeypatch):
    monkeypatch.setattr(connection, "MOST_BYTES", 50)
    code, _, message = command()
    assert code == 2
    assert "the answer is longer than" in message


class Line(io.RawIOBase):
    """Stream that gives the next number of `pieces` bytes at each read, one second apart on a simulated clock."""

    def __init__(self, pieces):
        self.pieces, self.now = iter(pieces), 0.0

    def readinto(self, buffer):
        self.now += 1
        count = next(self.pieces)
        buffer[:count] = bytes(count)
        return count


def seconds_read(monkeypatch, pieces) -> float:
    """Return how many seconds a line is read with a timeout of 10 s."""
    line = Line(pieces)
    monkeypatch.setattr(connection.time, "monotonic", lambda: line.now)
    received, buffer = connection._Received(line, 10), bytearray(100_000)
    try:
        while received.readinto(buffer):
            pass
    except TimeoutError:
        return line.now
    raise AssertionError("not given up")


def test_a_slow_answer_is_read_and_a_too_slow_one_is_cut_off(monkeypatch):
    # A pause of nearly the timeout, then as fast as needs be; two pauses of that length are forgiven, a third is not.
    steady = [LEAST_BYTES_A_SECOND] * 1000
    assert seconds_read(monkeypatch, [1] * 18 + steady + [1] * 30) > 1018
    assert seconds_read(monkeypatch, [1] * 30) == 21


def test_a_slow_download_is_resumed_by_the_next_run(jsoc, download, tmp_path):
    """The bytes that arrived before the timeout are not requested again."""
    jsoc.drips_at["file"] = 10_000
    with pytest.raises(SolaredError, match="Could not download"):
        download(patience=IMPATIENT)
    parts = [path for path in (tmp_path / f"raw/AR{AR}/.jsoc").glob("*.part") if path.stat().st_size]
    assert parts
    jsoc.drips_at.clear()
    jsoc.served.clear()
    assert download().files == 9
    assert jsoc.served[0][1].startswith("bytes=")


def test_open_url_rejects_a_redirect_to_another_host(jsoc):
    jsoc.sends_to = jsoc.url.replace("127.0.0.1", "localhost")
    with pytest.raises(SolaredError, match="redirects to localhost"):
        open_url(f"{jsoc.url}/SUM1/JSOC_20130415_001/a.fits", timeout_s=10)
