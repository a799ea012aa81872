"""Processes that tests start: none is waited for without end, and one that does not end says where it stands."""

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

import psutil

# Seconds; many times what any of them takes, because the machine may be very busy.
PATIENCE = 900
# For Python to print where its threads stand.
_LAST_WORDS = 30
_TOLD = 8000  # characters


def run(command: Sequence, *, patience: float = PATIENCE, **options) -> subprocess.CompletedProcess:
    """Run a command to its end and return its exit code, output and errors as text.

    Args:
        command: program and arguments.
        patience: seconds to wait.
        options: further arguments of `subprocess.Popen`.

    Raises:
        AssertionError: If the command does not end; the message has what it printed and the stack of every Python
            process that it started.
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
    """Wait for a process and return its output and errors, as `run` does; a process that does not end is killed."""
    try:
        return process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        for member in _family(process):
            with suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGCONT)
                member.send_signal(signal.SIGABRT)  # whereupon Python's faulthandler prints its stacks
        try:
            said = process.communicate(timeout=_LAST_WORDS)
        except subprocess.TimeoutExpired as error:
            said = error.stdout, error.stderr
        kill(process)
        told = "\n".join((text.decode() if isinstance(text, bytes) else text)[-_TOLD:] for text in said if text)
        raise AssertionError(f"Not ended after {patience} s: {shlex.join(process.args)}\n{told}") from None


def kill(process: subprocess.Popen) -> None:
    """Kill a process, if it still runs, and all that it started."""
    for member in _family(process):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _family(process: subprocess.Popen) -> list[psutil.Process]:
    """A process that still runs and all its descendants, the youngest first."""
    if process.poll() is not None:
        return []
    try:
        parent = psutil.Process(process.pid)
        return [*parent.children(recursive=True)[::-1], parent]
    except psutil.NoSuchProcess:
        return []
