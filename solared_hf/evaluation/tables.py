"""Results that can be shown as a table and written as JSON."""

import io
import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, cast

from rich.console import Console, RenderableType

# On a narrower terminal, lines run over the edge, because numbers must not be cut.
_LEAST_WIDTH = 100


class TabledResult(ABC):
    """Base class of result dataclasses; each class lays out its own `table`."""

    @abstractmethod
    def table(self) -> RenderableType:
        """Return the result as a table."""

    def as_json(self) -> str:
        """Return the whole result as JSON text, with null for NaN."""
        return json.dumps(_without_nan(asdict(cast(Any, self))), indent=2, allow_nan=False) + "\n"

    def as_text(self) -> str:
        """Return the table as plain text."""
        text = io.StringIO()
        Console(file=text, width=_LEAST_WIDTH).print(self.table())
        return text.getvalue()

    def print(self) -> None:
        """Print the table on the terminal."""
        Console(width=max(Console().width, _LEAST_WIDTH)).print(self.table())


def number_with_interval(number: float, interval: tuple[float, float] | None, form: str, interval_form: str) -> str:
    """Return the text of a cell: the number, and below it the interval in brackets if there is one."""
    # The backslash keeps rich from reading the bracket as markup.
    below = "" if interval is None else f"\n\\[{interval[0]:{interval_form}}, {interval[1]:{interval_form}}]"
    return f"{number:{form}}{below}"


def _without_nan(value: object) -> object:
    """Replace NaN and infinity by None, because JSON has no such numbers."""
    match value:
        case dict():
            return {key: _without_nan(item) for key, item in value.items()}
        case list() | tuple():
            return [_without_nan(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value
