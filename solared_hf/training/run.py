"""One training run: from its arguments to a finished model folder with metrics and card."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, Trainer, TrainerState, set_seed

from solared_hf.data.loading import OpenedDataset, open_dataset
from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.data.window_references import batch_of
from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError
from solared_hf.forecasters.baselines import BASELINES
from solared_hf.training.arguments import Arguments, DataArguments, ModelArguments, SolaredTrainingArguments
from solared_hf.training.checkpoints import (
    check_has_optimizer,
    check_same_run,
    checkpoint_to_resume,
    step_of,
    weights_to_keep,
)
from solared_hf.training.checks import arguments_explained, check_model
from solared_hf.training.model import build_model, fit_processor, fitted_fields
from solared_hf.training.results import make_model_repository, metrics_of_finished_run, push_model, write_results
from solared_hf.training.run_facts import batch_size_found, changed_arguments, hardware, software
from solared_hf.training.run_record import STATE_NAME, EarlyStopping, RunRecord, is_done, record_of
from solared_hf.training.sharding import SavedAsItsFamily
from solared_hf.training.shared_arrays import share_between_processes
from solared_hf.training.trainer import SolaredTrainer
from solared_hf.training.validation_metrics import ValidationMetrics


@dataclass(frozen=True)
class StartingPoint:
    """Where a run starts.

    Attributes:
        checkpoint: Folder of the checkpoint that the run resumes from, or None for a fresh run.
        state: The Trainer's state in that checkpoint, or a new state.
        is_done: True if nothing is left to train.
        record: The arguments of the run so far, and of this part.
    """

    checkpoint: str | None
    state: TrainerState
    is_done: bool
    record: RunRecord


def train(arguments: Arguments) -> dict:
    """Train a model, keep the best checkpoint, and write model, processor, metrics and card to `output_dir`.

    Every process of a distributed run must call this function. The main process writes.

    Args:
        arguments: The result of `parse_arguments`.

    Returns:
        The content of `metrics.json`: errors of the model and of the baselines on the validation split, in normalised
        units and in DN, the Trainer's log, and the facts of the run.

    Raises:
        SolaredError: If the dataset, the model or an argument cannot be used, or `output_dir` holds another run.
    """
    data, model_arguments, training = arguments
    # The Trainer itself would push pickles, and the model without its card.
    pushes, training.push_to_hub = training.push_to_hub, False
    pushes = pushes and training.process_index == 0
    output = training.output
    start = _starting_point(training)
    set_seed(training.seed)

    dataset = _open_same_dataset(data)
    splits = {split: dataset.timelines(split) for split in ("train", "validation")}
    processor = fit_processor(data, splits["train"], dataset.identity)
    model = build_model(model_arguments, data, fitted_fields(processor, splits["train"]))
    if start.checkpoint is not None:
        check_same_run(start.checkpoint, model.config, processor)
    if start.is_done:
        if (metrics := metrics_of_finished_run(output, start.state)) is not None:
            print(f"The run in {training.output_dir} is finished. Ask for more steps or epochs to continue it.")
            if pushes:
                push_model(training, make_model_repository(training))
            return metrics
        # The run was interrupted after its last step.
        assert start.checkpoint is not None
        model = type(model).from_pretrained(weights_to_keep(start.checkpoint, start.state, output))

    # Some families learn from whole trajectories, and not only from the target.
    trajectory_steps = getattr(model.config, "forecast_steps", None)
    windows = {
        split: SolaredWindows(timelines, processor=processor, trajectory_steps=trajectory_steps)
        for split, timelines in splits.items()
    }
    del splits  # From here on only the shared copy is used.
    share_between_processes(windows.values())
    validation_metrics = ValidationMetrics(windows["validation"], processor)
    check_model(training, model)
    repo_id = make_model_repository(training) if pushes else None

    trainer = _make_trainer(model, training, windows, processor, validation_metrics, start.record)
    trained = _train_steps(trainer, start)
    evaluation = _save_and_evaluate(trainer, output)
    metrics = _metrics(trainer, start, model_arguments, windows, trained, evaluation)
    if trainer.is_world_process_zero():
        write_results(output, metrics)
        if repo_id is not None:
            push_model(training, repo_id)
    return metrics


def _starting_point(training: SolaredTrainingArguments) -> StartingPoint:
    """Return where the run starts.

    Raises:
        SolaredError: If the checkpoint is missing or cannot be resumed with these arguments.
    """
    checkpoint = checkpoint_to_resume(training)
    record = record_of(training, checkpoint)
    if checkpoint is None:
        return StartingPoint(None, TrainerState(), False, record)
    state = TrainerState.load_from_json(str(Path(checkpoint) / STATE_NAME))
    done = is_done(state, training)
    if not done:
        check_has_optimizer(checkpoint)
    return StartingPoint(checkpoint, state, done, record)


def _open_same_dataset(data: DataArguments) -> OpenedDataset:
    """Return the dataset at the commit that the main process found, because a branch may move in the meantime."""
    dataset = open_dataset(data.dataset, data.dataset_revision)
    revision = broadcast_object_list([dataset.revision])[0]
    return dataset if dataset.revision == revision else open_dataset(data.dataset, revision)


def _make_trainer(
    model: PreTrainedModel,
    training: SolaredTrainingArguments,
    windows: dict[str, SolaredWindows],
    processor: SolaredProcessor,
    validation_metrics: ValidationMetrics,
    record: RunRecord,
) -> Trainer:
    """Return the Trainer, and print which windows were dropped and why."""
    patience = training.early_stopping_patience
    early_stopping = [] if patience is None else [EarlyStopping(patience)]
    with arguments_explained():
        trainer = SolaredTrainer(
            model=model,
            args=training,
            data_collator=batch_of,
            train_dataset=windows["train"].references(),
            eval_dataset=windows["validation"].references(),
            processing_class=processor,
            compute_metrics=validation_metrics,
            callbacks=[SavedAsItsFamily(), record, *early_stopping],
        )
    if trainer.is_world_process_zero():
        for report in (*windows["train"].report(), *windows["validation"].report()):
            if report.dropped:
                print(report)
    return trainer


def _train_steps(trainer: Trainer, start: StartingPoint) -> dict:
    """Train the remaining steps, and return the Trainer's figures.

    Raises:
        SolaredError: If the training was stopped from outside before its last step.
    """
    if start.is_done:
        trainer.state = start.state
        return {"epoch": start.state.epoch, "train_runtime": 0.0}
    trained = trainer.train(resume_from_checkpoint=start.checkpoint).metrics
    stopped_early = any(
        callback.early_stopping_patience_counter >= callback.early_stopping_patience
        for callback in trainer.callback_handler.callbacks
        if isinstance(callback, EarlyStopping)
    )
    if trainer.state.global_step < trainer.state.max_steps and not stopped_early:
        raise SolaredError(
            f"The training in {trainer.args.output_dir} was stopped at step {trainer.state.global_step} of "
            f"{trainer.state.max_steps}. Add --resume_from_checkpoint last to resume it."
        )
    return trained


def _save_and_evaluate(trainer: Trainer, output: Path) -> dict:
    """Save the model, evaluate it on the validation split, and return its metrics.

    Raises:
        SolaredError: If the validation loss is not finite.
    """
    # Save before the evaluation, because `bf16_full_eval` rounds the weights of the model.
    trainer.save_model()
    # `evaluate` and `predict` would report to a tracker, and open a second run after the first run closed.
    loader = trainer.get_eval_dataloader()
    evaluation = trainer.evaluation_loop(loader, description="Validation", prediction_loss_only=False)
    assert evaluation.metrics is not None
    loss = evaluation.metrics["eval_loss"]
    if not np.isfinite(loss):
        raise SolaredError(
            f"The training in {output} has diverged: the validation loss is {loss}. Train again with a lower "
            "--learning_rate, in another --output_dir."
        )
    return evaluation.metrics


def _metrics(
    trainer: Trainer,
    start: StartingPoint,
    model_arguments: ModelArguments,
    windows: dict[str, SolaredWindows],
    trained: dict,
    evaluation: dict,
) -> dict:
    """Return the content of `metrics.json`. Every process of a distributed run must call this function."""
    training = cast(SolaredTrainingArguments, trainer.args)
    keeps_best = training.load_best_model_at_end
    of_forecast = cast(ValidationMetrics, trainer.compute_metrics).of_forecast
    return {
        "requested": {"max_steps": training.max_steps, "num_train_epochs": training.num_train_epochs},
        "train": {
            **trained,
            "windows": len(windows["train"]),
            "world_size": training.world_size,
            "resumed": start.checkpoint is not None,
        },
        "best_step": step_of(trainer.state.best_model_checkpoint) if keeps_best else None,
        "best_metric": training.metric_for_best_model if keeps_best else None,
        "validation": evaluation,
        "validation_baselines": {
            name: of_forecast(baseline().forecast(windows["validation"])) for name, baseline in BASELINES.items()
        },
        "parameters": cast(PreTrainedModel, trainer.model).num_parameters(),
        "model_config": model_arguments.model_config,
        "hyperparameters": changed_arguments(training) | batch_size_found(training, trainer.state),
        "earlier": start.record.earlier(),
        "hardware": hardware(training),
        "software": software(),
        "log": trainer.state.log_history,
    }
