"""Training a family on the dataset: arguments from YAML and the command line, and the Trainer they configure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate.utils import broadcast_object_list
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForTimeSeriesPrediction,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from solared_hf.baselines import BASELINES
from solared_hf.cards import CARD_NAME
from solared_hf.checkpoints import check_can_go_on, check_same_run, checkpoint_to_resume, step_of, weights_to_keep
from solared_hf.errors import SolaredError
from solared_hf.files import write_atomically
from solared_hf.hub import MAIN_BRANCH, make_repository, push
from solared_hf.loading import dataset_identity, load_timelines, pinned_revision
from solared_hf.model_card import CURVE_NAME, METRICS_NAME, model_card
from solared_hf.model_folder import model_to_push
from solared_hf.plotting.style import as_png
from solared_hf.plotting.training import plot_training
from solared_hf.processing_solared import SolaredProcessor
from solared_hf.run_facts import batch_size_found, changed_arguments, hardware, software
from solared_hf.run_record import STATE_NAME, EarlyStopping, is_done, record_of
from solared_hf.schema import CHANNELS
from solared_hf.sharding import SavedAsItsFamily
from solared_hf.shared_arrays import share_between_processes
from solared_hf.timelines import Timeline
from solared_hf.trainer import SolaredTrainer
from solared_hf.training_checks import (
    LABEL_NAMES,
    arguments_explained,
    check_arguments,
    check_model,
)
from solared_hf.validation_metrics import GREATER_IS_BETTER, ValidationMetrics
from solared_hf.windows import SolaredWindows, batch_of


@dataclass
class DataArguments:
    """What a model is trained on: the dataset, and the windows that are cut from it."""

    dataset: str = field(metadata={"help": "Folder written by `solared build`, or a dataset repository on the Hub."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a repository."})
    input_channels: list[str] = field(
        default_factory=lambda: list(CHANNELS), metadata={"help": "Channels the model sees."}
    )
    input_steps: int = field(default=120, metadata={"help": "Steps of input."})
    horizon_hours: float = field(default=12.0, metadata={"help": "Hours from the last input step to the target."})
    nan_policy: str = field(default="zero", metadata={"help": "zero (as published), interpolate or drop."})


@dataclass
class ModelArguments:
    """Which model is trained.

    Raises:
        SolaredError: `model_config` is neither a mapping nor the JSON of one.
    """

    model_type: str = field(
        metadata={"help": "quantile_trajectory, solared_lstm, spatio_temporal_attention or spatio_temporal_resnet."}
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Configuration fields that differ from the default; JSON on the command line."}
    )

    def __post_init__(self):
        if isinstance(self.model_config, str):
            try:
                self.model_config = json.loads(self.model_config)
            except json.JSONDecodeError as error:
                raise SolaredError(
                    f'--model_config takes JSON such as {{"hidden_size": 32}}, but got {self.model_config} ({error}).'
                ) from error
        self.model_config = self.model_config or {}
        if not isinstance(self.model_config, dict):
            raise SolaredError(f"model_config takes names and values, but got {self.model_config!r}.")


@dataclass
class SolaredTrainingArguments(TrainingArguments):
    """`TrainingArguments` whose defaults suit the task: evaluate and save every epoch, keep the best.

    Raises:
        SolaredError: an argument cannot work or has no effect, or checkpoints are to be pushed to the Hub.
    """

    # Without it the Trainer finds no labels, and evaluation silently has neither loss nor metrics.
    label_names: list[str] | None = field(default_factory=LABEL_NAMES.copy)
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    logging_steps: float = 10
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    hub_strategy: str = "end"
    # Every weight takes part in every step, and looking for others costs a pass over the graph.
    ddp_find_unused_parameters: bool | None = False
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better loss after which training stops; 0 for never."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "A checkpoint folder, or `last` for the last one in output_dir, if any."}
    )

    def __post_init__(self):
        check_arguments(self)
        super().__post_init__()
        self.early_stopping_patience = self.early_stopping_patience or None
        if self.metric_for_best_model is not None:
            self.greater_is_better = GREATER_IS_BETTER[self.metric_for_best_model.removeprefix("eval_")]
        if self.push_to_hub and self.hub_strategy != "end":
            raise SolaredError(
                f"hub_strategy {self.hub_strategy.value} would push checkpoints, which hold pickles; leave it out: "
                "the finished model is pushed, and checkpoints stay in output_dir."
            )
        # torch warns at every epoch when it is asked to pin memory that no accelerator will read.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()

    def __getstate__(self) -> dict:
        # The Trainer pickles its arguments beside every checkpoint, where nobody looks for a token.
        return {**self.__dict__, "hub_token": None}


Arguments = tuple[DataArguments, ModelArguments, SolaredTrainingArguments]


class _Parser(HfArgumentParser):
    def error(self, message: str):
        raise SolaredError(f"{message}; `solared train --help` lists the arguments.")


def parse_arguments(command_line: Sequence[str]) -> Arguments:
    """Arguments of `solared train`: those in the YAML file of `--config`, then the command line, which wins.

    Raises:
        SolaredError: the file is not there or no YAML mapping, or an argument is unknown, missing or wrong.

    >>> model = ["--model_type", "quantile_trajectory", "--model_config", '{"num_members": 4}']
    >>> data, model, training = parse_arguments([*model, "--dataset", "solared", "--output_dir", "runs/first"])
    >>> data.input_steps, model.model_config, training.label_names
    (120, {'num_members': 4}, ['future_values'])
    """
    option = _Parser([], add_help=False, allow_abbrev=False)
    option.add_argument("--config", help="YAML file with any of these arguments; the command line wins.")
    config, rest = option.parse_known_args(list(command_line))
    parser = _Parser((DataArguments, ModelArguments, SolaredTrainingArguments), prog="solared train", parents=[option])
    if config.config is not None:
        rest = [*_yaml_as_command_line(Path(config.config)), *rest]
    try:
        data, model, training, _, unknown = parser.parse_args_into_dataclasses(
            rest, return_remaining_strings=True, look_for_args_file=False
        )
    except SolaredError:
        raise
    except (ImportError, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SolaredError(f"The training arguments do not fit together: {reason}") from error
    if unknown:
        raise SolaredError(f"Unknown arguments: {' '.join(unknown)}; `solared train --help` lists the known ones.")
    return data, model, training


def train(arguments: Arguments) -> dict:
    """Train, keep the checkpoint with the best validation loss, and write model, processor, metrics and card.

    Every process of a distributed run calls it; the main process writes.

    Args:
        arguments: `parse_arguments` makes them.

    Returns:
        The content of `metrics.json`: errors in normalised units and in DN on the validation split, those of the
        baselines beside them, the Trainer's log, and what the run was.

    Raises:
        SolaredError: the dataset, the model or an argument is not usable, or `output_dir` holds another run.
    """
    data, model_arguments, training = arguments
    # The Trainer's own pushes would bring the model without its card, and pickles.
    pushes, training.push_to_hub = training.push_to_hub, False
    checkpoint = checkpoint_to_resume(training)
    output = Path(training.output_dir)
    record = record_of(training, checkpoint)
    state = None if checkpoint is None else TrainerState.load_from_json(str(Path(checkpoint) / STATE_NAME))
    done = state is not None and is_done(state, training)
    if checkpoint is not None and not done:
        check_can_go_on(checkpoint)
    set_seed(training.seed)

    # The main process's word, as the branch may move while the others ask.
    revision = broadcast_object_list([pinned_revision(data.dataset, data.dataset_revision)])[0]
    splits = {split: load_timelines(data.dataset, split, revision) for split in ("train", "validation")}
    processor = _fit_processor(data, splits["train"], revision)
    model = build_model(model_arguments, data, _fitted_fields(processor, splits["train"]))
    if checkpoint is not None:
        check_same_run(checkpoint, model.config, processor)
    if done and (metrics := _metrics_of_finished_run(output, state)) is not None:
        print(f"The run in {training.output_dir} is finished; ask for more steps or epochs to train on.")
        if pushes and training.process_index == 0:
            _push(training, _make_repository(training))
        return metrics
    if done:
        # The run was interrupted after its last step.
        model = type(model).from_pretrained(weights_to_keep(checkpoint, state, output))
    # Only some families learn from the whole way to the target.
    trajectory_steps = getattr(model.config, "forecast_steps", None)
    windows = {
        split: SolaredWindows(timelines, processor=processor, trajectory_steps=trajectory_steps)
        for split, timelines in splits.items()
    }
    del splits  # Nothing else shall hold what is shared from here on.
    share_between_processes(windows.values())
    validation_metrics = ValidationMetrics(windows["validation"], processor)
    check_model(training, model)
    repo_id = _make_repository(training) if pushes and training.process_index == 0 else None
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
    if done:
        trainer.state, trained = state, {"epoch": state.epoch, "train_runtime": 0.0}
    else:
        trained = trainer.train(resume_from_checkpoint=checkpoint).metrics
        stopped_early = any(one.early_stopping_patience_counter >= patience for one in early_stopping)
        if trainer.state.global_step < trainer.state.max_steps and not stopped_early:
            raise SolaredError(
                f"The training in {output} was stopped at step {trainer.state.global_step} of "
                f"{trainer.state.max_steps}. Add --resume_from_checkpoint last to go on with it."
            )
    # Before the evaluation, which may round the weights: `bf16_full_eval` changes the model itself.
    trainer.save_model()
    # Unlike `evaluate` and `predict`, it reports to no tracker, which would open a second run after the first closed.
    loader = trainer.get_eval_dataloader()
    evaluation = trainer.evaluation_loop(loader, description="Validation", prediction_loss_only=False)
    if not np.isfinite(evaluation.metrics["eval_loss"]):
        raise SolaredError(
            f"The training in {output} has diverged: its validation loss is {evaluation.metrics['eval_loss']}; train "
            "again with a lower --learning_rate, in another --output_dir."
        )

    metrics = {
        "requested": {"max_steps": training.max_steps, "num_train_epochs": training.num_train_epochs},
        "train": {
            **trained,
            "windows": len(windows["train"]),
            "world_size": training.world_size,
            "resumed": checkpoint is not None,
        },
        "best_step": step_of(trainer.state.best_model_checkpoint) if training.load_best_model_at_end else None,
        "best_metric": training.metric_for_best_model if training.load_best_model_at_end else None,
        "validation": evaluation.metrics,
        "validation_baselines": {
            name: validation_metrics.of_forecast(baseline().forecast(windows["validation"]))
            for name, baseline in BASELINES.items()
        },
        "parameters": trainer.model.num_parameters(),
        "model_config": model_arguments.model_config,
        "hyperparameters": changed_arguments(training) | batch_size_found(training, trainer.state),
        "earlier": record.earlier(),
        "hardware": hardware(training),
        "software": software(),
        "log": trainer.state.log_history,
    }
    if trainer.is_world_process_zero():
        _write_results(output, metrics)
        if repo_id is not None:
            _push(training, repo_id)
    return metrics


def _metrics_of_finished_run(output: Path, state: TrainerState) -> dict | None:
    """The `metrics.json` of a run that ended at this state, None if it holds those of fewer steps or is not there."""
    metrics_file = output / METRICS_NAME
    metrics = json.loads(metrics_file.read_text()) if metrics_file.is_file() else None
    return metrics if metrics and metrics["log"][-1]["step"] == state.global_step else None


def _write_results(output: Path, metrics: dict) -> None:
    """The learning curve, `metrics.json`, and the card, which is made of the folder's files."""
    if any({"loss", "eval_loss"} & entry.keys() for entry in metrics["log"]):
        persistence = metrics["validation_baselines"]["persistence"]["rmse_dn"]
        curve = plot_training(metrics["log"], persistence, metrics["best_step"])
        write_atomically(output / CURVE_NAME, as_png(curve))
    write_atomically(output / METRICS_NAME, json.dumps(metrics, indent=2) + "\n")
    write_atomically(output / CARD_NAME, model_card(output))


