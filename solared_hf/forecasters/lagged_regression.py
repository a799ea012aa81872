"""Regressions that forecast the change of the intensity of a tile from its past and that of its neighbours."""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import NoReturn

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError
from solared_hf.forecasters.baselines import Baseline, Persistence, check_cadence, check_reach, common_cadence
from solared_hf.forecasters.lagged_features import LONGEST_LAG, lagged_features, steps_per_hour
from solared_hf.schema import NUM_TILES

_LEADS = timedelta(hours=24)
# Windows that are closer in time carry nearly the same information.
_TRAIN_EVERY_HOURS = 2
# More rows add little and take memory; these take 240 MB. The 41 published train regions give 200,000 rows.
_MOST_TRAINING_ROWS = 500_000
# Penalty on the squared coefficients per row, chosen on the validation split.
_RIDGE_PENALTY = 0.1


class RidgeRegression(Baseline):
    """Linear regression of the change from the last observed intensity on lagged features, for leads up to 24 h.

    The squared coefficients are penalised (Hoerl and Kennard 1970, Technometrics 12, 55). Use `fit` to create one.

    Args:
        regression: Regression of the changes in DN, (rows, leads), on `lagged_features`, (rows, features).
        leads: Number of steps ahead that can be forecast.
        cadence: Time between two steps.
    """

    name = "ridge regression"

    def __init__(self, regression: Pipeline, leads: int, cadence: timedelta):
        self.regression = regression
        self.longest_trajectory = leads
        self.cadence = cadence

    @classmethod
    def fit(cls, timelines: Sequence[Timeline]) -> "RidgeRegression":
        """Fit on the train split, which takes seconds.

        Raises:
            SolaredError: If the cadences differ or do not divide an hour, or no region is longer than three days.
        """
        cadence = common_cadence(timelines)
        leads = _LEADS // cadence
        features, changes, weights = _training_rows(timelines, np.arange(1, leads + 1), cadence)
        regression = make_pipeline(StandardScaler(copy=False), Ridge(_RIDGE_PENALTY * len(features), copy_X=False))
        regression.fit(features, changes, ridge__sample_weight=weights)
        return cls(regression, leads, cadence)

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """Return the forecast at the windows' horizon, (N, 63) float32 in DN; raises as `trajectory`."""
        return self.trajectory(windows, windows.horizon_steps)[:, -1]

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """Return the forecast at each step after the last input step, (N, steps, 63) float32 in DN.

        Raises:
            SolaredError: If the windows have another cadence, or more steps are asked for than fitted.
        """
        check_cadence(self, windows)
        check_reach(self, steps)
        changes = _predicted_changes(self.regression, windows, self.cadence)[..., :steps]
        return Persistence().forecast(windows)[:, None] + changes.swapaxes(1, 2)


class GradientBoostedTrees(Baseline):
    """Gradient-boosted trees of the change from the last observed intensity on lagged features.

    Trees forecast one lead. The trees for a horizon are fitted when windows of this horizon are first forecast, which
    takes seconds, and kept. (Friedman 2001, Annals of Statistics 29, 1189; here scikit-learn's histogram version.)

    Args:
        timelines: The train split.

    Raises:
        SolaredError: If the cadences of the regions differ, or no region has two steps.
    """

    name = "gradient-boosted trees"
    longest_trajectory: float = 0

    def __init__(self, timelines: Sequence[Timeline]):
        self.timelines = timelines
        self.cadence = common_cadence(timelines)
        self._by_steps: dict[int, HistGradientBoostingRegressor] = {}

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """Return the forecast at the windows' horizon, (N, 63) float32 in DN.

        Raises:
            SolaredError: If the windows have another cadence than the train split, the cadence does not divide an
                hour, or no train region is long enough for the horizon.
        """
        check_cadence(self, windows)
        changes = _predicted_changes(self._trees(windows.horizon_steps), windows, self.cadence)
        return Persistence().forecast(windows) + changes

    def trajectory(self, windows: SolaredWindows, steps: int) -> NoReturn:
        """Raise SolaredError, because trees forecast only the horizon of the windows."""
        raise SolaredError(f"{self.name} forecast only the horizon of the windows. Use forecast.")

    def _trees(self, steps: int) -> HistGradientBoostingRegressor:
        if steps not in self._by_steps:
            features, changes, weights = _training_rows(self.timelines, np.array([steps]), self.cadence)
            self._by_steps[steps] = HistGradientBoostingRegressor(
                max_iter=150,
                learning_rate=0.06,
                max_leaf_nodes=15,
                min_samples_leaf=100,
                max_bins=63,
                # Early stopping would hold out rows of the train regions, which say nothing about other regions.
                early_stopping=False,
                random_state=0,
            ).fit(features, changes[:, 0], sample_weight=weights)
        return self._by_steps[steps]


def _training_rows(
    timelines: Sequence[Timeline], leads: np.ndarray, cadence: timedelta
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (rows, features), intensity changes in DN at each lead (rows, leads), and weights (rows,).

    A row is a tile of a window in which all leads were observed. The weights give regions of small and large intensity
    range the same influence, as the published score does. With many regions fewer windows of each region are used, at
    different times in each region.
    """
    hour = steps_per_hour(cadence)
    windows = SolaredWindows(
        timelines, input_steps=LONGEST_LAG // cadence + 1, horizon=int(leads[-1]) * cadence, read=False
    )
    least = _TRAIN_EVERY_HOURS * hour
    every = least * max(math.ceil(len(windows) * NUM_TILES / least / _MOST_TRAINING_ROWS), 1)
    features, changes, weights = [], [], []
    for index, region in enumerate(region for region in windows.regions if len(region.starts)):
        intensity = region.timeline.intensity
        first = region.starts[index * least % every :: every]
        last = first + windows.input_steps - 1
        change = intensity[last[:, None] + leads].swapaxes(1, 2) - intensity[last, :, None]
        known = ~np.isnan(change).any(axis=2)
        features.append(lagged_features(region.timeline.values, first, last, hour)[known])
        changes.append(change[known])
        # At least 1 DN, so that a nearly constant region does not outweigh all others.
        span = max(np.nanmax(intensity) - np.nanmin(intensity), 1.0)
        weights.append(np.full(len(changes[-1]), span**-2.0))
    weight = np.concatenate(weights)
    return np.concatenate(features), np.concatenate(changes), weight / weight.mean()


def _predicted_changes(regression, windows: SolaredWindows, cadence: timedelta) -> np.ndarray:
    """Return the (N, 63) or (N, 63, leads) changes; one region at a time, because features take much memory."""
    hour = steps_per_hour(cadence)
    changes = []
    for region in (region for region in windows.regions if len(region.starts)):
        last = region.starts + windows.input_steps - 1
        features = lagged_features(region.timeline.values, region.starts, last, hour)
        predicted = regression.predict(features.reshape(-1, features.shape[-1])).astype(np.float32)
        changes.append(predicted.reshape(*features.shape[:2], *predicted.shape[1:]))
    return np.concatenate(changes)
