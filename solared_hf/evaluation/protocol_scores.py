"""Scores of a forecaster by the published protocol, beside persistence and the published networks."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from solared_hf.data.loading import OpenedDataset, open_dataset
from solared_hf.errors import SolaredError, reason_of
from solared_hf.evaluation.published_protocol import (
    PROTOCOL_TILES,
    PUBLISHED_SCORES,
    ProtocolScore,
    PublishedScore,
    protocol_score,
)
from solared_hf.evaluation.tables import TabledResult, number_with_interval
from solared_hf.forecasters.base import Forecaster
from solared_hf.forecasters.baselines import Persistence


@dataclass(frozen=True)
class ProtocolScores(TabledResult):
    """Scores by the published protocol, and the scores that the publications report."""

    dataset: str
    dataset_revision: str
    protocol: str
    scores: list[ProtocolScore]
    published: list[PublishedScore]

    def table(self) -> Table:
        """Return a table with a row per region and a column per forecaster, beside the published scores."""
        table = Table(
            title="published protocol: RMSE in units of each region's intensity range",
            caption=f"brackets: 90 % interval over only {len(PROTOCOL_TILES)} regions; recalibrated: shifted to begin "
            "at an observation that the forecast cannot know, as the published scores are "
            f"({', '.join(sorted({score.source for score in self.published}))}), so no forecast can have them",
        )
        table.add_column("")
        published = (f"{score.name},\npublished" for score in self.published)
        for name in (*(score.name for score in self.scores), *published):
            table.add_column(name, justify="right", overflow="fold")
        for number in PROTOCOL_TILES:
            table.add_row(f"AR{number}", *(f"{score.rmse_by_region[number]:.4f}" for score in self.scores))
        table.add_section()
        table.add_row(
            "mean", *(number_with_interval(score.rmse, score.rmse_interval, ".4f", ".3f") for score in self.scores)
        )
        table.add_section()
        recalibrated = (
            *(score.rmse_recalibrated for score in self.scores),
            *(score.rmse_recalibrated for score in self.published),
        )
        table.add_row("mean, recalibrated", *(f"{rmse:.4f}" for rmse in recalibrated))
        return table


def score_by_published_protocol(forecaster: Forecaster, dataset: OpenedDataset | str | Path) -> ProtocolScores:
    """Score a forecaster and persistence on the test split of a dataset by the published protocol.

    Args:
        forecaster: The forecaster to score.
        dataset: Opened dataset, folder or repository with the five regions of `published_protocol.PROTOCOL_TILES`.

    Raises:
        SolaredError: If the dataset or one of the five regions is missing, or the regions are not hourly.
    """
    dataset = open_dataset(dataset)
    identity = dataset.identity
    try:
        timelines = dataset.timelines("test")
    except SolaredError as error:
        raise SolaredError(
            f"The published protocol needs the published test split ({reason_of(error)}). Use a dataset built from "
            "all published files."
        ) from error
    forecasters: dict[str, Forecaster] = {forecaster.name: forecaster, Persistence.name: Persistence()}
    return ProtocolScores(
        dataset=identity["dataset"],
        dataset_revision=identity["revision"],
        protocol="published",
        scores=[protocol_score(compared, timelines) for compared in forecasters.values()],
        published=list(PUBLISHED_SCORES),
    )
