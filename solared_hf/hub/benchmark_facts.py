"""Facts of a benchmark for the card of a model: a row per forecaster, and the scores of the model by region."""

import json
from pathlib import Path

from solared_hf.hub.model_files import WEIGHTS_NAME

BENCHMARK_NAME = "benchmark.json"

# Pictures of `solared plot scores`, with their captions in a card.
PICTURES = {
    "error_by_lead.png": "Root mean squared error against hours ahead",
    "skill_by_region.png": "Skill against persistence, region by region",
    "reliability.png": "Reliability of the quantiles",
    "error_by_tile.png": "Root mean squared error of each tile",
}


def benchmark_facts(folder: Path) -> dict | None:
    """Return the facts in `benchmark.json` of a model folder for the card; None if the file is missing.

    The result of the model has the name of the folder, as in `solared benchmark`.

    Args:
        folder: The trained model, with a file that `solared benchmark --json` wrote.

    Raises:
        ValueError, KeyError, TypeError: If the file is damaged.
    """
    path = folder / BENCHMARK_NAME
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    results = found["results"]
    own = [result for result in results if result["name"] == folder.resolve().name]
    if not own and (folder / WEIGHTS_NAME).is_file():
        raise ValueError(f"{path} has no result of {folder.resolve().name}")
    compared = own + [result for result in results if result["name"] in ("persistence", "gradient-boosted trees")]
    return {
        "split": found["split"],
        "revision": found["dataset_revision"],
        "regions": found["regions"],
        "windows": found["windows"],
        "input_steps": found["input_steps"],
        "horizon_hours": found["horizon_hours"],
        "results": results,
        "own": own[0] if own else None,
        "compared": compared,
        "by_region": [
            {
                "ar_number": number,
                "rmse_dn": [result["score"]["rmse_dn_by_region"][str(number)] for result in compared],
                "protocol": [
                    result["protocol"]["rmse_by_region"][str(number)] for result in compared if result["protocol"]
                ],
            }
            for number in found["regions"]
        ],
        "pictures": {name: text for name, text in PICTURES.items() if (folder / name).is_file()},
    }