def _make_repository(training: SolaredTrainingArguments) -> str:
    """The repository that the run is to be pushed to; who may not push there learns it before training."""
    name = training.hub_model_id or Path(training.output_dir).resolve().name
    return make_repository(name, "model", private=training.hub_private_repo, token=training.hub_token)


def _push(training: SolaredTrainingArguments, repo_id: str) -> None:
    output, branch = Path(training.output_dir), training.hub_revision or MAIN_BRANCH
    try:
        report = push(model_to_push(output, repo_id), repo_id, branch=branch, token=training.hub_token)
    except SolaredError as error:
        raise SolaredError(
            f"The model is finished in {output}, but not on the Hub: {error} Or push it by itself: `solared push "
            f"{output} --repo-id {repo_id}`."
        ) from error
    print(f"Pushed to {report.url}")


def build_model(model: ModelArguments, data: DataArguments, fitted: Mapping[str, object]) -> PreTrainedModel:
    """The model that the arguments describe, with fresh weights.

    Args:
        model: family and fields of its configuration.
        data: the task.
        fitted: fields that follow from the data; a family takes those that it has.

    Raises:
        SolaredError: the family or one of its fields is unknown, or a field has no possible value.
    """
    task = {
        "input_channels": list(data.input_channels),
        "input_steps": data.input_steps,
        "horizon_hours": data.horizon_hours,
    }
    for field_name in (task | fitted).keys() & model.model_config.keys():
        raise SolaredError(
            f"{field_name} is an argument of its own, or follows from the data; take it out of model_config."
        )
    try:
        config = AutoConfig.for_model(model.model_type)
        given = _known_fields(model, config)
        following = {one.name: fitted[one.name] for one in fields(config) if one.name in fitted}
        return AutoModelForTimeSeriesPrediction.from_config(type(config)(**{**task, **following, **given}))
    except (OSError, StrictDataclassError, ValueError) as error:
        raise SolaredError(f"The model could not be made: {error}") from error


