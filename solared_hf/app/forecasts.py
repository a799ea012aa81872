"""The forecasts that the page shows: computed once, one at a time, and kept for all users."""

import weakref
from dataclasses import dataclass, field
from threading import Lock

from solared_hf.app.regions import Region
from solared_hf.errors import SolaredError
from solared_hf.evaluation.region_forecast import RegionForecast, forecast_region
from solared_hf.forecasters.base import Forecaster, forecast_file

# A region of 240 steps takes some 300 kB, plus 25 kB for every tile that a user has looked at.
MOST_KEPT = 100


@dataclass(frozen=True)
class PageForecast:
    """The forecast of one region as the page shows it, or the reason why the region cannot be forecast.

    Args:
        forecast: Forecast of every step of the region; None if the region cannot be forecast.
        file: Content of the Parquet file that `solared predict` writes of the forecast.
        refusal: Why the region cannot be forecast and what to do; empty if `forecast` is given.
        pictures: SVG pictures of the tiles that a user has looked at, by tile.
    """

    forecast: RegionForecast | None
    file: bytes = b""
    refusal: str = ""
    pictures: dict[int, str] = field(default_factory=dict)


class ForecastCache:
    """Forecasts of regions by one forecaster, computed when they are first needed.

    A forecast is dropped when nothing else refers to its region, so the forecast of an upload goes with the upload.

    Args:
        forecaster: Forecaster of all regions.
        alarm_scale_dn: DN of one unit of the alarm threshold; None for no alarms.
        most_kept: Number of forecasts to keep. Beyond it the least recently used forecast is dropped.
    """

    def __init__(self, forecaster: Forecaster, alarm_scale_dn: float | None, most_kept: int = MOST_KEPT):
        self.forecaster = forecaster
        self.alarm_scale_dn = alarm_scale_dn
        self.most_kept = most_kept
        self._forecasts: weakref.WeakKeyDictionary[Region, PageForecast] = weakref.WeakKeyDictionary()
        self._access, self._computation = Lock(), Lock()

    def __len__(self) -> int:
        """Return the number of forecasts that are kept."""
        return len(self._forecasts)

    def get(self, region: Region) -> PageForecast | None:
        """Return the forecast of a region at once, or None if it has not been computed."""
        with self._access:
            forecast = self._forecasts.pop(region, None)
            if forecast is not None:
                # Inserted again, because the dictionary keeps the order of insertion.
                self._forecasts[region] = forecast
            return forecast

    def make(self, region: Region) -> PageForecast:
        """Return the forecast of a region, computed if necessary; only one forecast is computed at a time."""
        with self._computation:
            forecast = self.get(region)
            if forecast is None:
                forecast = self._compute(region)
                with self._access:
                    self._forecasts[region] = forecast
                    for oldest in list(self._forecasts)[: -self.most_kept]:
                        del self._forecasts[oldest]
            return forecast

    def _compute(self, region: Region) -> PageForecast:
        try:
            windows = self.forecaster.windows([region.timeline], require_target=False)
            forecast = forecast_region(self.forecaster, windows, self.alarm_scale_dn)
        except SolaredError as error:
            return PageForecast(None, refusal=str(error))
        return PageForecast(forecast, forecast_file(windows, forecast.forecasts[forecast.name]))
