"""The alarms of a region: which tiles, when they were issued, and how early, beside persistence."""

import numpy as np

from solared_hf.app.forecasts import Made
from solared_hf.app.regions import Region
from solared_hf.app.tables import html_table, unbroken
from solared_hf.evaluation.alarms import WARNING_PERIOD
from solared_hf.evaluation.region_forecast import RegionForecast
from solared_hf.plotting.style import minute, tile_name

NO_SCALE = (
    "There are no alarms: their threshold is a share of the intensity range of a train split's regions, and this "
    "dataset has no train split."
)


def alarm_table(region: Region, made: Made | None) -> str:
    """Every tile that emerged or was warned of, in order of time, as HTML; a tile's name chooses it.

    Args:
        region: whose tiles.
        made: its forecast; None where it is not there yet.
    """
    if made is None or made.forecast is None:
        return ""
    title, forecast = f"<h2>Alarms of AR{region.timeline.ar_number}</h2>", made.forecast
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
    """When a tile emerged."""
    onset = forecast.onsets[tile]
    if np.isnat(onset):
        return "none"
    return f"{minute(onset)}{', before the first forecast' if onset <= forecast.first_issue else ''}"


def alarm_in_words(tile: int, name: str, forecast: RegionForecast) -> str:
    """When a tile was warned of by one of the forecasters, and how early, as the scores count it."""
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
    """Tiles with an onset or an alarm, in the order of what came first."""
    moments = np.stack([forecast.onsets, *(alarms.issued for alarms in forecast.alarms.values())])
    known = np.flatnonzero(~np.isnat(moments).all(axis=0))
    return sorted(known.tolist(), key=lambda tile: (np.nanmin(moments[:, tile]), tile))


def _row(tile: int, forecast: RegionForecast) -> tuple[str, ...]:
    name = f'<button type="button" class="link" data-tile="{tile}">{unbroken(tile_name(tile))}</button>'
    alarms = (alarm_in_words(tile, name, forecast) for name in forecast.alarms)
    return name, onset_in_words(tile, forecast), *alarms
