"""HTML tables that stay readable on a phone: dates, values and names of tiles are never broken."""

import re
from collections.abc import Iterable, Sequence
from html import escape

_UNBROKEN = re.compile(r"\d{4}-\d\d-\d\d|(?:row|column|AR) ?\d+|-?[\d,.]+ (?:DN|h)\b")


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a head row; the first column names the rows.

    Args:
        heads: Text of each column; an empty text for a column without a name.
        rows: Cells of each row: the first cell is HTML, the others are text.
    """
    head = "".join(f'<th scope="col">{unbroken(text)}</th>' if text else "<td></td>" for text in heads)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{unbroken(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def unbroken(text: str) -> str:
    """Return a text as HTML in which no line breaks within a date, a value or the name of a tile."""
    return _UNBROKEN.sub(r'<span class="unbroken">\g<0></span>', escape(text))
