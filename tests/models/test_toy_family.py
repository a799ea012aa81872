"""A new family needs one folder and one entry in `FAMILIES`: it trains, saves, loads, scores and has a card."""

import json
import os
import shutil
import sys
from importlib import resources
from pathlib import Path

import pytest

import solared_hf
from tests.processes import run

TOY = Path(__file__).with_name("toy_family")
ENTRY = '    "toy_family": ("ToyFamilyConfig", "ToyFamilyForPrediction"),\n'
SCRIPT = """
import json, sys
import numpy as np
from transformers import AutoModel, AutoModelForTimeSeriesPrediction
import solared_hf
from solared_hf import load_forecaster, load_timelines
from solared_hf.hub import model_to_push
from solared_hf.models import FAMILIES
from solared_hf.training import parse_arguments, train
from pathlib import Path

dataset, output = sys.argv[1:]
arguments = {
    "model_type": "toy_family", "dataset": dataset, "output_dir": output, "input_steps": 6, "max_steps": 2,
    "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "report_to": "none",
    "use_cpu": "true",
}
metrics = train(parse_arguments([f"--{name}={value}" for name, value in arguments.items()]))
loaded = [type(auto.from_pretrained(output)) for auto in (AutoModel, AutoModelForTimeSeriesPrediction)]
forecaster = load_forecaster(output)
windows = forecaster.windows(load_timelines(dataset, "validation"))
errors = forecaster.forecast(windows) - windows.observed_targets
print(json.dumps({
    "package": solared_hf.__file__,
    "exported": solared_hf.ToyFamilyConfig.model_type,
    "loaded": [f"{kind.__module__}.{kind.__name__}" for kind in loaded],
    "trained_steps": metrics["log"][-1]["step"],
    "rmse_of_training": metrics["validation"]["eval_rmse_dn"],
    "rmse": float(np.sqrt(np.nanmean(errors**2))),
    "pushed": sorted(model_to_push(Path(output), "solared-team/toy").files),
}))
"""


def test_a_family_is_added_by_one_folder_and_one_entry(simulated_dataset, tmp_path):
    package = tmp_path / "solared_hf"
    shutil.copytree(Path(solared_hf.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    if not (package / "model_cards").exists():
        (package / "model_cards").symlink_to(Path(str(resources.files("solared_hf.model_cards"))))
    shutil.copytree(TOY, package / "models" / "toy_family", ignore=shutil.ignore_patterns("__pycache__"))
    table = package / "models" / "__init__.py"
    table.write_text(table.read_text().replace("FAMILIES = {\n", "FAMILIES = {\n" + ENTRY))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    output = tmp_path / "trained"
    finished = run([sys.executable, "-c", SCRIPT, simulated_dataset, output], env=environment, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-4000:]
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["package"] == str(package / "__init__.py")
    assert found["exported"] == "toy_family"
    assert found["loaded"] == 2 * ["solared_hf.models.toy_family.modeling_toy_family.ToyFamilyForPrediction"]
    assert found["trained_steps"] == 2
    assert found["rmse"] == pytest.approx(found["rmse_of_training"], rel=1e-4)
    assert {"README.md", "modeling_toy_family.py", "configuration_toy_family.py"} <= set(found["pushed"])
    assert "toy_family" in (output / "README.md").read_text()
    listed = run([sys.executable, "-m", "solared_hf", "train", "--help"], env=environment, cwd=tmp_path)
    assert "toy_family" in listed.stdout
