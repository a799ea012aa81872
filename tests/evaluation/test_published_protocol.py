"""The published protocol: scores by hand, scores of the real regions, and the input of a model."""

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
import torch

from dataset_builder.published import read_timeline
from solared_hf import (
    SolaredError,
    SolaredProcessor,
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
)
from solared_hf.evaluation.published_protocol import PROTOCOL_TILES, protocol_score, published_windows
from solared_hf.forecasters import ModelForecaster, Persistence
from solared_hf.schema import CHANNELS

FIRST_TILE = {11698: 37, 11726: 28, 13165: 19, 13179: 28, 13183: 28}


@pytest.fixture
def regions(make_timeline):
    """Return the five regions by AR number: 110 hourly steps, 0 DN in tile 0 and 4 DN in the other tiles."""
    by_number = {number: make_timeline(number, 110, seed=number) for number in FIRST_TILE}
    for timeline in by_number.values():
        timeline.values[:, 5] = 4
        timeline.values[:, 5, 0] = 0
    return by_number


@pytest.fixture
def make_forecaster(make_timeline):
    """Return a function that makes an untrained model with a fixed horizon of 12 h."""

    def make(input_steps: int) -> ModelForecaster:
        torch.manual_seed(0)
        config = SpatioTemporalAttentionConfig(
            input_channels=list(CHANNELS), hidden_size=8, num_attention_heads=2, intermediate_size=8,
            num_temporal_layers=1, num_spatial_layers=1, input_steps=input_steps,
        )  # fmt: skip
        processor = SolaredProcessor.fit(
            [make_timeline(90001, 50).values], CHANNELS, input_steps=input_steps, cadence_minutes=60
        )
        return ModelForecaster(SpatioTemporalAttentionForPrediction(config), processor, "tiny", device="cpu")

    return make


def test_score_of_persistence_on_the_real_regions(published_dir):
    score = protocol_score(Persistence(), [read_timeline(published_dir / f"AR{number}") for number in FIRST_TILE])
    assert score.rmse == pytest.approx(0.0798, abs=0.0005)
    low, high = score.rmse_interval
    assert min(score.rmse_by_region.values()) < low < score.rmse < high < max(score.rmse_by_region.values())


def test_tiles_are_the_published_tiles():
    assert {number: list(tiles) for number, tiles in PROTOCOL_TILES.items()} == {
        number: list(range(first, first + 7)) for number, first in FIRST_TILE.items()
    }


def test_score_of_a_rising_series_by_hand(regions):
    # Tile k rises by k + 1 DN a step, from 0 to 109 * 63 DN in tile 62.
    for timeline in regions.values():
        timeline.values[:, 5] = np.arange(110)[:, None] * np.arange(1, 64)
    score = protocol_score(Persistence(), regions.values())
    # The error of persistence 11 steps ahead is 11 slopes, and one slope after recalibration. The slope of the middle
    # tile is the mean slope of the seven tiles.
    slopes = {number: first + 4 for number, first in FIRST_TILE.items()}
    unit = 109 * 63
    assert score.rmse_by_region == pytest.approx({number: 11 * slope / unit for number, slope in slopes.items()})
    assert score.recalibrated_by_region == pytest.approx({number: slope / unit for number, slope in slopes.items()})
    assert score.rmse == pytest.approx(11 * np.mean(list(slopes.values())) / unit)
    assert score.rmse_recalibrated == pytest.approx(score.rmse / 11)
    assert score.name == "persistence"


def test_recalibration_is_one_constant_per_tile(regions):
    # Every forecast of 4 DN becomes 1 DN, the value observed before the first target.
    regions[11698].values[96 + 9, 5, 40] = 1
    score = protocol_score(Persistence(), regions.values())
    assert score.rmse == 0
    assert score.recalibrated_by_region == pytest.approx(dict.fromkeys(FIRST_TILE, 0) | {11698: 3 / 4 / 7})


def test_nan_is_zero_in_input_and_target(regions):
    # Four windows with last input steps 95 .. 98 and targets 106 .. 109. If one of the four errors is 4 DN, the error
    # of the tile is 2 DN, half a unit.
    intensity = regions[11698].values[:, 5]
    intensity[108, 37] = np.nan
    intensity[97, 38] = np.nan
    # These tiles are not scored, or these steps are neither a last input step nor a target.
    intensity[108, [36, 44]] = np.nan
    intensity[:95, 39] = np.nan
    intensity[99:106, 39] = np.nan
    score = protocol_score(Persistence(), regions.values())
    assert score.rmse_by_region == pytest.approx(dict.fromkeys(FIRST_TILE, 0) | {11698: (0.5 + 0.5) / 7})
    assert score.rmse == pytest.approx(1 / 35)


