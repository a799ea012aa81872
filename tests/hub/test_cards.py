"""The Hub takes our cards, and says what is wrong with a spoilt one."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, HfApi, ModelCard

from dataset_builder import build_dataset
from dataset_builder.description import dataset_card
from dataset_builder.published import PublishedSource
from solared_hf.hub import model_card
from solared_hf.hub.push import check_card
from tests.training.test_run import run


@pytest.fixture
def manifest(simulated_dataset) -> dict:
    return json.loads((simulated_dataset / "manifest.json").read_text())


def test_the_card_of_simulated_data_is_valid(hub, repo_id, manifest):
    check_card(dataset_card(manifest), "dataset")


def test_the_card_of_observations_is_valid(hub, repo_id, manifest):
    """The same facts as if other regions had been reduced from FITS files."""
    frames = {"dopplergram": {"used": 880, "set_aside": {"bad quality": 2}}}
    reduced = {
        "frames": frames,
        "window": {"frames": 640, "most_missing": 128},
        "interpolated_frames": {"3": 2},
        "unobserved": {},
        "longitude_changes": {"dopplergram": {"degrees": 0.081894}},
    }
    regions = [{**region, **reduced, "ar_number": region["ar_number"] - 76_500} for region in manifest["regions"]]
    card = DatasetCard(dataset_card({**manifest, "simulated": False, "source": "fits", "regions": regions}))
    assert card.data.license_name == "sdo-data-policy"
    assert card.data.license_link == "https://sdo.gsfc.nasa.gov/data/rules.php"
    assert "| AR13501 | 880 | 2 | 1 | 0 |" in card.text
    assert "Steps are never filled. Within a step, missing frames are interpolated" in card.text
    assert "Nothing is filled" not in card.text
    assert re.search(r"In AR13501, .* the longitudes in HMI's headers change by 0.082 degrees", card.text)
    check_card(str(card), "dataset")


def test_the_card_of_the_published_data_is_valid(hub, repo_id, published_dir, tmp_path):
    build_dataset(PublishedSource(published_dir), tmp_path)
    check_card(dataset_card(json.loads((tmp_path / "manifest.json").read_text())), "dataset")
    check_card((tmp_path / "README.md").read_text(), "dataset")


def test_the_card_of_a_model_trained_on_a_repository_is_valid(hub, repo_id, token, simulated_dataset, tmp_path: Path):
    HfApi().create_repo(repo_id, repo_type="dataset")
    commit = HfApi().upload_folder(repo_id=repo_id, folder_path=simulated_dataset, repo_type="dataset").oid
    run(repo_id, tmp_path, max_steps=1, eval_steps=1, save_steps=1)
    card = ModelCard(model_card(tmp_path))
    assert card.data.datasets == [repo_id]
    assert {result.dataset_revision for result in card.data.eval_results} == {commit}
    check_card(str(card), "dataset")


def test_a_spoilt_card_is_refused(hub, manifest):
    card = dataset_card(manifest)
    for old, new, complaint in (
        ("license: apache-2.0", "license: unheard-of", "must be one of"),
        ("- config_name: catalog\n  description", "- description", r"configs\[0\].config_name"),
    ):
        assert old in card
        with pytest.raises(ValueError, match=complaint):
            check_card(card.replace(old, new), "dataset")
