"""`solared app` apart from the page: errors at the start, and the folder of a Space."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version
from urllib.request import urlopen

import pytest
import yaml

from solared_hf.forecasters import committed_models
from tests.processes import finish, kill

OURS = "solared-quantile-trajectory"


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_errors_at_the_start_say_what_to_do(solared, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, errors = solared("app", "--port", port)
    assert (code, errors) == (
        2,
        f"solared: The port {port} cannot be used (Address already in use). Choose another port with --port, or stop "
        "the program that uses it.\n",
    )
    code, _, errors = solared("app", "--port", 0, "--model", "nonsense")
    assert (code, errors.startswith("solared: There is no model nonsense. Name persistence, average")) == (2, True)
    code, _, errors = solared("app", "--port", 0, "--model", "persistence", "--dataset", tmp_path)
    assert (code, errors.startswith("solared: There is no SOLARED dataset at")) == (2, True)
    code, _, errors = solared("app", "--port", 0, "--model", "persistence", "--dataset-revision", "v1.0")
    assert (code, "--dataset-revision is given without --dataset" in errors) == (2, True)

    monkeypatch.setitem(sys.modules, "gradio", None)
    for arguments in ((), ("--export", tmp_path / "space")):
        code, _, errors = solared("app", "--port", 0, *arguments)
        assert (code, errors) == (
            2, "solared: The page needs gradio, which is not installed. Run pip install 'solared-hf[app]'.\n",
        )  # fmt: skip


def test_space_of_hub_repositories_is_three_files(solared, tmp_path):
    folder = tmp_path / "deep" / "space"
    code, out, errors = solared("app", "--export", folder)
    assert code == 0, errors
    assert out.startswith(f"{folder}: a Space; push it with `hf upload you/solared {folder} --repo-type space`")
    assert {path.name for path in folder.iterdir()} == {"README.md", "app.py", "requirements.txt"}
    assert [path.name for path in folder.parent.iterdir()] == ["space"]
    card = front_matter((folder / "README.md").read_text())
    assert card.pop("tags")[0] == "heliophysics"
    assert card.pop("short_description")
    assert card == {
        "title": "SOLARED forecasts",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "license": "apache-2.0",
    }
    assert (folder / "requirements.txt").read_text() == f"solared-hf[app]=={version('solared-hf')}\n"
    assert f"serve(model='{OURS}')" in (folder / "app.py").read_text()


def test_export_replaces_only_an_earlier_export(solared, tmp_path):
    folder = tmp_path / "space"
    shutil.copytree(committed_models()[OURS], tmp_path / "mine")
    assert solared("app", "--model", tmp_path / "mine", "--export", folder)[0] == 0
    assert (folder / "model" / "model.safetensors").is_file()
    assert solared("app", "--model", "persistence", "--export", folder)[0] == 0
    assert {path.name for path in folder.iterdir()} == {"README.md", "app.py", "requirements.txt"}

    (folder / "thesis.txt").write_text("years of work")
    code, _, errors = solared("app", "--model", "persistence", "--export", folder)
    assert (code, errors) == (
        2, f"solared: {folder} holds other files than an exported Space. Name a new folder with --export.\n",
    )  # fmt: skip
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "app.py").write_text("print('mine')\n")
    for name in ("other", "other/app.py"):
        code, _, errors = solared("app", "--model", "persistence", "--export", tmp_path / name)
        assert (code, "holds other files" in errors) == (2, True)
    assert (tmp_path / "other" / "app.py").read_text() == "print('mine')\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other", "space"]


def test_exported_folder_serves_the_page_from_any_place(solared, simulated_dataset, tmp_path):
    """As in a Space, with telemetry switched on; the fixtures record requests to other machines."""
    folder = tmp_path / "space"
    code, _, errors = solared("app", "--model", "persistence", "--dataset", simulated_dataset, "--export", folder)
    assert code == 0, errors
    assert len(list((folder / "dataset" / "data").glob("*/AR*.parquet"))) == 10
    moved = folder.rename(tmp_path / "elsewhere")
    environment = {**os.environ, "GRADIO_SERVER_PORT": "0", "OMP_NUM_THREADS": "1"}
    environment |= {"SYSTEM": "spaces", "SPACE_ID": "you/solared", "GRADIO_ANALYTICS_ENABLED": "True"}
    del environment["HF_HUB_DISABLE_TELEMETRY"]
    command = [sys.executable, str(moved / "app.py")]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            port = re.fullmatch(r"The page is at http://0\.0\.0\.0:(\d+); Ctrl-C stops it\.\n", line)[1]
            with urlopen(f"http://127.0.0.1:{port}") as answer:
                page = answer.read().decode()
            process.terminate()
            finish(process)
        finally:
            kill(process)
    assert process.returncode == 0
    config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", page)[1])
    assert config["analytics_enabled"] is False
    shown = [component["props"].get("value") for component in config["components"]]
    assert any("by persistence. Data: dataset." in str(value) for value in shown)
    assert any('aria-label="row 7, column 0: ' in str(value) for value in shown)


@pytest.mark.parametrize(("variable", "host"), [({}, "127.0.0.1"), ({"SPACE_ID": "you/solared"}, "0.0.0.0")])
def test_only_a_space_accepts_other_machines(solared, monkeypatch, variable, host):
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: print(sockets[0].getsockname()[0]))
    code, out, errors = solared("app", "--model", "persistence", "--port", 0)
    assert code == 0, errors
    assert out.splitlines()[-1] == host
