"""`solared benchmark`: score all forecasters on the same windows and targets, with skill and intervals."""

from pathlib import Path
from typing import Annotated

import typer

from solared_hf.cli.options import DatasetOption, DatasetRevisionOption


def benchmark(
    dataset: DatasetOption,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    model: Annotated[
        list[str] | None, typer.Option(help="Another model folder or repository. Repeat it for several models.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all results to this file.")] = None,
    dataset_revision: DatasetRevisionOption = None,
) -> None:
    """Compare baselines, fitted on the train split, with the models of the package and your own."""
    from solared_hf.data.loading import open_dataset
    from solared_hf.evaluation.benchmark import benchmark as run_benchmark
    from solared_hf.evaluation.benchmark import trained_models
    from solared_hf.files import write_atomically
    from solared_hf.forecasters.base import load_forecaster

    models, left_out = trained_models()
    models += [load_forecaster(name) for name in model or []]
    result = run_benchmark(open_dataset(dataset, dataset_revision), split, models, left_out)
    result.print()
    if json_file is not None:
        write_atomically(json_file, result.as_json())
