"""`solared plot`: the files it writes, its output, and its error messages."""

import json
import shutil

import pytest
from matplotlib.image import imread

from dataset_builder.dataset_folder import dataset_to_push
from solared_hf.hub import push
from solared_hf.schema import CATALOG_PATH

ERRORS = {"rmse_dn_by_region": {"90007": 100.0, "90008": 50.0}, "rmse_dn_by_tile": [70.0] * 63}
BENCHMARK = {
    "dataset": "sim", "split": "validation", "regions": [90007, 90008], "windows": 200, "horizon_hours": 12.0,
    "results": [
        {"name": name, "score": ERRORS, "rmse_dn_by_lead_hours": {"1.0": 60.0}, "reliability": reliability}
        for name, reliability in (("ours", {"0.1": 0.2, "0.9": 0.8}), ("persistence", None))
    ],
}  # fmt: skip


def is_drawn(path) -> bool:
    """Return True if a file is a picture with dark on light that is large enough to be read."""
    picture = imread(path)[..., :3].mean(axis=2)
    return picture.shape[1] > 900 and (picture < 0.5).mean() > 0.01 and (picture > 0.9).mean() > 0.01


def test_forecast_is_one_picture(solared, simulated_dataset, tmp_path):
    output = tmp_path / "new" / "forecast.png"
    code, out, errors = solared(
        "plot", "forecast", "--model", "average", "--dataset", simulated_dataset, "--ar", 90007, "--output", output
    )
    assert code == 0, errors
    assert out == f"{output}: AR90007 by average.\n"
    assert is_drawn(output)


def test_dataset_is_several_pictures_and_missing_facts_are_reported(solared, simulated_dataset, tmp_path):
    code, out, errors = solared(
        "plot", "dataset", "--dataset", simulated_dataset, "--output", tmp_path / "eda", "--ar", 90003
    )
    assert code == 0, errors
    files = {"distributions.png", "timeline_AR90003.png", "availability.png"}
    assert {path.name for path in (tmp_path / "eda").iterdir()} == files
    assert all(is_drawn(path) for path in (tmp_path / "eda").iterdir())
    *captions, left_out = out.splitlines()
    assert len(captions) == len(files)
    assert left_out.startswith("Left out, because the catalog lacks the NOAA facts: latitude against time")


def test_repository_gives_the_same_pictures_as_the_pushed_folder(
    solared, simulated_dataset, hub, repo_id, token, tmp_path
):
    with dataset_to_push(simulated_dataset, repo_id) as content:
        push(content, repo_id)
    for dataset, folder in ((simulated_dataset, tmp_path / "folder"), (repo_id, tmp_path / "repository")):
        code, _, errors = solared("plot", "dataset", "--dataset", dataset, "--output", folder)
        assert code == 0, errors
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("folder", "repository")
    )
    assert first == second


def test_benchmark_is_several_pictures(solared, tmp_path):
    file = tmp_path / "benchmark.json"
    file.write_text(json.dumps(BENCHMARK))
    code, out, errors = solared("plot", "scores", "--benchmark", file, "--output", tmp_path / "scores")
    assert code == 0, errors
    files = {"error_by_lead.png", "error_by_tile.png", "skill_by_region.png", "reliability.png"}
    assert {path.name for path in (tmp_path / "scores").iterdir()} == files
    assert all(is_drawn(path) for path in (tmp_path / "scores").iterdir())
    assert len(out.splitlines()) == len(files)


@pytest.mark.parametrize("content", ["no JSON", "[]", "{}", '{"results": []}', '{"results": [3]}', None])
def test_other_files_than_a_benchmark_are_refused(solared, tmp_path, content):
    file = tmp_path / "benchmark.json"
    if content is not None:
        file.write_text(content)
    code, _, errors = solared("plot", "scores", "--benchmark", file, "--output", tmp_path / "scores")
    assert code == 2
    assert errors.startswith(f"solared: {file} is not a benchmark (")
    assert errors.endswith("). Name a file written by `solared benchmark --json`.\n")
    assert not (tmp_path / "scores").exists()


def test_errors_say_what_to_do(solared, simulated_dataset, tmp_path):
    forecast = ("plot", "forecast", "--model", "average", "--dataset", simulated_dataset)
    assert solared(*forecast, "--ar", 90007, "--output", tmp_path / "forecast.pdf")[::2] == (
        2,
        f"solared: --output is {tmp_path}/forecast.pdf, which is not a PNG file. Name one such as "
        f"{tmp_path}/forecast.png.\n",
    )  # fmt: skip
    code, _, errors = solared(*forecast, "--ar", 5, "--output", tmp_path / "forecast.png")
    assert (code, "has no region AR5. It has 90001, 90002" in errors) == (2, True)

    (tmp_path / "file").touch()
    code, _, errors = solared("plot", "dataset", "--dataset", simulated_dataset, "--output", tmp_path / "file")
    assert (code, errors) == (2, f"solared: {tmp_path}/file is a file. Name a folder for --output.\n")
    code, _, errors = solared("plot", "dataset", "--dataset", tmp_path / "nowhere", "--output", tmp_path / "eda")
    assert (code, "There is no SOLARED dataset at" in errors) == (2, True)

    broken = shutil.copytree(simulated_dataset, tmp_path / "broken")
    (broken / CATALOG_PATH).write_bytes(b"no Parquet")
    code, _, errors = solared("plot", "dataset", "--dataset", broken, "--output", tmp_path / "eda")
    assert (code, errors.startswith(f"solared: The catalog of the dataset {broken} cannot be read (")) == (2, True)
    assert not (tmp_path / "eda").exists()
