"""README as a newcomer reads it: after the quickstart, every snippet runs as written."""

import importlib
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sunpy.data.test
import torch
from accelerate.commands.accelerate_cli import main as accelerate
from huggingface_hub import HfApi
from matplotlib.image import imread

from solared_hf.cli import main
from solared_hf.models import SpatioTemporalResnetConfig, SpatioTemporalResnetForPrediction
from solared_hf.schema import CHANNELS
from tests.dataset_builder.jsoc.case import HELD, REGION, write_catalog
from tests.dataset_builder.jsoc.loopback import LoopbackJsoc
from tests.hub.loopback import TOKEN
from tests.models.test_convert_original import OriginalAttention
from tests.processes import kill, run

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
# The published recipes take hours here: a single step, and the smallest network of each family that there is.
ONE_STEP = shlex.split(
    "--max_steps 1 --per_device_train_batch_size 2 --input_steps 6 --eval_strategy no --save_strategy no "
    "--load_best_model_at_end false --early_stopping_patience 0 --use_cpu true"
)
SMALLEST = {
    "quantile_trajectory": {"num_members": 1, "hidden_size": 8},
    "spatio_temporal_attention": {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "num_spatial_layers": 1,
    },
    "spatio_temporal_resnet": {},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def solared(command: str) -> int:
    program, *arguments = shlex.split(command)
    assert program == "solared"
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def one_step(command: str) -> list[str]:
    """A command that trains, here, for one step."""
    recipe = re.search(r"--config (\w+)", command)[1]
    words = shlex.split(on_this_hub(command).replace("scripts/", f"{REPOSITORY}/scripts/"))
    return [*words, *ONE_STEP, "--model_config", json.dumps(SMALLEST[recipe])]


def save_original(family: str, path: Path) -> None:
    """A checkpoint as the original repository saves it."""
    if family == "spatio_temporal_attention":
        network = OriginalAttention()
    else:  # whose names are ours
        network = SpatioTemporalResnetForPrediction(SpatioTemporalResnetConfig(input_channels=CHANNELS[:5]))
    torch.save({"epoch": 1, "model_state_dict": network.state_dict()}, path)


def assert_trained(newcomer: Path, command: str) -> None:
    """What training leaves is in the folder that the recipe names, or on the Hub as well."""
    recipe = re.search(r"--config (\w+)", command)[1]
    made = newcomer / "runs" / recipe
    metrics = json.loads((made / "metrics.json").read_text())
    assert metrics["requested"]["max_steps"] == 1
    files = {path.name for path in made.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} <= files
    if "--push_to_hub" in command:
        assert HfApi().file_exists("astronomer/sta", "model.safetensors")
    shutil.rmtree(made)


def on_this_hub(text: str) -> str:
    """README's words with the names that the tests' Hub knows."""
    return text.replace("nasa-impact/ar_emergence", "astronomer/published").replace("you/", "astronomer/")


def upload_published(folder: Path) -> None:
    """What nasa-impact/ar_emergence holds today: an index, and the published files."""
    api, repository = HfApi(token=TOKEN), {"repo_id": "astronomer/published", "repo_type": "dataset"}
    regions = sorted(path.name for path in folder.glob("AR*"))
    names = [
        [f"/data/{region}/mean_{kind}{region[2:]}_flat.npz" for kind in ("int", "mag", "pmdop")] for region in regions
    ]
    span = "2010.05.02_00:00:00Z,2030.05.02_00:00:00Z"
    rows = [f"{region[2:]},{span},{','.join(paths)}" for region, paths in zip(regions, names, strict=True)]
    index = "\n".join(["AR,t_start,t_end,mean_int_path,mean_mag_path,mean_pmdop_path", *rows]).encode()
    api.create_repo(**repository)
    api.upload_folder(**repository, folder_path=folder, path_in_repo="data")
    api.upload_file(**repository, path_or_fileobj=index, path_in_repo="train.csv")


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory, simulated_published):
    """A folder in which the quickstart has run, with fewer steps of training, and whose dataset is on the Hub."""
    folder = tmp_path_factory.mktemp("newcomer")
    training = importlib.import_module("solared_hf.cli.quickstart").TRAINING
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for option, value in {"max_steps": "4", "eval_steps": "2", "save_steps": "2"}.items():
            patch.setitem(training, option, value)
        assert solared("solared quickstart") == 0
        # The second quickstart, of published files, takes the place of the first.
        shutil.copytree("runs/quickstart/simulated_sun/AR90001", "observed/AR90001")
        patch.setenv("HF_TOKEN", TOKEN)
        assert solared("solared push runs/quickstart/dataset --repo-id astronomer/ar_emergence --tag v1.0") == 0
        upload_published(simulated_published)
        yield folder


def test_quickstart_leaves_dataset_model_scores_and_picture(newcomer):
    made = newcomer / "runs" / "quickstart"
    assert {"dataset", "model", "scores.txt", "scores.json", "forecast.parquet", "forecast.png"} <= {
        path.name for path in made.iterdir()
    }
    assert "persistence" in (made / "scores.txt").read_text()
    assert pq.read_table(made / "forecast.parquet").num_rows % 63 == 0
    picture = imread(made / "forecast.png")
    assert picture.shape[0] > 800
    assert picture.std() > 0.05


