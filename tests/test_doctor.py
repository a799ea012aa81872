"""`solared doctor` where all is well, and where one thing or another is broken."""

import os
import re
import sys
from importlib.metadata import version
from pathlib import Path
from threading import Event

import pytest
import torch
import torchvision

from solared_hf import doctor
from tests.hub.loopback import TOKEN
from tests.processes import PATIENCE, run


def lines_of(out: str) -> dict[str, tuple[str, str]]:
    """What the command prints of each thing that it looks at: its mark, and what it found."""
    lines = {}
    for line in out.splitlines():
        if line.startswith("  "):
            mark, rest = line.strip().split(maxsplit=1)
            name, found = rest.split("  ", maxsplit=1)
            lines[name] = mark, found.strip()
    return lines


def in_broken_environment(folder: Path, **environment: str) -> tuple[int, str]:
    """Exit code and output of the command in a process of its own, which runs in `folder`."""
    finished = run(
        [sys.executable, "-m", "solared_hf", "doctor"],
        cwd=folder,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in finished.stderr
    return finished.returncode, finished.stdout


def write_distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    """What pip leaves of a distribution beside its modules."""
    described = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    described.parent.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *requires]
    described.write_text("\n".join(lines) + "\n")


def test_what_is_installed_fits(solared, hub, token):
    code, out, _ = solared("doctor")
    assert code == 0
    assert "\nNothing is wrong.\n" in out
    lines = lines_of(out)
    assert "WRONG" not in {mark for mark, _ in lines.values()}
    assert lines["solared-hf"][1].startswith(version("solared-hf"))
    assert lines["transformers"] == ("ok", f"{version('transformers')} (>=5.17)")
    assert lines["builder"] == ("ok", "installed")
    assert not {"test", "release"} & lines.keys()
    assert torch.__version__ in lines["torch"][1]
    assert torchvision.__version__ in lines["torchvision"][1]
    assert lines["torchvision's operators"] == ("ok", "they run")
    assert lines["transformers.Trainer"][0] == lines["datasets"][0] == "ok"
    assert f"{torch.get_num_threads()} threads" in lines["CPU"][1]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        assert {lines[f"{kind}:{i}"][0] for i in range(torch.accelerator.device_count())} == {"ok"}
    else:
        assert lines["GPU"] == ("note", "none")
    assert lines["endpoint"] == ("ok", hub.url)
    assert lines["login"] == ("ok", "astronomer, by HF_TOKEN")
    assert TOKEN not in out
    # Other tests may have damaged the cache that all of them share, which has a line of its own.
    assert re.search(rf"Hub cache +{re.escape(os.environ['HF_HOME'])}", out)


def test_nobody_has_to_log_in(solared, hub):
    code, out, _ = solared("doctor")
    assert code == 0
    assert lines_of(out)["connection"] == ("ok", "the Hub answers")
    assert lines_of(out)["login"] == ("note", "none")
    assert "- You are not logged in, which pushes and private repositories need. Run `hf auth login`.\n" in out


def test_a_token_that_the_hub_does_not_know_is_wrong(solared, hub, monkeypatch):
    for token in ("hf_thisoneexpiredlongago", "hf_typedwithaneuro€"):
        monkeypatch.setenv("HF_TOKEN", token)
        code, out, _ = solared("doctor")
        assert code == 1
        assert lines_of(out)["login"] == ("WRONG", "a token that the Hub does not know")
        assert "Run `hf auth login` with a new token, and unset HF_TOKEN, which has priority." in out
        assert token not in out


def test_a_hub_that_is_not_reached_is_worth_knowing(solared, hub, token, monkeypatch):
    refused = "Check the connection, the proxy and HF_ENDPOINT, or set HF_HUB_OFFLINE=1"
    hub.down = True
    code, out, _ = solared("doctor")
    assert code == 0
    assert lines_of(out)["connection"] == ("note", "failed")
    assert f"- The Hub at {hub.url} does not answer correctly" in out
    assert refused in out
    hub.down = False

    over = Event()
    hub.before = lambda method, path: over.wait(PATIENCE)
    monkeypatch.setattr(doctor, "_SECONDS_FOR_THE_HUB", 0.2)
    code, out, _ = solared("doctor")
    over.set()
    assert code == 0
    assert lines_of(out)["connection"] == ("note", "failed")


def test_a_disk_that_is_nearly_full_is_worth_knowing(solared, hub, token, monkeypatch):
    monkeypatch.setattr(doctor, "_LITTLE_ROOM", 1e18)
    code, out, _ = solared("doctor")
    assert code == 0
    lines = lines_of(out)
    assert lines["Hub cache"][0] == lines["datasets cache"][0] == lines["temporary files"][0] == "note"
    assert "left. Make room, or set TMPDIR to a folder with more space.\n" in out