def _fit_processor(data: DataArguments, regions: list[Timeline], revision: str | None) -> SolaredProcessor:
    cadences = {timeline.cadence for timeline in regions if len(timeline) > 1}
    if len(cadences) != 1:
        raise SolaredError(
            f"The train split has steps every {' and '.join(map(str, sorted(cadences)))}; train on one cadence."
        )
    try:
        return SolaredProcessor.fit(
            (timeline.values for timeline in regions),
            CHANNELS,
            input_channels=data.input_channels,
            input_steps=data.input_steps,
            horizon_hours=data.horizon_hours,
            cadence_minutes=cadences.pop() / timedelta(minutes=1),
            nan_policy=data.nan_policy,
            fitted_on={
                **dataset_identity(data.dataset, revision),
                "split": "train",
                "regions": [timeline.ar_number for timeline in regions],
            },
        )
    except ValueError as error:
        raise SolaredError(str(error)) from error


def _fitted_fields(processor: SolaredProcessor, regions: list[Timeline]) -> dict[str, object]:
    """Fields of configurations that follow from the train split, in the normalised units of the processor.

    `step_hours` is the cadence, `input_zero` what 0 in physical units is, and `input_scale` the median magnitude of
    each input channel where it is not 0: the median over the regions, as a few have spots and strong flux.
    """
    channels = [CHANNELS.index(channel) for channel in processor.input_channels]
    magnitudes = []
    for values in (timeline.values[:, channels] for timeline in regions):
        # Zeros stand for nothing observed in the published files, and for no flux at all in simulated ones.
        magnitudes.append(np.nanmedian(np.where(values == 0, np.nan, np.abs(values)), axis=(0, 2)))
    physical = np.stack([np.zeros(len(channels)), np.nanmedian(magnitudes, axis=0)])[..., None]
    zero, magnitude = processor.normalise(physical, processor.input_channels)[..., 0].astype(float)
    return {
        "step_hours": processor.cadence_minutes / 60,
        "input_zero": zero.tolist(),
        "input_scale": (magnitude - zero).tolist(),
    }


