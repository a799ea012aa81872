"""The keyword QUALITY of HMI's images: which frames must not be used, and which bits the other frames have.

The bits are those of level 1.5, the observables, as listed in JSOC's QUALITY.txt of 24 May 2013; the same bits of
level 1 mean other things. Near-real-time data carry bits that definitive data do not, such as 0x400: no list of cosmic
rays.
"""

from numbers import Integral, Real

# The bits for which a frame is set aside.
_REJECTED = {0x80000000: "no image", 0x200: "eclipse", 0x20: "poor quality"}
_BITS = 32


def quality_word(quality: int | float | str) -> int:
    """Return the 32 bits of a QUALITY as a number, 0 to 2^32 - 1.

    FITS files store QUALITY as a signed number, JSOC sends it as text. JSOC's `MISSING` is the number -2^31, which has
    the highest bit set: no image.

    Raises:
        ValueError: If QUALITY is not a number of 32 bits, such as NaN.

    >>> quality_word(-2147483648) == quality_word("0x80000000") == quality_word("MISSING") == 2**31
    True
    >>> quality_word("1024"), quality_word(544.0)
    (1024, 544)
    """
    if isinstance(quality, str):
        text = quality.strip().lower()
        number = -(2**31) if text == "missing" else int(text, 16) if text.startswith("0x") else int(text)
    elif isinstance(quality, Integral | Real) and not isinstance(quality, bool) and quality == quality // 1:
        number = int(quality)
    else:
        raise ValueError(f"{quality!r} is not a whole number")
    if not -(2 ** (_BITS - 1)) <= number < 2**_BITS:
        raise ValueError(f"{quality!r} has more than {_BITS} bits")
    return number % 2**_BITS


def why_bad(word: int) -> str | None:
    """Return why an image with these bits must not be used, or None if it may be used.

    >>> why_bad(0x220), why_bad(0x400)
    ('eclipse, poor quality', None)
    """
    return ", ".join(reason for bit, reason in _REJECTED.items() if word & bit) or None


def is_bad(quality: int | float | str) -> bool:
    """Return True if QUALITY says that there is no image, or that the image shows an eclipse or is of poor quality.

    Raises:
        ValueError: If QUALITY is not a number of 32 bits.

    >>> is_bad(-2147483648), is_bad("0x80000400"), is_bad(0x200), is_bad("1024"), is_bad(0)
    (True, True, True, False, False)
    """
    return why_bad(quality_word(quality)) is not None


def bits_of(word: int) -> list[str]:
    """Return the bits that are set, each as a hexadecimal number.

    >>> bits_of(0x10400)
    ['0x400', '0x10000']
    """
    return [hex(1 << bit) for bit in range(_BITS) if word >> bit & 1]
