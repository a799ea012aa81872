"""`solared evaluate`: score a forecaster beside the baselines, on a split or by the published protocol."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from solared_hf.cli.options import DatasetOption, DatasetRevisionOption, ModelOption, ModelRevisionOption
from solared_hf.errors import SolaredError


class Protocol(StrEnum):
    split = "split"  # type: ignore[assignment]  # StrEnum allows a member with the name of a method of str
    published = "published"


def evaluate(
    model: ModelOption,
    dataset: DatasetOption,
    split: Annotated[str | None, typer.Option(help="train, validation or test.", show_default="test")] = None,
    protocol: Annotated[
        Protocol, typer.Option(help="Every window of a split, or the published test regions, tiles and windows.")
    ] = Protocol.split,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the scores to this file.")] = None,
    model_revision: ModelRevisionOption = None,
    dataset_revision: DatasetRevisionOption = None,
) -> None:
    """Score a model beside persistence and other baselines, or by the published protocol."""
    from solared_hf.data.loading import open_dataset
    from solared_hf.evaluation.protocol_scores import ProtocolScores, score_by_published_protocol
    from solared_hf.evaluation.split_scores import SplitScores, score_on_split
    from solared_hf.files import write_atomically
    from solared_hf.forecasters.base import load_forecaster

    if protocol is Protocol.published and split is not None:
        raise SolaredError("--split has no effect with --protocol published, which has its own regions. Leave it out.")
    forecaster, opened = load_forecaster(model, model_revision), open_dataset(dataset, dataset_revision)
    scores: ProtocolScores | SplitScores
    if protocol is Protocol.published:
        scores = score_by_published_protocol(forecaster, opened)
    else:
        scores = score_on_split(forecaster, opened, split or "test")
    scores.print()
    if json_file is not None:
        write_atomically(json_file, scores.as_json())
