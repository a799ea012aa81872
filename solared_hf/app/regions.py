"""The regions that can be chosen on the page: those of a dataset, or of the simulated Sun."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from dataset_builder.simulation.timelines import SIMULATED_REGIONS, simulate_region, split_of
from solared_hf.data.loading import dataset_identity, load_catalog, load_catalogued_timelines, pinned_revision
from solared_hf.data.step_times import nearest_steps
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError
from solared_hf.evaluation.alarms import alarm_scale
from solared_hf.forecasters.base import Forecaster
from solared_hf.schema import NUM_TILES


@dataclass(frozen=True, eq=False)
class Region:
    """A region on the page. Each is itself alone, whatever it holds: what one user uploads is nobody else's.

    Args:
        timeline: what was observed.
        label: what the list of regions calls it.
        times: (S,) datetime64[ms], naive TAI, increasing: the observed steps, and those that forecasts are for.
        noaa_emergence_time: when NOAA first reported it, UTC; None where that is not known.
    """

    timeline: Timeline
    label: str
    times: np.ndarray
    noaa_emergence_time: datetime | None = None

    @cached_property
    def first_view(self) -> tuple[int, int]:
        """What the page shows first: index of the time at which a tile was darkest, and that tile.

        Where no intensity was observed, the first step and the tile in the middle.
        """
        intensity = self.timeline.intensity
        if np.isnan(intensity).all():
            return 0, NUM_TILES // 2
        step, tile = np.unravel_index(np.nanargmin(intensity), intensity.shape)
        return int(np.searchsorted(self.times, self.timeline.times[step])), int(tile)


@dataclass(frozen=True)
class Collection:
    """All regions that every user sees.

    Args:
        name: what the page calls the data.
        simulated: whether the regions are simulated, which the page then says.
        regions: by AR number, as text, in ascending order.
        first: key of the one that the page shows first.
        alarm_scale_dn: DN of one unit of the alarms' threshold; None where there is no train split to take it from.
    """

    name: str
    simulated: bool
    regions: Mapping[str, Region]
    first: str
    alarm_scale_dn: float | None


def region_to_show(
    forecaster: Forecaster, timeline: Timeline, label: str, noaa_emergence_time: datetime | None = None
) -> Region:
    """A region with the times that its forecasts are for.

    Raises:
        SolaredError: the forecaster can forecast no step of it.
    """
    windows = forecaster.windows([timeline], require_target=False)
    wanted, cadence = windows.target_times, np.timedelta64(timeline.cadence)
    beyond = wanted[nearest_steps(timeline.times, wanted, cadence) < 0]
    return Region(timeline, label, np.union1d(timeline.times, beyond), noaa_emergence_time)


def simulated_sun(forecaster: Forecaster) -> Collection:
    """The embedded simulated regions, made in memory.

    Raises:
        SolaredError: the forecaster can forecast none of them.
    """
    timelines = {number: simulate_region(number) for number in SIMULATED_REGIONS}
    splits = {number: split_of(number) for number in timelines}
    return _collection("the simulated Sun", True, forecaster, timelines.values(), splits, {})


def regions_of_dataset(dataset: str | Path, revision: str | None, forecaster: Forecaster) -> Collection:
    """All regions of a dataset folder or repository; the arguments are those of `load_timelines`.

    Raises:
        SolaredError: there is no such dataset, or the forecaster can forecast none of its regions.
    """
    revision = pinned_revision(dataset, revision)
    identity = dataset_identity(dataset, revision)
    catalog = load_catalog(dataset, revision)
    splits = {row["ar_number"]: row["split"] for row in catalog}
    timelines = load_catalogued_timelines(dataset, catalog, revision)
    noaa = {row["ar_number"]: row["noaa_emergence_time"] for row in catalog}
    return _collection(identity["dataset"], identity["simulated"], forecaster, timelines, splits, noaa)


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
            # It can still be looked at; the page says why there is no forecast of it.
            regions[str(number)] = Region(timeline, label, timeline.times, noaa)
            refusals.append(error)
    if len(refusals) == len(regions):
        raise refusals[0] if refusals else SolaredError(f"The dataset {name} has no region; build it again.")
    train = [timeline for timeline in timelines if splits[timeline.ar_number] == "train"]
    # A model has learned from the train split, so what it says of a region of the test split tells more.
    first = min(regions, key=lambda key: splits[int(key)] != "test")
    return Collection(name, simulated, regions, first, alarm_scale(train) if train else None)
