"""Onsets of emergence: the published definition, for observed and for forecast intensity.

The moving mean over 5 steps, the threshold of the gradient and the duration of 4 h are those of Kasapis et al.
(arXiv 2409.17421), with hourly steps.
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
    """Return the first time from which the gradient of the smoothed intensity stays at or below a threshold.

    Missing and NaN steps divide the timeline into parts. Mean, gradient and duration are computed within one part. At
    both ends of a part the intensity is held constant, as published, so that a decline counts in full only after it
    has been observed.

    Each step stands for one cadence: with hourly steps, four steps in a row last 4 h, as published. The mean is over
    the odd number of steps that is closest to 5 h: 5 hourly steps, or 25 steps of 12 minutes.

    Args:
        intensity: (..., T, tiles) array in units of a scale, such as the range of the region; NaN where unknown.
        hours: (T,) increasing times, two or more. The most common spacing is the cadence, other spacings are gaps.
        threshold: Change per hour.
        duration_hours: How long the gradient must stay at or below the threshold.
        after: (...) array of hours, or one number for all. A decline that began then or earlier is not an onset.

    Returns:
        (..., tiles) array of hours, NaN for tiles without onset.

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
    """Return the onset of each tile of a region, (63,) datetime64[ms], naive TAI; NaT for tiles without onset.

    The scale is the range of the region's intensity over all tiles and the whole timeline, so onsets are known only
    afterwards.
    """
    scale = intensity_range(timeline)
    if len(timeline) < 2 or not scale > 0:
        return np.full(NUM_TILES, np.datetime64("NaT", "ms"))
    hours = (timeline.times - timeline.times[0]) / np.timedelta64(1, "h")
    onsets = emergence_onsets(timeline.intensity / scale, hours)
    milliseconds = np.round(np.nan_to_num(onsets) * 3_600_000).astype("timedelta64[ms]")
    return np.where(np.isnan(onsets), np.datetime64("NaT", "ms"), timeline.times[0] + milliseconds)


def emerging_tiles(windows: SolaredWindows) -> np.ndarray:
    """Return an (N, 63) bool array: True if the tile has an onset at any time of the timeline of its region."""
    by_region = [~np.isnat(observed_onsets(region.timeline)) for region in windows.regions]
    return np.repeat(by_region, [len(region.starts) for region in windows.regions], axis=0)


def intensity_range(timeline: Timeline) -> float:
    """Return the largest minus the smallest intensity over all tiles and steps, in DN; NaN if never observed."""
    observed = timeline.intensity[~np.isnan(timeline.intensity)]
    return float(np.ptp(observed)) if len(observed) else np.nan


def _joined(intensity: np.ndarray, spacings: np.ndarray, cadence: np.timedelta64) -> np.ndarray:
    """Return a (..., T-1, tiles) bool array: True if a step and the next are known and one cadence apart."""
    known = ~np.isnan(intensity)
    return known[..., 1:, :] & known[..., :-1, :] & is_spaced_by(spacings, cadence)[:, None]


def _smoothed_gradient(intensity: np.ndarray, joined: np.ndarray, cadence: float) -> np.ndarray:
    """Return the central difference of the moving mean, (..., T, tiles) per hour; NaN where the intensity is NaN.

    The moving means of the two neighbours of a step differ in four values only, so only these values are needed.
    """
    half = round((SMOOTHED_HOURS / cadence - 1) / 2)
    backwards, joined_backwards = np.flip(intensity, -2), np.flip(joined, -2)
    gained = _held(intensity, joined, half + 1) + _held(intensity, joined, half)
    lost = _held(backwards, joined_backwards, half) + _held(backwards, joined_backwards, half + 1)
    return (gained - np.flip(lost, -2)) / (2 * cadence * (2 * half + 1))


def _held(intensity: np.ndarray, joined: np.ndarray, steps: int) -> np.ndarray:
    """Return the intensity `steps` steps later, or at the last step that is joined without a break."""
    later, reached, length = intensity.copy(), np.ones_like(joined), intensity.shape[-2]
    for ahead in range(1, min(steps, length - 1) + 1):
        reached = reached[..., : length - ahead, :] & joined[..., ahead - 1 :, :]
        np.copyto(later[..., :-ahead, :], intensity[..., ahead:, :], where=reached)
    return later
