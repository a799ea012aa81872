"""`solared train`: the same arguments as `accelerate launch scripts/train.py`."""

import typer


def train(context: typer.Context) -> None:
    """Train a model: --config FILE.yaml and any argument of the Trainer; `solared train --help` lists them."""
    from solared_hf import training

    training.train(training.parse_arguments(context.args))
