"""The one exception users see: a sentence that says what is wrong and how to mend it."""

import os
import re
from operator import index

# How tokens of the Hub look.
_TOKEN = re.compile(r"\b(?:hf|api_org)_(?:(?=[\w.-]*[A-Z\d])[\w.-]{8,}|[A-Za-z\d]{8,})")


class SolaredError(ValueError):
    """Something a user can mend: the message names the file or value and the cure.

    The command line prints the message alone and exits with code 2; a traceback is for defects. Messages quote what
    was given or answered, so a token of the Hub is blotted out of them.
    """

    def __init__(self, message: str):
        secret = os.environ.get("HF_TOKEN")
        super().__init__(_TOKEN.sub("hf_…", message.replace(secret, "hf_…") if secret else message))


def whole_number(value: object, name: str, cure: str, least: int = 1) -> int:
    """`value` as an int, whichever whole type it has, such as `numpy.int64`.

    Args:
        value: what was given.
        name: what an error calls it.
        cure: how an error ends.
        least: the smallest that is taken.

    Raises:
        SolaredError: If it is no whole number, or less than `least`.
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise SolaredError(f"{name} is a whole number of at least {least}, but got {value!r:.60}; {cure}.")
    return number


def reason_of(error: BaseException, most: int = 300) -> str:
    """An error's message as part of a sentence: on one line, of `most` characters at most, without its full stop."""
    return " ".join(str(error).split())[:most].rstrip(".") or type(error).__name__
