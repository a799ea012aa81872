"""The quantities that the map can show: names and units of the channels and of the forecast, for the page."""

import numpy as np

from solared_hf.app.forecasts import PageForecast
from solared_hf.app.regions import Region
from solared_hf.plotting.forecasts import values_at
from solared_hf.schema import CHANNELS, NUM_TILES, POWER_CHANNELS, TARGET_CHANNEL

# Key of the forecast, which the map can show beside the channels of the data.
FORECAST = "forecast"

NAMES = {
    TARGET_CHANNEL: "Continuum intensity, observed",
    FORECAST: "Continuum intensity, forecast",
    "unsigned_magnetic_flux": "Unsigned magnetic flux",
    "power_2_3mhz": "Acoustic power, 2 to 3 mHz",
    "power_3_4mhz": "Acoustic power, 3 to 4 mHz",
    "power_4_5mhz": "Acoustic power, 4 to 5 mHz",
    "power_5_6mhz": "Acoustic power, 5 to 6 mHz",
}


def in_words(channel: str, value: float) -> str:
    """Return a value with its unit, or that it is missing.

    >>> in_words("continuum_intensity", -51234.4), in_words("power_3_4mhz", 1.5e6), in_words("forecast", float("nan"))
    ('-51,234 DN', '1.5 million (m/s)²/Hz', 'no forecast')
    """
    if np.isnan(value):
        return "no forecast" if channel == FORECAST else "not observed"
    if channel in POWER_CHANNELS:
        return f"{value / 1e6:,.1f} million (m/s)²/Hz"
    return f"{value:,.0f} G" if channel == "unsigned_magnetic_flux" else f"{value:,.0f} DN"


def observed_values(region: Region, channel: str) -> np.ndarray:
    """Return the (T, 63) observed values of a channel; for the forecast, of the channel that it forecasts."""
    channel = TARGET_CHANNEL if channel == FORECAST else channel
    return region.timeline.values[:, CHANNELS.index(channel)]


def shown_values(region: Region, channel: str, time: np.datetime64, page_forecast: PageForecast | None) -> np.ndarray:
    """Return the (63,) values that the map shows at a time, NaN where a value is missing."""
    times = np.array([time])
    if channel != FORECAST:
        return values_at(times, region.timeline.times, observed_values(region, channel))[0]
    if page_forecast is None or page_forecast.forecast is None:
        return np.full(NUM_TILES, np.nan, np.float32)
    forecast = page_forecast.forecast
    return values_at(times, forecast.target_times, forecast.forecasts[forecast.name])[0]
