"""Keep the arguments of each part of a run in its checkpoints, and compare them when the run is resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import AcceleratorConfig

from solared_hf.errors import SolaredError
from solared_hf.training.arguments import SolaredTrainingArguments
from solared_hf.training.run_facts import changed_arguments

STATE_NAME = "trainer_state.json"
# The learning rates of these schedules depend on the metrics, and not only on the step.
_STATEFUL_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
# The state of the optimizer, the order of the windows and the choice of the best checkpoint depend on these.
_FIXED = (
    *("optim", "optim_args", "optim_target_modules", "seed", "data_seed", "dataloader_drop_last"),
    *("train_sampling_strategy", "load_best_model_at_end", "metric_for_best_model"),
)
_FIXED_IN_STATEFUL_SCHEDULES = ("lr_scheduler_type", "learning_rate", "lr_scheduler_kwargs", "warmup_steps")
_WINDOWS_A_STEP = "windows_a_step"
# Only the product of these two is fixed.
_PARTS_OF_A_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")
_LENGTHS = ("max_steps", "num_train_epochs", "early_stopping_patience")


class RunRecord(TrainerCallback, ExportableState):
    """Keep the arguments of each part of the run in every checkpoint, with the first step of the part.

    Args:
        parts: `from_step` and `arguments` of each part of the run. The last part is the present one.
    """

    def __init__(self, parts: list[dict]):
        self.parts = parts

    def state(self) -> dict:
        """Return the entry in `trainer_state.json`."""
        return {"args": {"parts": self.parts}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        # A resumed state holds the record of the checkpoint, or no record.
        _entries(state)[type(self).__name__] = self.state()

    def earlier(self) -> list[dict]:
        """Return `until_step` of each earlier part, and the `arguments` that differ from the present ones."""
        now = self.parts[-1]["arguments"]
        return [
            {
                "until_step": following["from_step"],
                "arguments": {name: part["arguments"].get(name) for name in _differing(part["arguments"], now)},
            }
            for part, following in zip(self.parts, self.parts[1:], strict=False)
        ]


class EarlyStopping(EarlyStoppingCallback):
    """Early stopping that continues its count in a resumed run, with the patience of the resumed run."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = evaluations_without_gain(state)
        _entries(state)[type(self).__name__] = self.state()


def evaluations_without_gain(state: TrainerState) -> int:
    """Return how many evaluations in a row were not better than the best one before them."""
    kept = _entries(state).get(EarlyStopping.__name__)
    return kept["attributes"]["early_stopping_patience_counter"] if kept else 0


def record_of(training: SolaredTrainingArguments, checkpoint: str | None = None) -> RunRecord:
    """Return the record of a new run, or of a run that resumes from a checkpoint.

    Raises:
        SolaredError: If an argument differs from the checkpoint and cannot take effect in a resumed run.
    """
    now = _arguments(training)
    if checkpoint is None:
        return RunRecord([{"from_step": 0, "arguments": now}])
    state = TrainerState.load_from_json(str(Path(checkpoint) / STATE_NAME))
    kept = _entries(state).get(RunRecord.__name__)
    if kept is None:
        raise SolaredError(
            f"{checkpoint} comes from an older version of this package and does not hold its training arguments. "
            "Train again, in another --output_dir."
        )
    parts = kept["args"]["parts"]
    before = parts[-1]["arguments"]
    for name in _differing(before, now):
        if name in _FIXED or name == _WINDOWS_A_STEP or _is_of_stateful_schedule(name, before, now):
            raise SolaredError(
                f"{checkpoint} was trained with {name} {before.get(name)}, and this run has {now.get(name)}. A "
                f"resumed run cannot change {name}: give the same value, or choose another --output_dir."
            )
    if is_done(state, training):
        _check_no_late_changes(checkpoint, state, training, before, now)
    if not _differing(before, now):
        return RunRecord(parts)
    return RunRecord([*parts, {"from_step": state.global_step, "arguments": now}])


def is_done(state: TrainerState, training: SolaredTrainingArguments) -> bool:
    """Return True if a run with these arguments has nothing left to train at this state."""
    if training.early_stopping_patience is not None and (
        evaluations_without_gain(state) >= training.early_stopping_patience
    ):
        return True
    if training.max_steps > 0:
        return state.global_step >= training.max_steps
    return state.epoch >= training.num_train_epochs


def _arguments(training: SolaredTrainingArguments) -> dict:
    """Return the arguments that are compared when a run is resumed, ready for JSON."""
    chosen = training.to_dict()
    arguments = changed_arguments(training)
    arguments |= {name: chosen[name] for name in (*_FIXED, *_FIXED_IN_STATEFUL_SCHEDULES, *_LENGTHS)}
    parts = training.train_batch_size * training.gradient_accumulation_steps
    is_total = cast(AcceleratorConfig, training.accelerator_config).split_batches
    arguments[_WINDOWS_A_STEP] = parts if is_total else parts * training.world_size
    if training.max_steps > 0:
        del arguments["num_train_epochs"]  # it has no effect
    return arguments


def _entries(state: TrainerState) -> dict[str, dict]:
    """Return the entries of the callbacks, which transformers turns into a dict."""
    return cast(dict[str, dict], state.stateful_callbacks)


def _differing(before: Mapping, now: Mapping) -> list[str]:
    return sorted(
        name
        for name in before.keys() | now.keys()
        if before.get(name) != now.get(name) and name not in _PARTS_OF_A_STEP
    )


def _is_of_stateful_schedule(name: str, before: Mapping, now: Mapping) -> bool:
    kinds = {before["lr_scheduler_type"], now["lr_scheduler_type"]}
    return name in _FIXED_IN_STATEFUL_SCHEDULES and bool(kinds & set(_STATEFUL_SCHEDULES))


def _check_no_late_changes(
    checkpoint: str, state: TrainerState, training: SolaredTrainingArguments, before: Mapping, now: Mapping
) -> None:
    """Refuse changes that come too late, because the run has nothing left to train."""
    for name in _differing(before, now):
        raise SolaredError(
            f"{checkpoint}, at step {state.global_step}, has nothing left to train, so {name} {now.get(name)} instead "
            f"of {before.get(name)} would have no effect. Ask for more steps, epochs or patience as well, or choose "
            "another --output_dir."
        )
