"""When tiles emerge: the published definition of onset, on observed and on forecast intensity.

The moving mean of 5 steps, its gradient and the 4 h that it has to stay steep are those of Kasapis et al.
(arXiv 2409.17421), whose steps are one hour apart.
"""

import math

import numpy as np

from solared_hf.data.step_times import cadence_of, is_spaced_by
from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.schema import NUM_TILES

ONSET_GRADIENT = -0.01  # of the intensity range, per hour
ONSET_HOURS = 4.0
SMOOTHED_HOURS = 5.0


def emergence_onsets(
    intensity: np.ndarray,
    hours: np.ndarray,
    threshold: float = ONSET_GRADIENT,
    duration_hours: float = ONSET_HOURS,
    after: float | np.ndarray = -np.inf,
) -> np.ndarray:
    """First time from which the gradient of the smoothed intensity stays at or below a threshold.

    A step that is missing or NaN parts what is before it from what is after it: neither mean, nor gradient, nor a stay
    reaches across. At both ends of what they part, and of the whole, the intensity is held, as published, so that a
    decline counts in full only once it has been seen.

    Each step stands for one cadence, so at one step an hour four steps in a row stay 4 h, as published. The mean is
    over the odd number of steps that is closest to 5 h: 5 at one step an hour, 25 at one every 12 minutes.

    Args:
        intensity: (..., T, tiles) in units of its scale, such as a region's range; NaN where it is not known.
        hours: (T,) increasing, two or more. Their most common spacing is the cadence, and any other is a gap.
        threshold: change per hour.
        duration_hours: how long the gradient has to stay there.
        after: (...) hours, or the same for all; what began then or earlier is no onset.

    Returns:
        (..., tiles) hours of the onset, NaN where there is none.

    >>> hours = np.arange(48)
    >>> decline = -0.06 * np.maximum(hours - 20, 0)  # from hour 20 on; the smoothed decline begins an hour earlier
    >>> emergence_onsets(np.stack([decline, 0.1 * decline], axis=1), hours)
    array([19., nan])
    """
    hours = np.asarray(hours, dtype=np.float64)
    times = np.round(hours * 3_600_000).astype("timedelta64[ms]")
    joined = _joined(intensity, np.diff(times), cadence_of(times))
    cadence = cadence_of(times) / np.timedelta64(1, "h")
    steep = _smoothed_gradient(intensity, joined, cadence) <= threshold
    goes_on = joined & steep[..., 1:, :] & steep[..., :-1, :]
    begins = steep & (hours[:, None] > np.asarray(after)[..., None, None])
    begins[..., 1:, :] &= ~goes_on
    for steps in range(1, math.ceil(round(duration_hours / cadence, 6))):
        begins[..., :-steps, :] &= goes_on[..., steps - 1 :, :]
        begins[..., -steps:, :] = False
    return np.where(begins.any(axis=-2), hours[begins.argmax(axis=-2)], np.nan)


def observed_onsets(timeline: Timeline) -> np.ndarray:
    """(63,) datetime64[ms]: when each tile of a region emerged, naive TAI; NaT where it did not.

    The scale is the region's own: the range of its intensity over all tiles and the whole timeline. So it is known in
    hindsight alone.
    """
    extent = intensity_range(timeline)
    if len(timeline) < 2 or not extent > 0:
        return np.full(NUM_TILES, np.datetime64("NaT", "ms"))
    hours = (timeline.times - timeline.times[0]) / np.timedelta64(1, "h")
    onsets = emergence_onsets(timeline.intensity / extent, hours)
    milliseconds = np.round(np.nan_to_num(onsets) * 3_600_000).astype("timedelta64[ms]")
    return np.where(np.isnan(onsets), np.datetime64("NaT", "ms"), timeline.times[0] + milliseconds)


def emerging_tiles(windows: SolaredWindows) -> np.ndarray:
    """(N, 63) bool: the tile has an onset at some time of its region's timeline, before, in or after the window."""
    by_region = [~np.isnat(observed_onsets(region.timeline)) for region in windows.regions]
    return np.repeat(by_region, [len(region.starts) for region in windows.regions], axis=0)


def intensity_range(timeline: Timeline) -> float:
    """Largest minus smallest continuum intensity of a region, over its tiles and steps, in DN; NaN if unobserved."""
    observed = timeline.intensity[~np.isnan(timeline.intensity)]
    return float(np.ptp(observed)) if len(observed) else np.nan


def _joined(intensity: np.ndarray, spacings: np.ndarray, cadence: np.timedelta64) -> np.ndarray:
    """(..., T-1, tiles) bool: each step and the next are known and one cadence apart."""
    known = ~np.isnan(intensity)
    return known[..., 1:, :] & known[..., :-1, :] & is_spaced_by(spacings, cadence)[:, None]


def _smoothed_gradient(intensity: np.ndarray, joined: np.ndarray, cadence: float) -> np.ndarray:
    """(..., T, tiles) central difference of the moving mean, per hour; NaN where the intensity is.

    The means of the two neighbours of a step share all but two values each, so only four values make the difference.
    """
    half = round((SMOOTHED_HOURS / cadence - 1) / 2)
    backwards, joined_backwards = np.flip(intensity, -2), np.flip(joined, -2)
    gained = _held(intensity, joined, half + 1) + _held(intensity, joined, half)
    lost = _held(backwards, joined_backwards, half) + _held(backwards, joined_backwards, half + 1)
    return (gained - np.flip(lost, -2)) / (2 * cadence * (2 * half + 1))


def _held(intensity: np.ndarray, joined: np.ndarray, steps: int) -> np.ndarray:
    """The intensity so many steps later, or at the last step before that from which the next one is not joined."""
    later, reached, length = intensity.copy(), np.ones_like(joined), intensity.shape[-2]
    for ahead in range(1, min(steps, length - 1) + 1):
        reached = reached[..., : length - ahead, :] & joined[..., ahead - 1 :, :]
        np.copyto(later[..., :-ahead, :], intensity[..., ahead:, :], where=reached)
    return later
