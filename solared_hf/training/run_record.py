"""With which arguments each part of a run was trained: kept in its checkpoints, compared when it is resumed."""

from collections.abc import Mapping
from pathlib import Path

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from solared_hf.errors import SolaredError
from solared_hf.training.run_facts import changed_arguments

STATE_NAME = "trainer_state.json"
# Their rate follows from what happened, and not from the step alone.
_STATEFUL_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
# What the optimizer's state, the order of the windows and the choice of the best checkpoint depend on.
_FIXED = (
    *("optim", "optim_args", "optim_target_modules", "seed", "data_seed", "dataloader_drop_last"),
    *("train_sampling_strategy", "load_best_model_at_end", "metric_for_best_model"),
)
_OF_A_STATEFUL_SCHEDULE = ("lr_scheduler_type", "learning_rate", "lr_scheduler_kwargs", "warmup_steps")
_WINDOWS_A_STEP = "windows_a_step"
# Their product is what is fixed.
_PARTS_OF_A_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")
_LENGTHS = ("max_steps", "num_train_epochs", "early_stopping_patience")


class RunRecord(TrainerCallback, ExportableState):
    """Keeps in every checkpoint which arguments were in force, from which step on.

    Args:
        parts: `from_step` and `arguments` of each part of the run, the present one last.
    """

    def __init__(self, parts: list[dict]):
        self.parts = parts

    def state(self) -> dict:
        """Return what is kept in `trainer_state.json`."""
        return {"args": {"parts": self.parts}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        # A resumed state has that of the checkpoint, or none.
        state.stateful_callbacks[type(self).__name__] = self.state()

    def earlier(self) -> list[dict]:
        """Return `until_step` and `arguments` of the earlier parts: those that differ from the present ones."""
        now = self.parts[-1]["arguments"]
        return [
            {
                "until_step": following["from_step"],
                "arguments": {name: part["arguments"].get(name) for name in _differing(part["arguments"], now)},
            }
            for part, following in zip(self.parts, self.parts[1:], strict=False)
        ]


class EarlyStopping(EarlyStoppingCallback):
    """Early stopping whose count goes on in a resumed run, with the patience that the resumed run asks for."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = evaluations_without_gain(state)
        state.stateful_callbacks[type(self).__name__] = self.state()


def evaluations_without_gain(state: TrainerState) -> int:
    """Return how many evaluations in a row were not better than the best one before them."""
    kept = state.stateful_callbacks.get(EarlyStopping.__name__)
    return kept["attributes"]["early_stopping_patience_counter"] if kept else 0


def record_of(training: TrainingArguments, checkpoint: str | None = None) -> RunRecord:
    """Return the record of a run that begins, or goes on from a checkpoint.

    Raises:
        SolaredError: an argument differs from that of the checkpoint and cannot take effect in a resumed run.
    """
    now = _arguments(training)
    if checkpoint is None:
        return RunRecord([{"from_step": 0, "arguments": now}])
    state = TrainerState.load_from_json(str(Path(checkpoint) / STATE_NAME))
    kept = state.stateful_callbacks.get(RunRecord.__name__)
    if kept is None:
        raise SolaredError(
            f"{checkpoint} does not say with which arguments it was trained, so it is of an older version of this "
            "package. Train again, in another --output_dir."
        )
    parts = kept["args"]["parts"]
    before = parts[-1]["arguments"]
    for name in _differing(before, now):
        if name in _FIXED or name == _WINDOWS_A_STEP or _is_of_stateful_schedule(name, before, now):
            raise SolaredError(
                f"{checkpoint} was trained with {name} {before.get(name)}, and this run has {now.get(name)}. A "
                f"resumed run cannot change it: give the same {name}, or choose another --output_dir."
            )
    if is_done(state, training):
        _check_nothing_is_asked(checkpoint, state, training, before, now)
    if not _differing(before, now):
        return RunRecord(parts)
    return RunRecord([*parts, {"from_step": state.global_step, "arguments": now}])


def is_done(state: TrainerState, training: TrainingArguments) -> bool:
    """Return True if a run with these arguments has nothing left to train at this state."""
    if training.early_stopping_patience is not None and (
        evaluations_without_gain(state) >= training.early_stopping_patience
    ):
        return True
    if training.max_steps > 0:
        return state.global_step >= training.max_steps
    return state.epoch >= training.num_train_epochs


def _arguments(training: TrainingArguments) -> dict:
    """Return what a run's arguments are compared by, ready for JSON."""
    chosen = training.to_dict()
    arguments = changed_arguments(training)
    arguments |= {name: chosen[name] for name in (*_FIXED, *_OF_A_STATEFUL_SCHEDULE, *_LENGTHS)}
    parts = training.train_batch_size * training.gradient_accumulation_steps
    is_total = training.accelerator_config.split_batches
    arguments[_WINDOWS_A_STEP] = parts if is_total else parts * training.world_size
    if training.max_steps > 0:
        del arguments["num_train_epochs"]  # it counts for nothing
    return arguments


def _differing(before: Mapping, now: Mapping) -> list[str]:
    return sorted(
        name
        for name in before.keys() | now.keys()
        if before.get(name) != now.get(name) and name not in _PARTS_OF_A_STEP
    )


def _is_of_stateful_schedule(name: str, before: Mapping, now: Mapping) -> bool:
    kinds = {before["lr_scheduler_type"], now["lr_scheduler_type"]}
    return name in _OF_A_STATEFUL_SCHEDULE and bool(kinds & set(_STATEFUL_SCHEDULES))


def _check_nothing_is_asked(
    checkpoint: str, state: TrainerState, training: TrainingArguments, before: Mapping, now: Mapping
) -> None:
    """Refuse changes that come too late: the run has nothing left to train."""
    for name in _differing(before, now):
        raise SolaredError(
            f"{checkpoint}, at step {state.global_step}, has nothing left to train, so {name} {now.get(name)} in the "
            f"place of {before.get(name)} would have no effect. Ask for more steps, epochs or patience as well, or "
            "choose another --output_dir."
        )