def test_range_counts_nan_as_zero(regions):
    # Only the missing value is 0 DN: the range is 0 .. 40 DN instead of 20 .. 40 DN.
    intensity = regions[13165].values[:, 5]
    intensity[:] = 20
    intensity[109, 20] = 40
    intensity[3, 50] = np.nan
    score = protocol_score(Persistence(), regions.values())
    # The error of tile 20 is 20 DN in one of four windows.
    assert score.rmse_by_region[13165] == pytest.approx(10 / 40 / 7)


@pytest.mark.parametrize(("ar_number", "input_steps"), [(11698, 96), (11726, 72), (13165, 96)])
def test_windows_are_cut_by_index(make_timeline, ar_number, input_steps):
    timeline = make_timeline(ar_number, 150, missing=range(80, 89))
    timeline.values[100, :, 5] = np.nan
    windows = published_windows(timeline)
    # All steps from input + 10 to the last step are targets, in spite of the gap.
    assert len(windows) == 141 - (input_steps + 10)
    assert windows.input_steps == input_steps
    np.testing.assert_array_equal(
        windows.observed_targets, np.nan_to_num(timeline.values[input_steps + 10 :, 5], nan=0)
    )
    for index in (0, len(windows) - 1):
        np.testing.assert_array_equal(
            windows[index]["past_values"], np.nan_to_num(timeline.values[index : index + input_steps], nan=0)
        )
    assert {later - earlier for earlier, later in pairwise(windows.target_times.tolist())} == {timedelta(hours=1)}
    # The timeline is not changed.
    assert np.isnan(timeline.values).sum() == 6


@pytest.mark.parametrize(("input_steps", "seen"), [(24, 24), (120, 95)])
def test_model_of_12_hours_does_not_get_the_newest_step(regions, make_forecaster, input_steps, seen):
    forecaster = make_forecaster(input_steps)
    values = regions[13179].values
    forecast = forecaster.forecast(published_windows(regions[13179]))
    # Targets are the steps 106 .. 109, and the last input step is 12 steps before each target.
    past = np.stack([values[target - 12 - seen + 1 : target - 12 + 1] for target in range(106, 110)])
    with torch.inference_mode():
        output = forecaster.model(past_values=torch.from_numpy(forecaster.processor.normalise(past, CHANNELS)))
    expected = forecaster.processor.inverse(output.prediction_outputs.numpy())
    np.testing.assert_allclose(forecast, expected, rtol=1e-4, atol=1e-2)


def test_forecaster_does_not_depend_on_the_range(regions, make_forecaster):
    forecaster = make_forecaster(24)
    before = protocol_score(forecaster, regions.values()).rmse_by_region
    # The last step is never an input, and tile 62 is not scored. The new value makes the range ten times larger.
    regions[13183].values[109, 5, 62] = 40
    after = protocol_score(forecaster, regions.values()).rmse_by_region
    assert after == pytest.approx(before | {13183: before[13183] / 10})


def test_other_regions_and_their_order_do_not_matter(regions, make_timeline):
    regions[11726].values[109, 5, 30] = 0
    expected = protocol_score(Persistence(), regions.values())
    assert expected.rmse > 0
    others = [make_timeline(90001, 110), *reversed(regions.values())]
    score = protocol_score(Persistence(), others)
    assert score.rmse_by_region == pytest.approx(expected.rmse_by_region)
    assert score.recalibrated_by_region == pytest.approx(expected.recalibrated_by_region)
    assert score.rmse == pytest.approx(expected.rmse)


def test_missing_regions_are_named(regions):
    with pytest.raises(SolaredError, match="The dataset lacks AR11726, AR13183 of the five"):
        protocol_score(Persistence(), [regions[number] for number in (11698, 13165, 13179)])


def test_steps_of_another_cadence_are_refused(make_timeline):
    with pytest.raises(
        SolaredError, match="AR11698 has a step every 0:12:00, but the published protocol needs hourly"
    ):
        published_windows(make_timeline(11698, 200, cadence=timedelta(minutes=12)))
