"""Results of a benchmark, as tables and as JSON."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from solared_hf.evaluation.alarms import EmergenceScore
from solared_hf.evaluation.published_protocol import PUBLISHED_SCORES, ProtocolScore
from solared_hf.evaluation.scores import Score
from solared_hf.evaluation.tables import TabledResult, number_with_interval

_TABLED_LEADS = (1, 6, 12, 18, 24)
_NOTHING = "-"
# Names are broken into lines of this width, so that the numbers fit.
_NAME_WIDTH = 20


@dataclass(frozen=True)
class Warnings:
    """Scores of the alarms of one forecaster. A rate without cases is NaN; the median lead without hits is None.

    The intervals are 90 % intervals over regions by name of the rate, or None with fewer than two regions to count.
    """

    total: EmergenceScore
    by_region: dict[int, EmergenceScore]
    hit_rate: float
    false_alarm_ratio: float
    false_alarm_rate: float
    intervals: dict[str, tuple[float, float] | None]
    median_lead_hours: float | None


@dataclass(frozen=True)
class ForecasterResult:
    """Scores of one forecaster. A score that was not computed, or that the forecaster cannot give, is None.

    Leads are hours after the last input step, which is available `schema.AVAILABILITY_DELAY` after its time.
    `reliability` is how often the target was at or below the quantile of each level.
    """

    name: str
    score: Score
    skill_climatology_interval: tuple[float, float] | None
    rmse_dn_by_emergence: dict[str, float]
    rmse_dn_by_lead_hours: dict[float, float] | None
    coverage_of_80_percent_interval: float | None
    reliability: dict[float, float] | None
    warnings: Warnings
    protocol: ProtocolScore | None


@dataclass(frozen=True)
class Benchmark(TabledResult):
    """Scores of forecasters on the same windows and targets, the most skilful first."""

    dataset: str
    dataset_revision: str
    split: str
    regions: list[int]
    windows: int
    input_steps: int
    horizon_hours: float
    normalised_unit_dn: float
    results: list[ForecasterResult]
    left_out: dict[str, str]
    """Reasons why forecasters were skipped, by name."""

    def table(self) -> RenderableType:
        """Return tables of scores, of errors by emergence and lead, of warnings, and of the published protocol."""
        protocol = [self._protocol_table()] if any(result.protocol for result in self.results) else []
        notes = [Text(f"Left out: {name}: {reason}") for name, reason in self.left_out.items()]
        return Group(self._scores_table(), self._breakdown_table(), self._warnings_table(), *protocol, *notes)

    def _scores_table(self) -> Table:
        table = _table(
            f"{self.split}: {len(self.regions)} regions, {self.windows} windows, {self.horizon_hours:g} h ahead",
            ("RMSE\nnorm.", "MAE\nnorm.", "RMSE\nDN", "MAE\nDN", "skill", "skill c."),
            f"Skill: share of persistence's squared error removed; skill c.: the same for the climatology. Brackets: "
            f"90 % interval over resampled regions; with only {len(self.regions)} regions the true uncertainty is "
            f"larger. Normalised unit: {self.normalised_unit_dn:.0f} DN.",
        )
        for result in self.results:
            score = result.score
            assert score.skill_climatology is not None  # a benchmark always scores the climatology
            table.add_row(
                _name(result.name),
                f"{score.rmse_normalised:.5f}",
                f"{score.mae_normalised:.5f}",
                number_with_interval(score.rmse_dn, score.rmse_dn_interval, ".1f", ".0f"),
                f"{score.mae_dn:.1f}",
                number_with_interval(score.skill, score.skill_interval, "+.3f", "+.2f"),
                number_with_interval(score.skill_climatology, result.skill_climatology_interval, "+.3f", "+.2f"),
            )
        return table

    def _breakdown_table(self) -> Table:
        table = _table(
            "RMSE in DN by emergence and lead",
            ("quiet\ntiles", "emerging\ntiles", *(f"+{lead} h" for lead in _TABLED_LEADS), "80 %\ninterval"),
            f"Emerging: tiles with an onset at any time of their timeline, {self.horizon_hours:g} h ahead; quiet: all "
            "other tiles. Leads: hours after the last input step, which is available 4 h after its time. 80 % "
            "interval: share of the observations in the interval.",
        )
        for result in self.results:
            by_lead = result.rmse_dn_by_lead_hours or {}
            table.add_row(
                _name(result.name),
                _number(result.rmse_dn_by_emergence["quiet"], ".0f"),
                _number(result.rmse_dn_by_emergence["emerging"], ".0f"),
                *(_number(by_lead.get(lead), ".0f") for lead in _TABLED_LEADS),
                _number(result.coverage_of_80_percent_interval, ".1%"),
            )
        return table

    def _warnings_table(self) -> Table:
        total = self.results[0].warnings.total
        table = _table(
            f"Warnings of {total.onsets} onsets",
            ("hits", "late", "missed", "median\nlead", "false\nalarms", "hit rate", "false alarm\nrate"),
            "Hit: an alarm available up to 24 h before the onset; lead: hours from alarm to onset of the hits. False "
            "alarm: no onset within 24 h; its rate: share of tiles without onset that had an alarm. Onsets are scaled "
            "by the range of their region, so a region that hardly darkens has onsets of noise. A forecast at a wrong "
            "level seems to decline where it begins, so read hits beside false alarms. Forecasters of one lead look "
            f"{self.horizon_hours:g} h ahead, the others 24 h.",
        )
        for result in self.results:
            warnings, total = result.warnings, result.warnings.total
            lead = warnings.median_lead_hours
            table.add_row(
                _name(result.name),
                *(str(count) for count in (total.hits, total.late, total.missed)),
                _NOTHING if lead is None else f"{lead:.0f} h",
                str(total.false_alarms),
                _share(warnings.hit_rate, warnings.intervals["hit_rate"]),
                _share(warnings.false_alarm_rate, warnings.intervals["false_alarm_rate"]),
            )
        return table

    def _protocol_table(self) -> Table:
        scored = [result.protocol for result in self.results if result.protocol]
        regions = list(scored[0].rmse_by_region)
        table = _table(
            "Published protocol: RMSE in units of each region's intensity range",
            (*(f"AR{number}" for number in regions), "mean", "recali-\nbrated"),
            "Recalibrated: shifted to begin at an observation that the forecast cannot know, as the published scores "
            f"are ({', '.join(sorted({score.source for score in PUBLISHED_SCORES}))}), so no forecast can have them.",
        )
        for score in sorted(scored, key=lambda score: score.rmse):
            table.add_row(
                _name(score.name),
                *(f"{score.rmse_by_region[number]:.4f}" for number in regions),
                number_with_interval(score.rmse, score.rmse_interval, ".4f", ".3f"),
                f"{score.rmse_recalibrated:.4f}",
            )
        table.add_section()
        for published in PUBLISHED_SCORES:
            blank = [""] * (len(regions) + 1)
            table.add_row(_name(f"published {published.name}"), *blank, f"{published.rmse_recalibrated:.4f}")
        return table


def _table(title: str, headings: Sequence[str], caption: str) -> Table:
    table = Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("forecast", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _name(name: str) -> str:
    return textwrap.fill(name, _NAME_WIDTH)


def _number(number: float | None, form: str) -> str:
    return _NOTHING if number is None or math.isnan(number) else f"{number:{form}}"


def _share(share: float, interval: tuple[float, float] | None) -> str:
    return _NOTHING if math.isnan(share) else number_with_interval(share, interval, ".0%", ".0%")