def test_a_torchvision_for_another_torch_is_wrong(solared, hub, tmp_path, monkeypatch):
    write_distribution(tmp_path, "torchvision", "0.26.0", "Requires-Dist: torch==2.11.0")
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = solared("doctor")
    assert code == 1
    assert lines_of(out)["torchvision"] == ("WRONG", "broken")
    assert "- torchvision cannot be used (0.26.0 is made for torch==2.11.0). Run `pip uninstall --yes torch " in out


def test_a_torchvision_without_its_compiled_operators_is_wrong(tmp_path):
    there = Path(torchvision.__file__).parent
    (tmp_path / "torchvision").mkdir()
    for path in there.iterdir():
        if path.suffix not in (".so", ".pyd"):
            (tmp_path / "torchvision" / path.name).symlink_to(path)
    code, out = in_broken_environment(tmp_path, PYTHONPATH=str(tmp_path), HF_HOME=str(tmp_path / "home"))
    assert code == 1
    lines = lines_of(out)
    assert lines["torch"][0] == "ok"
    assert "WRONG" in (lines["torchvision"][0], lines.get("torchvision's operators", ("", ""))[0])
    assert "nms" in out
    assert "Run `pip uninstall --yes torch torchvision`, then `pip install torch torchvision`" in out
    assert lines["Hub cache"][0] == "ok"  # it looked at everything else


def test_where_much_is_broken_each_fault_has_a_sentence_with_its_cure(tmp_path):
    """torch does not load, packages are too old or missing, the token's Hub is out of reach, and so is a folder."""
    site, home, file = tmp_path / "site", tmp_path / "home", tmp_path / "file"
    (site / "torch").mkdir(parents=True)
    (site / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
    write_distribution(site, "torch", "2.0.0")
    write_distribution(
        site, "solared-hf", "0.1.0", "Provides-Extra: far", "Provides-Extra: test", "Requires-Dist: torch>=2.11",
        "Requires-Dist: solar-nonsense>=3", 'Requires-Dist: sun-nonsense>=4 ; extra == "far"',
        "Provides-Extra: near", 'Requires-Dist: pytest>=999 ; extra == "near"',
        'Requires-Dist: pytest>=999 ; extra == "test"', 'Requires-Dist: nonsense ; python_version < "3"',
    )  # fmt: skip
    repository = home / "hub" / "models--me--model"
    for name, content in {"refs/main": b"abc", "blobs/one": bytes(3_000_000), "snapshots/abc/.keep": b""}.items():
        (repository / name).parent.mkdir(parents=True)
        (repository / name).write_bytes(content)
    (repository / "snapshots" / "abc" / "weights").symlink_to(repository / "blobs" / "one")
    (home / "hub" / "models--me--damaged" / "blobs").mkdir(parents=True)
    (home / "datasets" / "deep").mkdir(parents=True)
    (home / "datasets" / "deep" / "rows.arrow").write_bytes(bytes(5_000_000))
    file.touch()

    code, out = in_broken_environment(
        tmp_path, PYTHONPATH=str(site), HF_HOME=str(home), HF_HUB_OFFLINE="1", HF_TOKEN=TOKEN
    )
    assert code == 1
    lines = lines_of(out)
    assert lines["solar-nonsense"] == ("WRONG", "missing (>=3)")
    assert "- solar-nonsense is missing. Run `pip install --upgrade 'solar-nonsense>=3'`.\n" in out
    assert "- torch is 2.0.0, but >=2.11 is needed. Run `pip install --upgrade torch torchvision`.\n" in out
    assert lines["far"][0] == "ok"
    assert "(missing: sun-nonsense>=4); install it with pip install --upgrade 'solared-hf[far]'" in lines["far"][1]
    assert lines["near"] == ("note", "too old")
    too_old = f"- pytest {pytest.__version__} is too old for the extra near (pytest>=999). Run `pip install "
    assert f"{too_old}--upgrade 'solared-hf[near]'`.\n" in out
    assert "test" not in lines
    assert "nonsense" not in lines
    assert "- torch cannot be used (libcudart.so.13: cannot open shared object file). Run `pip uninstall" in out
    assert "transformers.Trainer" not in lines  # it would fail for the same reason
    assert lines["devices"] == ("ok", "unknown, because torch cannot be imported")
    assert lines["login"] == ("ok", "a token, unchecked")
    assert lines["connection"] == ("note", "not tried")
    assert TOKEN not in out
    assert f"Hub cache        {home}/hub: 3 MB of 1 repositories, " in out
    assert f"- The Hub cache is damaged (Snapshots dir doesn't exist in cached repo: {home}/hub/models--me--dam" in out
    assert lines["datasets cache"][1].startswith(f"{home}/datasets: 5 MB, ")

    code, out = in_broken_environment(tmp_path, PYTHONPATH=str(site), HF_HOME=str(file / "home"))
    lines = lines_of(out)
    assert lines["login"] == ("WRONG", "unreadable")
    assert lines["Hub cache"][0] == lines["datasets cache"][0] == "WRONG"
    assert f"- {file}/home/hub is not writable (Not a directory). Set HF_HOME to a writable folder.\n" in out
