"""Every forecaster on the same windows and targets: baselines fitted on the train split, and trained models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from tqdm import tqdm

from solared_hf.data.loading import OpenedDataset, open_dataset
from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError, reason_of
from solared_hf.evaluation.alarms import (
    WARNING_PERIOD,
    EmergenceScore,
    add_up,
    alarm_scale,
    issue_alarms,
    lagged_trajectories,
    rate_intervals,
    score_alarms,
)
from solared_hf.evaluation.benchmark_table import Benchmark, ForecasterResult, Warnings
from solared_hf.evaluation.breakdowns import (
    observed_trajectories,
    rmse_by_emergence,
    rmse_by_lead,
    squared_errors_by_lead,
)
from solared_hf.evaluation.emergence import emerging_tiles
from solared_hf.evaluation.published_protocol import ProtocolScore, protocol_score
from solared_hf.evaluation.quantiles import coverage, interval_of_80_percent, reliability
from solared_hf.evaluation.scores import intensity_processor, score_forecasts, skill_interval
from solared_hf.forecasters.base import Forecaster, committed_models, folders_without_weights, load_forecaster
from solared_hf.forecasters.baselines import Climatology, DampedPersistence, Persistence
from solared_hf.forecasters.lagged_regression import GradientBoostedTrees, RidgeRegression


@dataclass(frozen=True)
class _Task:
    """What every forecaster is asked."""

    windows: SolaredWindows
    issues: SolaredWindows  # those windows, and those whose target nobody has observed: a warning needs none
    has_target: np.ndarray  # (issues,) bool, which of them are among the windows
    horizon_steps: int
    warning_steps: int  # how far ahead a warning looks
    alarm_scale_dn: float
    protocol_timelines: Sequence[Timeline]  # none where the published protocol does not apply


@dataclass(frozen=True)
class _Answer:
    """What one forecaster says."""

    forecast: np.ndarray  # (windows, 63) DN
    squared_errors_by_lead: np.ndarray | None  # (2, steps) DN^2, and their number
    alarms: dict[int, EmergenceScore]
    coverage: float | None
    reliability: dict[float, float] | None
    protocol: ProtocolScore | None


def benchmark(
    dataset: OpenedDataset | str | Path,
    split: str,
    forecasters: Sequence[Forecaster] = (),
    left_out: dict[str, str] | None = None,
) -> Benchmark:
    """Put forecasters beside the baselines on every window of a split: 120 steps of all six channels, 12 h ahead.

    The baselines are persistence and, fitted on the train split, climatology, damped persistence, ridge regression
    and gradient-boosted trees. Normalised units are those of the train split. The published protocol is followed too
    where the test split has its five regions.

    Args:
        dataset: what `open_dataset` gives, or a folder or repository.
        split: `train`, `validation` or `test`.
        forecasters: trained models. One that refuses these windows is left out, and why is told.
        left_out: forecasters that could not be brought here, and why, to be told as well.

    Raises:
        SolaredError: the dataset or split is not there, or gives no window; two forecasters have one name.
    """
    dataset = open_dataset(dataset)
    identity = dataset.identity
    train = dataset.timelines("train")
    timelines = train if split == "train" else dataset.timelines(split)
    left_out = dict(left_out or {})
    everyone = [Persistence(), Climatology.fit(train), *_fitted(train, left_out), *forecasters]
    names = [forecaster.name for forecaster in everyone]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SolaredError(
            f"Two forecasters are called {twice[0]}; rename the folder of one of them, or leave it out."
        )

    task = _task(train, timelines, follow_protocol=split == "test")
    if split == "test" and not task.protocol_timelines:
        left_out["published protocol"] = "it needs its five regions, in hourly steps and whole"
    answers = {}
    for forecaster in tqdm(everyone, desc="Benchmark", unit="forecaster", leave=False):
        try:
            answers[forecaster.name] = _ask(forecaster, task)
        except SolaredError as error:
            left_out[forecaster.name] = reason_of(error)
    processor = intensity_processor(train)
    return Benchmark(
        dataset=identity["dataset"],
        dataset_revision=identity["revision"],
        split=split,
        regions=sorted(set(task.windows.ar_numbers.tolist())),
        windows=len(task.windows),
        input_steps=task.windows.input_steps,
        horizon_hours=task.windows.horizon.total_seconds() / 3600,
        normalised_unit_dn=processor.target_range,
        results=_results(answers, task.windows, processor),
        # One that is missing from the package may have been brought by the user.
        left_out={name: reason for name, reason in left_out.items() if name not in answers},
    )


def trained_models() -> tuple[list[Forecaster], dict[str, str]]:
    """The trained models that come with the package, and why others of its model folders are not among them.

    Raises:
        SolaredError: one of them is damaged.
    """
    models = [load_forecaster(name) for name in committed_models()]
    reason = "its weights are too large to come with the package; train it as its card says, and name it with --model"
    return models, dict.fromkeys(folders_without_weights(), reason)


def _task(train: Sequence[Timeline], timelines: Sequence[Timeline], follow_protocol: bool) -> _Task:
    windows, issues = (SolaredWindows(timelines, require_target=one, read=False) for one in (True, False))
    pairs = zip(windows.regions, issues.regions, strict=True)
    return _Task(
        windows=windows,
        issues=issues,
        has_target=np.concatenate([np.isin(issued.starts, region.starts) for region, issued in pairs]),
        horizon_steps=windows.horizon_steps,
        warning_steps=WARNING_PERIOD // windows.cadence,
        alarm_scale_dn=alarm_scale(train),
        protocol_timelines=timelines if follow_protocol and _has_protocol(timelines) else (),
    )


def _fitted(train: Sequence[Timeline], left_out: dict[str, str]) -> Iterator[Forecaster]:
    """The baselines that not every train split allows; why one is missing is added to `left_out`."""
    for baseline, fit in (
        (DampedPersistence, DampedPersistence.fit),
        (RidgeRegression, RidgeRegression.fit),
        (GradientBoostedTrees, GradientBoostedTrees),
    ):
        try:
            yield fit(train)
        except SolaredError as error:
            left_out[baseline.name] = reason_of(error)


def _has_protocol(timelines: Sequence[Timeline]) -> bool:
    try:
        protocol_score(Persistence(), timelines)
    except SolaredError:
        return False
    return True


def _ask(forecaster: Forecaster, task: _Task) -> _Answer:
    forecasts, alarms, squared_errors, done = [], {}, [], 0
    # Some regions at a time, because the ways to all targets are many times the values.
    for issues in task.issues.parts():
        has_target = task.has_target[done : done + len(issues)]
        done += len(issues)
        # Once for all questions, because large models take minutes.
        if forecaster.longest_trajectory:
            steps = max(task.horizon_steps, int(min(task.warning_steps, forecaster.longest_trajectory)))
            paths = forecaster.trajectory(issues, steps)
            forecast = paths[:, task.horizon_steps - 1]
            observed = observed_trajectories(issues, steps)
            squared_errors.append(squared_errors_by_lead(paths[has_target], observed[has_target]))
        else:
            forecast = forecaster.forecast(issues)
            paths = lagged_trajectories(issues, forecast)
        forecasts.append(forecast[has_target])
        alarms |= score_alarms(issues, issue_alarms(issues, paths, task.alarm_scale_dn))
    quantile_coverage, quantile_reliability = _quantile_scores(forecaster, task.windows)
    return _Answer(
        forecast=np.concatenate(forecasts),
        squared_errors_by_lead=np.sum(squared_errors, axis=0) if squared_errors else None,
        alarms=alarms,
        coverage=quantile_coverage,
        reliability=quantile_reliability,
        protocol=protocol_score(forecaster, task.protocol_timelines) if task.protocol_timelines else None,
    )


def _quantile_scores(
    forecaster: Forecaster, windows: SolaredWindows
) -> tuple[float | None, dict[float, float] | None]:
    """Coverage of the 80 % interval at the target; how often the target was at or below the quantile of each level."""
    levels = getattr(forecaster, "quantile_levels", ())
    if not levels:
        return None, None
    inside, below, number = 0.0, np.zeros(len(levels)), 0
    for part in windows.parts():
        observed = part.observed_targets
        known = np.count_nonzero(~np.isnan(observed))
        quantiles = forecaster.quantiles(part, part.horizon_steps)[:, -1]
        ends = interval_of_80_percent(quantiles, levels)
        inside += np.nan if ends is None else known * coverage(*ends, observed)
        below += known * reliability(quantiles, levels, observed)
        number += known
    frequencies = dict(zip(levels, (below / number).tolist(), strict=True))
    return None if np.isnan(inside) else float(inside / number), frequencies


def _results(
    answers: dict[str, _Answer], windows: SolaredWindows, processor: SolaredProcessor
) -> list[ForecasterResult]:
    """The most skilful first."""
    forecasts = {name: answer.forecast for name, answer in answers.items()}
    scores = score_forecasts(forecasts, Persistence.name, windows, processor)
    climatology, ar_numbers = forecasts[Climatology.name], windows.ar_numbers
    observed, emerging = windows.observed_targets, emerging_tiles(windows)
    results = [
        ForecasterResult(
            name=name,
            score=score,
            skill_climatology_interval=skill_interval(answer.forecast, climatology, observed, ar_numbers),
            rmse_dn_by_emergence=rmse_by_emergence(answer.forecast, observed, emerging),
            rmse_dn_by_lead_hours=_by_lead(answer.squared_errors_by_lead, windows.cadence),
            coverage_of_80_percent_interval=answer.coverage,
            reliability=answer.reliability,
            warnings=_warnings(answer.alarms),
            protocol=answer.protocol,
        )
        for (name, answer), score in zip(answers.items(), scores, strict=True)
    ]
    return sorted(results, key=lambda result: result.score.rmse_dn)


def _by_lead(squared_errors: np.ndarray | None, cadence: timedelta) -> dict[float, float] | None:
    if squared_errors is None:
        return None
    step_hours = cadence.total_seconds() / 3600
    return {(step + 1) * step_hours: float(error) for step, error in enumerate(rmse_by_lead(squared_errors))}


def _warnings(by_region: dict[int, EmergenceScore]) -> Warnings:
    total = add_up(by_region.values())
    return Warnings(
        total=total,
        by_region=by_region,
        hit_rate=total.hit_rate,
        false_alarm_ratio=total.false_alarm_ratio,
        false_alarm_rate=total.false_alarm_rate,
        intervals=rate_intervals(by_region.values()),
        median_lead_hours=float(np.median(total.lead_hours)) if total.lead_hours else None,
    )
