"""Resume an interrupted run: find the checkpoint, and check that it belongs to the same run."""

import re
import sys
from dataclasses import fields
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig, TrainerState

from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.errors import SolaredError
from solared_hf.training.arguments import SolaredTrainingArguments
from solared_hf.training.run_record import STATE_NAME

# The Trainer writes this file last, so a folder without it is half written.
_LAST_FILE = STATE_NAME
_PROCESSOR_FIELDS = (
    "input_channels",
    "input_steps",
    "horizon_hours",
    "nan_policy",
    "cadence_minutes",
    "minimum",
    "maximum",
)


def checkpoint_to_resume(training: SolaredTrainingArguments) -> str | None:
    """Return the folder in `resume_from_checkpoint`, or for `last` the last complete checkpoint, if there is one.

    Raises:
        SolaredError: If the checkpoint is missing, or the output folder holds checkpoints but the run is not resumed.
    """
    wanted, output = training.resume_from_checkpoint, training.output
    if wanted is not None and wanted != "last":
        if not (Path(wanted) / _LAST_FILE).is_file():
            raise SolaredError(
                f"There is no checkpoint {wanted}. Give a complete checkpoint folder, or `last` for the last one in "
                f"{output}."
            )
        return wanted
    numbered = {
        int(match[1]): path for path in output.glob("*") if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    if wanted is None:
        if numbered:
            raise SolaredError(
                f"{output} holds the checkpoints of another run. Add --resume_from_checkpoint last to resume it, or "
                "choose another --output_dir."
            )
        return None
    for _, path in sorted(numbered.items(), reverse=True):
        if (path / _LAST_FILE).is_file():
            return str(path)
        print(f"{path} is only half written and is skipped.", file=sys.stderr)
    return None


def check_same_run(checkpoint: str, config: PreTrainedConfig, processor: SolaredProcessor) -> None:
    """Refuse a checkpoint of another model, or a checkpoint that was trained on other data.

    Raises:
        SolaredError: If there is a difference. The message names the first one.
    """
    earlier, earlier_config = SolaredProcessor.from_pretrained(checkpoint), AutoConfig.from_pretrained(checkpoint)
    own_fields = {field.name for field in fields(config)} - {field.name for field in fields(PreTrainedConfig)}
    compared = (
        (earlier_config, config, ("model_type", *sorted(own_fields))),
        (earlier, processor, _PROCESSOR_FIELDS),
    )
    differences = [
        (name, getattr(before, name, None), getattr(now, name))
        for before, now, names in compared
        for name in names
        if getattr(before, name, None) != getattr(now, name)
    ]
    # Other data can have the same extremes, and the same data can have another name.
    before_on, now_on = earlier.fitted_on or {}, processor.fitted_on or {}
    differences += [
        (f"{name} of the dataset", before_on.get(name), now_on.get(name))
        for name in ("regions", "revision")
        if before_on.get(name) != now_on.get(name)
    ]
    if differences:
        name, before, now = differences[0]
        raise SolaredError(
            f"{checkpoint} was trained with {name} {before}, and this run has {now}. Resume with the same model and "
            "data, or choose another --output_dir."
        )


def check_has_optimizer(checkpoint: str) -> None:
    """Refuse a checkpoint without the state of the optimizer, because the optimizer would begin anew.

    Raises:
        SolaredError: If the checkpoint holds only the model.
    """
    if not any(path.name.startswith(("optimizer", "global_step")) for path in Path(checkpoint).iterdir()):
        raise SolaredError(
            f"{checkpoint} was saved with --save_only_model, so a run cannot resume from it. Train again without that "
            "argument, in another --output_dir."
        )


def weights_to_keep(checkpoint: str, state: TrainerState, output: Path) -> str:
    """Return the folder with the weights of a run that ended with this checkpoint: the best checkpoint, or this one.

    `state.best_model_checkpoint` is updated.
    """
    best = Path(state.best_model_checkpoint or "")
    if not best.name or not best.is_dir():
        best = output / best.name  # the run's folder may have moved
    state.best_model_checkpoint = str(best) if best.name.startswith("checkpoint-") and best.is_dir() else None
    return state.best_model_checkpoint or checkpoint


def step_of(checkpoint: str | None) -> int | None:
    """Return the step in the name of a checkpoint folder."""
    return None if checkpoint is None else int(checkpoint.rpartition("-")[2])
