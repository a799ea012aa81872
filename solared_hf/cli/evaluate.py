"""`solared evaluate`: errors of a forecaster beside persistence and the average, with skill and intervals."""

from pathlib import Path
from typing import Annotated

import typer

from solared_hf.cli.options import DatasetOption, DatasetRevisionOption, ModelOption, ModelRevisionOption


def evaluate(
    model: ModelOption,
    dataset: DatasetOption,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the scores to this file.")] = None,
    model_revision: ModelRevisionOption = None,
    dataset_revision: DatasetRevisionOption = None,
) -> None:
    """Score a model on a split, beside persistence and the mean of the input window."""
    from solared_hf.evaluation.split_scores import score_on_split
    from solared_hf.files import write_atomically
    from solared_hf.forecasting import load_forecaster

    scores = score_on_split(load_forecaster(model, model_revision), dataset, split, dataset_revision)
    scores.print()
    if json_file is not None:
        write_atomically(json_file, scores.as_json())
