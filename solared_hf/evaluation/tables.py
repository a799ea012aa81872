"""Results that are a table for people and JSON for programs."""

import io
import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict

from rich.console import Console, RenderableType

# Tables rather run over a terminal's edge than have their numbers cut short.
_LEAST_WIDTH = 100


class TabledResult(ABC):
    """What dataclasses of results share; each lays out its own `table`."""

    @abstractmethod
    def table(self) -> RenderableType:
        """What people read."""

    def as_json(self) -> str:
        """Everything, as JSON text; what is not a number is null."""
        return json.dumps(_without_nan(asdict(self)), indent=2, allow_nan=False) + "\n"

    def as_text(self) -> str:
        """The table as plain text."""
        text = io.StringIO()
        Console(file=text, width=_LEAST_WIDTH).print(self.table())
        return text.getvalue()

    def print(self) -> None:
        """The table on the terminal."""
        Console(width=max(Console().width, _LEAST_WIDTH)).print(self.table())


def number_with_interval(number: float, interval: tuple[float, float] | None, form: str, interval_form: str) -> str:
    """A cell: the number, and under it its interval in brackets where there is one."""
    # The backslash keeps rich from reading the bracket as markup.
    below = "" if interval is None else f"\n\\[{interval[0]:{interval_form}}, {interval[1]:{interval_form}}]"
    return f"{number:{form}}{below}"


def _without_nan(value):
    """JSON has no word for NaN."""
    match value:
        case dict():
            return {key: _without_nan(one) for key, one in value.items()}
        case list() | tuple():
            return [_without_nan(one) for one in value]
        case float() if not math.isfinite(value):
            return None
    return value
