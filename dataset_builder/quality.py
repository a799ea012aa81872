"""The keyword QUALITY of HMI's images."""

_BAD = 0x80000000


def is_bad(quality: int | float | str) -> bool:
    """Whether a QUALITY marks its image as bad, which its highest bit of 32 does.

    FITS files hold it as a signed number, JSOC tells it as text.

    Raises:
        ValueError: it is no number.

    >>> is_bad(-2147483648), is_bad("0x80000400"), is_bad("1024"), is_bad(0)
    (True, True, False, False)
    """
    if isinstance(quality, str):
        quality = int(quality, 16) if quality.lower().startswith("0x") else int(quality)
    return bool(int(quality) & _BAD)
