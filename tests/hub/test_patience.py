"""A Hub that takes connections and says nothing is not waited for without end."""

import threading

import pytest

from solared_hf.hub import patience as hub_patience


@pytest.fixture
def silent(hub, monkeypatch):
    """A Hub that answers nothing until the test is over."""
    monkeypatch.setattr(hub_patience, "SECONDS_OF_SILENCE", 0.5)
    over = threading.Event()
    hub.before = lambda method, path: over.wait()
    yield hub
    over.set()


@pytest.mark.parametrize("command", ["push", "import"])
def test_a_silent_hub_ends_a_command(silent, token, solared, simulated_dataset, tmp_path, command):
    arguments = {
        "push": (simulated_dataset, "--repo-id", "solared-team/silent"),
        "import": ("solared-team/silent", "--output", tmp_path / "out"),
    }[command]
    code, _, errors = solared(command, *arguments)
    assert silent.requests
    assert code == 2
    assert "timed out" in errors.splitlines()[-1]
