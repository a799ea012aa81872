"""`solared train --push_to_hub`: trained on a dataset of the Hub, and there with card and processor at the end."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, ModelCard

from dataset_builder.dataset_folder import dataset_to_push
from solared_hf import SolaredError, load_forecaster, open_dataset
from solared_hf.cli import main
from solared_hf.hub import push
from solared_hf.training import parse_arguments, train
from tests.hub.loopback import READER_TOKEN, TOKEN
from tests.training.test_run import command_line


@pytest.fixture(scope="module")
def dataset(simulated_dataset) -> str:
    name = "solared-team/training-data"
    with dataset_to_push(simulated_dataset, name) as content:
        push(content, name, tag="v1.0", token=TOKEN)
    return name


def test_a_run_ends_on_the_hub_with_card_and_processor(hub, repo_id, dataset, tmp_path, capfd, monkeypatch):
    output = tmp_path / "tiny"
    options = {"dataset": dataset, "dataset_revision": "v1.0", "output_dir": output, "hub_model_id": repo_id}
    options |= {"push_to_hub": "true", "hub_private_repo": "true", "hub_token": TOKEN}
    train(parse_arguments(command_line(**options)))
    printed = "".join(capfd.readouterr())
    assert f"/{repo_id}" in printed

    files = hub.files(repo_id)
    assert set(files) - {".gitattributes"} == {
        *("README.md", "config.json", "metrics.json", "model.safetensors", "preprocessor_config.json"),
        *("training_curve.png", "processing_solared.py", "modeling_spatio_temporal_attention.py"),
        *("attention_on_cpu.py", "dropout_on_cpu.py", "encoder_layer_on_cpu.py", "feed_forward_on_cpu.py"),
        "configuration_spatio_temporal_attention.py",
    }
    assert len(hub.commits(repo_id)) == 2
    assert HfApi(token=TOKEN).model_info(repo_id).private
    secret = TOKEN.encode()
    assert secret not in b"".join([*files.values(), printed.encode()])
    assert not [path for path in output.rglob("*") if path.is_file() and secret in path.read_bytes()]

    card = ModelCard(files["README.md"].decode())
    commit = hub.commits(dataset, "dataset", "v1.0")[0].oid
    assert card.data.datasets == [dataset]
    assert {result.dataset_revision for result in card.data.eval_results} == {commit}
    assert f'"{repo_id}"' in card.text
    assert json.loads(files["preprocessor_config.json"])["fitted_on"]["revision"] == commit

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    forecaster = load_forecaster(repo_id)
    windows = forecaster.windows([open_dataset(dataset, "v1.0").region(90007)], require_target=False)
    options = {"--model": repo_id, "--model-revision": "main", "--dataset": dataset, "--dataset-revision": "v1.0"}
    options |= {"--ar": "90007", "--output": str(tmp_path / "forecast.parquet")}
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *itertools.chain(*options.items())])
    assert stopped.value.code == 0
    forecast = pq.read_table(tmp_path / "forecast.parquet")["forecast_intensity"].to_numpy()
    np.testing.assert_allclose(forecast.reshape(-1, 63), forecaster.forecast(windows), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(
    ("token", "sentence"), [(None, "You are not logged in"), (READER_TOKEN, "cannot write to solared-team")]
)
def test_who_may_not_push_learns_it_before_training(
    hub, repo_id, simulated_dataset, tmp_path, token, sentence, monkeypatch
):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    options = {"dataset": simulated_dataset, "output_dir": tmp_path / "tiny", "push_to_hub": "true"}
    with pytest.raises(SolaredError, match=sentence):
        train(parse_arguments(command_line(**options, hub_model_id=repo_id)))
    assert not list(Path(tmp_path).rglob("*.safetensors"))


def test_a_push_that_failed_is_made_up_for(hub, repo_id, token, simulated_dataset, tmp_path):
    options = {"dataset": simulated_dataset, "output_dir": tmp_path / "tiny", "max_steps": "1", "save_steps": "1"}
    options |= {
        "push_to_hub": "true",
        "hub_model_id": repo_id,
        "eval_strategy": "no",
        "load_best_model_at_end": "false",
    }
    hub.refusals.append(("POST .*/commit/", 500, None, "out of order"))
    with pytest.raises(SolaredError, match=f"finished in .*, but it is not on the Hub: .*`solared push .* {repo_id}`"):
        train(parse_arguments(command_line(**options)))
    assert set(hub.files(repo_id)) == {".gitattributes"}
    train(parse_arguments(command_line(**options, resume_from_checkpoint="last")))
    assert {"README.md", "model.safetensors", "preprocessor_config.json"} <= set(hub.files(repo_id))
    assert len(hub.commits(repo_id)) == 2


def test_a_public_repository_is_not_taken_for_private(hub, repo_id, token, simulated_dataset, tmp_path):
    HfApi().create_repo(repo_id)
    options = {"dataset": simulated_dataset, "output_dir": tmp_path, "push_to_hub": "true", "hub_model_id": repo_id}
    with pytest.raises(SolaredError, match="exists and is public"):
        train(parse_arguments(command_line(**options, hub_private_repo="true")))


def test_arguments_are_checked_before_the_repository_is_made(hub, repo_id, token, simulated_dataset, tmp_path):
    options = {"dataset": simulated_dataset, "output_dir": tmp_path, "push_to_hub": "true", "hub_model_id": repo_id}
    with pytest.raises(SolaredError, match="no field hidden_length"):
        train(parse_arguments(command_line(**options, model_config='{"hidden_length": 8}')))
    assert not HfApi().repo_exists(repo_id)
    with pytest.raises(SolaredError, match="hub_strategy every_save would push checkpoints, which hold pickles"):
        parse_arguments(command_line(**options, hub_strategy="every_save"))


def test_a_mistyped_token_argument_is_not_repeated():
    with pytest.raises(SolaredError) as refused:
        parse_arguments(command_line(dataset="d", output_dir="o", hub_tokn=TOKEN))
    assert re.search("Unknown arguments: --hub_tokn", str(refused.value))
    assert TOKEN not in str(refused.value)
