"""Going on with an interrupted run: which checkpoint, and whether it is the same run."""

import re
import sys
from dataclasses import fields
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig, TrainerState, TrainingArguments

from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.errors import SolaredError
from solared_hf.training.run_record import STATE_NAME

# The Trainer writes it last, so a folder without it is what a kill left of a checkpoint.
_LAST_FILE = STATE_NAME
_SETTINGS = ("input_channels", "input_steps", "horizon_hours", "nan_policy", "cadence_minutes", "minimum", "maximum")


def checkpoint_to_resume(training: TrainingArguments) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means: a folder, or for `last` the last whole one, if any.

    Raises:
        SolaredError: there is no such checkpoint, or the output folder holds checkpoints and no word to resume.
    """
    wanted, output = training.resume_from_checkpoint, Path(training.output_dir)
    if wanted is not None and wanted != "last":
        if not (Path(wanted) / _LAST_FILE).is_file():
            raise SolaredError(
                f"There is no checkpoint {wanted}; name a whole checkpoint folder, or `last` for the last in {output}."
            )
        return wanted
    numbered = {
        int(match[1]): path for path in output.glob("*") if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    if wanted is None:
        if numbered:
            raise SolaredError(
                f"{output} holds the checkpoints of another run; add --resume_from_checkpoint last to go on with it, "
                "or choose another --output_dir."
            )
        return None
    for _, path in sorted(numbered.items(), reverse=True):
        if (path / _LAST_FILE).is_file():
            return str(path)
        print(f"{path} is only half written and is passed over.", file=sys.stderr)
    return None


def check_same_run(checkpoint: str, config: PreTrainedConfig, processor: SolaredProcessor) -> None:
    """Refuse to go on with a checkpoint of another model, or one that was trained on other data.

    Raises:
        SolaredError: the message names the first difference.
    """
    earlier, earlier_config = SolaredProcessor.from_pretrained(checkpoint), AutoConfig.from_pretrained(checkpoint)
    own_fields = {one.name for one in fields(config)} - {one.name for one in fields(PreTrainedConfig)}
    compared = (
        (earlier_config, config, ("model_type", *sorted(own_fields))),
        (earlier, processor, _SETTINGS),
    )
    differences = [
        (name, getattr(before, name, None), getattr(now, name))
        for before, now, names in compared
        for name in names
        if getattr(before, name, None) != getattr(now, name)
    ]
    # Other data may well have the same extremes, and the same data another name.
    differences += [
        (f"{name} of the dataset", earlier.fitted_on[name], processor.fitted_on[name])
        for name in ("regions", "revision")
        if earlier.fitted_on[name] != processor.fitted_on[name]
    ]
    if differences:
        name, before, now = differences[0]
        raise SolaredError(
            f"{checkpoint} was trained with {name} {before}, and this run has {now}; resume with the same model and "
            "data, or choose another --output_dir."
        )


def check_can_go_on(checkpoint: str) -> None:
    """Refuse a checkpoint without the state of the optimizer: the run would go on as if it had just begun.

    Raises:
        SolaredError: there is only the model.
    """
    if not any(path.name.startswith(("optimizer", "global_step")) for path in Path(checkpoint).iterdir()):
        raise SolaredError(
            f"{checkpoint} holds the model alone, as --save_only_model leaves it, so no run can go on from it. Train "
            "again without that argument, in another --output_dir."
        )


def weights_to_keep(checkpoint: str, state: TrainerState, output: Path) -> str:
    """Return the folder with the weights of a run that ended with this checkpoint: the best one's, or its own.

    `state` then says which.
    """
    best = Path(state.best_model_checkpoint or "")
    if not best.name or not best.is_dir():
        best = output / best.name  # the run's folder may have moved
    state.best_model_checkpoint = str(best) if best.name.startswith("checkpoint-") and best.is_dir() else None
    return state.best_model_checkpoint or checkpoint


def step_of(checkpoint: str | None) -> int | None:
    """Return the step of a checkpoint's folder."""
    return None if checkpoint is None else int(checkpoint.rpartition("-")[2])
