"""Baselines: forecasts without a trained network, for comparison with the models.

Each baseline is a `base.Forecaster`. For N windows it returns the continuum intensity in DN: `forecast` at the target
times, (N, 63) float32, and `trajectory` at the steps after the last input step, (N, steps, 63) float32.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Protocol

import numpy as np

from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError, whole_number
from solared_hf.schema import NUM_TILES

_LONGEST_LEAD = timedelta(hours=48)


class _NamedForecaster(Protocol):
    name: str
    longest_trajectory: float


class _FittedForecaster(Protocol):
    name: str
    cadence: timedelta


class Baseline:
    """Base class of forecasters that accept windows of any length."""

    name: str
    longest_trajectory: float = math.inf

    def windows(self, timelines: Iterable[Timeline], require_target: bool = True) -> SolaredWindows:
        """Return windows of the default length and horizon, in physical units; arguments as in `SolaredWindows`.

        Raises:
            SolaredError: If the regions give no window.
        """
        return SolaredWindows(timelines, require_target=require_target, read=False)


class Persistence(Baseline):
    """The last observed intensity of each tile; 0 DN (the background) if the window has no observed value.

    >>> times = np.datetime64("2013-04-15T00:00") + np.arange(4) * np.timedelta64(1, "h")
    >>> intensities = np.arange(4.0)[:, None, None] * np.ones((4, 6, 63))
    >>> windows = SolaredWindows(Timeline(11726, times, intensities), input_steps=2, horizon=timedelta(hours=1))
    >>> Persistence().forecast(windows)[:, 0], windows.observed_targets[:, 0]
    (array([1., 2.], dtype=float32), array([2., 3.], dtype=float32))
    """

    name = "persistence"

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """Return the last observed intensity, (N, 63) float32 in DN."""
        return _by_region(_last_observed, windows)

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """Return the forecast, repeated at every step, (N, steps, 63) float32 in DN."""
        check_reach(self, steps)
        return np.repeat(self.forecast(windows)[:, None], steps, axis=1)


class Average(Baseline):
    """The mean observed intensity of each tile over the input; 0 DN (the background) without any observed value."""

    name = "average"

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """Return the mean observed intensity of the window, (N, 63) float32 in DN."""
        return _by_region(_mean_observed, windows)

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """Return the forecast, repeated at every step, (N, steps, 63) float32 in DN."""
        check_reach(self, steps)
        return np.repeat(self.forecast(windows)[:, None], steps, axis=1)


BASELINES: dict[str, type[Persistence | Average]] = {baseline.name: baseline for baseline in (Persistence, Average)}


class Climatology(Baseline):
    """The mean intensity of each tile over the train regions, the same for every window.

    Args:
        mean_intensity: (63,) array in DN.
    """

    name = "climatology"

    def __init__(self, mean_intensity: np.ndarray):
        self.mean_intensity = np.asarray(mean_intensity, np.float32)

    @classmethod
    def fit(cls, timelines: Sequence[Timeline]) -> "Climatology":
        """Fit on the train split; every observed step has the same weight.

        Raises:
            SolaredError: If no region is given.
        """
        if not timelines:
            raise SolaredError("A climatology needs at least one region. Give the train split of a dataset.")
        total, count = np.zeros(NUM_TILES), np.zeros(NUM_TILES, int)
        for timeline in timelines:
            observed = ~np.isnan(timeline.intensity)
            total += np.where(observed, timeline.intensity, np.float32(0)).sum(axis=0, dtype=np.float64)
            count += observed.sum(axis=0)
        return cls(total / np.maximum(count, 1))

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """Return the mean intensity for every window, (N, 63) float32 in DN."""
        return np.tile(self.mean_intensity, (len(windows), 1))

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """Return the mean intensity for every window and step, (N, steps, 63) float32 in DN."""
        check_reach(self, steps)
        return np.tile(self.mean_intensity, (len(windows), steps, 1))


class DampedPersistence(Baseline):
    """Persistence that approaches the climatology with the lead: the best linear forecast from the last value.

    forecast = climatology + factor(lead) * (last observed intensity - climatology). For a series that depends only on
    its last value, the factors are the autocorrelation.

    Args:
        climatology: Climatology, which the forecast approaches at long leads.
        factors: (leads,) factor of each step ahead, the first for one step.
        cadence: Time between two steps.
    """

    name = "damped persistence"

    def __init__(self, climatology: Climatology, factors: np.ndarray, cadence: timedelta):
        self.climatology = climatology
        self.factors = np.asarray(factors, np.float32)
        self.cadence = cadence
        self.longest_trajectory = len(self.factors)

    @classmethod
    def fit(cls, timelines: Sequence[Timeline]) -> "DampedPersistence":
        """Fit on the train split: the factor of each lead up to 48 h, by least squares over pairs of observed steps.

        No gap lies between the steps of a pair, as in a window. Leads longer than every stretch without a gap have no
        factor.

        Raises:
            SolaredError: If no region is given, the cadences differ, or no two steps are one cadence apart.
        """
        climatology = Climatology.fit(timelines)
        cadence = common_cadence(timelines)
        leads = _LONGEST_LEAD // cadence
        products, squares = np.zeros(leads), np.zeros(leads)
        for timeline in (timeline for timeline in timelines if len(timeline) > 1):
            departure = timeline.intensity.astype(np.float64) - climatology.mean_intensity
            for stretch in np.split(departure, np.flatnonzero(timeline.breaks) + 1):
                for lead in range(1, min(leads, len(stretch) - 1) + 1):
                    earlier, later = stretch[:-lead], stretch[lead:]
                    both = ~np.isnan(earlier) & ~np.isnan(later)
                    products[lead - 1] += earlier[both] @ later[both]
                    squares[lead - 1] += earlier[both] @ earlier[both]
        reached = np.cumprod(squares > 0).sum()
        if not reached:
            raise SolaredError(
                "No two steps of the train split are one cadence apart and differ. Give longer timelines."
            )
        return cls(climatology, products[:reached] / squares[:reached], cadence)

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """Return the forecast by the factor of the windows' horizon, (N, 63) float32 in DN.

        Raises:
            SolaredError: If the windows have another cadence, or their horizon is longer than the fitted leads.
        """
        return self._damped(windows, np.array([windows.horizon_steps]))[:, 0]

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """Return the forecast by the factor of each step, (N, steps, 63) float32 in DN.

        Raises:
            SolaredError: If the windows have another cadence, or more steps are asked for than fitted.
        """
        check_reach(self, steps)
        return self._damped(windows, np.arange(1, steps + 1))

    def _damped(self, windows: SolaredWindows, leads: np.ndarray) -> np.ndarray:
        """Return the (N, leads, 63) forecasts at the given leads in steps."""
        check_cadence(self, windows)
        check_reach(self, leads[-1])
        departure = Persistence().forecast(windows) - self.climatology.mean_intensity
        return self.climatology.mean_intensity + self.factors[leads - 1, None] * departure[:, None]


def common_cadence(timelines: Iterable[Timeline]) -> timedelta:
    """Return the cadence that all regions share; regions of a single step are ignored.

    Raises:
        SolaredError: If the cadences differ, or no region has two steps.
    """
    cadences = {timeline.cadence for timeline in timelines if len(timeline) > 1}
    if len(cadences) != 1:
        found = " and ".join(map(str, sorted(cadences))) or "no cadence at all"
        raise SolaredError(f"The regions have {found}. Give regions of one cadence.")
    return cadences.pop()


def check_cadence(forecaster: _FittedForecaster, windows: SolaredWindows) -> None:
    """Check that windows have the cadence that a forecaster was fitted on.

    Raises:
        SolaredError: If the cadences differ.
    """
    if windows.cadence != forecaster.cadence:
        raise SolaredError(
            f"{forecaster.name} was fitted on a step every {forecaster.cadence}, but the windows have a step every "
            f"{windows.cadence}. Fit it on data of that cadence."
        )


def check_reach(forecaster: _NamedForecaster, steps: int) -> None:
    """Check that a forecaster can forecast a number of steps.

    Raises:
        SolaredError: If `steps` is not a positive whole number, or is more than the forecaster reaches.
    """
    steps = whole_number(steps, "The number of steps ahead", "ask for at least one")
    if steps > forecaster.longest_trajectory:
        raise SolaredError(
            f"{forecaster.name} reaches {forecaster.longest_trajectory} steps ahead, not {steps}. Ask for fewer steps."
        )


def _last_observed(intensity: np.ndarray, first: np.ndarray, steps: int) -> np.ndarray:
    """Return the last observed values in the windows of `steps` steps that begin at `first`, (N, 63) float32."""
    index = np.arange(len(intensity))[:, None]
    latest = np.maximum.accumulate(np.where(np.isnan(intensity), -1, index), axis=0)[first + steps - 1]
    values = np.take_along_axis(intensity, np.maximum(latest, 0), axis=0)
    return np.where(latest >= first[:, None], values, np.float32(0))


def _mean_observed(intensity: np.ndarray, first: np.ndarray, steps: int) -> np.ndarray:
    """Return the mean observed values in the windows of `steps` steps that begin at `first`, (N, 63) float32."""
    observed = ~np.isnan(intensity)
    # Cumulative sums and counts before each step, so that the sum over a window is a difference of two values.
    before = np.zeros((2, len(intensity) + 1, NUM_TILES))
    np.cumsum([np.where(observed, intensity, np.float32(0)), observed], axis=1, dtype=np.float64, out=before[:, 1:])
    total, count = before[:, first + steps] - before[:, first]
    return (total / np.maximum(count, 1)).astype(np.float32)


def _by_region(forecast: Callable[[np.ndarray, np.ndarray, int], np.ndarray], windows: SolaredWindows) -> np.ndarray:
    """Apply a function of the intensity and the first steps of the windows to each region; return (N, 63)."""
    steps = windows.input_steps
    return np.concatenate([forecast(region.timeline.intensity, region.starts, steps) for region in windows.regions])
