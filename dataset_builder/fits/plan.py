"""Plans the steps of a region, and the segments that compute them, from the headers of the region's files.

Sliding windows begin at whole multiples of the cadence in TAI and lie between the first and the last frame: nothing is
extrapolated. Cubes keep their own times, if these are whole cadences apart. A timeline begins and ends with a window
that has enough frames; in between, a step without enough frames is NaN.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from dataset_builder.fits.calibration import longitude_changes
from dataset_builder.fits.headers import CUBE, IMAGE
from dataset_builder.fits.observations import Frame, Observations
from dataset_builder.fits.reduction import MOST_MISSING, ReducedSegment, Segment
from dataset_builder.fits.region_file import OBSERVABLES, RegionFile
from dataset_builder.fits.times import CADENCES, HALF_WINDOW, SLOT_SECONDS, WINDOW_FRAMES, slot_time
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError
from solared_hf.schema import CHANNELS, POWER_CHANNELS

# A segment of sliding windows begins with 7 h of frames that the segment before has read too: 12 % of 60 h. Cubes
# overlap anyway, and each cube is 671 MB.
_SEGMENT_SLOTS = 60 * 3600 // SLOT_SECONDS
_CUBES_IN_SEGMENT = 10
# If the nearest frame of flux or intensity cannot be decoded, the next nearest may be.
_CANDIDATES = 3
_MIDDLE = (WINDOW_FRAMES - 1) / 2
# Largest distance in degrees, about a tile, between where a header and region.json put a patch.
_LARGEST_OFFSET = 3.0


@dataclass(frozen=True)
class ReductionSettings:
    """How regions are reduced; the same settings and files give the same shard.

    Args:
        cadence: one of `CADENCES`.
        correction: one of `reduction.CORRECTIONS`.
        patch_pixels, degrees_per_pixel: size and scale of the patch that is cut out of images of the Sun.
    """

    cadence: str = "1h"
    correction: str = "latitude_background"
    patch_pixels: int = 512
    degrees_per_pixel: float = 0.06

    @property
    def cadence_slots(self) -> int:
        """The cadence in 45 s slots."""
        return CADENCES[self.cadence]


@dataclass(frozen=True)
class Plan:
    """The steps of a region.

    Args:
        region: the content of `region.json`, or None.
        observations: observations by observable.
        starts: (steps,) slot of the first frame of each step's window.
        segments: the segments that compute the steps, in order.
        settings: how the region is reduced.
    """

    region: RegionFile | None
    observations: dict[str, Observations]
    starts: np.ndarray
    segments: tuple[Segment, ...]
    settings: ReductionSettings


def plan_region(region: RegionFile | None, observations: dict[str, Observations], settings: ReductionSettings) -> Plan:
    """Plan the steps of a region and the segments that compute them.

    Args:
        region: the content of `region.json`, or None if the file does not exist.
        observations: observations of each of `region_file.OBSERVABLES`.
        settings: how to reduce the region.

    Raises:
        SolaredError: If there are too few frames for a single step, images of the Sun without a `region.json`, or
            patches that lie elsewhere than `region.json` says or in another map than the patches of another
            observable.
    """
    _check_patches(region, observations)
    velocity = observations["dopplergram"]
    if velocity.form == CUBE:
        velocity = _on_cadence(velocity, settings.cadence_slots)
        observations = {**observations, "dopplergram": velocity}
    if region is None and any(observed.form == IMAGE for observed in observations.values()):
        raise SolaredError(
            "there are images of the Sun, but no region.json that says where the region is. Write region.json with "
            "ar_number, carrington_longitude and latitude in degrees, and t0_tai"
        )
    slots = np.fromiter(velocity.frames, dtype=np.int64)
    starts, missing = (_cube_starts if velocity.form == CUBE else _window_starts)(velocity, slots, settings)
    enough = np.flatnonzero(missing <= MOST_MISSING)
    if not len(enough):
        raise SolaredError(
            f"no window of {WINDOW_FRAMES} frames has at most {MOST_MISSING} missing ({len(slots)} usable "
            "dopplergrams). Add observations until there are some 8 h without a long gap"
        )
    steps = slice(enough[0], enough[-1] + 1)
    starts, missing = starts[steps], missing[steps]
    size = _CUBES_IN_SEGMENT if velocity.form == CUBE else _SEGMENT_SLOTS // settings.cadence_slots
    segments = tuple(
        _segment(region, observations, slots, starts[first : first + size], missing[first : first + size], settings)
        for first in range(0, len(starts), size)
    )
    return Plan(region, observations, starts, segments, settings)


def _check_patches(region: RegionFile | None, observations: dict[str, Observations]) -> None:
    maps = {observed.axes: observable for observable, observed in observations.items() if observed.axes}
    if len(maps) > 1:
        found = ", ".join(f"{observable} in {axes}" for axes, observable in maps.items())
        raise SolaredError(
            f"the patches are in different maps ({found}), so their tiles differ. Track them all in the same map"
        )
    if region is None:
        return
    trajectory = region.trajectory
    for observable, observed in observations.items():
        for frame in observed.frames.values():
            if frame.file.centre is None:
                continue
            longitude, latitude = frame.file.centre
            time = slot_time(frame.file.slots.start) + (HALF_WINDOW if observed.form == CUBE else np.timedelta64(0))
            expected = trajectory.longitude(time)
            east_west = ((longitude - expected + 180) % 360 - 180) * np.cos(np.radians(latitude))
            if np.hypot(east_west, latitude - trajectory.latitude) > _LARGEST_OFFSET:
                raise SolaredError(
                    f"{observable}/{frame.file.path.name} shows Carrington longitude {longitude:.1f} and latitude "
                    f"{latitude:.1f}, but region.json puts the region at {expected:.1f} and "
                    f"{trajectory.latitude:.1f}. Correct region.json, or put the patches of this region there"
                )


def _window_starts(
    velocity: Observations, slots: np.ndarray, settings: ReductionSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts of the windows between the first and the last frame, and how many frames each lacks."""
    first, last, cadence = slots[0], slots[-1], settings.cadence_slots
    starts = np.arange(-(-first // cadence) * cadence, last - WINDOW_FRAMES + 2, cadence)
    seen = np.searchsorted(slots, starts + WINDOW_FRAMES) - np.searchsorted(slots, starts)
    return starts, WINDOW_FRAMES - seen


def _on_cadence(cubes: Observations, cadence: int) -> Observations:
    """Return the cubes that begin whole cadences apart, give or take a slot, because MIDTIME may be rounded.

    Other cubes, such as those between the hours, are set aside. The steps have the commonest phase.
    """
    slots = np.array(sorted({*cubes.frames, *cubes.reasons}))
    phases = np.arange(cadence)
    offsets = (slots[:, np.newaxis] - phases + cadence // 2) % cadence - cadence // 2
    # Cubes exactly on a phase break ties between phases.
    phase = phases[np.argmax((abs(offsets) <= 1).sum(axis=0) + (offsets == 0).mean(axis=0) / 2)]
    start_of = {slot: slot - offset for slot, offset in zip(slots.tolist(), offsets[:, phase].tolist(), strict=True)}
    kept = {slot: start for slot, start in start_of.items() if abs(slot - start) <= 1}
    between = sum(slot not in kept for slot in cubes.frames)
    return replace(
        cubes,
        frames={kept[slot]: frame for slot, frame in cubes.frames.items() if slot in kept},
        reasons={kept[slot]: reason for slot, reason in cubes.reasons.items() if slot in kept},
        rejected=cubes.rejected | ({"it lies between the steps": between} if between else {}),
    )


def _cube_starts(
    velocity: Observations, slots: np.ndarray, settings: ReductionSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts of the cubes, usable or not, and how many frames each lacks: none or all."""
    starts = np.array(sorted({*velocity.frames, *velocity.reasons}))
    return starts, np.where(np.isin(starts, slots), 0, WINDOW_FRAMES)


def _segment(
    region: RegionFile | None,
    observations: dict[str, Observations],
    slots: np.ndarray,
    starts: np.ndarray,
    missing: np.ndarray,
    settings: ReductionSettings,
) -> Segment:
    velocity = observations["dopplergram"]
    if velocity.form == CUBE:
        needed = [slot for slot in starts.tolist() if slot in velocity.frames]
    elif missing.min() <= MOST_MISSING:
        # With frames beyond both ends, between which missing frames at the ends are interpolated.
        begin, stop = starts[0] - MOST_MISSING, starts[-1] + WINDOW_FRAMES + MOST_MISSING
        needed = slots[(slots >= begin) & (slots < stop)].tolist()
    else:
        needed = []
    middles = starts + _MIDDLE
    return Segment(
        starts=tuple(starts.tolist()),
        form=velocity.form,
        velocity={slot: velocity.frames[slot] for slot in needed},
        field=_nearest(observations["magnetogram"], middles, settings),
        intensity=_nearest(observations["continuum"], middles, settings),
        trajectory=None if region is None else region.trajectory,
        patch_pixels=settings.patch_pixels,
        degrees_per_pixel=settings.degrees_per_pixel,
        correction=settings.correction,
    )


def _nearest(
    observed: Observations, middles: np.ndarray, settings: ReductionSettings
) -> tuple[tuple[Frame, ...], ...]:
    """Return the frames nearest each step's middle, the nearest first, none further than half a cadence."""
    frames = observed.frames
    if observed.form == CUBE:  # the middle frame of a cube
        plane = int(_MIDDLE)
        frames = {slot + plane: Frame(frame.file, plane) for slot, frame in frames.items()}
    slots = np.fromiter(frames, dtype=np.int64)
    nearest = []
    for middle in middles:
        place = np.searchsorted(slots, middle)
        around = slots[max(place - _CANDIDATES, 0) : place + _CANDIDATES]
        distances = np.abs(around - middle)
        order = np.argsort(distances, kind="stable")[:_CANDIDATES]
        close = order[distances[order] <= settings.cadence_slots / 2]
        nearest.append(tuple(frames[slot] for slot in around[close].tolist()))
    return tuple(nearest)


def assemble(ar_number: int, plan: Plan, reduced: Sequence[ReducedSegment]) -> tuple[Timeline, dict]:
    """Return the region's timeline from the results of the segments, and the facts of processing for the manifest.

    Args:
        ar_number: number of the region.
        plan: the plan of the region.
        reduced: the results of the plan's segments, in order.

    Returns:
        The timeline, and a dict that is valid JSON:

        - `window` and `settings`;
        - `frames`, by observable: how many were used, how many were set aside for which reason, and remarks, such as
          how many have a bit of QUALITY set;
        - `interpolated_frames`, by step: how many frames of the window were interpolated; `patched_frames`: in how
          many other frames some pixels were interpolated;
        - `longitude_changes`, by observable, see `calibration`;
        - `unobserved`: each step whose power, flux or intensity is NaN everywhere, and why;
        - `unreadable`: why files could not be read, how many, and the first of them;
        - the NOAA facts.

    Raises:
        SolaredError: If no step has power.
    """
    values = np.concatenate([segment.values for segment in reduced])
    missing = np.concatenate([segment.missing for segment in reduced])
    patched = np.concatenate([segment.patched for segment in reduced])
    unreadable: dict[str, set[str]] = {}
    for segment in reduced:
        for name, reason in segment.unreadable.items():
            unreadable.setdefault(reason, set()).add(name)
    # Frames may turn out to be empty or damaged when they are read, also at the ends.
    enough = np.flatnonzero(missing <= MOST_MISSING)
    if not len(enough):
        reason = max(unreadable, key=lambda reason: len(unreadable[reason]), default="the frames hold no values")
        raise SolaredError(f"no step has enough frames, mostly because {reason.rstrip('.')}")
    kept = slice(int(enough[0]), int(enough[-1]) + 1)
    times = slot_time(plan.starts) + HALF_WINDOW
    candidates = {
        "magnetogram": [frames for segment in plan.segments for frames in segment.field],
        "continuum": [frames for segment in plan.segments for frames in segment.intensity],
    }
    unobserved = []
    for step in range(kept.start, kept.stop):
        found = {observable: bool(frames[step]) for observable, frames in candidates.items()}
        reasons = _reasons(plan, int(plan.starts[step]), int(missing[step]), values[step], found)
        if reasons:
            unobserved.append({"step": step - kept.start, "time_tai": str(times[step]), "reasons": reasons})
    filled = np.where(missing <= MOST_MISSING, missing, 0)
    processing = {
        "window": {"frames": WINDOW_FRAMES, "most_missing": MOST_MISSING},
        "settings": asdict(plan.settings),
        "frames": {
            observable: {"used": len(observed.frames), "set_aside": observed.rejected, "remarks": observed.remarks}
            for observable, observed in plan.observations.items()
        },
        "interpolated_frames": _by_step(filled[kept]),
        "patched_frames": _by_step(patched[kept]),
        "longitude_changes": _longitude_changes(plan, int(plan.starts[kept][0]), int(plan.starts[kept][-1])),
        "unobserved": unobserved,
        "unreadable": [
            {"reason": reason, "files": len(names), "first": min(names)}
            for reason, names in sorted(unreadable.items())
        ],
        **({} if plan.region is None else plan.region.noaa),
    }
    return Timeline(ar_number, times[kept], values[kept]), processing


def _by_step(counts: np.ndarray) -> dict[str, int]:
    return {str(step): int(counts[step]) for step in np.flatnonzero(counts)}


def _longitude_changes(plan: Plan, first: int, last: int) -> dict[str, dict]:
    """Return where the longitudes in the headers change, in the windows that start from slot `first` to `last`."""
    changes = {}
    for observable, observed in plan.observations.items():
        frames = {slot: frame for slot, frame in observed.frames.items() if first <= slot < last + WINDOW_FRAMES}
        times = slot_time(np.fromiter(frames, dtype=np.int64))
        changes[observable] = longitude_changes(times, [frame.file.corrected for frame in frames.values()])
    return {observable: change for observable, change in changes.items() if change}


def _reasons(plan: Plan, start: int, missing: int, values: np.ndarray, found: dict[str, bool]) -> list[str]:
    """Return why power, flux or intensity of a step is NaN in every tile; an empty list if each has a value."""
    reasons = []
    if missing > MOST_MISSING:
        velocity = plan.observations["dopplergram"]
        slots = [start] if velocity.form == CUBE else range(start, start + WINDOW_FRAMES)
        known = Counter(velocity.reasons[slot] for slot in slots if slot in velocity.reasons)
        details = "".join(f"; {count}: {reason}" for reason, count in sorted(known.items()))
        reasons.append(f"{missing} of {WINDOW_FRAMES} velocity frames are missing{details}")
    elif np.isnan(values[: len(POWER_CHANNELS)]).all():
        reasons.append("no tile has enough observed pixels")
    minutes = plan.settings.cadence_slots * SLOT_SECONDS / 120
    for observable, channel in zip(OBSERVABLES[1:], CHANNELS[len(POWER_CHANNELS) :], strict=True):
        if np.isnan(values[CHANNELS.index(channel)]).all():
            what = "with enough observed pixels" if found[observable] else "at all"
            reasons.append(f"no {observable} {what} within {minutes:g} minutes of the middle")
    return reasons
