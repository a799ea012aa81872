"""`solared train`: the same arguments as `accelerate launch scripts/train.py`."""

import typer


def train(context: typer.Context) -> None:
    """Train a model: --config RECIPE and any argument of the Trainer; `solared train --help` lists them."""
    from solared_hf.training import parse_arguments, train

    train(parse_arguments(context.args))
