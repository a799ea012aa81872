"""Find the day of a Solar Region Summary, which a report states up to eight times, sometimes with typing errors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

_DAY = timedelta(days=1)
# A report is issued on its day. A correction may be issued later.
_LATEST_CORRECTION = timedelta(days=30)
# This many statements inside a report outweigh the name of the file.
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
    """A statement of all or part of a date; None means that the statement lacks the part."""

    source: str
    month: int | None = None
    day: int | None = None
    year: int | None = None
    day_of_year: int | None = None
    ahead: int = 0  # the stated day is this many days before the day of the report

    def agrees(self, report_day: date) -> bool:
        stated = report_day - self.ahead * _DAY
        pairs = ((self.year, stated.year), (self.month, stated.month), (self.day, stated.day))
        return all(own in (None, other) for own, other in (*pairs, (self.day_of_year, stated.timetuple().tm_yday)))

    def report_day(self) -> date | None:
        """Return the day of the report, or None if the statement lacks a part of the date."""
        if self.year is None or self.month is None or self.day is None:
            return None
        try:
            return date(self.year, self.month, self.day) + self.ahead * _DAY
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.source} gives {self.report_day()}"


def report_day(
    path: Path, header: Sequence[str], issued: datetime, corrected: bool
) -> tuple[date, datetime, list[str]]:
    """Return the day at whose 0 UT the positions of a report hold.

    The day is found by majority from the file name, the lines `:Product:` and `:Issued:`, the line with the report
    number, which is the day of the year, the day of the data, and the titles of the sections.

    Args:
        path: the file of the report, usually named like 20150306SRS.txt.
        header: the lines of the report without the rows.
        issued: the time in the line `:Issued:`, UTC.
        corrected: True if the report says that it is a correction. A correction may be issued after its day.

    Returns:
        The day; the time of issue, moved to that day if `:Issued:` is wrong; and a sentence for each wrong statement
        of a whole date.

    Raises:
        ValueError: If the statements do not clearly give one day. The message names the statements.
    """
    on_issue = _Statement(":Issued:", issued.month, issued.day, issued.year)
    statements = [on_issue, *_statements(path, header)]
    whole_dates = [statement for statement in statements if statement.report_day() is not None]
    candidates = {day for statement in statements if (day := statement.report_day()) is not None}
    candidates |= {issued.date() - _DAY, issued.date() + _DAY}
    agreeing = {day: {statement for statement in statements if statement.agrees(day)} for day in candidates}
    best = max(sorted(candidates), key=lambda day: len(agreeing[day]))
    for other in candidates - {best}:
        for_best, for_other = agreeing[best] - agreeing[other], agreeing[other] - agreeing[best]
        against_name = any(statement.source == _NAME for statement in for_other)
        if len(for_best) <= len(for_other) or (against_name and len(for_best) < _OUTWEIGH_THE_NAME):
            raise ValueError(f"the dates contradict each other: {', '.join(map(str, whole_dates))}")
    titles = [statement for statement in statements if statement.source == _TITLE]
    if titles and not any(statement.agrees(best) for statement in titles):
        title = next(line for line in header if _VALID.match(line))
        raise ValueError(f"issued on {issued:%Y-%m-%d}, but its positions hold for another day: {title}")
    late = issued.date() - best
    in_order = -_DAY <= late <= (_LATEST_CORRECTION if corrected else _DAY)
    wrong = [
        statement
        for statement in whole_dates
        if not statement.agrees(best) and not (statement is on_issue and in_order)
    ]
    if not in_order:
        issued = datetime.combine(best, issued.time())
    return best, issued, [f"{statement}, the other lines give {best}" for statement in wrong]


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
    """Return 1 to 12, or 0 for an unknown name."""
    return _MONTHS.index(name.lower()) + 1 if name.lower() in _MONTHS else 0
