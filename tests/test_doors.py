"""Every package's `__init__` lists what is public, and editors and type checkers see the same names."""

import ast
import importlib
import pydoc
import tomllib
from pathlib import Path

import jedi
import pytest

import dataset_builder
import solared_hf

ROOT = Path(__file__).parents[1]


def packages_on_disk() -> set[str]:
    """Return the dotted names of all folders with an `__init__.py`."""
    return {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in (solared_hf, dataset_builder)
        for path in Path(package.__file__).parent.rglob("__init__.py")
    }


def typed_names(package: str) -> set[str]:
    """Return the names that a package imports in its `TYPE_CHECKING` block."""
    tree = ast.parse((ROOT.joinpath(*package.split(".")) / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    aliases = [alias for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    # Without `as`, a type checker takes the name for private.
    assert all(alias.asname == alias.name for alias in aliases)
    return {alias.name for alias in aliases}


# The page and the command line are started, not imported.
DOORS = sorted(packages_on_disk() - {"solared_hf.app", "solared_hf.cli"})


@pytest.mark.parametrize("package", DOORS)
def test_public_names_can_be_imported_and_completed(package):
    door = importlib.import_module(package)
    assert all(getattr(door, name) is not None for name in door.__all__)
    assert set(dir(door)) >= set(door.__all__)
    assert typed_names(package) == set(door.__all__) - {"__version__"}
    # jedi reads the source as an editor does, without running the package.
    script = jedi.Script(
        f"from {package} import {', '.join(sorted(typed_names(package)))}\nimport {package}\n{package}."
    )
    completed = {completion.name for completion in script.complete(3, len(package) + 1)}
    assert completed >= set(door.__all__)
    for name in script.get_names():
        if name.name in door.__all__:
            (target,) = name.goto(follow_imports=True)
            assert target.name == name.name
            assert target.type in {"class", "function", "module", "statement"}


def test_help_lists_the_public_names():
    text = pydoc.plain(pydoc.render_doc(solared_hf))
    assert all(name in text for name in typed_names("solared_hf"))
    assert solared_hf.__version__ in text


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="solared_hf attribute Nonsense"):
        _ = solared_hf.Nonsense


def test_the_distribution_holds_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert listed == sorted(listed)
    assert set(listed) == packages_on_disk() | {"solared_hf.model_cards"}
