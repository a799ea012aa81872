"""The regions of the page: the regions of a dataset, or of the simulated Sun."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np

from dataset_builder.simulation.timelines import SIMULATED_REGIONS, simulate_region, split_of
from solared_hf.data.loading import OpenedDataset
from solared_hf.data.step_times import nearest_steps
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError
from solared_hf.evaluation.alarms import alarm_scale
from solared_hf.forecasters.base import Forecaster
from solared_hf.schema import NUM_TILES


@dataclass(frozen=True, eq=False)
class Region:
    """A region on the page.

    Regions are compared by identity, so two users who upload the same file have two regions.

    Args:
        timeline: The observation.
        label: Name in the list of regions.
        times: (S,) datetime64[ms] array, naive TAI, increasing: the observed steps and the target times of forecasts.
        noaa_emergence_time: Time at which NOAA first reported the region, UTC; None if unknown.
    """

    timeline: Timeline
    label: str
    times: np.ndarray
    noaa_emergence_time: datetime | None = None

    @cached_property
    def first_view(self) -> tuple[int, int]:
        """Step (index into `times`) and tile that the page shows first: the darkest tile of all times.

        If no intensity was observed, the first step and the tile in the middle.
        """
        intensity = self.timeline.intensity
        if np.isnan(intensity).all():
            return 0, NUM_TILES // 2
        step, tile = np.unravel_index(np.nanargmin(intensity), intensity.shape)
        return int(np.searchsorted(self.times, self.timeline.times[step])), int(tile)


@dataclass(frozen=True)
class Collection:
    """The regions that every user sees.

    Args:
        name: Name of the data on the page.
        simulated: True if the regions are simulated; the page then says so.
        regions: Regions by AR number as text, in ascending order.
        first: Key of the region that the page shows first.
        alarm_scale_dn: DN of one unit of the alarm threshold; None if the data have no train split.
    """

    name: str
    simulated: bool
    regions: Mapping[str, Region]
    first: str
    alarm_scale_dn: float | None


def region_to_show(
    forecaster: Forecaster, timeline: Timeline, label: str, noaa_emergence_time: datetime | None = None
) -> Region:
    """Return a region whose times include the target times of its forecasts.

    Raises:
        SolaredError: If the forecaster cannot forecast any step of the region.
    """
    windows = forecaster.windows([timeline], require_target=False)
    wanted, cadence = windows.target_times, np.timedelta64(timeline.cadence)
    beyond = wanted[nearest_steps(timeline.times, wanted, cadence) < 0]
    return Region(timeline, label, np.union1d(timeline.times, beyond), noaa_emergence_time)


def simulated_sun(forecaster: Forecaster) -> Collection:
    """Return the regions of the simulated Sun, computed in memory.

    Raises:
        SolaredError: If the forecaster cannot forecast any of them.
    """
    timelines = {number: simulate_region(number) for number in SIMULATED_REGIONS}
    splits = {number: split_of(number) for number in timelines}
    return _collection("the simulated Sun", True, forecaster, timelines.values(), splits, {})


def regions_of_dataset(dataset: OpenedDataset, forecaster: Forecaster) -> Collection:
    """Return all regions of a dataset.

    Raises:
        SolaredError: If the dataset cannot be read, or the forecaster can forecast none of its regions.
    """
    name, simulated = dataset.identity["dataset"], dataset.identity["simulated"]
    splits = {row["ar_number"]: row["split"] for row in dataset.catalog}
    noaa = {row["ar_number"]: row["noaa_emergence_time"] for row in dataset.catalog}
    return _collection(name, simulated, forecaster, dataset.timelines(), splits, noaa)


def _collection(
    name: str,
    simulated: bool,
    forecaster: Forecaster,
    timelines: Iterable[Timeline],
    splits: Mapping[int, str],
    noaa_emergence_times: Mapping[int, datetime | None],
) -> Collection:
    regions, refusals = {}, []
    for timeline in sorted(timelines, key=lambda timeline: timeline.ar_number):
        number = timeline.ar_number
        label, noaa = f"AR{number} ({splits[number]})", noaa_emergence_times.get(number)
        try:
            regions[str(number)] = region_to_show(forecaster, timeline, label, noaa)
        except SolaredError as error:
            # The page still shows the observation, and says why the region cannot be forecast.
            regions[str(number)] = Region(timeline, label, timeline.times, noaa)
            refusals.append(error)
    if len(refusals) == len(regions):
        raise refusals[0] if refusals else SolaredError(f"The dataset {name} has no region. Build the dataset again.")
    train = [timeline for timeline in timelines if splits[timeline.ar_number] == "train"]
    # Show a test region first, because a model has seen the train regions.
    first = min(regions, key=lambda key: splits[int(key)] != "test")
    return Collection(name, simulated, regions, first, alarm_scale(train) if train else None)
