"""`make test-floors`: check that an environment has the lowest versions that pyproject.toml allows.

If a package cannot be installed at its lowest version, no test has checked that version.
"""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def floors(project: dict) -> dict[str, Version]:
    """Return the lowest allowed version of every package that a project and its extras name.

    Raises:
        ValueError: If a requirement is something else than a floor, such as a cap or a pin.
    """
    requirements = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        requirements += extra
    lowest = {}
    for requirement in map(Requirement, requirements):
        if requirement.name == project["name"]:  # an extra that takes in another
            continue
        if [specifier.operator for specifier in requirement.specifier] != [">="]:
            raise ValueError(f"{requirement} is not a floor alone; write {requirement.name}>=VERSION.")
        (specifier,) = requirement.specifier
        lowest[requirement.name] = max(Version(specifier.version), lowest.get(requirement.name, Version("0")))
    return lowest


def main() -> None:
    wrong = []
    for name, floor in sorted(floors(tomllib.loads(PROJECT.read_text())["project"]).items()):
        installed = Version(metadata.version(name))
        print(f"{name:20} {installed}")
        if Version(installed.public) != floor:
            wrong.append(f"{name}>={floor} is declared and {installed} is the lowest that installs; raise the floor.")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
