"""The exception that users see: its message says what is wrong, and what to do."""

import os
import re
from operator import index
from typing import SupportsIndex, cast

# Tokens of the Hub.
_TOKEN = re.compile(r"\b(?:hf|api_org)_(?:(?=[\w.-]*[A-Z\d])[\w.-]{8,}|[A-Za-z\d]{8,})")


class SolaredError(ValueError):
    """An error that the user can fix: the message names the file or the value, and says what to do.

    The command line prints only the message and exits with code 2; a traceback means a defect. Messages quote input
    and answers of servers, so tokens of the Hub are masked.
    """

    def __init__(self, message: str):
        secret = os.environ.get("HF_TOKEN")
        super().__init__(_TOKEN.sub("hf_…", message.replace(secret, "hf_…") if secret else message))


def whole_number(value: object, name: str, cure: str, least: int = 1) -> int:
    """Return `value` as an int, from any integer type such as `numpy.int64`.

    Args:
        value: The number.
        name: The name of the number in an error.
        cure: The end of an error, which says what to do.
        least: The smallest number that is allowed.

    Raises:
        SolaredError: If the value is not an integer, or is less than `least`.
    """
    try:
        number = None if isinstance(value, bool) else index(cast(SupportsIndex, value))
    except TypeError:
        number = None
    if number is None or number < least:
        raise SolaredError(f"{name} must be a whole number of at least {least}, but got {value!r:.60}; {cure}.")
    return number


def reason_of(error: BaseException, most: int = 300) -> str:
    """Return the message of an error on one line, without a full stop and with at most `most` characters."""
    return " ".join(str(error).split())[:most].rstrip(".") or type(error).__name__
