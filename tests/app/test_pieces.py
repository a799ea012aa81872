"""The parts of the page without a browser: map, tile report, alarm table and forecast cache."""

import gc
import re
import threading

import numpy as np
import pytest

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource, write_published
from dataset_builder.simulation import simulate_region
from dataset_builder.simulation.timelines import GAP_REGION, NAN_REGION
from solared_hf import SolaredError, Timeline, load_forecaster, open_dataset
from solared_hf.app.alarm_table import NO_SCALE, alarm_table
from solared_hf.app.channels import FORECAST, NAMES, in_words, observed_values
from solared_hf.app.forecasts import ForecastCache
from solared_hf.app.regions import Region, region_to_show, regions_of_dataset, simulated_sun
from solared_hf.app.tile_map import tile_map
from solared_hf.app.tile_report import tile_report
from solared_hf.evaluation import alarm_scale, forecast_trajectories, issue_alarms, observed_onsets, score_alarms
from solared_hf.forecasters import Persistence
from solared_hf.forecasters.base import forecast_file
from solared_hf.plotting.style import channel_colours, minute
from solared_hf.schema import CHANNELS


@pytest.fixture(scope="module")
def sun():
    """Return the collection of the simulated Sun and the forecasts of persistence."""
    collection = simulated_sun(Persistence())
    return collection, ForecastCache(Persistence(), collection.alarm_scale_dn)


def names_of_tiles(page: str) -> dict[int, str]:
    return {int(tile): name for tile, name in re.findall(r'data-tile="(\d+)" aria-label="([^"]+)"', page)}


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub("</?span[^>]*>", "", page)).split())


def test_simulated_sun_has_all_regions_and_begins_with_a_test_region(sun):
    collection, _ = sun
    assert (collection.simulated, collection.first, len(collection.regions)) == (True, "90009", 10)
    assert [region.label for region in collection.regions.values()][5:7] == ["AR90006 (train)", "AR90007 (validation)"]
    assert collection.alarm_scale_dn == alarm_scale([simulate_region(90001 + index) for index in range(6)])
    for key, region in collection.regions.items():
        # Forecasts reach 12 h beyond the observation, except after the gap, where too few steps follow.
        beyond = region.times[-1] - region.timeline.times[-1]
        assert beyond == np.timedelta64(0 if int(key) == GAP_REGION else 12, "h")
        step, tile = region.first_view
        assert region.timeline.intensity[region.timeline.times == region.times[step], tile] == (
            np.nanmin(region.timeline.intensity)
        )


def test_label_of_each_tile_gives_its_value(sun):
    collection, forecasts = sun
    region = collection.regions[str(NAN_REGION)]
    page_forecast = forecasts.make(region)
    for channel in CHANNELS:
        names = names_of_tiles(tile_map(region, channel, 2, 40, page_forecast))
        values = region.timeline.values[2, CHANNELS.index(channel)]
        assert list(names) == [row * 9 + column for row in range(6, -1, -1) for column in range(9)]
        for tile, name in names.items():
            assert name == f"row {tile // 9 + 1}, column {tile % 9}: {in_words(channel, values[tile])}"
        # The eastern column was not observed: flux and intensity in one step, power in three.
        assert sum("not observed" in name for name in names.values()) == (7 if channel.startswith("power") else 0)
    unknown = tile_map(region, "power_3_4mhz", 2, 40, page_forecast)
    assert unknown.count('class="tile unknown"') == 7
    assert 'aria-label="row 5, column 4: ' in unknown.partition('aria-pressed="true"')[0].rpartition("<button")[2]


def test_map_of_the_forecast_reaches_beyond_the_observation(sun):
    collection, forecasts = sun
    region = collection.regions["90009"]
    page_forecast = forecasts.make(region)
    last = len(region.times) - 1
    intensities = page_forecast.forecast.forecasts["persistence"][-1]
    for tile, name in names_of_tiles(tile_map(region, FORECAST, last, 0, page_forecast)).items():
        assert name.startswith(f"row {tile // 9 + 1}, column {tile % 9}: {in_words(FORECAST, intensities[tile])}")
    assert names_of_tiles(tile_map(region, FORECAST, 0, 0, page_forecast))[5] == "row 1, column 5: no forecast"
    assert names_of_tiles(tile_map(region, FORECAST, last, 0, None))[5] == "row 1, column 5: no forecast"
    observed = names_of_tiles(tile_map(region, "continuum_intensity", last, 0, None))
    assert observed[5] == "row 1, column 5: not observed"


def test_tiles_are_marked_from_onset_and_alarm_on(sun):
    collection, forecasts = sun
    region = collection.regions["90007"]
    page_forecast = forecasts.make(region)
    alarms = page_forecast.forecast.alarms["persistence"].issued
    (tile, *_) = np.flatnonzero(~np.isnat(alarms) & ~np.isnat(page_forecast.forecast.onsets))
    for marks, time in (
        ("", page_forecast.forecast.onsets[tile] - 1),
        (", emerged", page_forecast.forecast.onsets[tile]),
    ):
        name = names_of_tiles(tile_map(region, "continuum_intensity", _step(region, time), 0, page_forecast))[tile]
        assert name.endswith(f" DN{marks}")
    name = names_of_tiles(tile_map(region, "continuum_intensity", _step(region, alarms[tile]), 0, page_forecast))[tile]
    assert name.endswith(" DN, alarm issued, emerged")


