"""Fixtures of all tests: a Hub on this machine, and small data."""

# The Hub starts first, because its clients read its address when they are imported.
# ruff: noqa: E402

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from tests.hub.loopback import TOKEN, LoopbackHub

assert "huggingface_hub" not in sys.modules
HUB = LoopbackHub().start()
HF_HOME = tempfile.mkdtemp(prefix="solared_hf_home_")
for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
    del os.environ[_name]
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": HF_HOME,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    # onnxruntime sends usage data as soon as it is imported.
    "ORT_DISABLE_TELEMETRY": "1",
}
# The only guard of processes that tests start: their requests to other machines go to the Hub, which refuses them.
for _name in ("http_proxy", "https_proxy"):
    os.environ |= dict.fromkeys((_name, _name.upper()), HUB.url)
os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")

import numpy as np
import psutil
import pytest

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource
from dataset_builder.simulation import write_simulated
from solared_hf import Timeline
from solared_hf.cli import main
from solared_hf.schema import CHANNELS, NUM_TILES
from tests.processes import PATIENCE


def pytest_unconfigure():
    HUB.stop()
    shutil.rmtree(HF_HOME, ignore_errors=True)


# Some servers listen at the network address of this machine, such as the scheduler of a Slurm cluster.
OWN_ADDRESSES = {
    ip_address(address.address.partition("%")[0])
    for addresses in psutil.net_if_addrs().values()
    for address in addresses
    if address.family in (socket.AF_INET, socket.AF_INET6)
}


def is_here(host: str | bytes | None) -> bool:
    """Return whether an address or host name belongs to this machine."""
    host = host.decode() if isinstance(host, bytes) else host
    try:
        address = ip_address((host or "0.0.0.0").partition("%")[0])
    except ValueError:
        return host in ("localhost", socket.gethostname(), socket.getfqdn())
    return address.is_loopback or address.is_unspecified or address in OWN_ADDRESSES


@pytest.fixture(autouse=True, scope="session")
def _only_this_machine():
    """Refuse to look up or connect to other machines."""

    def check(host):
        if not is_here(host):
            HUB.elsewhere.append(host)
            # Not an OSError, because clients would try again or use a cache.
            raise AssertionError(f"Tests must not reach other machines: {host}")

    def guarded(connect):
        def checked(self, address):
            # A datagram socket sends nothing when it connects; Dask finds the address of this machine that way.
            if self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM:
                check(address[0])
            return connect(self, address)

        return checked

    look_up = socket.getaddrinfo

    def checked_look_up(host, *arguments, **options):
        check(host)
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
        patch.setattr(socket, "getaddrinfo", checked_look_up)
        yield


@pytest.fixture(autouse=True)
def _nothing_elsewhere():
    """Fail a test that tried to reach another machine, even if the test handled the error."""
    yield
    tried = list(HUB.elsewhere)
    HUB.elsewhere.clear()
    assert not tried, f"Tests must not reach other machines: {tried}"


@pytest.fixture
def hub():
    """Return the Hub of all tests, without faults."""
    HUB.reset()
    yield HUB
    HUB.reset()


@pytest.fixture
def token(monkeypatch) -> str:
    """Log in a user who can write to the namespace of `repo_id`."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


_numbers = itertools.count()


@pytest.fixture
def repo_id(request) -> str:
    """Return the name of a repository that does not exist yet."""
    return f"solared-team/{re.sub(r'[^a-z0-9]+', '-', request.node.name.lower())[:60].strip('-')}-{next(_numbers)}"


@pytest.fixture
def solared(capfd):
    """Return a function that runs a command and returns its exit code, output and errors."""

    def run(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


# Runs every line of snippets and prints their results. The forks share the slow imports, but have not imported the
# packages under test.
_FORKING_PROCESS = """
import faulthandler, json, os, sys, tempfile, traceback
import numpy, pandas, pyarrow, torch, torchvision

assert not {"transformers", "datasets", "solared_hf", "dataset_builder"} & sys.modules.keys()
patience = float(sys.argv[1])

def run(code, *arguments):
    for file, descriptor in ((open(os.devnull), 0), (output, 1), (errors, 2)):
        os.dup2(file.fileno(), descriptor)
    faulthandler.dump_traceback_later(patience, exit=True)
    sys.argv[1:] = arguments
    failed = False
    try:
        exec(code, {"__name__": "__main__"})
    except BaseException:
        failed = True
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(failed)  # because the normal exit of a process with torch takes two seconds

def wait():
    child, status = os.wait()
    output, errors = files.pop(child)
    output.seek(0)
    errors.seek(0)
    results[child] = os.waitstatus_to_exitcode(status), output.read(), errors.read()

for line in sys.stdin:
    files, results, children = {}, {}, []
    for snippet in json.loads(line):
        if len(files) == 2:
            wait()
        output, errors = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        children.append(os.fork())
        if children[-1] == 0:
            run(*snippet)
        files[children[-1]] = output, errors
    while files:
        wait()
    print(json.dumps([results[child] for child in children]), flush=True)
"""


@pytest.fixture(scope="session")
def in_processes():
    """Return a function that runs snippets of Python, each with arguments in a new process.

    The function returns the exit code, the output and the errors of each snippet. The processes share one import of
    torch, which takes seconds, and have not imported transformers or the packages of this repository.
    """
    server = subprocess.Popen(
        [sys.executable, "-c", _FORKING_PROCESS, str(PATIENCE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(*snippets: tuple[str, ...]) -> list[tuple[int, str, str]]:
        print(json.dumps(snippets), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())

    with server:
        yield run
        server.kill()


@pytest.fixture
def make_timeline():
    """Return a function that makes a timeline of noise without the `missing` steps."""

    def make(ar_number: int, steps: int, cadence=timedelta(hours=1), missing=(), seed: int = 0) -> Timeline:
        kept = np.setdiff1d(np.arange(steps), missing)
        times = np.datetime64("2013-04-15T14:59:37.500", "ms") + kept * np.timedelta64(cadence)
        scale = np.array([5e6, 3e7, 1e7, 4e6, 20, 800], np.float32)[:, None]
        noise = np.random.default_rng(seed).standard_normal((len(kept), len(CHANNELS), NUM_TILES), np.float32)
        return Timeline(ar_number, times, noise * scale)

    return make


@pytest.fixture(scope="session")
def published_dir() -> Path:
    """Return the folder of the published AR<number> folders, or skip the test if there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "solared"
    folder = Path(os.environ.get("SOLARED_PUBLISHED_DIR", beside))
    if not any(folder.glob("AR*")):
        pytest.skip("no published data on this machine; set SOLARED_PUBLISHED_DIR to their folder")
    return folder


@pytest.fixture(scope="session")
def simulated_published(tmp_path_factory) -> Path:
    """Return a folder of ten simulated regions in the published format."""
    folder = tmp_path_factory.mktemp("simulated_sun")
    write_simulated(folder)
    return folder


@pytest.fixture(scope="session")
def simulated_dataset(simulated_published, tmp_path_factory) -> Path:
    """Return a dataset folder built from the simulated regions."""
    folder = tmp_path_factory.mktemp("simulated_dataset")
    build_dataset(PublishedSource(simulated_published), folder)
    return folder
