"""Forecasts without a trained network, which every model is measured against.

Each is a `forecasting.Forecaster`: it takes N windows and gives continuum intensity in DN, (N, 63) float32 at their
targets by `forecast`, (N, steps, 63) float32 at the steps after their last input steps by `trajectory`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

import numpy as np

from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError, whole_number
from solared_hf.schema import NUM_TILES

_LONGEST_LEAD = timedelta(hours=48)


class Baseline:
    """What forecasters share that can be asked about any windows."""

    longest_trajectory: float = math.inf

    def windows(self, timelines: Iterable[Timeline], require_target: bool = True) -> SolaredWindows:
        """Windows of the default length and horizon, in physical units; the arguments are those of `SolaredWindows`.

        Raises:
            SolaredError: no window can be cut.
        """
        return SolaredWindows(timelines, require_target=require_target, read=False)


class Persistence(Baseline):
    """The last observed intensity of each tile; 0 DN, the background, where the window has none.

    >>> times = np.datetime64("2013-04-15T00:00") + np.arange(4) * np.timedelta64(1, "h")
    >>> intensities = np.arange(4.0)[:, None, None] * np.ones((4, 6, 63))
    >>> windows = SolaredWindows(Timeline(11726, times, intensities), input_steps=2, horizon=timedelta(hours=1))
    >>> Persistence().forecast(windows)[:, 0], windows.observed_targets[:, 0]
    (array([1., 2.], dtype=float32), array([2., 3.], dtype=float32))
    """

    name = "persistence"

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """(N, 63) float32, DN: the last intensity that was observed."""
        return _by_region(_last_observed, windows)

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """(N, steps, 63) float32, DN: the forecast, repeated."""
        check_reach(self, steps)
        return np.repeat(self.forecast(windows)[:, None], steps, axis=1)


class Average(Baseline):
    """The mean intensity of each tile over the input; 0 DN, the background, where the window has none."""

    name = "average"

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """(N, 63) float32, DN: the mean of what was observed in the window."""
        return _by_region(_mean_observed, windows)

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """(N, steps, 63) float32, DN: the forecast, repeated."""
        check_reach(self, steps)
        return np.repeat(self.forecast(windows)[:, None], steps, axis=1)


BASELINES = {baseline.name: baseline for baseline in (Persistence, Average)}


class Climatology(Baseline):
    """The mean intensity of each tile over the regions it was fitted on, whatever the window shows.

    Args:
        mean_intensity: (63,) in DN.
    """

    name = "climatology"

    def __init__(self, mean_intensity: np.ndarray):
        self.mean_intensity = np.asarray(mean_intensity, np.float32)

    @classmethod
    def fit(cls, timelines: Sequence[Timeline]) -> "Climatology":
        """From the train split; every observed step counts alike.

        Raises:
            SolaredError: there is no region.
        """
        if not timelines:
            raise SolaredError("There is no region to take a climatology from; give the train split of a dataset.")
        total, count = np.zeros(NUM_TILES), np.zeros(NUM_TILES, int)
        for timeline in timelines:
            observed = ~np.isnan(timeline.intensity)
            total += np.where(observed, timeline.intensity, np.float32(0)).sum(axis=0, dtype=np.float64)
            count += observed.sum(axis=0)
        return cls(total / np.maximum(count, 1))

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """(N, 63) float32, DN: the same for every window."""
        return np.tile(self.mean_intensity, (len(windows), 1))

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """(N, steps, 63) float32, DN: the same for every window and step."""
        check_reach(self, steps)
        return np.tile(self.mean_intensity, (len(windows), steps, 1))


class DampedPersistence(Baseline):
    """Persistence whose distance from the climatology shrinks with the lead: the best a last value alone can do.

    forecast = climatology + factor(lead) * (last observed intensity - climatology); for a series without more memory
    than its last value, the factors are its autocorrelation.

    Args:
        climatology: what long leads go to.
        factors: (leads,) factor of each step ahead, the first for one step.
        cadence: time of one step.
    """

    name = "damped persistence"

    def __init__(self, climatology: Climatology, factors: np.ndarray, cadence: timedelta):
        self.climatology = climatology
        self.factors = np.asarray(factors, np.float32)
        self.cadence = cadence
        self.longest_trajectory = len(self.factors)

    @classmethod
    def fit(cls, timelines: Sequence[Timeline]) -> "DampedPersistence":
        """From the train split: the factor of each lead up to 48 h by least squares over all pairs of observed steps.

        Pairs lie between the same two gaps, as the steps of a window do. Leads longer than any stretch without a gap
        have no factor.

        Raises:
            SolaredError: there is no region, the cadences differ, or no two steps follow each other.
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
            raise SolaredError("No two steps of the train split follow each other and differ; give longer timelines.")
        return cls(climatology, products[:reached] / squares[:reached], cadence)

    def forecast(self, windows: SolaredWindows) -> np.ndarray:
        """(N, 63) float32, DN, by the factor of the windows' horizon.

        Raises:
            SolaredError: the windows have another cadence, or no factor reaches their horizon.
        """
        return self._damped(windows, np.array([windows.horizon_steps]))[:, 0]

    def trajectory(self, windows: SolaredWindows, steps: int) -> np.ndarray:
        """(N, steps, 63) float32, DN, by the factor of each step.

        Raises:
            SolaredError: the windows have another cadence, or there are more steps than factors.
        """
        check_reach(self, steps)
        return self._damped(windows, np.arange(1, steps + 1))

    def _damped(self, windows: SolaredWindows, leads: np.ndarray) -> np.ndarray:
        """(N, leads, 63) for leads in steps."""
        check_cadence(self, windows)
        check_reach(self, leads[-1])
        departure = Persistence().forecast(windows) - self.climatology.mean_intensity
        return self.climatology.mean_intensity + self.factors[leads - 1, None] * departure[:, None]


