"""The losses of all families: means over the observed values, which a plain Trainer finds too."""

from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import default_compute_objective

from solared_hf import SolaredProcessor, SolaredWindows
from solared_hf.schema import CHANNELS
from solared_hf.training.trainer import SolaredTrainer
from tests.models.families import SMALL, small_model

STEPS = 2
every_family = pytest.mark.parametrize("family", SMALL)


def build(family: str):
    return small_model(family, input_steps=STEPS, **({} if family == "spatio_temporal_resnet" else {"dropout": 0.0}))


@pytest.fixture
def windows(make_timeline):
    """Return a function that makes a few windows whose targets have more and more NaN."""

    def make(family: str, number: int = 7) -> SolaredWindows:
        timeline = make_timeline(90001, STEPS + number + 11)
        missing = np.random.default_rng(1).random((number, 63)) < np.linspace(0, 0.9, number)[:, None]
        timeline.intensity[-number:][missing] = np.nan
        processor = SolaredProcessor.fit([timeline.values], CHANNELS, input_steps=STEPS, cadence_minutes=60)
        trajectory_steps = getattr(build(family).config, "forecast_steps", None)
        cut = SolaredWindows(
            timeline, processor=processor, require_target=False, trajectory_steps=trajectory_steps,
            horizon=timedelta(hours=12),
        )  # fmt: skip
        return torch.utils.data.Subset(cut, range(number))

    return make


def batch_of_all(windows) -> dict[str, torch.Tensor]:
    batch = windows.dataset.batch(range(len(windows)))
    for name in {"future_values", "future_trajectory"} & batch.keys():
        for row, targets in enumerate(batch[name]):
            targets *= 1 + row  # so that means of batches differ
    return batch


def observed_values(batch) -> int:
    return int((~batch.get("future_trajectory", batch["future_values"]).isnan()).sum())


def part(batch, rows: slice) -> dict[str, torch.Tensor]:
    return {name: tensor[rows] for name, tensor in batch.items()}


@every_family
def test_losses_of_parts_add_up_to_the_loss_of_the_whole(family, windows):
    """The gradients add up too, so 4 accumulated batches of 16 differ from one of 64 only by rounding."""
    model, batch = build(family).eval(), batch_of_all(windows(family))
    observed = observed_values(batch)
    assert 0 < observed < batch.get("future_trajectory", batch["future_values"]).numel()
    whole = model(**batch).loss
    whole.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    losses = []
    for rows in (slice(0, 3), slice(3, 4), slice(4, None)):
        losses.append(model(**part(batch, rows), num_items_in_batch=torch.tensor(observed)).loss)
        losses[-1].backward()
    torch.testing.assert_close(sum(losses), whole, rtol=1e-4, atol=1e-6)
    of_parts = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    largest = max(gradient.abs().max() for gradient in expected)
    for gradient, summed in zip(expected, of_parts, strict=True):
        torch.testing.assert_close(summed, gradient, rtol=1e-3, atol=1e-4 * float(largest))
    means = [model(**part(batch, rows)).loss for rows in (slice(0, 5), slice(5, None))]
    assert abs(float((sum(means) / 2 / whole).detach()) - 1) > 1e-3


@every_family
def test_missing_targets_do_not_count(family, windows):
    model, batch = build(family).eval(), batch_of_all(windows(family, 3))
    for name in ("future_values", "future_trajectory"):
        if name in batch:
            batch[name][1:] = torch.nan
    torch.testing.assert_close(model(**batch).loss, model(**part(batch, slice(0, 1))).loss, rtol=1e-4, atol=1e-6)
    nothing = part(batch, slice(1, None))
    loss = model(**nothing).loss
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())
    assert model(**batch, return_loss=False).loss is None


def plain_arguments(output, **options) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output), use_cpu=True, max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, save_only_model=True,
        save_total_limit=1, load_best_model_at_end=True, disable_tqdm=True, report_to="none", **options,
    )  # fmt: skip


@every_family
def test_a_plain_trainer_has_losses_and_keeps_the_best_model(family, windows, tmp_path):
    """Only the model and the windows are ours, and `label_names` is not set."""
    data = windows(family)
    trainer = Trainer(build(family), plain_arguments(tmp_path), train_dataset=data, eval_dataset=data)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 2
    assert trainer.state.best_metric == min(losses)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-4)
    assert trainer.predict(data).predictions.shape == (len(data), 63)


def test_a_plain_trainer_can_search_hyperparameters(windows, tmp_path):
    """`hyperparameter_search` builds a model for each trial with `model_init` and compares objectives."""
    data, objectives = windows("spatio_temporal_attention"), {}
    for rate in (0.0, 1e-2):
        arguments = plain_arguments(tmp_path / str(rate))
        arguments.learning_rate = rate
        trainer = Trainer(
            args=arguments,
            model_init=partial(build, "spatio_temporal_attention"),
            train_dataset=data,
            eval_dataset=data,
        )
        trainer.train()
        objectives[rate] = default_compute_objective(trainer.evaluate())
    assert 0 < objectives[1e-2] < objectives[0.0]


@every_family
def test_the_evaluation_loss_does_not_depend_on_the_batch_size(family, windows, tmp_path):
    data, model = windows(family), build(family)
    losses = []
    for size in (2, 5, 16):
        arguments = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, per_device_eval_batch_size=size, dataloader_drop_last=True,
            disable_tqdm=True, report_to="none",
        )  # fmt: skip
        losses.append(SolaredTrainer(model, arguments, eval_dataset=data).evaluate()["eval_loss"])
    with torch.no_grad():
        expected = float(model.eval()(**data.dataset.batch(range(len(data)))).loss)
    assert losses == pytest.approx([expected] * 3, rel=1e-4)
