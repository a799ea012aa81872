"""The units of observations, and conversions from the units in FITS headers."""

from functools import cache

from solared_hf.errors import SolaredError

# Unit of the pixels of each observable. JSOC writes DN/s for HMI's DN.
UNITS = {"dopplergram": "m/s", "magnetogram": "G", "continuum": "DN"}

# Spellings in headers that astropy does not know. Upper case alone does not tell mega from milli, so the list ends
# here.
_SPELLINGS = {"m/sec": "m/s", "gauss": "G", "dn/sec": "DN/s", "mx/cm^2": "Mx/cm^2", "mx/cm2": "Mx/cm^2"}
_SPELLINGS |= {unit: unit for unit in ("m/s", "cm/s", "km/s")} | {"dn/s": "DN/s", "dn": "DN"}


@cache
def conversion(text: str) -> tuple[str, float]:
    """Return the unit of an observable to which a BUNIT can be converted, and the factor.

    Args:
        text: the value of BUNIT.

    Raises:
        SolaredError: If BUNIT is not a unit of velocity, magnetic flux density or HMI's intensity.

    >>> conversion("cm/s"), conversion("Mx/cm^2"), conversion("DN/s")
    (('m/s', 0.01), ('G', 1.0), ('DN', 1.0))
    """
    # The import takes a third of a second, and files without a unit do not need it.
    from astropy import units

    spelling = text.strip().strip("[]()")
    for name in (spelling, _SPELLINGS.get(spelling.replace(" ", "").lower(), "")):
        unit = units.Unit(name, parse_strict="silent")
        for wanted, known in (("m/s", "m/s"), ("G", "G"), ("DN", "DN"), ("DN", "DN/s")):
            if unit.is_equivalent(known):
                return wanted, float(unit.to(known))
    raise SolaredError(
        f"BUNIT is {text!r}, which is not a unit of velocity, magnetic flux density or DN. Write the unit as FITS "
        "spells it, such as 'm/s', 'G' or 'DN/s'."
    )


@cache
def arcsec(text: str) -> float:
    """Return how many arcsec the unit of an angle is.

    Raises:
        SolaredError: If the text is not a unit of angles.

    >>> arcsec("deg"), arcsec("arcsec")
    (3600.0, 1.0)
    """
    from astropy import units

    unit = units.Unit(text.strip().lower(), parse_strict="silent")
    if not unit.is_equivalent(units.arcsec):
        raise SolaredError(f"CUNIT is {text!r}, which is not a unit of angles. Write arcsec or deg.")
    return float(unit.to(units.arcsec))
