"""What never ends is named: a test with its stack, and a process that a test started with what it said."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.processes import finish, run

REPOSITORY = Path(__file__).parents[1]

# The second test cannot be interrupted by a signal, as code in C may not.
HANGING = """
import signal
import time

def wait_for_ever():
    time.sleep(3600)

def test_waits():
    wait_for_ever()

def test_does_not_listen():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    wait_for_ever()

def test_goes_on():
    pass
"""


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run_hanging_tests(folder: Path, *options: str):
    """Runs `HANGING` with the settings of this project, but for the seconds."""
    (folder / "test_hanging.py").write_text(HANGING)
    command = [sys.executable, "-m", "pytest", "-c", REPOSITORY / "pyproject.toml", f"--rootdir={folder}"]
    return run([*command, "-p", "no:cacheprovider", *options, folder / "test_hanging.py"], cwd=folder)


def test_a_test_that_hangs_fails_with_its_stack_and_the_others_go_on(tmp_path):
    finished = run_hanging_tests(tmp_path, "-k", "waits or goes_on", "-o", "timeout=3")
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "FAILED test_hanging.py::test_waits - Failed: Timeout" in finished.stdout
    assert "time.sleep(3600)" in finished.stdout
    assert "1 failed, 1 passed" in finished.stdout


def test_a_test_that_cannot_be_interrupted_ends_its_process_and_another_goes_on(tmp_path):
    options = ("-k", "listen or goes_on", "-n", "1", "-o", "timeout=3", "-o", "faulthandler_timeout=6")
    finished = run_hanging_tests(tmp_path, *options)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "crashed while running 'test_hanging.py::test_does_not_listen'" in finished.stdout
    assert "in wait_for_ever" in finished.stderr
    assert "1 failed, 1 passed" in finished.stdout


def test_a_process_that_hangs_is_named_with_its_stack_and_leaves_nothing_behind(tmp_path):
    child = f"import time; open({str(tmp_path / 'child')!r}, 'w').close(); time.sleep(3600)"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    command = [sys.executable, "-X", "faulthandler", "-c", parent]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "child").exists():
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(AssertionError, match=r"Not ended after 0\.1 s: .*python") as told:
        finish(process, patience=0.1)
    said = str(told.value).splitlines()
    assert any("in wait" in line for line in said)
    (child,) = (int(line) for line in said if line.isdigit())
    while runs(child):
        time.sleep(0.01)
