"""Training with the Trainer of transformers: arguments from YAML and the command line, and the function `train`."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .arguments import DataArguments as DataArguments
    from .arguments import ModelArguments as ModelArguments
    from .arguments import SolaredTrainingArguments as SolaredTrainingArguments
    from .arguments import parse_arguments as parse_arguments
    from .arguments import recipe_names as recipe_names
    from .model import build_model as build_model
    from .run import train as train

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arguments": [
            "DataArguments",
            "ModelArguments",
            "SolaredTrainingArguments",
            "parse_arguments",
            "recipe_names",
        ],
        "model": ["build_model"],
        "run": ["train"],
    },
)
