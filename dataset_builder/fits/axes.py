"""The axes of an image, as CTYPE1 and CTYPE2 of the header name them."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from solared_hf.errors import SolaredError
from solared_hf.schema import PATCH_ROWS

# HP, helioprojective: an image as the observer sees the Sun. CR, Carrington, and HG, Stonyhurst: a map of the Sun.
_CTYPE = re.compile(r"(HP|CR|HG)(LN|LT)[-_]+([A-Z]{3})")
# The older names of helioprojective axes, gnomonic as HPLN-TAN (Thompson, Astronomy & Astrophysics 449, 791, 2006).
_SOLAR = re.compile(r"SOLAR[-_ ]?([XY])")
# The projections of JSOC's mtrack, by their codes in FITS.
_MAPS = ("ARC", "CAR", "CEA", "MER", "SIN", "STG", "TAN", "ZEA")


class Axes(NamedTuple):
    """The two axes of an image.

    Args:
        name: the FITS name of the longitude axis, such as `HPLN-TAN`.
        is_map: True for a map of the Sun, False for an image as the observer sees the Sun.
        swapped: True if the first axis is the latitude.
    """

    name: str
    is_map: bool
    swapped: bool


def read_axes(header: Mapping) -> Axes:
    """Return the axes of an image of the Sun (HPLN-TAN) or of a map of a part of the Sun.

    Raises:
        SolaredError: If CTYPE1 and CTYPE2 are missing, contradict each other, or name another projection.

    >>> read_axes({"CTYPE1": "solar_x", "CTYPE2": "solar_y"})
    Axes(name='HPLN-TAN', is_map=False, swapped=False)
    """
    given = [header.get(f"CTYPE{axis}") for axis in (1, 2)]
    system, projection, axes = zip(*map(_read, given), strict=True)
    if None in system or system[0] != system[1] or projection[0] != projection[1] or set(axes) != {"LN", "LT"}:
        raise SolaredError(
            f"CTYPE1 is {given[0]!r} and CTYPE2 {given[1]!r}, which does not say whether this is an image of the Sun "
            "or a tracked patch. Use HPLN-TAN and HPLT-TAN for an image, CRLN-ARC and CRLT-ARC for a patch."
        )
    is_map = system[0] != "HP"
    if projection[0] not in (_MAPS if is_map else ("TAN",)):
        known = "maps in " + ", ".join(_MAPS) if is_map else "images of the Sun in TAN"
        raise SolaredError(f"CTYPE1 is {given[0]!r}, an unknown projection. Use {known}.")
    return Axes(f"{system[0]}LN-{projection[0]}", is_map, axes[0] == "LT")


def number(value: Any) -> float | None:
    """Return a header's value as a number, even if it is written as text, or None if it is not a number.

    >>> number("0.5"), number("MISSING")
    (0.5, None)
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def is_upright(header: Mapping, axes: Axes) -> bool:
    """Return True unless the header says that a map's columns do not run to the west or its rows to the north."""
    steps = [number(header.get(f"CDELT{axis}", 1.0)) or 0.0 for axis in (1, 2)]
    turned = number(header.get("CROTA2", 0.0)) or 0.0
    return not axes.swapped and min(steps) > 0 and abs(turned) < 1


def centre_of_map(header: Mapping, axes: Axes, shape: tuple[int, int]) -> tuple[float, float] | None:
    """Return Carrington longitude and latitude of a map's middle in degrees, to within a tile.

    Returns:
        None if the header does not state them.
    """
    if not axes.name.startswith("CR"):
        return None
    longitude, latitude = (number(header.get(f"CRVAL{axis}")) for axis in (1, 2))
    column, row = (number(header.get(f"CRPIX{axis}")) for axis in (1, 2))
    in_degrees = all(str(header.get(f"CUNIT{axis}", "deg")).strip().lower() == "deg" for axis in (1, 2))
    if longitude is None or latitude is None or column is None or row is None or not in_degrees:
        return None
    rows, columns = shape
    offset = max(abs(column - (columns + 1) / 2), abs(row - (rows + 1) / 2))
    return (longitude, latitude) if offset <= max(shape) / PATCH_ROWS else None


def _read(ctype: object) -> tuple[str | None, str | None, str | None]:
    """Return the coordinate system, the projection, and LN or LT, of one axis; None three times if unknown."""
    text = ctype.strip().upper() if isinstance(ctype, str) else ""
    if match := _SOLAR.fullmatch(text):
        return "HP", "TAN", {"X": "LN", "Y": "LT"}[match[1]]
    match = _CTYPE.fullmatch(text)
    return (match[1], match[3], match[2]) if match else (None, None, None)
