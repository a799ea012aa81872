"""Each argument of the Trainer works, or is refused with a message before the training starts."""

import json
from dataclasses import fields

import pytest
import torch

from solared_hf import SolaredError
from solared_hf.evaluation.scores import forecast_errors
from solared_hf.training import SolaredTrainingArguments, parse_arguments
from solared_hf.training.validation_metrics import GREATER_IS_BETTER
from tests.training.test_run import command_line, run

LSTM = {"model_type": "solared_lstm", "model_config": json.dumps({"hidden_size": 4, "dropout": 0.0})}
QUANTILES = {
    "model_type": "quantile_trajectory",
    "model_config": json.dumps({"hidden_size": 4, "num_members": 1}),
    "input_steps": "8",
}
SHORT = {"max_steps": "2", "eval_steps": "1", "save_steps": "1"}


@pytest.mark.parametrize("value", ["0", "-1", "bogus", '{"bogus": 1}'])
def test_each_argument_is_accepted_or_refused(value):
    """A strange value does not end in a traceback."""
    refused = 0
    for name in sorted(field.name for field in fields(SolaredTrainingArguments) if field.init):
        if name in ("output_dir", "local_rank"):
            continue
        try:
            parse_arguments(command_line(dataset="d", output_dir="o", **{name: value}))
        except SolaredError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric_for_best_model": "accuracy"}, "accuracy is unknown. The known metrics are loss, .*skill"),
        ({"greater_is_better": "true"}, "greater_is_better is True, but more loss is worse"),
        ({"metric_for_best_model": "skill", "greater_is_better": "false"}, "more skill is better"),
        ({"metric_for_best_model": "rmse_dn", "prediction_loss_only": "true"}, "there is no rmse_dn"),
        ({"early_stopping_patience": "2", "load_best_model_at_end": "false"}, "needs metric_for_best_model"),
        (
            {"early_stopping_patience": "2", "eval_strategy": "no", "load_best_model_at_end": "false"},
            "counts evaluations, but eval_strategy is no",
        ),
        ({"save_strategy": "best", "load_best_model_at_end": "false"}, "save_strategy best needs"),
        ({"label_names": "labels"}, "the target is future_values"),
        ({"label_smoothing_factor": "0.1"}, "label_smoothing_factor has no effect here, because it smooths"),
        ({"neftune_noise_alpha": "5"}, "neftune_noise_alpha has no effect here"),
        ({"use_liger_kernel": "true"}, "use_liger_kernel has no effect here"),
        ({"include_for_metrics": "inputs"}, "include_for_metrics has no effect here"),
        ({"train_sampling_strategy": "group_by_length"}, "all windows have the same length"),
        ({"train_sampling_strategy": "batch_rebalance"}, "all windows have the same length"),
        ({"lr_scheduler_kwargs": '{"power": 2}'}, "lr_scheduler_kwargs has no effect on the schedule constant"),
        ({"warmup_steps": "2"}, "warmup_steps has no effect on the schedule constant"),
        ({"optim_target_modules": "fc1"}, "optim_target_modules has no effect on"),
        ({"gradient_checkpointing_kwargs": '{"use_reentrant": true}'}, "no effect without gradient_checkpointing"),
        ({"fsdp_config": '{"version": 2}'}, "fsdp_config has no effect without fsdp"),
        ({"debug": "tpu_metrics_debug"}, "needs a TPU"),
        ({"per_device_train_batch_size": "0"}, "per_device_train_batch_size is 0. It must be 1 or more"),
        ({"gradient_accumulation_steps": "-1"}, "gradient_accumulation_steps is -1"),
        ({"eval_accumulation_steps": "0"}, "eval_accumulation_steps is 0"),
        ({"save_total_limit": "0"}, "save_total_limit is 0"),
        ({"early_stopping_patience": "-1"}, "early_stopping_patience is -1"),
        ({"save_steps": "0"}, "save_steps is 0.0. It must be more than 0"),
        ({"learning_rate": "nan"}, "learning_rate is nan"),
        ({"seed": str(2**32)}, "must be less than"),
        ({"max_steps": "0"}, "max_steps is 0"),
        ({"max_steps": "-1", "num_train_epochs": "0"}, "num_train_epochs is 0.0"),
    ],
)
def test_an_unusable_argument_is_refused_at_once(options, message):
    with pytest.raises(SolaredError, match=message):
        parse_arguments(command_line(dataset="d", output_dir="o", **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"report_to": "comet_ml"}, "comet"),
        ({"optim": "adamw_8bit"}, "bitsandbytes"),
        ({"optim_args": "betas=1"}, "optim_args has no effect on the optimizer"),
        ({"optim_args": "betas"}, "cannot start with these arguments"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": '{"bogus": 1}'}, "bogus"),
        ({"adam_beta1": "2"}, "beta"),
        ({"dataloader_persistent_workers": "true"}, "num_workers"),
        ({"torch_compile_mode": "bogus"}, "bogus"),
        ({"fsdp": "full_shard"}, "distributed"),
        ({"fp16": "true"}, "fp16 has no effect on a CPU"),
        ({**LSTM, "gradient_checkpointing": "true"}, "solared_lstm does not support gradient_checkpointing"),
        (
            {**QUANTILES, "gradient_checkpointing": "true"},
            "quantile_trajectory does not support gradient_checkpointing",
        ),
        ({"gradient_checkpointing": "true", "gradient_checkpointing_kwargs": '{"bogus": 1}'}, "bogus"),
    ],
)
def test_an_argument_that_this_run_cannot_use_is_refused_before_training(
    simulated_dataset, tmp_path, options, message
):
    with pytest.raises(SolaredError, match=message):
        run(simulated_dataset, tmp_path, **options)
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    "options",
    [
        {"dataloader_drop_last": "true", "per_device_eval_batch_size": "100"},
        {"prediction_loss_only": "true"},
        {"batch_eval_metrics": "true", "per_device_eval_batch_size": "100"},
        {"eval_do_concat_batches": "false", "per_device_eval_batch_size": "100"},
        {**LSTM, "bf16": "true"},
        {"gradient_checkpointing": "true"},
    ],
    ids=lambda options: list(options)[-2 if "per_device_eval_batch_size" in options else -1],
)
def test_a_usable_argument_leaves_all_metrics(simulated_dataset, tmp_path, options):
    metrics = run(simulated_dataset, tmp_path, **SHORT, **options)
    assert {f"eval_{name}" for name in GREATER_IS_BETTER} <= metrics["validation"].keys()
    assert metrics["validation"]["eval_rmse_dn"] > 0
    assert (tmp_path / "README.md").is_file()


@pytest.mark.parametrize(("metric", "best"), [("rmse_dn", min), ("skill", max), ("eval_mae_normalised", min)])
def test_the_checkpoint_with_the_best_metric_is_kept(simulated_dataset, tmp_path, metric, best):
    """At this rate the model first improves and then gets much worse, so that the two directions differ."""
    metrics = run(
        simulated_dataset, tmp_path, metric_for_best_model=metric, max_steps=4, eval_steps=1, save_steps=1,
        learning_rate="0.3",
    )  # fmt: skip
    name = f"eval_{metric.removeprefix('eval_')}"
    values = {entry["step"]: entry[name] for entry in metrics["log"] if name in entry}
    assert len(set(values.values())) == 4
    assert values[metrics["best_step"]] == best(values.values())
    assert metrics["validation"][name] == pytest.approx(best(values.values()), rel=1e-4)


def test_every_metric_has_a_direction():
    errors = forecast_errors(*torch.rand(3, 2, 63).numpy(), 1.0)
    assert set(GREATER_IS_BETTER) == {"loss", *errors}
