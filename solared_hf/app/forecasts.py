"""The forecasts that the page shows: made once, one at a time, and kept for everybody."""

import weakref
from dataclasses import dataclass, field
from threading import Lock

from solared_hf.app.regions import Region
from solared_hf.errors import SolaredError
from solared_hf.evaluation.region_forecast import RegionForecast, forecast_region
from solared_hf.forecasters.base import Forecaster, forecast_file

# Of a region of 240 steps some 300 kB are kept, and 25 kB for every tile that was looked at.
MOST_KEPT = 100


@dataclass(frozen=True)
class Made:
    """A forecast that has been made, or why there is none.

    Args:
        forecast: of every step of the region; None where there can be none.
        file: what `solared predict` writes of it.
        refusal: why there can be none, with the cure; empty where there is one.
        pictures: those of the tiles that somebody has looked at, by tile.
    """

    forecast: RegionForecast | None
    file: bytes = b""
    refusal: str = ""
    pictures: dict[int, str] = field(default_factory=dict)


class Forecasts:
    """Forecasts of regions by one forecaster.

    They go with their regions: what was made of an upload is gone when the upload is.

    Args:
        forecaster: who makes them.
        alarm_scale_dn: DN of one unit of the alarms' threshold; None for no alarms.
        most_kept: how many are kept; beyond that the one that was asked for least recently is dropped.
    """

    def __init__(self, forecaster: Forecaster, alarm_scale_dn: float | None, most_kept: int = MOST_KEPT):
        self.forecaster = forecaster
        self.alarm_scale_dn = alarm_scale_dn
        self.most_kept = most_kept
        self._made: weakref.WeakKeyDictionary[Region, Made] = weakref.WeakKeyDictionary()
        self._reading, self._making = Lock(), Lock()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._made)

    def known(self, region: Region) -> Made | None:
        """What has been made of a region already, at once; None where nothing has."""
        with self._reading:
            made = self._made.pop(region, None)
            if made is not None:
                # The dictionary keeps the order in which they were put in.
                self._made[region] = made
            return made

    def make(self, region: Region) -> Made:
        """What the forecaster says of a region; whoever asks for another one meanwhile waits."""
        with self._making:
            made = self.known(region)
            if made is None:
                made = self._make(region)
                with self._reading:
                    self._made[region] = made
                    for oldest in list(self._made)[: -self.most_kept]:
                        del self._made[oldest]
            return made

    def _make(self, region: Region) -> Made:
        try:
            windows = self.forecaster.windows([region.timeline], require_target=False)
            forecast = forecast_region(self.forecaster, windows, self.alarm_scale_dn)
        except SolaredError as error:
            return Made(None, refusal=str(error))
        return Made(forecast, forecast_file(windows, forecast.forecasts[forecast.name]))
