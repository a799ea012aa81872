"""Tables as HTML, which stay readable on a telephone: dates and numbers of tiles are never broken."""

import re
from collections.abc import Iterable, Sequence
from html import escape

_UNBROKEN = re.compile(r"\d{4}-\d\d-\d\d|(?:row|column|AR) ?\d+|-?[\d,.]+ (?:DN|h)\b")


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a head, whose first column names the rows.

    Args:
        heads: texts, one a column; an empty one for a column without a name.
        rows: the first cell of each is HTML, the others are texts.
    """
    head = "".join(f'<th scope="col">{unbroken(text)}</th>' if text else "<td></td>" for text in heads)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{unbroken(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def unbroken(text: str) -> str:
    """A text as HTML, in which lines break nowhere within dates, values and names of tiles."""
    return _UNBROKEN.sub(r'<span class="unbroken">\g<0></span>', escape(text))
