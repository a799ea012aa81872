"""Code that stands in several files, marked `# Copied from`, is the same code everywhere.

Files that are saved beside the weights must load without the package, so they repeat code. A second line `# with A->B`
means that the copy has B for A. Docstrings and comments may differ.
"""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import solared_hf

PACKAGE = Path(solared_hf.__file__).parent
MARK = re.compile(r"^ *# Copied from (\S+)(?:  # noqa: E501)?(?:\n *# with (\w+)->(\w+))?\n", re.MULTILINE)
COPIES = [
    pytest.param(path, mark, id=f"{path.stem}: {mark[1].rpartition('.')[2]}")
    for path in sorted(PACKAGE.rglob("*.py"))
    for mark in MARK.finditer(path.read_text())
]
# A definition of more lines, without the docstring, must carry a mark if another family has the same one.
MOST_LINES = 2


@cache
def definitions(path: Path) -> dict[str, ast.stmt]:
    """Return the functions, classes and constants of a file by their names, those of classes as `Class.name`."""
    found = {}

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.Assign):
                found.update({prefix + target.id: node for target in node.targets if isinstance(target, ast.Name)})
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[prefix + node.name] = node
                if ast.get_docstring(node) is not None:
                    del node.body[0]
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")

    collect(ast.parse(path.read_text()).body, "")
    return found


def first_line(node: ast.stmt) -> int:
    """Return the first line of a definition, which is the line of the first decorator if there is one."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


def original(reference: str) -> ast.stmt:
    """Return the definition that a mark names."""
    parts = reference.split(".")
    for length in range(len(parts), 0, -1):
        path = PACKAGE.parent.joinpath(*parts[:length]).with_suffix(".py")
        if path.is_file():
            return definitions(path)[".".join(parts[length:])]
    raise LookupError(f"{reference} names no file of the package")


@pytest.mark.parametrize(("path", "mark"), COPIES)
def test_a_copy_equals_the_original(path, mark):
    line = path.read_text()[: mark.end()].count("\n") + 1
    (copy,) = (node for node in definitions(path).values() if first_line(node) == line)
    reference, old, new = mark.groups()
    expected = ast.dump(original(reference))
    assert ast.dump(copy) == (expected if old is None else expected.replace(old, new))


def test_what_two_families_have_in_common_is_marked():
    places = defaultdict(list)
    for path in sorted(PACKAGE.glob("models/*/*.py")):
        lines = path.read_text().splitlines()
        for name, node in definitions(path).items():
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.body[0].lineno + 1 > MOST_LINES:
                is_marked = lines[first_line(node) - 2].lstrip().startswith(("# Copied from", "# with"))
                places[ast.dump(node)].append((path.parent.name, f"{path.stem}: {name}", is_marked))
    for found in places.values():
        unmarked = [place for _, place, is_marked in found if not is_marked]
        assert len({family for family, *_ in found}) == 1 or len(unmarked) == 1, unmarked
