"""Scores of a forecaster on one split of a dataset, beside the baselines."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from solared_hf.data.loading import OpenedDataset, open_dataset
from solared_hf.evaluation.scores import Score, intensity_processor, score_forecasts
from solared_hf.evaluation.tables import TabledResult, number_with_interval
from solared_hf.forecasters.base import Forecaster, ModelForecaster
from solared_hf.forecasters.baselines import BASELINES, Climatology, Persistence

_SKILL_CLIMATOLOGY = "skill c."


@dataclass(frozen=True)
class SplitScores(TabledResult):
    """Scores of a forecaster and the baselines, with the windows that were scored."""

    dataset: str
    dataset_revision: str
    split: str
    regions: list[int]
    windows: int
    input_steps: int
    horizon_hours: float
    scores: list[Score]

    def table(self) -> Table:
        """Return a table with a row per forecaster: errors in normalised units and in DN, and skill."""
        rows = [_cells(score) for score in self.scores]
        climatology = f", {_SKILL_CLIMATOLOGY}: of the climatology's" if _SKILL_CLIMATOLOGY in rows[0] else ""
        table = Table(
            title=f"{self.split}: {len(self.regions)} regions, {self.windows} windows, {self.horizon_hours:g} h ahead",
            caption=f"skill: share of persistence's squared error removed{climatology}; brackets: 90 % over regions",
        )
        table.add_column("forecast", no_wrap=True)
        for heading in rows[0]:
            table.add_column(heading, justify="right")
        for score, cells in zip(self.scores, rows, strict=True):
            table.add_row(score.name, *cells.values())
        return table


def score_on_split(forecaster: Forecaster, dataset: OpenedDataset | str | Path, split: str) -> SplitScores:
    """Score a forecaster, persistence, the average and the climatology on the same windows of a split.

    The normalised unit is the intensity range of the model's processor. For a baseline it is the range of the train
    split, or of the scored split if there is no train split. The climatology is fitted on the train split, and left
    out if there is no train split.

    Args:
        forecaster: The forecaster to score.
        dataset: Opened dataset, folder or repository.
        split: `train`, `validation` or `test`.

    Raises:
        SolaredError: If the dataset or split is missing, or gives no window.
    """
    dataset = open_dataset(dataset)
    identity = dataset.identity
    timelines = dataset.timelines(split)
    train = dataset.timelines("train") if "train" in dataset.splits else []
    if isinstance(forecaster, ModelForecaster):
        processor = forecaster.processor
    else:
        processor = intensity_processor(train or timelines)
    windows = forecaster.windows(timelines)
    forecasters: dict[str, Forecaster] = {forecaster.name: forecaster}
    forecasters |= {name: baseline() for name, baseline in BASELINES.items()}
    if train:
        forecasters[Climatology.name] = Climatology.fit(train)
    forecasts = {name: compared.forecast(windows) for name, compared in forecasters.items()}
    return SplitScores(
        dataset=identity["dataset"],
        dataset_revision=identity["revision"],
        split=split,
        regions=sorted(set(windows.ar_numbers.tolist())),
        windows=len(windows),
        input_steps=windows.input_steps,
        horizon_hours=windows.horizon.total_seconds() / 3600,
        scores=score_forecasts(forecasts, Persistence.name, windows, processor),
    )


def _cells(score: Score) -> dict[str, str]:
    """Return the cells of a row of the table, by heading."""
    cells = {
        "RMSE norm.": f"{score.rmse_normalised:.5f}",
        "MAE norm.": f"{score.mae_normalised:.5f}",
        "RMSE DN": number_with_interval(score.rmse_dn, score.rmse_dn_interval, ".1f", ".0f"),
        "MAE DN": f"{score.mae_dn:.1f}",
        "skill": number_with_interval(score.skill, score.skill_interval, "+.3f", "+.2f"),
    }
    if score.skill_climatology is not None:
        cells[_SKILL_CLIMATOLOGY] = f"{score.skill_climatology:+.3f}"
    return cells