def _step(region: Region, time: np.datetime64) -> int:
    """Return the latest step that is not after a time."""
    return int(np.searchsorted(region.times, time, side="right")) - 1


def test_colours_are_centred_at_zero_for_signed_channels(sun):
    region = sun[0].regions["90009"]
    for channel in CHANNELS:
        values = observed_values(region, channel)
        colours, lowest, largest = channel_colours(channel, values)
        within = (np.abs(values) <= largest).mean()
        assert within == pytest.approx(0.995, abs=1e-4)
        assert (colours, lowest) == (("viridis", 0) if channel == "unsigned_magnetic_flux" else ("RdBu_r", -largest))
    # Without any value the scale is still defined.
    assert channel_colours("continuum_intensity", np.full((2, 63), np.nan, np.float32)) == ("RdBu_r", -1, 1)


def test_picture_takes_the_text_colour_of_the_page_and_has_no_links(sun):
    collection, forecasts = sun
    region = collection.regions["90009"]
    (picture,) = re.findall("<svg.*</svg>", tile_report(region, 150, 31, forecasts.make(region)), re.DOTALL)
    assert "#000000" not in picture
    assert picture.count("currentColor") > 3
    assert not re.findall(r'(?:href|src)="(?!#)', picture)


def test_values_have_units():
    assert in_words("unsigned_magnetic_flux", 123.4) == "123 G"
    assert set(NAMES) == {FORECAST, *CHANNELS}


def test_tile_report_gives_values_in_a_table_and_in_words(sun):
    collection, forecasts = sun
    region = collection.regions["90009"]
    page_forecast = forecasts.make(region)
    report = tile_report(region, 150, 31, page_forecast)
    observed = region.timeline.intensity[150, 31]
    persistence = region.timeline.intensity[138, 31]
    time, before, issued = (minute(region.times[step]) for step in (150, 138, 142))
    (words,) = re.findall(r'role="img" aria-label="([^"]+)"', report)
    for text in (text_of(report), words):
        assert f"{observed:,.0f} DN" in text
        assert f"{persistence:,.0f} DN" in text
        assert time in text
    assert f"Forecast 12 h ahead, from data up to {before}, available at {issued}. Times are TAI." in text_of(report)
    assert "persistence forecasts no quantiles, so no interval is shown." in text_of(report)
    assert "AR90009, row 4, column 4" in text_of(report)
    assert report.count("<svg") == 1
    # The picture stays the same, and only the line over it moves.
    other = tile_report(region, 160, 31, page_forecast)
    assert re.findall("<svg.*</svg>", report, re.DOTALL) == re.findall("<svg.*</svg>", other, re.DOTALL)
    places = [float(re.search(r'<i style="left:([\d.]+)%', page)[1]) for page in (report, other)]
    assert places[0] == pytest.approx(100 * (0.15 + 0.84 * 150 / (len(region.times) - 1)), abs=0.01)
    assert places[1] > places[0]


def test_alarm_table_agrees_with_the_scores(sun):
    collection, forecasts = sun
    region = collection.regions["90007"]
    page_forecast, windows = forecasts.make(region), Persistence().windows([region.timeline], require_target=False)
    alarms = issue_alarms(windows, forecast_trajectories(Persistence(), windows), collection.alarm_scale_dn)
    score, onsets = score_alarms(windows, alarms)[90007], observed_onsets(region.timeline)
    table = text_of(alarm_table(region, page_forecast))
    assert score.late
    for lead in score.leads:
        issued = minute(alarms[90007][lead.tile])
        assert f"row {lead.tile // 9 + 1}, column {lead.tile % 9} {minute(onsets[lead.tile])} {issued}, " in table
    assert len(re.findall("h late|at the onset", table)) == score.late
    assert len(re.findall("before the first forecast", table)) == score.already_emerged > 0


def test_page_without_a_train_split_says_why_it_has_no_alarms(tmp_path):
    write_published(tmp_path / "published", simulate_region(90009))
    build_dataset(PublishedSource(tmp_path / "published"), tmp_path / "dataset")
    collection = regions_of_dataset(open_dataset(tmp_path / "dataset"), Persistence())
    assert (collection.name, collection.simulated, collection.alarm_scale_dn) == ("dataset", True, None)
    region = collection.regions["90009"]
    page_forecast = ForecastCache(Persistence(), None).make(region)
    assert NO_SCALE in alarm_table(region, page_forecast)
    assert "alarm:" not in tile_report(region, 150, 31, page_forecast)
    assert "alarm issued" not in "".join(names_of_tiles(tile_map(region, FORECAST, 200, 31, page_forecast)).values())


