"""The usable frames of one observable of a region, by 45 s slot.

What cannot be used is set aside with a reason and counted, never left out in silence.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataset_builder.fits.headers import CUBE, IMAGE, ObservationFile
from dataset_builder.fits.opened_fits import Unreachable
from dataset_builder.fits.pixels import read_planes
from dataset_builder.fits.quality import bits_of
from solared_hf.errors import SolaredError

# The one reason to set a frame aside that the header of the file does not show.
UNDECODABLE = "its pixels cannot be decoded"


@dataclass(frozen=True)
class Frame:
    """A plane of a file; planes count from 0."""

    file: ObservationFile
    plane: int


@dataclass(frozen=True)
class Observations:
    """All usable frames of one observable.

    Args:
        form: the form of the files, the same for all; see `headers`.
        frames: frames by slot; for cubes, by the slot of their first plane.
        rejected: for each reason, how many frames were set aside, or files whose time is unknown.
        reasons: for slots without a frame, why the frame that claims the slot was set aside.
        axes: for patches, the name of the map, such as `CRLN-ARC`, or "" if no header names it.
        remarks: how many of the frames have each bit of QUALITY set, no QUALITY, or no BUNIT.
    """

    form: str
    frames: dict[int, Frame]
    rejected: dict[str, int]
    reasons: dict[int, str]
    axes: str = ""
    remarks: dict[str, int] = field(default_factory=dict)


class _SetAside:
    """Counts what is not used, and keeps the reason for each slot."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: dict[int, str] = {}

    def add(self, reason: str, slots: Sequence[int]) -> None:
        # A file whose time is unknown has no slots and counts as one.
        self.counts[reason] += max(len(slots), 1)
        self.reasons.update(dict.fromkeys(slots, reason))


def collect(folder: Path, files: Sequence[ObservationFile], unit: str | None = None) -> Observations:
    """Return the frames of one observable by slot, without what cannot be used.

    If several frames claim one slot, copies of the same pixels count once. If the pixels differ, none is used.

    Args:
        folder: the folder of the files, for messages.
        files: the result of `scan_files`.
        unit: unit of the observable, see `units.UNITS`; files whose BUNIT is of another kind are set aside.

    Raises:
        SolaredError: If nothing can be used, or the folder holds files of several forms.
        Unreachable: If one of several frames that claim one slot cannot be read here and now.
    """
    set_aside, usable = _SetAside(), []
    for file in files:
        problem = file.problem
        if not problem and unit and file.unit and file.unit != unit:
            problem = f"its BUNIT is {file.unit} instead of {unit}"
        if problem:
            set_aside.add(problem, file.slots)
        else:
            usable.append(file)
    forms = sorted({file.form for file in usable})
    if len(forms) > 1:
        raise SolaredError(f"{folder} holds files of several forms ({', '.join(forms)}). Keep those of one form.")
    # Images of the Sun may be cutouts of any size, because each says where it lies.
    if usable and forms != [IMAGE]:
        usable = _alike(usable, set_aside)
    frames = _by_slot(usable, set_aside)
    if not frames:
        found = "; ".join(f"{count}: {reason}" for reason, count in set_aside.counts.most_common())
        raise SolaredError(
            f"There is no usable FITS file in {folder} ({found or 'it is empty or missing'}). Put the region's "
            "observations there."
        )
    reasons = {slot: reason for slot, reason in set_aside.reasons.items() if slot not in frames}
    return Observations(forms[0], frames, dict(set_aside.counts), reasons, usable[0].axes, _remarks(frames.values()))


def _alike(files: list[ObservationFile], set_aside: _SetAside) -> list[ObservationFile]:
    """Return the files of the commonest shape, and of those the files in the commonest map."""
    shape = Counter(file.shape[1:] for file in files).most_common(1)[0][0]
    for file in files:
        if file.shape[1:] != shape:
            set_aside.add("{} x {} pixels instead of {} x {}".format(*file.shape[1:], *shape), file.slots)
    files = [file for file in files if file.shape[1:] == shape]
    axes = Counter(file.axes for file in files).most_common(1)[0][0]
    for file in files:
        if file.axes != axes:
            set_aside.add(f"a map in {file.axes or 'no CTYPE'} instead of {axes or 'no CTYPE'}", file.slots)
    return [file for file in files if file.axes == axes]


def _by_slot(files: Iterable[ObservationFile], set_aside: _SetAside) -> dict[int, Frame]:
    """Return one frame for each slot, in ascending order of slots."""
    claims: dict[int, list[Frame]] = {}
    for file in files:
        for plane, slot in enumerate(file.slots):
            claims.setdefault(slot, []).append(Frame(file, plane))
    frames = {}
    for slot, claimed in sorted(claims.items()):
        frame = claimed[0] if len(claimed) == 1 else _settle(slot, claimed, set_aside)
        if frame is not None:
            frames[slot] = frame
    return frames


def _settle(slot: int, claimed: list[Frame], set_aside: _SetAside) -> Frame | None:
    """Return the frame to use of several that claim one slot, or None if they differ; set the others aside."""

    def reject(reason: str, count: int) -> None:
        for _ in range(count):
            set_aside.add(reason, [slot])

    if len({(frame.file.data, frame.plane) for frame in claimed}) == 1:
        reject("the same frame again", len(claimed) - 1)
        return claimed[0]
    if claimed[0].file.form == CUBE:
        reject("cubes that differ claim one time", len(claimed))
        return None
    readable = []
    for frame in claimed:
        try:
            readable.append((frame, read_planes(frame.file, slice(frame.plane, frame.plane + 1))))
        except Unreachable:
            raise
        except SolaredError:
            reject(UNDECODABLE, 1)
    if not readable:
        return None
    first, pixels = readable[0]
    if any(not np.array_equal(pixels, others, equal_nan=True) for _, others in readable):
        reject("frames that differ claim one time", len(readable))
        return None
    reject("the same frame again", len(readable) - 1)
    return first


def _remarks(frames: Iterable[Frame]) -> dict[str, int]:
    remarks: Counter[str] = Counter()
    for (quality, unit), count in Counter((frame.file.quality, frame.file.unit) for frame in frames).items():
        bits = ["no QUALITY"] if quality is None else [f"QUALITY {bit}" for bit in bits_of(quality)]
        remarks.update(dict.fromkeys(bits if unit else [*bits, "no BUNIT"], count))
    return dict(sorted(remarks.items()))
