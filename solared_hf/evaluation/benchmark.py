"""Benchmark of forecasters on the same windows and targets: baselines fitted on the train split, and models."""

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
from solared_hf.forecasters.base import (
    Forecaster,
    QuantileForecaster,
    committed_models,
    folders_without_weights,
    load_forecaster,
)
from solared_hf.forecasters.baselines import Climatology, DampedPersistence, Persistence
from solared_hf.forecasters.lagged_regression import GradientBoostedTrees, RidgeRegression


@dataclass(frozen=True)
class _BenchmarkWindows:
    """The windows of a benchmark, and how every forecaster is scored on them."""

    windows: SolaredWindows
    issues: SolaredWindows  # `windows` and the windows without an observed target, because a warning needs no target
    has_target: np.ndarray  # (issues,) bool: the issue is one of `windows`
    horizon_steps: int
    warning_steps: int  # how far ahead a warning looks
    alarm_scale_dn: float
    protocol_timelines: Sequence[Timeline]  # empty if the published protocol does not apply


@dataclass(frozen=True)
class _ForecastScores:
    """The forecast of one forecaster, and the scores that need more than this forecast."""

    forecast: np.ndarray  # (windows, 63) DN
    squared_errors_by_lead: np.ndarray | None  # (2, steps): sums in DN^2, and their number
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
    """Score forecasters and baselines on every window of a split: 120 steps of all six channels, 12 h ahead.

    The baselines are persistence and, fitted on the train split, climatology, damped persistence, ridge regression
    and gradient-boosted trees. The normalised unit is the intensity range of the train split. If the test split has
    the five regions of the published protocol, the protocol is applied too.

    Args:
        dataset: Opened dataset, folder or repository.
        split: `train`, `validation` or `test`.
        forecasters: Trained models. A model that cannot forecast these windows is reported in `left_out`.
        left_out: Forecasters that were skipped before, with the reason for each; the result repeats them.

    Raises:
        SolaredError: If the dataset or split is missing or gives no window, or two forecasters have the same name.
    """
    dataset = open_dataset(dataset)
    identity = dataset.identity
    train = dataset.timelines("train")
    timelines = train if split == "train" else dataset.timelines(split)
    left_out = dict(left_out or {})
    compared: list[Forecaster] = [Persistence(), Climatology.fit(train), *_fitted(train, left_out), *forecasters]
    names = [forecaster.name for forecaster in compared]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SolaredError(
            f"Two forecasters are called {twice[0]}. Rename the folder of one of them, or leave one out."
        )

    setup = _benchmark_windows(train, timelines, follow_protocol=split == "test")
    if split == "test" and not setup.protocol_timelines:
        left_out["published protocol"] = "the split lacks one of its five regions, or a region is short or not hourly"
    scores = {}
    for forecaster in tqdm(compared, desc="Benchmark", unit="forecaster", leave=False):
        try:
            scores[forecaster.name] = _score(forecaster, setup)
        except SolaredError as error:
            left_out[forecaster.name] = reason_of(error)
    processor = intensity_processor(train)
    return Benchmark(
        dataset=identity["dataset"],
        dataset_revision=identity["revision"],
        split=split,
        regions=sorted(set(setup.windows.ar_numbers.tolist())),
        windows=len(setup.windows),
        input_steps=setup.windows.input_steps,
        horizon_hours=setup.windows.horizon.total_seconds() / 3600,
        normalised_unit_dn=processor.target_range,
        results=_results(scores, setup.windows, processor),
        # The user may have given a model whose weights are missing from the package.
        left_out={name: reason for name, reason in left_out.items() if name not in scores},
    )


def trained_models() -> tuple[list[Forecaster], dict[str, str]]:
    """Return the trained models of the package, and the reasons why other models of the package are missing.

    Raises:
        SolaredError: If a model of the package is damaged.
    """
    models = [load_forecaster(name) for name in committed_models()]
    reason = "the package does not contain its weights. Train it as its card says, and name its folder with --model"
    return models, dict.fromkeys(folders_without_weights(), reason)


