"""What the map can show, in words that people use: the channels and the forecast, their units and their numbers."""

import numpy as np

from solared_hf.app.forecasts import Made
from solared_hf.app.regions import Region
from solared_hf.plotting.forecasts import values_at
from solared_hf.schema import CHANNELS, NUM_TILES, POWER_CHANNELS, TARGET_CHANNEL

# What can be shown beside the channels of the data.
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
    """A value with its unit, or that there is none.

    >>> in_words("continuum_intensity", -51234.4), in_words("power_3_4mhz", 1.5e6), in_words("forecast", float("nan"))
    ('-51,234 DN', '1.5 million (m/s)²/Hz', 'no forecast')
    """
    if np.isnan(value):
        return "no forecast" if channel == FORECAST else "not observed"
    if channel in POWER_CHANNELS:
        return f"{value / 1e6:,.1f} million (m/s)²/Hz"
    return f"{value:,.0f} G" if channel == "unsigned_magnetic_flux" else f"{value:,.0f} DN"


def observed_values(region: Region, channel: str) -> np.ndarray:
    """(T, 63) all that was observed of a region in a channel; of the forecast, what it forecasts."""
    channel = TARGET_CHANNEL if channel == FORECAST else channel
    return region.timeline.values[:, CHANNELS.index(channel)]


def shown_values(region: Region, channel: str, time: np.datetime64, made: Made | None) -> np.ndarray:
    """(63,) what the map shows of a time, NaN where there is nothing."""
    times = np.array([time])
    if channel != FORECAST:
        return values_at(times, region.timeline.times, observed_values(region, channel))[0]
    if made is None or made.forecast is None:
        return np.full(NUM_TILES, np.nan, np.float32)
    return values_at(times, made.forecast.target_times, made.forecast.forecasts[made.forecast.name])[0]
