"""What tests share."""

import os
from datetime import timedelta
from pathlib import Path

import datasets
import numpy as np
import pytest

from dataset_builder.build import build_dataset
from dataset_builder.simulate import write_simulated
from dataset_builder.sources import PublishedSource
from solared_hf.schema import CHANNELS, NUM_TILES
from solared_hf.timelines import Timeline


@pytest.fixture
def make_timeline():
    """Makes a timeline of noise; `missing` steps are left out, as in a gap."""

    def make(ar_number: int, steps: int, cadence=timedelta(hours=1), missing=(), seed: int = 0) -> Timeline:
        kept = np.setdiff1d(np.arange(steps), missing)
        times = np.datetime64("2013-04-15T14:59:37.500", "ms") + kept * np.timedelta64(cadence)
        scale = np.array([5e6, 3e7, 1e7, 4e6, 20, 800], np.float32)[:, None]
        noise = np.random.default_rng(seed).standard_normal((len(kept), len(CHANNELS), NUM_TILES), np.float32)
        return Timeline(ar_number, times, noise * scale)

    return make


@pytest.fixture(autouse=True, scope="session")
def _own_datasets_cache(tmp_path_factory):
    """Tests neither read nor leave anything in the user's cache of prepared datasets."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("datasets_cache")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        patch.setenv("HF_DATASETS_CACHE", str(cache))
        yield


@pytest.fixture(scope="session")
def published_dir() -> Path:
    """Folder of the published AR<number> folders, where this machine has one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "solared"
    folder = Path(os.environ.get("SOLARED_PUBLISHED_DIR", beside))
    if not any(folder.glob("AR*")):
        pytest.skip("no published data here; name their folder in SOLARED_PUBLISHED_DIR")
    return folder


@pytest.fixture(scope="session")
def simulated_published(tmp_path_factory) -> Path:
    """Folder of ten simulated regions in the published format."""
    folder = tmp_path_factory.mktemp("simulated_sun")
    write_simulated(folder)
    return folder


@pytest.fixture(scope="session")
def simulated_dataset(simulated_published, tmp_path_factory) -> Path:
    """Dataset folder built from the simulated regions."""
    folder = tmp_path_factory.mktemp("simulated_dataset")
    build_dataset(PublishedSource(simulated_published), folder)
    return folder
