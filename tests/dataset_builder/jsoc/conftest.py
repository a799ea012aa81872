"""A JSOC on this machine, and downloads from it."""

import socket
from pathlib import Path

import pytest

from dataset_builder.jsoc import download_regions
from solared_hf.cli import main
from tests.dataset_builder.jsoc.case import EMAIL, HELD, QUICK, REGION, write_catalog
from tests.dataset_builder.jsoc.loopback import LoopbackJsoc


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch):
    """Every name that is looked up is this machine; nothing asks Stanford."""
    look_up = socket.getaddrinfo
    hosts = []

    def recorded(host, *args, **options):
        hosts.append(host)
        assert host == "127.0.0.1"
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", recorded)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")
    yield
    assert set(hosts) <= {"127.0.0.1"}


@pytest.fixture
def jsoc():
    """The server; no test may ever have two connections to it."""
    with LoopbackJsoc(set(HELD)) as server:
        yield server
    assert server.most_connections <= 1


@pytest.fixture
def catalog(tmp_path) -> Path:
    return write_catalog(tmp_path / "catalog.parquet", [REGION])


@pytest.fixture
def download(jsoc, catalog, tmp_path):
    """Downloads into `raw`, by the function that the command calls, with little patience."""

    def run(catalog=catalog, **options):
        arguments = {"email": EMAIL, "server": jsoc.url, "patience": QUICK, "say": lambda line: None, **options}
        return download_regions(catalog, tmp_path / "raw", **arguments)

    return run


@pytest.fixture
def command(jsoc, catalog, tmp_path, capsys):
    """Runs the real command into `raw`; its exit code and what it prints."""

    def run(*arguments, catalog=catalog, email=EMAIL, server=jsoc.url):
        given = ["download", "--catalog", str(catalog), "--output", str(tmp_path / "raw"), "--server", server]
        code = 0
        try:
            main([*given, *(["--email", email] if email else []), *map(str, arguments)])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "INFO" not in captured.err
        return code, captured.out, captured.err.splitlines()[-1] if captured.err else ""

    return run
