"""The checks before a commit: the programs of `make style` and `make types`, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.processes import run

REPOSITORY = Path(__file__).parents[2]
HOOKS = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]


def test_the_hooks_are_the_programs_of_make_style_and_types():
    commands = run(["make", "style", "types", "--dry-run"], cwd=REPOSITORY).stdout
    (hooks,) = (repository["hooks"] for repository in HOOKS)
    for hook in hooks:
        program = hook["entry"].split()[0]
        assert f"bin/{program}" in commands
        assert (Path(sys.executable).parent / program).is_file()


def test_the_hooks_need_no_network():
    (repository,) = HOOKS
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


@pytest.mark.parametrize(("hook", "mistake"), [("ruff-check", "import os\n"), ("typos", "# rec" + "ieve\n")])
def test_a_hook_refuses_a_mistake(hook, mistake, tmp_path):
    (tmp_path / ".pre-commit-config.yaml").write_bytes((REPOSITORY / ".pre-commit-config.yaml").read_bytes())
    (tmp_path / "wrong.py").write_text(mistake)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PRE_COMMIT_HOME": str(tmp_path / "home"),
    }
    finished = run([sys.executable, "-m", "pre_commit", "run", hook, "--all-files"], cwd=tmp_path, env=environment)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "wrong.py" in finished.stdout
