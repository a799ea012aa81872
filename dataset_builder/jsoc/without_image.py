"""List the records without an image, as during an eclipse, so that they are not ordered again."""

import json
from pathlib import Path

import numpy as np

from dataset_builder.fits.times import format_time, parse_time, slot_of, slot_time
from dataset_builder.jsoc.failures import RegionFailed
from dataset_builder.jsoc.server import SERIES
from solared_hf.errors import reason_of
from solared_hf.files import write_atomically

FILE_NAME = "without_image.json"


def frames_without_image(output: Path, ar_number: int, observable: str) -> np.ndarray:
    """Return the slots, (n,) int64 ascending, whose record lacked an image in earlier downloads.

    They are stored in `without_image.json` in the folder of the region. The result is empty if the file is missing.

    Raises:
        RegionFailed: If the file cannot be read.
    """
    path = _path(output, ar_number)
    try:
        times = json.loads(path.read_bytes()).get(observable, [])
        return np.unique(np.array([slot_of(parse_time(time)) for time in times], dtype=np.int64))
    except FileNotFoundError:
        return np.array([], dtype=np.int64)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RegionFailed(f"{path} cannot be read ({reason_of(error)}). Delete it.") from error


def add_frame_without_image(output: Path, ar_number: int, observable: str, slot: int) -> None:
    """Store that the record of a slot lacks an image, so that the next download does not order it.

    Raises:
        SolaredError: If the list cannot be written.
    """
    found = {name: frames_without_image(output, ar_number, name).tolist() for name in SERIES}
    found[observable] = sorted({*found[observable], slot})
    times = {name: [format_time(slot_time(slot)) for slot in slots] for name, slots in found.items() if slots}
    write_atomically(_path(output, ar_number), json.dumps(times, indent=1) + "\n")


def _path(output: Path, ar_number: int) -> Path:
    return output / f"AR{ar_number}" / FILE_NAME
