"""What a header says in CTYPE1 and CTYPE2 of the axes of an image."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from solared_hf.errors import SolaredError
from solared_hf.schema import PATCH_ROWS

# Helioprojective: seen from the observer. Carrington and Stonyhurst: mapped on the Sun.
_CTYPE = re.compile(r"(HP|CR|HG)(LN|LT)[-_]+([A-Z]{3})")
# The older names of helioprojective axes, gnomonic as HPLN-TAN (Thompson, Astronomy & Astrophysics 449, 791, 2006).
_SOLAR = re.compile(r"SOLAR[-_ ]?([XY])")
# Those of JSOC's mtrack, by their codes in FITS.
_MAPS = ("ARC", "CAR", "CEA", "MER", "SIN", "STG", "TAN", "ZEA")


class Axes(NamedTuple):
    """What the two axes of an image are.

    Args:
        name: what FITS calls the first axis if it is the longitude, such as `HPLN-TAN`.
        is_map: on the Sun, and not an image of the Sun as it is seen.
        swapped: the first axis is the latitude.
    """

    name: str
    is_map: bool
    swapped: bool


def read_axes(header: Mapping) -> Axes:
    """What the axes of an image are: an image of the Sun, HPLN-TAN, or a map of a part of the Sun.

    Raises:
        SolaredError: The header says nothing of that, contradicts itself, or names another projection.

    >>> read_axes({"CTYPE1": "solar_x", "CTYPE2": "solar_y"})
    Axes(name='HPLN-TAN', is_map=False, swapped=False)
    """
    given = [header.get(f"CTYPE{axis}") for axis in (1, 2)]
    system, projection, axes = zip(*map(_read, given), strict=True)
    if None in system or system[0] != system[1] or projection[0] != projection[1] or set(axes) != {"LN", "LT"}:
        raise SolaredError(
            f"CTYPE1 is {given[0]!r} and CTYPE2 {given[1]!r}, which does not say whether this is an image of the Sun "
            "or a tracked patch; use HPLN-TAN and HPLT-TAN for the one, CRLN-ARC and CRLT-ARC for the other."
        )
    is_map = system[0] != "HP"
    if projection[0] not in (_MAPS if is_map else ("TAN",)):
        known = "maps in " + ", ".join(_MAPS) if is_map else "images of the Sun in TAN"
        raise SolaredError(f"CTYPE1 is {given[0]!r}, an unknown projection; only {known} are known.")
    return Axes(f"{system[0]}LN-{projection[0]}", is_map, axes[0] == "LT")


def number(value: object) -> float | None:
    """A header's value as a number, however it is written, or None where it is none.

    >>> number("0.5"), number("MISSING")
    (0.5, None)
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def is_upright(header: Mapping, axes: Axes) -> bool:
    """Whether a map's columns run to the west and its rows to the north, as far as the header says."""
    steps = [number(header.get(f"CDELT{axis}", 1.0)) or 0.0 for axis in (1, 2)]
    turned = number(header.get("CROTA2", 0.0)) or 0.0
    return not axes.swapped and min(steps) > 0 and abs(turned) < 1


def centre_of_map(header: Mapping, axes: Axes, shape: tuple[int, int]) -> tuple[float, float] | None:
    """Carrington longitude and latitude of a map's middle, degrees, to within a tile; None if it does not say."""
    place = [number(header.get(f"CRVAL{axis}")) for axis in (1, 2)]
    pixel = [number(header.get(f"CRPIX{axis}")) for axis in (1, 2)]
    in_degrees = all(str(header.get(f"CUNIT{axis}", "deg")).strip().lower() == "deg" for axis in (1, 2))
    if not axes.name.startswith("CR") or None in place or None in pixel or not in_degrees:
        return None
    offsets = [abs(pixel[axis] - (shape[1 - axis] + 1) / 2) for axis in (0, 1)]
    return tuple(place) if max(offsets) <= max(shape) / PATCH_ROWS else None


def _read(ctype: object) -> tuple[str | None, str | None, str | None]:
    """Coordinate system, projection, and LN or LT, of one axis."""
    text = ctype.strip().upper() if isinstance(ctype, str) else ""
    if match := _SOLAR.fullmatch(text):
        return "HP", "TAN", {"X": "LN", "Y": "LT"}[match[1]]
    match = _CTYPE.fullmatch(text)
    return (match[1], match[3], match[2]) if match else (None, None, None)
