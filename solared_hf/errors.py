"""The one exception users see: a sentence that says what is wrong and how to mend it."""


class SolaredError(ValueError):
    """Something a user can mend: the message names the file or value and the cure.

    The command line prints the message alone and exits with code 2; a traceback is for defects.
    """
