"""Generate the card of a trained model from the facts of the run."""

import json
import math
from collections import Counter
from datetime import timedelta
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import UndefinedError

from solared_hf.errors import SolaredError
from solared_hf.hub.benchmark_facts import benchmark_facts
from solared_hf.hub.cards import LOCATION, render
from solared_hf.hub.model_files import PROCESSOR_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from solared_hf.schema import AVAILABILITY_DELAY, POWER_CHANNELS

METRICS_NAME = "metrics.json"
CURVE_NAME = "training_curve.png"
EXPERIMENTS_NAME = "EXPERIMENTS.md"

_SOURCES = ("config.json", PROCESSOR_NAME, METRICS_NAME)
_TASK = "time-series-forecasting"
# Packages that the code of a family imports, besides transformers.
_TORCH = ("torch",)
_PACKAGES = {"spatio_temporal_resnet": ("torch", "torchvision")}
# Metrics in the model index, with their names for people.
_METRICS = {
    "rmse_normalised": "RMSE, normalised",
    "mae_normalised": "MAE, normalised",
    "rmse_dn": "RMSE, HMI DN",
    "mae_dn": "MAE, HMI DN",
    "skill": "skill against persistence",
}


def model_card(folder: Path | str) -> str:
    """Return the README.md of a model trained by `solared train`: YAML front matter and text.

    The facts come from `config.json`, `preprocessor_config.json`, `metrics.json` and, if present, `benchmark.json` in
    the folder, and the card shows the pictures in the folder. The same files give the same text.

    Args:
        folder: The trained model.

    Raises:
        SolaredError: If one of the first three files is missing, damaged or not from `solared train`.
    """
    folder = Path(folder)
    try:
        config, processor, metrics = (json.loads((folder / name).read_text()) for name in _SOURCES)
        facts = _facts(config, processor, metrics)
        facts["curve"] = CURVE_NAME if (folder / CURVE_NAME).is_file() else None
        facts["has_weights"] = any((folder / name).is_file() for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME))
        facts["has_experiments"] = (folder / EXPERIMENTS_NAME).is_file()
        facts["benchmark"] = benchmark_facts(folder)
        return render("model_card.md.j2", {**facts, "location": LOCATION})
    except (OSError, ValueError, KeyError, TypeError, UndefinedError) as error:
        raise SolaredError(
            f"{folder} lacks facts for a model card ({type(error).__name__}: {error}). Name a folder of "
            "`solared train`, or train the model again."
        ) from error


def _facts(config: dict, processor: dict, metrics: dict) -> dict:
    data, scores, target = processor["fitted_on"], metrics["validation"], config["target_channel"]
    # Only the name of a repository has an owner.
    repository = data["dataset"] if "/" in data["dataset"] else None
    # Acoustic power comes from 8 h of observations around a step, so the last of them come 4 h later.
    waits = bool(set(POWER_CHANNELS) & set(processor["input_channels"]))
    wait = AVAILABILITY_DELAY // timedelta(hours=1) if waits else 0
    own = {name: scores[f"eval_{name}"] for name in _METRICS}
    return {
        "front_matter": _front_matter(config, data, repository, own),
        "family": config["model_type"],
        "forecast_steps": config.get("forecast_steps"),
        "quantile_levels": config.get("quantile_levels"),
        "packages": ("transformers", *_PACKAGES.get(config["model_type"], _TORCH)),
        "parameters": metrics["parameters"],
        "input_channels": processor["input_channels"],
        "input_steps": processor["input_steps"],
        "horizon_hours": processor["horizon_hours"],
        "hours_known_ahead": wait,
        "hours_remaining": processor["horizon_hours"] - wait,
        "cadence_minutes": processor["cadence_minutes"],
        "nan_policy": processor["nan_policy"],
        "target_range": processor["maximum"][target] - processor["minimum"][target],
        "data": {name: data[name] for name in ("dataset", "revision", "simulated", "split", "regions")},
        "repository": repository,
        "scores": {"this model": own, **metrics["validation_baselines"]},
        "epochs": metrics["train"]["epoch"],
        "windows": metrics["train"]["windows"],
        "took": str(timedelta(seconds=round(metrics["train"]["train_runtime"]))),
        "resumed": metrics["train"]["resumed"],
        "best_step": metrics["best_step"],
        "best_metric": metrics["best_metric"],
        # Models of an older version do not have this entry.
        "earlier": metrics.get("earlier", []),
        "hyperparameters": {
            **metrics["hyperparameters"],
            **{f"model_config.{name}": value for name, value in metrics["model_config"].items()},
        },
        "devices": Counter(metrics["hardware"]["devices"]),
        "processes": metrics["hardware"]["processes"],
        "cpus": metrics["hardware"]["cpus"],
        "software": metrics["software"],
    }


def _front_matter(config: dict, data: dict, repository: str | None, scores: dict[str, float]) -> str:
    results = [
        EvalResult(
            task_type=_TASK,
            dataset_type=repository or "solared",
            dataset_name="SOLARED, simulated" if data["simulated"] else "SOLARED",
            dataset_config="timelines",
            dataset_split="validation",
            dataset_revision=data["revision"],
            metric_type=metric,
            metric_name=name,
            metric_value=round(scores[metric], 6),
        )
        for metric, name in _METRICS.items()
        # YAML can store infinite and NaN values, but JSON and the Hub cannot.
        if math.isfinite(scores[metric])
    ]
    card = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag=_TASK,
        tags=["heliophysics", "space-weather", "solar-active-regions", "solared"],
        datasets=[repository] if repository else None,
        model_name=config["model_type"],
        eval_results=results or None,
    )
    return card.to_yaml(line_break="\n")
