"""A forecaster scored on one split of a dataset, beside the baselines, for people and for programs."""

import io
import json
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from solared_hf.evaluation.scores import Score, score_forecasts
from solared_hf.forecasting import BASELINES, Forecaster, ModelForecaster, Persistence
from solared_hf.loading import dataset_identity, load_timelines
from solared_hf.processing_solared import SolaredProcessor
from solared_hf.schema import CHANNELS, TARGET_CHANNEL

_TEXT_WIDTH = 100


@dataclass(frozen=True)
class SplitScores:
    """What was scored, on which windows, and how every forecaster did."""

    dataset: str
    dataset_revision: str
    split: str
    regions: list[int]
    windows: int
    input_steps: int
    horizon_hours: float
    scores: list[Score]

    def as_json(self) -> str:
        """Everything, as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def as_text(self) -> str:
        """The table as plain text."""
        text = io.StringIO()
        Console(file=text, width=_TEXT_WIDTH).print(self._table())
        return text.getvalue()

    def print(self) -> None:
        """The table on the terminal."""
        Console().print(self._table())

    def _table(self) -> Table:
        table = Table(
            title=f"{self.split}: {len(self.regions)} regions, {self.windows} windows, {self.horizon_hours:g} h ahead",
            caption="skill: share of persistence's squared error removed; brackets: 90 % over regions",
        )
        table.add_column("forecast", no_wrap=True)
        for heading in ("RMSE norm.", "MAE norm.", "RMSE DN", "MAE DN", "skill"):
            table.add_column(heading, justify="right")
        for score in self.scores:
            table.add_row(
                score.name,
                f"{score.rmse_normalised:.5f}",
                f"{score.mae_normalised:.5f}",
                f"{score.rmse_dn:.1f}{_interval(score.rmse_dn_interval, '.0f')}",
                f"{score.mae_dn:.1f}",
                f"{score.skill:+.3f}{_interval(score.skill_interval, '+.2f')}",
            )
        return table


def score_on_split(forecaster: Forecaster, dataset: str, split: str, revision: str | None = None) -> SplitScores:
    """Score a forecaster, persistence and the average on the same windows of a split.

    Normalised units are those of the model's processor; a baseline is given one fitted on the train split.

    Raises:
        SolaredError: the dataset or split is not there, or gives no window.
    """
    identity = dataset_identity(dataset, revision)
    if isinstance(forecaster, ModelForecaster):
        processor = forecaster.processor
    else:
        train = load_timelines(dataset, "train", revision)
        intensity = [CHANNELS.index(TARGET_CHANNEL)]
        processor = SolaredProcessor.fit((timeline.values[:, intensity] for timeline in train), [TARGET_CHANNEL])
    windows = forecaster.windows(load_timelines(dataset, split, revision))
    forecasters = {forecaster.name: forecaster} | {name: baseline() for name, baseline in BASELINES.items()}
    forecasts = {name: one.forecast(windows) for name, one in forecasters.items()}
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


def _interval(interval: tuple[float, float] | None, form: str) -> str:
    # The backslash keeps rich from reading the bracket as markup.
    return "" if interval is None else f"\n\\[{interval[0]:{form}}, {interval[1]:{form}}]"
