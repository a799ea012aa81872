"""`solared push` of models: what belongs to a model and nothing else, checked before anything is uploaded."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.constants import ENDPOINT
from transformers import AutoModelForTimeSeriesPrediction, AutoProcessor

from solared_hf.training import parse_arguments, train

ARGUMENTS = {
    "model_type": "spatio_temporal_attention",
    "model_config": json.dumps({"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}),
    "input_steps": 6,
    "max_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_eval_batch_size": 256,
    "report_to": "none",
    "use_cpu": "true",
}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def trained(simulated_dataset, tmp_path_factory) -> Path:
    """What `solared train` leaves, checkpoints and all."""
    output = tmp_path_factory.mktemp("trained") / "tiny"
    arguments = {**ARGUMENTS, "dataset": simulated_dataset, "output_dir": output}
    train(parse_arguments([part for name, value in arguments.items() for part in (f"--{name}", str(value))]))
    return output


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy to change."""
    return shutil.copytree(trained, tmp_path / "model")


@pytest.fixture
def on_hub(on_hub):
    return partial(on_hub, repo_type="model")


def test_a_trained_model_comes_with_all_it_needs_and_nothing_else(hub, repo_id, token, solared, on_hub, trained):
    code, out, _ = solared("push", trained, "--repo-id", repo_id, "--private", "--tag", "v1.0")
    assert code == 0
    assert f"{ENDPOINT}/{repo_id}/tree/main, tag v1.0" in out
    assert len(hub.commits(repo_id)) == 2  # the Hub makes the first
    pushed, left = on_hub(repo_id), {path.name for path in trained.iterdir()} - set(on_hub(repo_id))
    assert {"README.md", "config.json", WEIGHTS, "preprocessor_config.json", "metrics.json"} < set(pushed)
    assert {path for path in pushed if path.endswith(".py")} == {
        *("configuration_spatio_temporal_attention.py", "modeling_spatio_temporal_attention.py"),
        *("attention_on_cpu.py", "dropout_on_cpu.py", "encoder_layer_on_cpu.py"),
        *("feed_forward_on_cpu.py", "processing_solared.py"),
    }  # fmt: skip
    assert left == {"checkpoint-2", "training_args.bin"}
    assert all(pushed[name] == (trained / name).read_bytes() for name in pushed if name != "README.md")
    assert HfApi().model_info(repo_id).private
    loaded = AutoModelForTimeSeriesPrediction.from_pretrained(repo_id, revision="v1.0").state_dict()
    before = AutoModelForTimeSeriesPrediction.from_pretrained(trained).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in before.items())
    assert AutoProcessor.from_pretrained(repo_id).to_dict() == AutoProcessor.from_pretrained(trained).to_dict()


def test_the_card_tells_to_load_the_repository(repo_id, token, solared, on_hub, trained):
    assert "path/to/this/folder" in (trained / "README.md").read_text()
    assert solared("push", trained, "--repo-id", repo_id)[0] == 0
    card = on_hub(repo_id)["README.md"].decode()
    assert f'from_pretrained("{repo_id}"' in card
    assert "path/to/this/folder" not in card
    assert ModelCard(card).data.to_dict() == ModelCard.load(trained / "README.md").data.to_dict()
    assert "path/to/this/folder" in (trained / "README.md").read_text()


def test_a_card_edited_by_hand_is_pushed_as_it_is(repo_id, token, solared, on_hub, folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    (folder / "metrics.json").write_text('{"rmse": 1}')
    assert solared("push", folder, "--repo-id", repo_id)[0] == 0
    assert on_hub(repo_id)["README.md"] == b"---\nlicense: mit\n---\nMine.\n"


def test_an_unchanged_model_makes_no_commit_and_uploads_nothing(hub, repo_id, token, solared, trained):
    assert solared("push", trained, "--repo-id", repo_id)[0] == 0
    hub.requests.clear()
    code, out, _ = solared("push", trained, "--repo-id", repo_id)
    assert code == 0
    assert "up to date; no commit was made" in out
    assert len(hub.commits(repo_id)) == 2
    assert {method for method, _, _ in hub.requests} <= {"GET", "HEAD"}


def test_what_left_the_model_is_deleted_and_what_others_put_there_stays(
    repo_id, token, solared, on_hub, trained, folder
):
    model = AutoModelForTimeSeriesPrediction.from_pretrained(trained)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="5KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert solared("push", folder, "--repo-id", repo_id)[0] == 0
    assert "model-00001-of-00002.safetensors" in on_hub(repo_id)
    foreign = {"LICENSE": b"Apache", "onnx/config.json": b"{}", "results/curve.png": b"png"}
    HfApi().create_commit(repo_id, [CommitOperationAdd(*file) for file in foreign.items()], commit_message="others")

    code, out, _ = solared("push", trained, "--repo-id", repo_id)
    assert code == 0
    assert "LICENSE" in out
    pushed = on_hub(repo_id)
    assert foreign.items() <= pushed.items()
    assert {name for name in pushed if "safetensors" in name} == {WEIGHTS}
    AutoModelForTimeSeriesPrediction.from_pretrained(repo_id)


def test_pickles_of_an_earlier_push_are_deleted(hub, repo_id, token, solared, trained):
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=trained, ignore_patterns="checkpoint-*/*")
    assert "training_args.bin" in hub.files(repo_id)
    assert solared("push", trained, "--repo-id", repo_id)[0] == 0
    assert not [name for name in hub.files(repo_id) if name.endswith((".bin", ".pt", ".pth"))]


# Each says what to do to the folder, and what the user reads.
def with_damaged_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def with_empty_weights(folder):
    (folder / WEIGHTS).write_bytes(b"")


def without_processor(folder):
    (folder / "preprocessor_config.json").unlink()


def with_pickled_weights_alone(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def with_a_shard_missing(folder):
    model = AutoModelForTimeSeriesPrediction.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="5KB")
    (folder / "model-00001-of-00002.safetensors").unlink()


def with_a_checkpoint_alone(folder):
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (with_damaged_weights, "damaged (Error while deserializing header"),
        (with_empty_weights, "damaged (Error while deserializing header"),
        (without_processor, "has no preprocessor_config.json"),
        (with_pickled_weights_alone, "has no weights in safetensors"),
        (with_a_shard_missing, "model-00001-of-00002.safetensors"),
        (with_a_checkpoint_alone, "holds neither a dataset nor a model"),
    ],
)
def test_a_folder_nobody_could_use_is_refused(fault, sentence, hub, repo_id, token, solared, folder):
    fault(folder)
    code, _, err = solared("push", folder, "--repo-id", repo_id)
    assert code == 2
    told = err.splitlines()[-1]
    assert told.startswith("solared: ")
    assert sentence in told
    assert "Traceback" not in err
    assert not HfApi().repo_exists(repo_id)


def test_code_that_a_folder_names_and_lacks_is_the_packages(hub, repo_id, token, solared, on_hub, folder):
    code = {path.name: path.read_bytes() for path in folder.glob("*.py")}
    assert len(code) == 7
    for name in code:
        (folder / name).unlink()
    assert solared("push", folder, "--repo-id", repo_id)[0] == 0
    assert {name: content for name, content in on_hub(repo_id).items() if name.endswith(".py")} == code
