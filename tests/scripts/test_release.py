"""What `make release` refuses, writes and builds; to install the wheel takes too long for a test."""

import re
import shutil
import tarfile
import zipfile
from datetime import date
from pathlib import Path

import pytest

from scripts import release
from solared_hf import SolaredError
from tests.processes import run

REPOSITORY = Path(__file__).parents[2]
COMMITTED = (
    *("dataset_builder", "model_cards", "solared_hf", "tests"),
    *(".gitignore", "CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"),
)
TODAY = date(2027, 2, 3)
FIRST = """# Changelog

About it.

## Unreleased

### Data

- Regions.
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository of its own with what is in this one, for here something may be uncommitted."""
    folder = tmp_path_factory.mktemp("repository")
    for name in COMMITTED:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
        copy(REPOSITORY / name, folder / name)
    # As where a release is made: remains of earlier builds, and of runs.
    for name in ("build/lib/solared_hf/old.py", "solared_hf/__pycache__/old.pyc", "runs/model/big.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    identity = ("-c", "user.name=Tests", "-c", "user.email=tests@example.org")
    for command in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "--message", "All")):
        assert run(["git", *command], cwd=folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def exported(repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    release.export(repository, folder)
    return folder


@pytest.fixture(scope="module")
def built(exported, tmp_path_factory) -> tuple[Path, Path]:
    return release.build(exported, tmp_path_factory.mktemp("dist"))


def test_what_was_unreleased_becomes_the_section_of_the_version():
    first = release.with_release(FIRST, "0.1.0", TODAY)
    assert first == FIRST.replace("## Unreleased\n", "## Unreleased\n\n## 0.1.0 - 2027-02-03\n")
    # Again for the same version, on another day, nothing is written; the next version goes on top.
    assert release.with_release(first, "0.1.0", date(2027, 2, 4)) == first
    changed = first.replace("## Unreleased\n", "## Unreleased\n\n- Faster.\n")
    second = release.with_release(changed, "0.1.1", date(2027, 3, 1))
    assert re.findall("^## .*$", second, re.MULTILINE) == [
        "## Unreleased", "## 0.1.1 - 2027-03-01", "## 0.1.0 - 2027-02-03"
    ]  # fmt: skip
    assert "\n\n- Faster.\n\n## 0.1.0 - 2027-02-03\n\n### Data\n\n- Regions.\n" in second


def test_a_changelog_that_does_not_say_what_is_released_is_refused():
    released = release.with_release(FIRST, "0.1.0", TODAY)
    with pytest.raises(SolaredError, match=r"says nothing of 0\.1\.1; write under `## Unreleased`"):
        release.with_release(released, "0.1.1", TODAY)
    with pytest.raises(SolaredError, match="says nothing of"):
        release.with_release("# Changelog\n", "0.1.0", TODAY)
    changed = released.replace("## Unreleased\n", "## Unreleased\n\n- Faster.\n")
    with pytest.raises(SolaredError, match=r"has a section 0\.1\.0 and unreleased changes; raise the version"):
        release.with_release(changed, "0.1.0", TODAY)


def test_what_is_not_committed_is_refused(repository, tmp_path):
    stray = repository / "solared_hf" / "forgotten.py"
    stray.touch()
    try:
        with pytest.raises(SolaredError, match=r"solared_hf/forgotten\.py and 0 more files are not as they are comm"):
            release.export(repository, tmp_path)
    finally:
        stray.unlink()
    assert not list(tmp_path.iterdir())


def test_the_wheel_holds_the_packages_and_nothing_else(built, exported):
    _, wheel = built
    release.check_content(wheel, exported)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    for name in (
        "dataset_builder/jsoc/__init__.py", "solared_hf/cli/doctor.py", "solared_hf/model_cards/model_card.md.j2",
        "solared_hf/model_cards/solared-quantile-trajectory/model.safetensors",
    ):  # fmt: skip
        assert name in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"dataset_builder", "solared_hf"}
    assert not [name for name in names if re.search(r"\b(tests|runs|shared|build)/|/old\.", name)]
    assert "License-Expression: Apache-2.0" in metadata
    assert "# SOLARED on Hugging Face" in metadata


def test_the_source_distribution_holds_what_the_wheel_is_built_of(built):
    archive, _ = built
    with tarfile.open(archive) as held:
        tops = {name.split("/")[1] for name in held.getnames() if "/" in name}
    assert tops == {
        "CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "dataset_builder", "model_cards",
        "pyproject.toml", "setup.cfg", "solared_hf", "solared_hf.egg-info",
    }  # fmt: skip


def test_another_content_is_refused(built, exported, tmp_path):
    wheel = tmp_path / built[1].name

    def change(left_out: str, **added: str) -> None:
        with zipfile.ZipFile(built[1]) as old, zipfile.ZipFile(wheel, "w") as new:
            for name in old.namelist():
                if name != left_out:
                    new.writestr(name, old.read(name))
            for name, text in added.items():
                new.writestr(name, text)

    for left_out, added, message in (
        ("solared_hf/data/windows.py", {}, r"lacks solared_hf/data/windows\.py; add its folder to the packages"),
        ("", {"tests/data/test_windows.py": ""}, r"holds tests/data/test_windows\.py; take it out"),
        (
            "solared_hf/data/windows.py",
            {"solared_hf/data/windows.py": ""},
            r"holds another solared_hf/data/windows\.py than is comm",
        ),
    ):
        change(left_out, **added)
        with pytest.raises(SolaredError, match=message):
            release.check_content(wheel, exported)


def test_addresses_that_only_the_repository_knows_are_refused():
    release.check_links((REPOSITORY / "README.md").read_text())
    release.check_links("[Hub](https://huggingface.co), [above](#top), `[a](b.md)`\n\n```python\nx[0](y)\n```\n")
    for text in ("See [this](docs/this.md).", "![curve](pictures/curve.png)", "| a |\n|---|\n| [b](b.md) |\n"):
        with pytest.raises(SolaredError, match=r"nobody finds from the package's page"):
            release.check_links(text)