def _known_fields(model: ModelArguments, config: PreTrainedConfig) -> dict:
    """The given configuration fields; a transformers configuration would take unknown ones without a word."""
    known = {one.name for one in fields(config)}
    unknown = sorted(set(model.model_config) - known)
    if unknown:
        own = sorted(known - {one.name for one in fields(PreTrainedConfig)})
        raise SolaredError(f"{model.model_type} has no field {', '.join(unknown)}; its fields are {', '.join(own)}.")
    return model.model_config


def _yaml_as_command_line(path: Path) -> list[str]:
    """The arguments of a YAML file as they would stand on the command line, so that both are checked alike.

    YAML reads 5e-5 as text; the parser makes a number of it, as it does on the command line.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SolaredError(f"The configuration {path} could not be read as YAML ({reason}); correct it.") from error
    if not isinstance(content, dict):
        raise SolaredError(f"The configuration {path} holds no `key: value` lines; write one argument a line.")
    known = {one.name for kind in (DataArguments, ModelArguments, SolaredTrainingArguments) for one in fields(kind)}
    unknown = sorted(str(key) for key in content if key not in known)
    if unknown:
        raise SolaredError(
            f"{path} has unknown keys: {', '.join(unknown)}; `solared train --help` lists the arguments."
        )
    command_line = []
    for key, value in content.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        # On the command line, the shell puts the home folder in the place of ~.
        texts = [str(Path(text).expanduser()) if text.startswith("~/") else text for text in map(str, values)]
        command_line += [f"--{key}", *texts]
    return command_line
