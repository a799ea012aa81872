"""Forecasts by a model on the Hub: whole revisions only, safetensors only, and the Hub's words made clear."""

import pickle
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForTimeSeriesPrediction, AutoProcessor, pipeline

from solared_hf import (
    SolaredError,
    SolaredProcessor,
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
    load_forecaster,
)
from solared_hf.schema import CHANNELS

STEPS = 6
TASK = "solar-active-region-forecasting"


def save_version(folder: Path, mark: float) -> Path:
    """A model that always forecasts `mark`, with a processor that makes `1000 * mark ** 2` DN of it.

    So a forecast tells whether the weights and the processor belong together.
    """
    small = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    layers = {"num_temporal_layers": 1, "num_spatial_layers": 1}
    model = SpatioTemporalAttentionForPrediction(SpatioTemporalAttentionConfig(**small, **layers, input_steps=STEPS))
    with torch.no_grad():
        model.prediction_head.weight.zero_()
        model.prediction_head.bias.fill_(mark)
    model.save_pretrained(folder)
    lowest, highest = dict.fromkeys(CHANNELS, 0.0), dict.fromkeys(CHANNELS, 1000.0 * mark)
    SolaredProcessor(lowest, highest, CHANNELS, input_steps=STEPS).save_pretrained(folder)
    return folder


@pytest.fixture
def upload(repo_id, token, tmp_path):
    """Puts a version on the Hub, in one commit."""

    def upload(mark: float, tag: str | None = None) -> None:
        HfApi().create_repo(repo_id, exist_ok=True)
        HfApi().upload_folder(repo_id=repo_id, folder_path=save_version(tmp_path / str(mark), mark))
        if tag is not None:
            HfApi().create_tag(repo_id, tag=tag)

    return upload


@pytest.fixture
def region(make_timeline):
    return make_timeline(90001, steps=24)


def by_forecaster(repository, region, revision=None) -> np.ndarray:
    forecaster = load_forecaster(repository, revision)
    return forecaster.forecast(forecaster.windows([region], require_target=False))


def by_pipeline(repository, region, revision=None) -> np.ndarray:
    return pipeline(TASK, model=repository, revision=revision)(region)["forecast_intensity"]


def by_hand(repository, region, revision=None) -> np.ndarray:
    model = AutoModelForTimeSeriesPrediction.from_pretrained(repository, revision=revision)
    processor = AutoProcessor.from_pretrained(repository, revision=revision)
    inputs = processor(region.values[:STEPS], return_tensors="pt")
    return processor.inverse(model(**inputs).prediction_outputs.detach().numpy())


def mark_of(forecast: np.ndarray) -> float:
    assert len(np.unique(forecast)) == 1
    return float(np.sqrt(forecast.flat[0] / 1000))


@pytest.mark.parametrize("forecast", [by_forecaster, by_pipeline, by_hand])
def test_a_revision_stays_what_it_was(hub, repo_id, upload, region, forecast):
    upload(1, tag="v1")
    upload(2)
    first = hub.commits(repo_id)[1].oid
    revisions = ("v1", None, first, "main")
    assert [mark_of(forecast(repo_id, region, revision)) for revision in revisions] == [1, 2, 1, 2]


@pytest.mark.parametrize("forecast", [by_forecaster, by_pipeline])
def test_a_push_in_the_middle_of_loading_mixes_nothing(hub, repo_id, upload, region, forecast):
    """One load for each request that a load makes, with a push just before that request."""
    for last_before_push in count():
        old = 2 * last_before_push + 1
        upload(old)
        requests = count()

        def push_in_between(method, path, old=old, number=last_before_push, requests=requests):
            if next(requests) == number:
                hub.before = None
                upload(old + 1)

        hub.before = push_in_between
        assert mark_of(forecast(repo_id, region)) in (old, old + 1)
        if hub.before is not None:
            break
    assert last_before_push > 3


