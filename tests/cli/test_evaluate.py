"""`solared evaluate`: what it prints and writes, on a split and by the published protocol."""

import json
import shutil

import numpy as np
import pytest

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource, write_published
from solared_hf import (
    SolaredProcessor,
    SolaredWindows,
    SpatioTemporalAttentionConfig,
    SpatioTemporalAttentionForPrediction,
    load_forecaster,
    load_timelines,
)
from solared_hf.evaluation import score_on_split
from solared_hf.evaluation.published_protocol import protocol_score
from solared_hf.forecasters import Persistence
from solared_hf.schema import CHANNELS

PROTOCOL_REGIONS = (11698, 11726, 13165, 13179, 13183)


@pytest.fixture
def toy_dataset(make_timeline, tmp_path):
    """Dataset folder of toy regions with the numbers of the published test split, and of no others."""
    for number in PROTOCOL_REGIONS:
        timeline = make_timeline(number, 130, missing=range(50, 55) if number == 11726 else (), seed=number)
        write_published(tmp_path / "published", timeline)
    build_dataset(PublishedSource(tmp_path / "published"), tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def model(make_timeline, tmp_path):
    """Folder of an untrained model."""
    config = SpatioTemporalAttentionConfig(
        input_channels=list(CHANNELS), hidden_size=8, num_attention_heads=2, intermediate_size=8,
        num_temporal_layers=1, num_spatial_layers=1, input_steps=12,
    )  # fmt: skip
    SpatioTemporalAttentionForPrediction(config).save_pretrained(tmp_path / "tiny")
    SolaredProcessor.fit([make_timeline(90001, 50).values], CHANNELS, input_steps=12).save_pretrained(
        tmp_path / "tiny"
    )
    return tmp_path / "tiny"


def refusal(error_output: str) -> str:
    last_line = error_output.strip().splitlines()[-1]
    assert last_line.startswith("solared: ")
    return last_line


def test_the_published_protocol_puts_a_model_beside_persistence_and_publications(
    solared, monkeypatch, toy_dataset, model, tmp_path
):
    monkeypatch.setenv("COLUMNS", "100")
    report = tmp_path / "scores.json"
    code, out, err = solared(
        "evaluate", "--model", model, "--dataset", toy_dataset, "--protocol", "published", "--json", report
    )
    assert code == 0, err
    for words in ("published protocol", "tiny", "persistence", "LSTM,", "0.1330", "Transformer,", "0.1189", "AR11698"):
        assert words in out
    written = json.loads(report.read_text())
    assert written["dataset"] == "toy"
    assert [one["name"] for one in written["scores"]] == ["tiny", "persistence"]
    assert {one["name"]: one["rmse_recalibrated"] for one in written["published"]} == {
        "LSTM": 0.133,
        "Transformer": 0.1189,
    }
    timelines = load_timelines(toy_dataset, "test")
    for written_score in written["scores"]:
        forecaster = load_forecaster(model if written_score["name"] == "tiny" else "persistence")
        score = protocol_score(forecaster, timelines)
        assert written_score["rmse"] == pytest.approx(score.rmse)
        assert written_score["rmse_recalibrated"] == pytest.approx(score.rmse_recalibrated)
        assert written_score["rmse_by_region"] == pytest.approx({str(n): e for n, e in score.rmse_by_region.items()})
        assert set(written_score["recalibrated_by_region"]) == set(map(str, PROTOCOL_REGIONS))
        assert f"{score.rmse:.4f}" in out
        assert f"{score.rmse_recalibrated:.4f}" in out


def test_persistence_stands_once_in_its_own_table(solared, toy_dataset, tmp_path):
    report = tmp_path / "scores.json"
    arguments = ("--model", "persistence", "--dataset", toy_dataset, "--protocol", "published", "--json", report)
    assert solared("evaluate", *arguments)[0] == 0
    assert [one["name"] for one in json.loads(report.read_text())["scores"]] == ["persistence"]


def test_the_published_protocol_has_its_own_regions(solared, simulated_dataset, toy_dataset, tmp_path):
    published = ("evaluate", "--model", "persistence", "--protocol", "published", "--dataset")
    code, _, err = solared(*published, toy_dataset, "--split", "test")
    assert code == 2
    assert "--split has no effect with --protocol published, which has its own regions. Leave it out" in refusal(err)

    code, _, err = solared(*published, simulated_dataset)
    assert code == 2
    assert "The dataset lacks AR11698, AR11726, AR13165, AR13179, AR13183 of the five test regions" in refusal(err)

    # Regions of one's own are all in the validation split.
    write = tmp_path / "own"
    shutil.copytree(tmp_path / "published" / "AR11698", write / "AR90077")
    for path in (write / "AR90077").iterdir():
        path.rename(path.with_name(path.name.replace("11698", "90077")))
    build_dataset(PublishedSource(write), tmp_path / "own_dataset")
    code, _, err = solared(*published, tmp_path / "own_dataset")
    assert code == 2
    assert "The published protocol needs the published test split (" in refusal(err)
    assert "Use a dataset built from all published files" in refusal(err)

    code, _, err = solared(*published[:-2], "nonsense", "--dataset", toy_dataset)
    assert code == 2
    assert "nonsense" in err


def test_a_split_is_scored_beside_the_climatology_of_the_train_split(solared, simulated_dataset, tmp_path):
    report = tmp_path / "scores.json"
    code, out, _ = solared(
        "evaluate", "--model", "persistence", "--dataset", simulated_dataset, "--split", "validation", "--json", report
    )
    assert code == 0
    assert "climatology" in out
    assert "skill c." in out
    scores = {one["name"]: one for one in json.loads(report.read_text())["scores"]}
    assert list(scores) == ["persistence", "average", "climatology"]
    mean = np.nanmean(np.concatenate([one.values[:, 5] for one in load_timelines(simulated_dataset, "train")]), axis=0)
    windows = load_forecaster("persistence").windows(load_timelines(simulated_dataset, "validation"))
    squared = np.square(windows.observed_targets - mean)
    assert scores["climatology"]["rmse_dn"] == pytest.approx(squared.mean() ** 0.5, rel=1e-5)
    np.testing.assert_allclose(scores["climatology"]["rmse_dn_by_tile"], squared.mean(axis=0) ** 0.5, rtol=1e-5)
    removed = 1 - scores["average"]["rmse_dn"] ** 2 / squared.mean()
    assert scores["average"]["skill_climatology"] == pytest.approx(removed, rel=1e-5)


def test_without_a_train_split_there_is_no_climatology(toy_dataset, model):
    scores = score_on_split(load_forecaster(model), toy_dataset, "test")
    assert [score.name for score in scores.scores] == ["tiny", "persistence", "average"]
    assert {score.skill_climatology for score in scores.scores} == {None}
    assert "climatology" not in scores.as_text()


class ShortPersistence(Persistence):
    """Of windows that the toy regions have."""

    def windows(self, timelines, require_target=True):
        return SolaredWindows(timelines, input_steps=12, require_target=require_target)


def test_without_a_train_split_a_baseline_is_measured_in_units_of_the_split_itself(toy_dataset):
    (persistence, *_) = score_on_split(ShortPersistence(), toy_dataset, "test").scores
    intensity = np.concatenate([timeline.values[:, 5] for timeline in load_timelines(str(toy_dataset), "test")])
    assert persistence.name == "persistence"
    assert persistence.rmse_normalised == pytest.approx(persistence.rmse_dn / np.ptp(intensity))