def _benchmark_windows(
    train: Sequence[Timeline], timelines: Sequence[Timeline], follow_protocol: bool
) -> _BenchmarkWindows:
    windows = SolaredWindows(timelines, require_target=True, read=False)
    issues = SolaredWindows(timelines, require_target=False, read=False)
    pairs = zip(windows.regions, issues.regions, strict=True)
    return _BenchmarkWindows(
        windows=windows,
        issues=issues,
        has_target=np.concatenate([np.isin(issued.starts, region.starts) for region, issued in pairs]),
        horizon_steps=windows.horizon_steps,
        warning_steps=WARNING_PERIOD // windows.cadence,
        alarm_scale_dn=alarm_scale(train),
        protocol_timelines=timelines if follow_protocol and _has_protocol(timelines) else (),
    )


def _fitted(train: Sequence[Timeline], left_out: dict[str, str]) -> Iterator[Forecaster]:
    """Yield the baselines that can be fitted; add the reasons for the others to `left_out`."""
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


def _score(forecaster: Forecaster, setup: _BenchmarkWindows) -> _ForecastScores:
    forecasts, squared_errors, done = [], [], 0
    alarms: dict[int, EmergenceScore] = {}
    # A few regions at a time, because all trajectories together take many times the memory of the values.
    for issues in setup.issues.parts():
        has_target = setup.has_target[done : done + len(issues)]
        done += len(issues)
        # One trajectory serves all scores, because large models take minutes.
        if forecaster.longest_trajectory:
            steps = max(setup.horizon_steps, int(min(setup.warning_steps, forecaster.longest_trajectory)))
            paths = forecaster.trajectory(issues, steps)
            forecast = paths[:, setup.horizon_steps - 1]
            observed = observed_trajectories(issues, steps)
            squared_errors.append(squared_errors_by_lead(paths[has_target], observed[has_target]))
        else:
            forecast = forecaster.forecast(issues)
            paths = lagged_trajectories(issues, forecast)
        forecasts.append(forecast[has_target])
        alarms |= score_alarms(issues, issue_alarms(issues, paths, setup.alarm_scale_dn))
    quantile_coverage, quantile_reliability = _quantile_scores(forecaster, setup.windows)
    return _ForecastScores(
        forecast=np.concatenate(forecasts),
        squared_errors_by_lead=np.sum(squared_errors, axis=0) if squared_errors else None,
        alarms=alarms,
        coverage=quantile_coverage,
        reliability=quantile_reliability,
        protocol=protocol_score(forecaster, setup.protocol_timelines) if setup.protocol_timelines else None,
    )


def _quantile_scores(
    forecaster: Forecaster, windows: SolaredWindows
) -> tuple[float | None, dict[float, float] | None]:
    """Return the coverage of the 80 % interval at the target, and the reliability of each quantile level."""
    if not isinstance(forecaster, QuantileForecaster) or not forecaster.quantile_levels:
        return None, None
    levels = forecaster.quantile_levels
    inside, below, number = 0.0, np.zeros(len(levels)), 0
    for part in windows.parts():
        observed = part.observed_targets
        known = int(np.count_nonzero(~np.isnan(observed)))
        quantiles = forecaster.quantiles(part, part.horizon_steps)[:, -1]
        ends = interval_of_80_percent(quantiles, levels)
        inside += np.nan if ends is None else known * coverage(*ends, observed)
        below += known * reliability(quantiles, levels, observed)
        number += known
    frequencies = dict(zip(levels, (below / number).tolist(), strict=True))
    return None if np.isnan(inside) else float(inside / number), frequencies


def _results(
    forecast_scores: dict[str, _ForecastScores], windows: SolaredWindows, processor: SolaredProcessor
) -> list[ForecasterResult]:
    """Return the results, the most skilful forecaster first."""
    forecasts = {name: scored.forecast for name, scored in forecast_scores.items()}
    scores = score_forecasts(forecasts, Persistence.name, windows, processor)
    climatology, ar_numbers = forecasts[Climatology.name], windows.ar_numbers
    observed, emerging = windows.observed_targets, emerging_tiles(windows)
    results = [
        ForecasterResult(
            name=name,
            score=score,
            skill_climatology_interval=skill_interval(scored.forecast, climatology, observed, ar_numbers),
            rmse_dn_by_emergence=rmse_by_emergence(scored.forecast, observed, emerging),
            rmse_dn_by_lead_hours=_by_lead(scored.squared_errors_by_lead, windows.cadence),
            coverage_of_80_percent_interval=scored.coverage,
            reliability=scored.reliability,
            warnings=_warnings(scored.alarms),
            protocol=scored.protocol,
        )
        for (name, scored), score in zip(forecast_scores.items(), scores, strict=True)
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