def test_region_that_cannot_be_forecast_is_shown_with_the_reason(tmp_path):
    for region in (simulate_region(90001), simulate_region(90009, steps=50)):
        write_published(tmp_path / "published", region)
    build_dataset(PublishedSource(tmp_path / "published"), tmp_path / "dataset")
    collection = regions_of_dataset(open_dataset(tmp_path / "dataset"), Persistence())
    region = collection.regions["90009"]
    page_forecast = ForecastCache(Persistence(), collection.alarm_scale_dn).make(region)
    assert page_forecast.forecast is None
    report = text_of(tile_report(region, 20, 31, page_forecast))
    assert "This region cannot be forecast. No window of 120 input steps" in report
    assert alarm_table(region, page_forecast) == ""
    assert len(names_of_tiles(tile_map(region, "unsigned_magnetic_flux", 20, 31, page_forecast))) == 63

    (tmp_path / "published" / "AR90001").rename(tmp_path / "AR90001")
    build_dataset(PublishedSource(tmp_path / "published"), tmp_path / "short")
    with pytest.raises(SolaredError, match="No window of 120 input steps"):
        regions_of_dataset(open_dataset(tmp_path / "short"), Persistence())


@pytest.mark.parametrize("steps", [121, 133])
def test_region_without_observed_intensity_is_drawn(steps):
    times = np.datetime64("2013-04-15T00:00", "ms") + np.arange(steps) * np.timedelta64(1, "h")
    values = np.zeros((steps, 6, 63), np.float32)
    values[:, 5] = np.nan
    region = region_to_show(Persistence(), Timeline(1, times, values), "AR1")
    forecasts = ForecastCache(Persistence(), 5_000.0)
    for page_forecast in (None, forecasts.make(region)):
        step, tile = region.first_view
        for channel in NAMES:
            assert len(names_of_tiles(tile_map(region, channel, step, tile, page_forecast))) == 63
        assert "not observed" in tile_report(region, step, tile, page_forecast)
    assert "No tile emerged, and no alarm was issued." in alarm_table(region, forecasts.make(region))


def test_file_equals_the_output_of_solared_predict(solared, simulated_dataset, tmp_path, sun):
    _, forecasts = sun
    output = tmp_path / "forecast.parquet"
    page_forecast = forecasts.make(regions_of_dataset(open_dataset(simulated_dataset), Persistence()).regions["90010"])
    assert solared(
        "predict", "--model", "persistence", "--dataset", simulated_dataset, "--ar", 90010, "--output", output
    )[0] == 0  # fmt: skip
    assert page_forecast.file == output.read_bytes()


def test_cache_computes_once_and_drops_the_least_recently_used(sun):
    collection, _ = sun
    first, second, third = list(collection.regions.values())[:3]
    forecasts = ForecastCache(Persistence(), None, most_kept=2)
    assert forecasts.get(first) is None
    page_forecast = forecasts.make(first)
    assert forecasts.make(first) is forecasts.get(first) is page_forecast
    forecasts.make(second)
    forecasts.get(first)
    forecasts.make(third)
    assert forecasts.get(first) is page_forecast
    assert forecasts.get(second) is None


def test_forecast_is_dropped_with_its_region(own_region):
    forecasts = ForecastCache(Persistence(), None)
    region = region_to_show(Persistence(), own_region, "mine")
    forecasts.make(region)
    assert len(forecasts) == 1
    del region
    gc.collect()
    assert len(forecasts) == 0


def test_concurrent_users_get_the_same_pictures(sun):
    collection, _ = sun
    forecasts = ForecastCache(Persistence(), collection.alarm_scale_dn)
    regions = list(collection.regions.values())[:2]
    pages = {}

    def look(user: int) -> None:
        region = regions[user % 2]
        pages[user] = tile_report(region, 100, user % 3, forecasts.make(region))

    users = [threading.Thread(target=look, args=(user,), daemon=True) for user in range(12)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    for user in range(12):
        assert pages[user] == pages[user % 6]
    assert len({re.sub("<svg.*</svg>", "", page, flags=re.DOTALL) for page in pages.values()}) == 6


def test_interval_of_a_quantile_model_is_shown():
    forecaster = load_forecaster("solared-quantile-trajectory")
    timeline = simulate_region(90021, steps=90)
    region = region_to_show(forecaster, timeline, "mine")
    page_forecast = ForecastCache(forecaster, 7_000.0).make(region)
    windows = forecaster.windows([timeline], require_target=False)
    assert page_forecast.file == forecast_file(windows, forecaster.forecast(windows))
    quantiles = forecaster.quantiles(windows, 12)[-1, -1, :, 31]
    report = text_of(tile_report(region, len(region.times) - 1, 31, page_forecast))
    forecast_text = f"{forecaster.forecast(windows)[-1, 31]:,.0f} DN"
    assert f"{forecast_text}, 80 % interval {quantiles[0]:,.0f} to {quantiles[-1]:,.0f} DN" in report
