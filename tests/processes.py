"""Run processes in tests with a time limit, and show the stacks of a process that hangs."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

# Seconds; much longer than any process takes, because the machine may be very busy.
PATIENCE = 900
# Seconds for Python to print the stacks of its threads.
_SECONDS_FOR_STACKS = 30
_MOST_CHARACTERS = 8000


def run(command: Sequence, *, patience: float = PATIENCE, **options) -> subprocess.CompletedProcess:
    """Run a command to its end and return its exit code, output and errors as text.

    Args:
        command: Program and arguments.
        patience: Seconds to wait.
        options: Other arguments of `subprocess.Popen`.

    Raises:
        AssertionError: If the command does not end; the message has its output and the stacks of all its Python
            processes.
    """
    options["env"] = {**options.get("env", os.environ), "PYTHONFAULTHANDLER": "1"}
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = subprocess.Popen([str(part) for part in command], text=True, **options)
    try:
        output, errors = finish(process, patience)
    finally:
        kill(process)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def finish(process: subprocess.Popen, patience: float = PATIENCE) -> tuple[str | None, str | None]:
    """Return the output and errors of a process as `run` does; kill a process that does not end."""
    try:
        return process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        # The oldest first, because a process whose child has ended goes on, and would not show where it stood.
        for member in reversed(_family(process)):
            with suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGCONT)
                member.send_signal(signal.SIGABRT)  # makes Python's faulthandler print the stacks
        try:
            printed = process.communicate(timeout=_SECONDS_FOR_STACKS)
        except subprocess.TimeoutExpired as error:
            printed = error.stdout, error.stderr
        kill(process)
        text_of_both = "\n".join(
            (text.decode() if isinstance(text, bytes) else text)[-_MOST_CHARACTERS:] for text in printed if text
        )
        raise AssertionError(f"Not ended after {patience} s: {shlex.join(process.args)}\n{text_of_both}") from None


def wait_until(condition: Callable[[], object], *, patience: float = PATIENCE) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: If it does not hold after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"Not so after {patience} s"
        time.sleep(0.005)


def kill(process: subprocess.Popen) -> None:
    """Kill a process, if it still runs, and all its descendants."""
    for member in _family(process):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _family(process: subprocess.Popen) -> list[psutil.Process]:
    """Return a running process and all its descendants, the youngest first."""
    if process.poll() is not None:
        return []
    try:
        parent = psutil.Process(process.pid)
        return [*parent.children(recursive=True)[::-1], parent]
    except psutil.NoSuchProcess:
        return []