def test_quickstart_runs_again_but_never_over_foreign_files(newcomer, simulated_published, capsys):
    foreign = newcomer / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    assert solared("solared quickstart --output mine") == 2
    assert "holds other files than a quickstart" in capsys.readouterr().err
    assert (foreign / "thesis.txt").read_text() == "years of work"
    inside = "solared quickstart --data runs/quickstart/simulated_sun"
    assert solared(inside) == 2
    assert "is inside the output folder" in capsys.readouterr().err
    assert solared("solared quickstart --data mine") == 2
    assert (newcomer / "runs" / "quickstart" / "simulated_sun" / "AR90001").is_dir()
    stale = newcomer / "runs" / "quickstart" / "model" / "stale"
    stale.touch()
    assert solared(f"solared quickstart --data {simulated_published}") == 0
    assert not stale.exists()


@pytest.mark.parametrize("snippet", blocks("python"))
def test_python_snippets(newcomer, snippet, capsys):
    exec(compile(on_this_hub(snippet), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", [line for block in blocks("console") for line in block.splitlines()])
def test_commands(newcomer, simulated_published, request, monkeypatch, command):
    if command.startswith("make "):
        # Only what it would do: the fixture's quickstart is this one, and these are the tests.
        would = run([*command.split(), "--dry-run"], cwd=REPOSITORY)
        assert would.returncode == 0
        runs = {"make quickstart": "bin/solared quickstart", "make test": "bin/python -m pytest "}
        assert runs.get(command, "") in would.stdout
    elif command.startswith("solared build --source published"):
        # The published files are not here; simulated ones have the same form.
        assert solared(command.replace("DIR", str(simulated_published))) == 0
        assert (newcomer / "solared" / "README.md").is_file()
    elif command.startswith("solared build --source fits"):
        # Ten days of a real region are not here; one region of the quickstart's Sun has the same form.
        assert solared(command.replace("RAW", "observed")) == 0
        assert (newcomer / "regions" / "README.md").is_file()
    elif command.startswith("solared select"):
        assert solared(command.replace("DIR", str(Path(sunpy.data.test.rootdir) / "SRS"))) == 0
        # None of those few days' regions was seen to emerge.
        assert not any(pq.read_table(newcomer / "catalog.parquet")["selected"].to_pylist())
    elif command.startswith("solared download"):
        write_catalog(newcomer / "catalog.parquet", [REGION])
        with LoopbackJsoc(set(HELD)) as jsoc:
            assert solared(f"{command} --server {jsoc.url}") == 0
    elif command.startswith("solared push") and "--dry-run" not in command:
        # The fixture's own push stands under this tag.
        HfApi().delete_repo(on_this_hub(command).split()[4], repo_type="dataset", missing_ok=True)
        assert solared(on_this_hub(command)) == 0
    elif "--protocol published" in command:
        # It is about five real regions.
        build = f"solared build --source published --input {request.getfixturevalue('published_dir')} --output real"
        assert solared(build) == 0
        assert solared(command.replace("--dataset solared", "--dataset real")) == 0
    elif command.startswith("solared benchmark"):
        # The larger ones of the models that come with the package take minutes.
        ours = "solared-quantile-trajectory"
        module = importlib.import_module("solared_hf.evaluation.benchmark")  # the package's name is the function
        monkeypatch.setattr(module, "committed_models", lambda: [ours])
        assert solared(command) == 0
        assert ours in (newcomer / "benchmark.json").read_text()
    elif command.startswith("solared train"):
        assert solared(shlex.join(one_step(command))) == 0
        assert_trained(newcomer, command)
    elif command == "solared app":
        # Until somebody stops it. What is on the page has tests of its own.
        page = [sys.executable, "-m", "solared_hf", "app", "--port", "0"]
        with subprocess.Popen(page, stdout=subprocess.PIPE, text=True) as process:
            try:
                said = process.stdout.readline()
            finally:
                kill(process)
        assert said.startswith("The page is at http://127.0.0.1:")
    elif command.startswith("solared "):
        assert solared(on_this_hub(command)) == 0
    elif command.startswith("accelerate launch"):
        # It starts a process of its own for the script.
        monkeypatch.setattr(sys, "argv", one_step(command))
        accelerate()
        assert_trained(newcomer, command)
    elif command == "python scripts/walkthrough.py":
        # tests/scripts/test_walkthrough.py runs it.
        assert (REPOSITORY / command.split()[1]).is_file()
    else:
        python, _, module, checkpoint, output = command.split()
        family = module.split(".")[2]
        save_original(family, newcomer / checkpoint)
        monkeypatch.setattr(sys, "argv", [python, checkpoint, output])
        monkeypatch.delitem(sys.modules, module, raising=False)
        with pytest.raises(SystemExit) as stopped:
            runpy.run_module(module, run_name="__main__")
        assert stopped.value.code == 0
        assert json.loads((newcomer / output / "config.json").read_text())["model_type"] == family
        # The next command writes there too.
        shutil.rmtree(newcomer / output)
