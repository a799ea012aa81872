"""The arguments of a training, from a recipe or another YAML file and from the command line, which wins."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from solared_hf.errors import SolaredError
from solared_hf.models import FAMILIES
from solared_hf.schema import CHANNELS
from solared_hf.training.checks import LABEL_NAMES, check_arguments
from solared_hf.training.validation_metrics import GREATER_IS_BETTER

RECIPES = Path(__file__).with_name("recipes")


@dataclass
class DataArguments:
    """The dataset that a model is trained on, and the windows of the dataset."""

    dataset: str = field(metadata={"help": "Folder written by `solared build`, or a dataset repository on the Hub."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a repository."})
    input_channels: list[str] = field(
        default_factory=lambda: list(CHANNELS), metadata={"help": "Channels the model sees."}
    )
    input_steps: int = field(default=120, metadata={"help": "Steps that the model sees."})
    horizon_hours: float = field(default=12.0, metadata={"help": "Hours from the last input step to the target."})
    nan_policy: str = field(default="zero", metadata={"help": "zero (as published), interpolate or drop."})


@dataclass
class ModelArguments:
    """The family of the model, and the fields of its configuration.

    Raises:
        SolaredError: If `model_config` is neither a mapping nor JSON that holds one.
    """

    model_type: str = field(metadata={"help": f"The family: {', '.join(FAMILIES)}."})
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

    @property
    def config_fields(self) -> dict[str, Any]:
        """The fields of `model_config`, by name."""
        assert isinstance(self.model_config, dict)
        return self.model_config


@dataclass
class SolaredTrainingArguments(TrainingArguments):
    """`TrainingArguments` with defaults that suit the task: evaluate and save every epoch, and keep the best model.

    Raises:
        SolaredError: If an argument cannot work or has no effect, or if checkpoints would be pushed to the Hub.
    """

    # Without `label_names` the Trainer finds no labels, and evaluation silently has neither loss nor metrics.
    label_names: list[str] | None = field(default_factory=LABEL_NAMES.copy)
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    logging_steps: float = 10
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    hub_strategy: str = "end"
    # Every weight takes part in every step, and a search for unused weights costs a pass over the graph.
    ddp_find_unused_parameters: bool | None = False
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without improvement; 0 for never."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "A checkpoint folder, or `last` for the last checkpoint in output_dir, if there is one."},
    )

    def __post_init__(self):
        check_arguments(self)
        super().__post_init__()
        self.early_stopping_patience = self.early_stopping_patience or None
        if self.metric_for_best_model is not None:
            self.greater_is_better = GREATER_IS_BETTER[self.metric_for_best_model.removeprefix("eval_")]
        if self.push_to_hub and self.hub_strategy != "end":
            raise SolaredError(
                f"hub_strategy {self.hub_strategy.value} would push checkpoints, which hold pickles. Leave out "
                "hub_strategy: the finished model is pushed, and checkpoints stay in output_dir."
            )
        # torch warns at every epoch if memory is pinned without an accelerator.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()

    @property
    def output(self) -> Path:
        """The folder `output_dir`."""
        assert self.output_dir is not None
        return Path(self.output_dir)

    def __getstate__(self) -> dict:
        # The Trainer pickles its arguments into every checkpoint, and a checkpoint must not hold a token.
        return {**self.__dict__, "hub_token": None}


Arguments = tuple[DataArguments, ModelArguments, SolaredTrainingArguments]
_KINDS: Any = get_args(Arguments)


class _Parser(HfArgumentParser):
    def error(self, message: str):
        raise SolaredError(f"{message}. `solared train --help` lists the arguments.")


def parse_arguments(command_line: Sequence[str]) -> Arguments:
    """Return the arguments of `solared train`, from the recipe or YAML file in `--config` and from the command line.

    Raises:
        SolaredError: If the file is missing or holds no YAML mapping, or an argument is unknown, missing or wrong.

    >>> data, model, training = parse_arguments(["--config", "quantile_trajectory", "--output_dir", "runs/first"])
    >>> data.input_steps, model.model_type, training.label_names
    (72, 'quantile_trajectory', ['future_values'])
    """
    option = _Parser([], add_help=False, allow_abbrev=False)
    option.add_argument(
        "--config",
        help=f"A recipe ({', '.join(recipe_names())}), or a YAML file with any of these arguments. The command line "
        "wins.",
    )
    config, rest = option.parse_known_args(list(command_line))
    parser = _Parser(_KINDS, prog="solared train", parents=[option])
    if config.config is not None:
        rest = [*_yaml_as_command_line(_recipe_file(config.config)), *rest]
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
        raise SolaredError(f"Unknown arguments: {' '.join(unknown)}. `solared train --help` lists the arguments.")
    return data, model, training


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _recipe_file(name_or_path: str) -> Path:
    """Return the YAML file of a recipe's name, or the path itself; a file that exists wins over a recipe."""
    path = Path(name_or_path)
    if path.is_file() or name_or_path not in recipe_names():
        return path
    return RECIPES / f"{name_or_path}.yaml"


def _yaml_as_command_line(path: Path) -> list[str]:
    """Return the arguments of a YAML file as words of a command line, so that the same parser checks both.

    YAML reads 5e-5 as text, and the parser turns that text into a number.
    """
    if not path.exists():
        raise SolaredError(
            f"--config {path} is neither a file nor a recipe. The recipes are {', '.join(recipe_names())}."
        )
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SolaredError(
            f"The configuration {path} could not be read as YAML ({reason}). Correct the file."
        ) from error
    if not isinstance(content, dict):
        raise SolaredError(f"The configuration {path} holds no `key: value` lines. Write one argument per line.")
    known = {argument.name for kind in _KINDS for argument in fields(kind)}
    unknown = sorted(str(key) for key in content if key not in known)
    if unknown:
        raise SolaredError(
            f"{path} has unknown keys: {', '.join(unknown)}. `solared train --help` lists the arguments."
        )
    command_line = []
    for key, value in content.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        # On the command line, the shell replaces ~ with the home folder.
        texts = [str(Path(text).expanduser()) if text.startswith("~/") else text for text in map(str, values)]
        command_line += [f"--{key}", *texts]
    return command_line
