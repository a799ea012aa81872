"""A resumed run uses new arguments or refuses them, and metrics and card hold the arguments of each part."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource
from solared_hf import SolaredError
from tests.training.test_run import run

# A run with two evaluations and two checkpoints, and a rate that falls to 0.
LINEAR = {"lr_scheduler_type": "linear", "learning_rate": "1e-2"}


def rates(metrics: dict) -> dict[int, float]:
    return {entry["step"]: entry["learning_rate"] for entry in metrics["log"] if "learning_rate" in entry}


def validation_losses(metrics: dict) -> dict[int, float]:
    return {entry["step"]: entry["eval_loss"] for entry in metrics["log"] if "eval_loss" in entry}


def weights_groups(checkpoint: Path) -> list[dict]:
    return torch.load(checkpoint / "optimizer.pt", weights_only=True)["param_groups"]


@pytest.fixture(scope="module")
def finished(simulated_dataset, tmp_path_factory) -> Path:
    """Return a run of six steps, with the checkpoints of steps 3 and 6."""
    output = tmp_path_factory.mktemp("finished") / "run"
    run(simulated_dataset, output, **LINEAR)
    return output


@pytest.fixture
def copy_of(finished, tmp_path):
    """Return a function that copies checkpoints of the finished run to a new folder, as after a killed run."""

    def copy(*steps: int) -> Path:
        for step in steps:
            shutil.copytree(finished / f"checkpoint-{step}", tmp_path / "run" / f"checkpoint-{step}")
        return tmp_path / "run"

    return copy


def test_new_arguments_are_used_and_recorded(simulated_dataset, copy_of):
    output = copy_of(3)
    metrics = run(
        simulated_dataset, output, resume_from_checkpoint="last", lr_scheduler_type="constant", learning_rate="1e-4",
        weight_decay="0.5", adam_beta2="0.9", eval_steps="1", save_steps="1",
    )  # fmt: skip
    whole = {1: 1e-2, 2: 1e-2 * 5 / 6, 3: 1e-2 * 4 / 6}
    assert rates(metrics) == pytest.approx({**whole, 4: 1e-4, 5: 1e-4, 6: 1e-4})
    assert list(validation_losses(metrics)) == [3, 4, 5, 6]
    decayed, not_decayed = weights_groups(output / "checkpoint-6")
    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (0.5, 0)
    assert decayed["betas"][1] == not_decayed["betas"][1] == 0.9
    assert metrics["hyperparameters"]["learning_rate"] == 1e-4
    (earlier,) = metrics["earlier"]
    assert earlier["until_step"] == 3
    assert earlier["arguments"]["learning_rate"] == 1e-2
    assert earlier["arguments"]["lr_scheduler_type"] == "linear"
    card = (output / "README.md").read_text()
    assert "| `learning_rate` | 0.0001 |" in card
    before = card.partition("Up to step 3, before the run was resumed")[2]
    assert "| `learning_rate` | 0.01 |" in before


def test_an_unchanged_run_records_no_earlier_arguments(simulated_dataset, copy_of):
    metrics = run(simulated_dataset, copy_of(3), resume_from_checkpoint="last", **LINEAR)
    assert metrics["earlier"] == []
    assert rates(metrics) == pytest.approx({step: 1e-2 * (7 - step) / 6 for step in range(1, 7)})


def test_an_extended_run_follows_the_longer_schedule(simulated_dataset, finished, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    options = {"max_steps": 9, "resume_from_checkpoint": "last"}
    metrics = run(simulated_dataset, output, **LINEAR, **options)
    later = {step: rate for step, rate in rates(metrics).items() if step > 6}
    assert later == pytest.approx({7: 1e-2 * 3 / 9, 8: 1e-2 * 2 / 9, 9: 1e-2 * 1 / 9})
    assert metrics["requested"]["max_steps"] == metrics["hyperparameters"]["max_steps"] == 9
    assert metrics["earlier"] == [{"until_step": 6, "arguments": {"max_steps": 6}}]


def test_a_step_may_be_split_into_other_batches(simulated_dataset, copy_of):
    pieces = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    metrics = run(simulated_dataset, copy_of(3), resume_from_checkpoint="last", **LINEAR, **pieces)
    assert metrics["hyperparameters"]["gradient_accumulation_steps"] == 2
    assert max(rates(metrics)) == 6


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"per_device_train_batch_size": "8"}, "windows_a_step 4, and this run has 8"),
        ({"gradient_accumulation_steps": "2"}, "windows_a_step 4, and this run has 8"),
        ({"seed": "1"}, "seed 42, and this run has 1"),
        ({"optim": "sgd"}, "optim adamw_torch_fused, and this run has sgd"),
        ({"metric_for_best_model": "skill"}, "metric_for_best_model loss, and this run has skill"),
        ({"dataloader_drop_last": "true"}, "dataloader_drop_last False, and this run has True"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy random, and this run has sequential"),
        ({"load_best_model_at_end": "false"}, "load_best_model_at_end True, and this run has False"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type linear, and this run has reduce_lr"),
    ],
)
def test_arguments_that_a_checkpoint_fixes_cannot_be_changed(
    simulated_dataset, finished, tmp_path, options, difference
):
    with pytest.raises(SolaredError, match=f"checkpoint-3 was trained with {difference}"):
        run(
            simulated_dataset, tmp_path, resume_from_checkpoint=finished / "checkpoint-3", **{**LINEAR, **options}
        )  # fmt: skip


def test_the_rate_of_a_stateful_schedule_cannot_be_changed(simulated_dataset, tmp_path):
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "max_steps": "1", "eval_steps": "1", "save_steps": "1"}
    run(simulated_dataset, tmp_path, **options)
    options |= {"max_steps": "2", "resume_from_checkpoint": "last"}
    with pytest.raises(SolaredError, match=r"learning_rate 0\.001, and this run has 0\.1"):
        run(simulated_dataset, tmp_path, **options, learning_rate="0.1")
    assert rates(run(simulated_dataset, tmp_path, **options))[2] == 1e-3


@pytest.mark.parametrize("options", [{"learning_rate": "1e-4"}, {"max_steps": "3"}, {"weight_decay": "0.1"}])
def test_a_change_after_the_last_step_is_refused(simulated_dataset, finished, options):
    (name,) = options
    with pytest.raises(SolaredError, match=f"has nothing left to train, so {name} .* would have no effect"):
        run(simulated_dataset, finished, resume_from_checkpoint="last", **{**LINEAR, **options})


def test_other_data_with_the_same_extremes_are_refused(simulated_published, finished, tmp_path):
    """The tiles of a region are in another order, with the same values."""
    shutil.copytree(simulated_published, tmp_path / "sun")
    (file,) = (tmp_path / "sun").glob("AR90002/mean_pmdop*.npz")
    with np.load(file, allow_pickle=True) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    for band in ("arr_0", "arr_1", "arr_2", "arr_3"):
        content[band] = content[band][::-1]
    np.savez(file, **content)
    build_dataset(PublishedSource(tmp_path / "sun"), tmp_path / "other")
    with pytest.raises(SolaredError, match=r"was trained with revision of the dataset .*, and this run has"):
        run(tmp_path / "other", tmp_path / "run", resume_from_checkpoint=finished / "checkpoint-3", **LINEAR)


def test_a_dataset_may_move(simulated_dataset, copy_of, tmp_path):
    shutil.copytree(simulated_dataset, tmp_path / "moved")
    metrics = run(tmp_path / "moved", copy_of(3), resume_from_checkpoint="last", **LINEAR)
    assert max(rates(metrics)) == 6


STOPPING = {"learning_rate": "0", "max_steps": 9, "eval_steps": 1, "save_steps": 1, "early_stopping_patience": 2}


def test_more_patience_after_an_early_stop(simulated_dataset, tmp_path, capsys):
    run(simulated_dataset, tmp_path, **STOPPING)
    before = (tmp_path / "metrics.json").read_bytes()
    run(simulated_dataset, tmp_path, **STOPPING, resume_from_checkpoint="last")
    assert "is finished" in capsys.readouterr().out
    assert (tmp_path / "metrics.json").read_bytes() == before
    patient = {**STOPPING, "early_stopping_patience": 4, "resume_from_checkpoint": "last"}
    metrics = run(simulated_dataset, tmp_path, **patient)
    assert list(validation_losses(metrics)) == [1, 2, 3, 4, 5]
    assert metrics["hyperparameters"]["early_stopping_patience"] == 4
    assert metrics["earlier"] == [{"until_step": 3, "arguments": {"early_stopping_patience": 2}}]


def test_patience_0_never_stops(simulated_dataset, tmp_path):
    options = {**STOPPING, "max_steps": 4, "early_stopping_patience": 0}
    assert list(validation_losses(run(simulated_dataset, tmp_path, **options))) == [1, 2, 3, 4]


def test_patience_only_in_the_resumed_run(simulated_dataset, copy_of):
    options = {**LINEAR, "learning_rate": "0", "eval_steps": 1, "save_steps": 1, "early_stopping_patience": 1}
    metrics = run(simulated_dataset, copy_of(3), resume_from_checkpoint="last", **options)
    assert list(validation_losses(metrics)) == [3, 4]


def test_a_checkpoint_without_an_optimizer_is_refused(simulated_dataset, tmp_path):
    options = {**LINEAR, "save_only_model": "true", "max_steps": "1", "eval_steps": "1", "save_steps": "1"}
    run(simulated_dataset, tmp_path, **options)
    options |= {"max_steps": "2", "resume_from_checkpoint": "last"}
    with pytest.raises(SolaredError, match="checkpoint-1 was saved with --save_only_model"):
        run(simulated_dataset, tmp_path, **options)


def test_a_run_killed_after_its_last_step_is_only_evaluated(simulated_dataset, finished, copy_of):
    output = copy_of(3, 6)
    metrics = run(simulated_dataset, output, resume_from_checkpoint="last", **LINEAR)
    whole = json.loads((finished / "metrics.json").read_text())
    assert max(entry["step"] for entry in metrics["log"]) == 6
    assert metrics["best_step"] == whole["best_step"]
    assert metrics["validation"]["eval_loss"] == pytest.approx(whole["validation"]["eval_loss"], rel=1e-5)
    assert (output / "README.md").is_file()


def test_the_best_step_has_a_checkpoint(simulated_dataset, tmp_path):
    """Half of the evaluations have no checkpoint."""
    metrics = run(simulated_dataset, tmp_path, eval_steps=1, save_steps=2, learning_rate="0.05")
    losses = validation_losses(metrics)
    kept = metrics["best_step"]
    assert kept is None or kept % 2 == 0
    assert metrics["validation"]["eval_loss"] == pytest.approx(losses[kept or 6], rel=1e-4)


def test_a_run_stopped_by_a_signal_is_not_finished(simulated_dataset, tmp_path):
    """With `enable_jit_checkpoint` the Trainer saves at SIGTERM, which Slurm sends, and ends without an error."""
    before = signal.getsignal(signal.SIGTERM)

    def stop():
        while signal.getsignal(signal.SIGTERM) == before:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    options = {"max_steps": 10**6, "eval_strategy": "no", "load_best_model_at_end": "false", "save_strategy": "no"}
    options |= {"enable_jit_checkpoint": "true", "logging_strategy": "no", "disable_tqdm": "true"}
    thread.start()
    with pytest.raises(SolaredError, match=r"was stopped at step \d+ of 1000000. Add --resume_from_checkpoint last"):
        run(simulated_dataset, tmp_path, **options)
    thread.join()
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1
    assert not (tmp_path / "metrics.json").exists()
