"""Which day a Solar Region Summary is of: it says so up to eight times, and once or twice by mistake."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

_DAY = timedelta(days=1)
# A report is issued on its day; a correction of it may come later.
_LATEST_CORRECTION = timedelta(days=30)
# So many statements inside a report outweigh the name of its file.
_OUTWEIGH_THE_NAME = 3

_NAME, _TITLE = "the name of the file", "a title"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATED_NAME = re.compile(r"(\d{4})?(\d\d)(\d\d)\D*srs\.txt", re.IGNORECASE)
_PRODUCT = re.compile(r":Product:\s*(\d{4})?(\d\d)(\d\d)SRS", re.IGNORECASE)
_NUMBER = re.compile(
    r"SRS number\s+(\d+)\s+issued\s+at\s+\S+\s+on\s+(\d{1,2})\s+([a-z]{3})[a-z]*\s+(\d{4})", re.IGNORECASE
)
_COMPILED = re.compile(r"compiled .* on\s+(\d{1,2})\s+([a-z]{3})", re.IGNORECASE)
_VALID = re.compile(r"^IA?\..*\b(\d{1,2})/2400Z", re.IGNORECASE)
_RETURN = re.compile(r"^II\..*return\s+(\d{1,2})\s+([a-z]{3})", re.IGNORECASE)


@dataclass(frozen=True)
class _Statement:
    """Part of a date: what is None is not said."""

    source: str
    month: int | None = None
    day: int | None = None
    year: int | None = None
    day_of_year: int | None = None
    ahead: int = 0  # it names the day that is so many days before that of the report

    def holds(self, candidate: date) -> bool:
        said = candidate - self.ahead * _DAY
        pairs = ((self.year, said.year), (self.month, said.month), (self.day, said.day))
        return all(own in (None, other) for own, other in (*pairs, (self.day_of_year, said.timetuple().tm_yday)))

    def candidates(self) -> list[date]:
        """The day that the statement alone says, if it says all of it."""
        try:
            return [date(self.year, self.month, self.day) + self.ahead * _DAY]
        except (TypeError, ValueError):
            return []

    def __str__(self) -> str:
        return f"{self.source} says {self.candidates()[0]}"


def report_day(
    path: Path, header: Sequence[str], issued: datetime, corrected: bool
) -> tuple[date, datetime, list[str]]:
    """The day for whose 0 UT the positions of a report hold.

    Compared are the name of the file, the lines `:Product:` and `:Issued:`, the line with the number, which is that of
    the day in the year, the day of the data, and the titles of the sections. What most of them say counts.

    Args:
        path: of the report, named 20150306SRS.txt as a rule.
        header: its lines but the rows.
        issued: what `:Issued:` says, UTC.
        corrected: whether it says that it is a correction; these are issued on their day or later.

    Returns:
        The day, the time of issue, which is of that day where `:Issued:` is wrong, and a sentence for each statement
        of a whole date that is wrong.

    Raises:
        ValueError: no day is clearly that of the report; the message names the statements.
    """
    on_issue = _Statement(":Issued:", issued.month, issued.day, issued.year)
    statements = [on_issue, *_statements(path, header)]
    whole = [one for one in statements if one.candidates()]
    candidates = {day for one in whole for day in one.candidates()}
    candidates |= {issued.date() - _DAY, issued.date() + _DAY}
    agreeing = {day: {one for one in statements if one.holds(day)} for day in candidates}
    best = max(sorted(candidates), key=lambda day: len(agreeing[day]))
    for other in candidates - {best}:
        for_best, for_other = agreeing[best] - agreeing[other], agreeing[other] - agreeing[best]
        against_name = any(one.source == _NAME for one in for_other)
        if len(for_best) <= len(for_other) or (against_name and len(for_best) < _OUTWEIGH_THE_NAME):
            raise ValueError(f"its dates contradict each other: {', '.join(map(str, whole))}")
    titles = [one for one in statements if one.source == _TITLE]
    if titles and not any(one.holds(best) for one in titles):
        title = next(line for line in header if _VALID.match(line))
        raise ValueError(f"issued on {issued:%Y-%m-%d}, but its positions hold for another day: {title}")
    late = issued.date() - best
    in_order = -_DAY <= late <= (_LATEST_CORRECTION if corrected else _DAY)
    wrong = [one for one in whole if not one.holds(best) and not (one is on_issue and in_order)]
    if not in_order:
        issued = datetime.combine(best, issued.time())
    return best, issued, [f"{one}, its other lines {best}" for one in wrong]


def _statements(path: Path, header: Sequence[str]) -> list[_Statement]:
    found = []
    if match := _DATED_NAME.fullmatch(path.name):
        found.append(_dated(_NAME, *match.groups()))
    for line in header:
        if match := _PRODUCT.match(line):
            found.append(_dated(":Product:", *match.groups()))
        elif match := _NUMBER.match(line):
            number, day, month, year = match.groups()
            found.append(_Statement("the line of its number", _month(month), int(day), int(year)))
            found.append(_Statement("its number", day_of_year=int(number)))
        elif match := _COMPILED.search(line):
            found.append(_Statement("the day of its data", _month(match[2]), int(match[1]), ahead=1))
        elif match := _VALID.match(line):
            found.append(_Statement(_TITLE, day=int(match[1]), ahead=1))
        elif match := _RETURN.match(line):
            found.append(_Statement("the title of section II", _month(match[2]), int(match[1])))
    return found


def _dated(source: str, year: str | None, month: str, day: str) -> _Statement:
    return _Statement(source, int(month), int(day), None if year is None else int(year))


def _month(name: str) -> int:
    """1 to 12, and 0, which is no month, for a name that is none."""
    return _MONTHS.index(name.lower()) + 1 if name.lower() in _MONTHS else 0
