"""The step in the longitudes of HMI's headers in November 2020.

CRLN_OBS, the Carrington longitude of the observer, was 0.081894 degrees too large until then: 1.4 pixels of a patch of
0.06 degrees a pixel. Science data from 29 November 2020 on have the right longitude, and so have data that were
processed again; bit 28 of CALVER64 tells which (JSOC wiki, CalibrationVersions and ObserverLocationCorrection; P.
Scherrer, notes on SDO as observer coordinates, 30 November 2020). A patch that is tracked over the step jumps to the
west by that amount.
"""

from collections.abc import Mapping, Sequence

import numpy as np

STEP_DEGREES = 0.081894

_CORRECTED = 1 << 28
_FIRST_CORRECTED = np.datetime64("2020-11-29T00:00:00", "ms")


def is_corrected(header: Mapping) -> bool | None:
    """Return whether CALVER64 says that CRLN_OBS is right, or None if the header does not say.

    >>> is_corrected({"CALVER64": 0x10001112}), is_corrected({"CALVER64": 4370}), is_corrected({"CALVER64": -1})
    (True, False, None)
    """
    try:
        version = int(str(header.get("CALVER64")), 0)
    except ValueError:
        return None
    # If the value of a field is missing, all bits of the field are set.
    return None if version % 2**32 >> 28 == 15 else bool(version & _CORRECTED)


def longitude_changes(times: np.ndarray, corrected: Sequence[bool | None]) -> dict | None:
    """Return where the longitudes of consecutive frames change from wrong to right or back, for the manifest.

    Args:
        times: (frames,) naive TAI, ascending.
        corrected: the result of `is_corrected` for each frame.

    Returns:
        None if there is no change; else the size of the step, the times of the first frames after each change, and
        whether CALVER64 in all headers tells the change, or only the date.

    >>> longitude_changes(np.array(["2020-11-28", "2020-11-29"], "M8[ms]"), [None, None])["known_from"]
    'date'
    """
    known = np.array([value is not None for value in corrected], dtype=bool)
    right = np.where(known, [value is True for value in corrected], times >= _FIRST_CORRECTED)
    changes = np.flatnonzero(right[1:] != right[:-1]) + 1
    if not len(changes):
        return None
    return {
        "degrees": STEP_DEGREES,
        "times_tai": [str(time) for time in times[changes]],
        "known_from": "CALVER64" if known.all() else "date",
    }