def common_cadence(timelines: Iterable[Timeline]) -> timedelta:
    """The cadence that all regions share; those of a single step have none and do not count.

    Raises:
        SolaredError: the cadences differ, or no region has one.
    """
    cadences = {timeline.cadence for timeline in timelines if len(timeline) > 1}
    if len(cadences) != 1:
        found = " and ".join(map(str, sorted(cadences))) or "no cadence at all"
        raise SolaredError(f"The regions have {found}; give regions of one cadence.")
    return cadences.pop()


def check_cadence(forecaster, windows: SolaredWindows) -> None:
    """Refuse windows of another cadence than that of the timelines a forecaster was fitted on.

    Raises:
        SolaredError: the cadences differ.
    """
    if windows.cadence != forecaster.cadence:
        raise SolaredError(
            f"{forecaster.name} was fitted on a step every {forecaster.cadence}, and the windows have one every "
            f"{windows.cadence}; fit it on data of their cadence."
        )


def check_reach(forecaster, steps: int) -> None:
    """Refuse more steps than a forecaster reaches, and what is no number of steps.

    Raises:
        SolaredError: it is so.
    """
    steps = whole_number(steps, "The number of steps ahead", "ask for at least one")
    if steps > forecaster.longest_trajectory:
        raise SolaredError(
            f"{forecaster.name} reaches {forecaster.longest_trajectory} steps ahead, not {steps}; ask for less."
        )


def _last_observed(intensity: np.ndarray, first: np.ndarray, steps: int) -> np.ndarray:
    """(N, 63) float32 of one region: what was observed last in each window of `steps` steps from a `first` one on."""
    index = np.arange(len(intensity))[:, None]
    latest = np.maximum.accumulate(np.where(np.isnan(intensity), -1, index), axis=0)[first + steps - 1]
    values = np.take_along_axis(intensity, np.maximum(latest, 0), axis=0)
    return np.where(latest >= first[:, None], values, np.float32(0))


def _mean_observed(intensity: np.ndarray, first: np.ndarray, steps: int) -> np.ndarray:
    """(N, 63) float32 of one region: the mean of what was observed in each window; arguments as above."""
    observed = ~np.isnan(intensity)
    # Sums and numbers of all that came before each step, so that a window is a difference of two.
    before = np.zeros((2, len(intensity) + 1, NUM_TILES))
    np.cumsum([np.where(observed, intensity, np.float32(0)), observed], axis=1, dtype=np.float64, out=before[:, 1:])
    total, count = before[:, first + steps] - before[:, first]
    return (total / np.maximum(count, 1)).astype(np.float32)


def _by_region(forecast: Callable[[np.ndarray, np.ndarray, int], np.ndarray], windows: SolaredWindows) -> np.ndarray:
    """(N, 63): what a function says of the intensity of each region and the first steps of the windows in it."""
    steps = windows.input_steps
    return np.concatenate([forecast(one.timeline.intensity, one.starts, steps) for one in windows.regions])
