"""The alarm table: for each tile, when it emerged and when the forecaster and persistence issued an alarm."""

import numpy as np

from solared_hf.app.forecasts import PageForecast
from solared_hf.app.regions import Region
from solared_hf.app.tables import html_table, unbroken
from solared_hf.evaluation.alarms import WARNING_PERIOD
from solared_hf.evaluation.region_forecast import RegionForecast
from solared_hf.plotting.style import minute, tile_name

NO_SCALE = (
    "No alarms: their threshold is a share of the intensity range of the train regions, and this dataset has no "
    "train split."
)


def alarm_table(region: Region, page_forecast: PageForecast | None) -> str:
    """Return the tiles with an onset or an alarm as an HTML table, in order of time.

    A click on the name of a tile chooses the tile.

    Args:
        region: The region.
        page_forecast: Forecast of the region; None while it is computed.
    """
    if page_forecast is None or page_forecast.forecast is None:
        return ""
    title, forecast = f"<h2>Alarms of AR{region.timeline.ar_number}</h2>", page_forecast.forecast
    if not forecast.alarms:
        return f"{title}<p>{NO_SCALE}</p>"
    rows = [_row(tile, forecast) for tile in _tiles(forecast)]
    if not rows:
        return f"{title}<p>No tile emerged, and no alarm was issued.</p>"
    hours = int(WARNING_PERIOD.total_seconds() // 3600)
    return (
        f"{title}{html_table(('tile', 'onset observed', *forecast.alarms), rows)}"
        f"<p>An alarm counts from when it could have been issued, and warns of the {hours} h that follow.</p>"
    )


def onset_in_words(tile: int, forecast: RegionForecast) -> str:
    """Return when a tile emerged."""
    onset = forecast.onsets[tile]
    if np.isnat(onset):
        return "none"
    return f"{minute(onset)}{', before the first forecast' if onset <= forecast.first_issue else ''}"


def alarm_in_words(tile: int, name: str, forecast: RegionForecast) -> str:
    """Return when the named forecaster issued the alarm of a tile, and how early, as the scores count it."""
    alarms, onset = forecast.alarms[name], forecast.onsets[tile]
    if np.isnat(alarms.issued[tile]):
        return "none"
    return f"{minute(alarms.issued[tile])}, {_lead_in_words(alarms.lead_hours.get(tile), onset)}"


def _lead_in_words(hours: float | None, onset: np.datetime64) -> str:
    if hours is None:
        return "no onset" if np.isnat(onset) else "too early to count"
    if hours == 0:
        return "at the onset"
    return f"{hours:g} h before" if hours > 0 else f"{-hours:g} h late"


def _tiles(forecast: RegionForecast) -> list[int]:
    """Return the tiles with an onset or an alarm, ordered by whichever came first."""
    times = np.stack([forecast.onsets, *(alarms.issued for alarms in forecast.alarms.values())])
    tiles = np.flatnonzero(~np.isnat(times).all(axis=0))
    return sorted(tiles.tolist(), key=lambda tile: (np.nanmin(times[:, tile]), tile))


def _row(tile: int, forecast: RegionForecast) -> tuple[str, ...]:
    name = f'<button type="button" class="link" data-tile="{tile}">{unbroken(tile_name(tile))}</button>'
    alarms = (alarm_in_words(tile, name, forecast) for name in forecast.alarms)
    return name, onset_in_words(tile, forecast), *alarms
