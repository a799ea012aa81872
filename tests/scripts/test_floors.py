"""The floors of pyproject.toml: what counts as a floor, and what is told of one that cannot be installed."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

from scripts import floors

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_every_dependency_of_the_project_has_a_floor_and_no_cap():
    lowest = floors.floors(tomllib.loads(PROJECT.read_text())["project"])
    assert lowest["transformers"] <= Version("5.17")
    assert (lowest["torch"], lowest["torchvision"]) <= (Version("2.11"), Version("0.26"))
    assert "solared-hf" not in lowest
    for name, floor in lowest.items():
        assert Version(metadata.version(name)) >= floor, name


@pytest.mark.parametrize("requirement", ["numpy>=2,<3", "numpy", "numpy==2.0", "numpy~=2.0"])
def test_a_cap_or_a_pin_is_refused(requirement):
    project = {"name": "mine", "dependencies": [requirement], "optional-dependencies": {"test": ["pytest>=9"]}}
    with pytest.raises(ValueError, match=r"numpy.* is not a floor alone; write numpy>=VERSION\."):
        floors.floors(project)


def test_of_two_floors_the_higher_counts():
    extras = {"one": ["mine[two]", "numpy>=2.1"], "two": ["numpy>=2.2"]}
    project = {"name": "mine", "dependencies": ["numpy>=2"], "optional-dependencies": extras}
    assert floors.floors(project) == {"numpy": Version("2.2")}


def test_a_floor_that_cannot_be_installed_is_told(tmp_path, monkeypatch):
    installed = Version(metadata.version("numpy"))
    project = tmp_path / "pyproject.toml"
    text = '[project]\nname = "mine"\ndependencies = ["numpy>={}"]\n[project.optional-dependencies]\n'
    monkeypatch.setattr(floors, "PROJECT", project)
    project.write_text(text.format(installed))
    floors.main()
    project.write_text(text.format("1.0"))
    with pytest.raises(SystemExit, match=rf"numpy>=1\.0 is declared and {installed} is the lowest that"):
        floors.main()
