"""Errors of a forecast by tile, region, lead and emergence.

Errors are in the unit of the arguments, which is DN for forecasters. Divide by `SolaredProcessor.target_range` for the
normalised units of a model. Values that were not observed are ignored.
"""

import numpy as np

from solared_hf.data.windows import SolaredWindows
from solared_hf.evaluation.errors import root_mean_squared_error


def rmse_by_tile(forecast: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the (63,) root mean squared errors of each tile over all windows; NaN if a tile was never observed.

    Args:
        forecast, observed: (N, 63) arrays in DN, NaN where not observed.
    """
    return root_mean_squared_error(forecast, observed, axis=0)


def rmse_by_region(forecast: np.ndarray, observed: np.ndarray, ar_numbers: np.ndarray) -> dict[int, float]:
    """Return the root mean squared error of each region over its windows and tiles, by AR number.

    Args:
        forecast, observed: (N, 63) arrays, NaN where not observed.
        ar_numbers: (N,) AR numbers of the windows, `SolaredWindows.ar_numbers`.
    """
    order = np.argsort(ar_numbers, kind="stable")
    numbers, first = np.unique(ar_numbers[order], return_index=True)
    parts = np.split(order, first[1:])
    return {
        number: root_mean_squared_error(forecast[part], observed[part])
        for number, part in zip(numbers.tolist(), parts, strict=True)
    }


def squared_errors_by_lead(trajectory: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the sum and the number of the squared errors of each step after the last input step, (2, S).

    Add the arrays of several sets of windows, and pass the sum to `rmse_by_lead`.

    Args:
        trajectory: (N, S, 63) array from `Forecaster.trajectory`.
        observed: (N, S, 63) array from `observed_trajectories`.
    """
    squared = np.square(trajectory.astype(np.float64) - observed)
    return np.array([np.nansum(squared, axis=(0, 2)), np.count_nonzero(~np.isnan(squared), axis=(0, 2))])


def rmse_by_lead(squared_errors: np.ndarray) -> np.ndarray:
    """Return the (S,) root mean squared errors of each step after the last input step; NaN if never observed.

    The first steps are not yet a lead time, because a step is available `schema.AVAILABILITY_DELAY` after its time.

    Args:
        squared_errors: (2, S) array, the sum of `squared_errors_by_lead` over all windows.
    """
    total, number = squared_errors
    with np.errstate(invalid="ignore"):
        return np.sqrt(total / number)


def rmse_by_emergence(forecast: np.ndarray, observed: np.ndarray, emerging: np.ndarray) -> dict[str, float]:
    """Return the root mean squared errors of the `emerging` and of the `quiet` tiles; NaN if there are no such tiles.

    Most tiles are quiet and easy to forecast, so an error over all tiles says little about emergence.

    Args:
        forecast, observed: (N, 63) arrays, NaN where not observed.
        emerging: (N, 63) bool array, `emergence.emerging_tiles`.
    """
    return {
        "emerging": root_mean_squared_error(forecast[emerging], observed[emerging]),
        "quiet": root_mean_squared_error(forecast[~emerging], observed[~emerging]),
    }


def observed_trajectories(windows: SolaredWindows, steps: int) -> np.ndarray:
    """Return the intensity at the steps after the last input step of each window, (N, steps, 63) float32 in DN.

    Values that were not observed, steps beyond a gap and steps after the last step are NaN.
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
