"""Where and when a forecast errs: by tile, region, lead and emergence.

Errors are in the unit of the arguments, DN as forecasters give them; divided by `SolaredProcessor.target_range` they
are in the normalised units of a model. What was not observed does not count.
"""

import numpy as np

from solared_hf.data.windows import SolaredWindows
from solared_hf.evaluation.errors import root_mean_squared_error


def rmse_by_tile(forecast: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """(63,) root mean squared error of each tile over all windows; NaN where a tile was never observed.

    Args:
        forecast, observed: (N, 63), DN; NaN where not observed, here as below.
    """
    return root_mean_squared_error(forecast, observed, axis=0)


def rmse_by_region(forecast: np.ndarray, observed: np.ndarray, ar_numbers: np.ndarray) -> dict[int, float]:
    """Root mean squared error of each region over its windows and tiles, by AR number.

    Args:
        forecast, observed: (N, 63).
        ar_numbers: (N,) region of each window, `SolaredWindows.ar_numbers`.
    """
    order = np.argsort(ar_numbers, kind="stable")
    numbers, first = np.unique(ar_numbers[order], return_index=True)
    parts = np.split(order, first[1:])
    return {
        number: root_mean_squared_error(forecast[part], observed[part])
        for number, part in zip(numbers.tolist(), parts, strict=True)
    }


def squared_errors_by_lead(trajectory: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """(2, S) sum of the squared errors of each step after the last input step, and their number.

    Those of some windows can be added to those of others, and `rmse_by_lead` takes the sum.

    Args:
        trajectory: (N, S, 63), `Forecaster.trajectory`.
        observed: (N, S, 63), `observed_trajectories`.
    """
    squared = np.square(trajectory.astype(np.float64) - observed)
    return np.array([np.nansum(squared, axis=(0, 2)), np.count_nonzero(~np.isnan(squared), axis=(0, 2))])


def rmse_by_lead(squared_errors: np.ndarray) -> np.ndarray:
    """(S,) root mean squared error of each step after the last input step; NaN where nothing was observed.

    The first is one cadence after the last input step, which is no lead yet: a step is available
    `schema.AVAILABILITY_DELAY` after its time.

    Args:
        squared_errors: (2, S), the sum of `squared_errors_by_lead` over all windows.
    """
    total, number = squared_errors
    with np.errstate(invalid="ignore"):
        return np.sqrt(total / number)


def rmse_by_emergence(forecast: np.ndarray, observed: np.ndarray, emerging: np.ndarray) -> dict[str, float]:
    """Root mean squared error where a region emerges, `emerging`, and elsewhere, `quiet`; NaN where there is none.

    Most tiles are quiet most of the time and easy, so an error over all of them says little of emergence.

    Args:
        forecast, observed: (N, 63).
        emerging: (N, 63) bool.
    """
    return {
        "emerging": root_mean_squared_error(forecast[emerging], observed[emerging]),
        "quiet": root_mean_squared_error(forecast[~emerging], observed[~emerging]),
    }


def observed_trajectories(windows: SolaredWindows, steps: int) -> np.ndarray:
    """(N, steps, 63) float32: continuum intensity at the steps after each window's last input step, in DN.

    NaN where it was not observed, beyond a gap or after the last step.
    """
    trajectories = []
    for region in windows.regions:
        intensity = region.timeline.intensity
        first = region.starts + windows.input_steps
        gap_after = region.timeline.gap_after[first - 1]
        ahead = first[:, None] + np.arange(steps)
        known = intensity[np.minimum(ahead, len(intensity) - 1)]
        trajectories.append(np.where((ahead < gap_after[:, None])[..., None], known, np.float32(np.nan)))
    return np.concatenate(trajectories)
