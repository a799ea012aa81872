"""All figures of a benchmark, drawn from the JSON that `solared benchmark` writes."""

from collections.abc import Mapping

import numpy as np

from solared_hf.forecasters.baselines import Persistence
from solared_hf.plotting.scores import plot_error_by_lead, plot_error_by_tile, plot_reliability, plot_skill_by_region
from solared_hf.plotting.style import Picture, Pictures


def benchmark_pictures(benchmark: Mapping) -> Pictures:
    """Draw a benchmark.

    Args:
        benchmark: The JSON of `evaluation.benchmark_table.Benchmark.as_json`, read by `json.loads`.

    Raises:
        KeyError: If the JSON lacks a key of a benchmark.
    """
    results = {result["name"]: result for result in benchmark["results"]}
    windows = (
        f"{benchmark['split']} split of {benchmark['dataset']}, {len(benchmark['regions'])} regions, "
        f"{benchmark['windows']} windows"
    )
    at_horizon = f"{benchmark['horizon_hours']:g} h after the last input step; {windows}"

    by_lead = _given_values(results, "rmse_dn_by_lead_hours")
    hours = sorted({float(lead) for errors in by_lead.values() for lead in errors})
    errors = {name: _in_order(error_by_lead, hours) for name, error_by_lead in by_lead.items()}
    skills = {name: _skills(result, results[Persistence.name]) for name, result in results.items()}
    del skills[Persistence.name]
    by_tile = {name: np.array(result["score"]["rmse_dn_by_tile"], np.float64) for name, result in results.items()}
    pictures = [
        Picture(
            "error_by_lead.png",
            plot_error_by_lead(errors, np.array(hours), results),
            f"Root mean squared error by lead, of the forecasters that give all leads; {windows}.",
        ),
        Picture(
            "skill_by_region.png",
            plot_skill_by_region(skills, results),
            f"Skill against persistence by region, {at_horizon}.",
        ),
        Picture(
            "error_by_tile.png", plot_error_by_tile(by_tile), f"Root mean squared error of each tile, {at_horizon}."
        ),
    ]
    reliability = _given_values(results, "reliability")
    if not reliability:
        return Pictures(
            pictures, "Left out: the reliability of quantiles, because no forecaster of the benchmark gives quantiles."
        )
    levels = {name: sorted(float(level) for level in by_level) for name, by_level in reliability.items()}
    frequencies = {name: _in_order(by_level, levels[name]) for name, by_level in reliability.items()}
    figure = plot_reliability(levels, frequencies, results)
    pictures.append(Picture("reliability.png", figure, f"Reliability of the quantiles, {at_horizon}."))
    return Pictures(pictures, "")


def _given_values(results: Mapping[str, Mapping], key: str) -> dict:
    """Return the value of a key by name of the forecaster, for all forecasters that have one."""
    return {name: result[key] for name, result in results.items() if result.get(key)}


def _in_order(by_number: Mapping[str, float | None], numbers: list[float]) -> np.ndarray:
    """Return the value of each number, with NaN for missing values; keys of JSON are text."""
    values = {float(number): value for number, value in by_number.items()}
    return np.array([values.get(number) for number in numbers], dtype=np.float64)


def _skills(result: Mapping, persistence: Mapping) -> dict[int, float]:
    """Return the skill by AR number; NaN if persistence has no error."""
    errors, references = (
        np.array(list(scored["score"]["rmse_dn_by_region"].values()), np.float64) for scored in (result, persistence)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        skills = np.where(references > 0, 1 - (errors / references) ** 2, np.nan)
    return dict(zip(map(int, result["score"]["rmse_dn_by_region"]), skills.tolist(), strict=True))