def test_the_pipeline_forecasts_from_the_hub_as_from_the_folder(repo_id, upload, region, tmp_path):
    upload(2)
    on_hub, local = (pipeline(TASK, model=str(model))(region) for model in (repo_id, tmp_path / "2"))
    assert on_hub.keys() == local.keys()
    forecasts = [forecast.pop("forecast_intensity") for forecast in (on_hub, local)]
    np.testing.assert_allclose(*forecasts, rtol=1e-5, atol=1e-2)
    assert all(np.array_equal(on_hub[name], local[name]) for name in local)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_model_of_pickled_weights_is_refused_unread(hub, repo_id, upload, tmp_path, monkeypatch):
    upload(1)
    monkeypatch.chdir(tmp_path)
    HfApi().delete_file("model.safetensors", repo_id)
    HfApi().upload_file(path_or_fileobj=pickle.dumps(Bomb()), path_in_repo="pytorch_model.bin", repo_id=repo_id)
    hub.requests.clear()
    with pytest.raises(SolaredError, match=r"no file named model\.safetensors"):
        load_forecaster(repo_id)
    assert not [path for _, path, _ in hub.requests if path.endswith(".bin")]
    assert not Path("exploded").exists()


def test_a_downloaded_model_needs_no_hub(hub, repo_id, upload, region):
    upload(1, tag="v1")
    by_forecaster(repo_id, region, "v1")
    upload(2)
    by_forecaster(repo_id, region)
    hub.down = True
    assert [mark_of(by_forecaster(repo_id, region, revision)) for revision in (None, "v1")] == [2, 1]


# Each says what to do to the hub or the environment, and what the user reads.
def as_it_is(hub, repo_id, patch):
    pass


def with_the_repository_gone(hub, repo_id, patch):
    HfApi().delete_repo(repo_id)


def with_a_private_repository_and_no_token(hub, repo_id, patch):
    HfApi().update_repo_settings(repo_id, private=True)
    patch.delenv("HF_TOKEN")


def with_an_unknown_token(hub, repo_id, patch):
    patch.setenv("HF_TOKEN", "hf_" + "x" * 34)


def without_processor(hub, repo_id, patch):
    HfApi().delete_file("preprocessor_config.json", repo_id)


def with_damaged_weights(hub, repo_id, patch):
    HfApi().upload_file(path_or_fileobj=b"damaged", path_in_repo="model.safetensors", repo_id=repo_id)


def with_the_hub_down(hub, repo_id, patch):
    hub.down = True


def with_the_connection_cut(hub, repo_id, patch):
    def cut(method, path):
        raise ConnectionError

    hub.before = cut


def with_the_hub_out_of_order(hub, repo_id, patch):
    hub.refusals.append(("GET", 500, None, "out of order"))


@pytest.mark.parametrize(
    ("fault", "revision", "sentence"),
    [
        (as_it_is, "v9", "has no revision v9. Name a branch, tag or commit"),
        (with_the_repository_gone, None, "There is no .* on the Hub that you can read. .*`hf auth login`"),
        (with_a_private_repository_and_no_token, None, "There is no .* on the Hub that you can read"),
        (with_an_unknown_token, None, "does not know your token. Run `hf auth login`"),
        (without_processor, None, r"lacks its processor, preprocessor_config\.json\. "),
        (with_damaged_weights, None, "cannot be loaded as a model with its processor .*header"),
        (with_the_hub_down, None, "could not be read from the Hub .*Connection refused.*. Check the connection"),
        (with_the_connection_cut, None, "could not be read from the Hub .*disconnected.*. Check the connection"),
        (with_the_hub_out_of_order, None, "could not be read from the Hub .*500.*. Check the connection"),
    ],
)
def test_what_goes_wrong_is_one_sentence(fault, revision, sentence, hub, repo_id, upload, monkeypatch):
    upload(1)
    with monkeypatch.context() as patch:
        fault(hub, repo_id, patch)
        with pytest.raises(SolaredError, match=sentence) as told:
            load_forecaster(repo_id, revision)
    assert len(str(told.value).splitlines()) == 1
