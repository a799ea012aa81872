"""The units that observations come in, and those that they are computed in."""

from functools import cache

from solared_hf.errors import SolaredError

# Of the pixels of each observable. JSOC writes DN/s for what is known as HMI's DN.
UNITS = {"dopplergram": "m/s", "magnetogram": "G", "continuum": "DN"}

# As headers have them and astropy does not. Capitals alone do not tell mega from milli, so that there are no others.
_SPELLINGS = {"m/sec": "m/s", "gauss": "G", "dn/sec": "DN/s", "mx/cm^2": "Mx/cm^2", "mx/cm2": "Mx/cm^2"}
_SPELLINGS |= {unit: unit for unit in ("m/s", "cm/s", "km/s")} | {"dn/s": "DN/s", "dn": "DN"}


@cache
def conversion(text: str) -> tuple[str, float]:
    """The unit of an observable that a BUNIT can be converted to, and the factor.

    Args:
        text: BUNIT.

    Raises:
        SolaredError: It is no unit of velocity, of magnetic flux density, or of HMI's intensity.

    >>> conversion("cm/s"), conversion("Mx/cm^2"), conversion("DN/s")
    (('m/s', 0.01), ('G', 1.0), ('DN', 1.0))
    """
    # Takes a third of a second to import, and files whose headers have no unit need none of it.
    from astropy import units

    spelling = text.strip().strip("[]()")
    for name in (spelling, _SPELLINGS.get(spelling.replace(" ", "").lower(), "")):
        unit = units.Unit(name, parse_strict="silent")
        for wanted, known in (("m/s", "m/s"), ("G", "G"), ("DN", "DN"), ("DN", "DN/s")):
            if unit.is_equivalent(known):
                return wanted, float(unit.to(known))
    raise SolaredError(
        f"BUNIT is {text!r}, which is neither a unit of velocity nor of magnetic flux density nor DN; write the unit "
        "as FITS has it, such as 'm/s', 'G' or 'DN/s'."
    )


@cache
def arcsec(text: str) -> float:
    """How many arcsec an angle's unit is.

    Raises:
        SolaredError: It is no unit of an angle.

    >>> arcsec("deg"), arcsec("arcsec")
    (3600.0, 1.0)
    """
    from astropy import units

    unit = units.Unit(text.strip().lower(), parse_strict="silent")
    if not unit.is_equivalent(units.arcsec):
        raise SolaredError(f"CUNIT is {text!r}, which is no unit of an angle; write arcsec or deg.")
    return float(unit.to(units.arcsec))
