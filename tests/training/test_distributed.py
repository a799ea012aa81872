"""Training on two machines, with a model split over processes, and with gradient checkpointing."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from solared_hf import load_forecaster, load_timelines
from solared_hf.models.spatio_temporal_attention import encoder_layer_on_cpu
from solared_hf.training import parse_arguments, train

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "scripts" / "configs" / "accelerate"
LAYERS = 2
STEPS = 3
MODEL = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "num_temporal_layers": LAYERS // 2,
    "num_spatial_layers": LAYERS // 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
# The targets are trajectories, of which parts are missing at the end of a region.
LSTM = {"model_type": "solared_lstm", "model_config": json.dumps({"hidden_size": 8, "dropout": 0.0})}
OPTIONS = {
    "model_type": "spatio_temporal_attention",
    "model_config": json.dumps(MODEL),
    "input_steps": "6",
    "max_steps": str(STEPS),
    "per_device_eval_batch_size": "256",
    "learning_rate": "5e-3",
    "lr_scheduler_type": "constant",
    "eval_strategy": "steps",
    "eval_steps": str(STEPS),
    "save_strategy": "steps",
    "save_steps": str(STEPS),
    "logging_steps": "1",
    "report_to": "none",
    "use_cpu": "true",
}

# accelerate does not split models on a CPU, so the script declares that the processes use GPUs. Everything else, from
# the splitting to the exchange with gloo, is the same as on GPUs. Each process prints how much of the model it holds.
SPLIT_ON_CPU = """
import os, sys
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from solared_hf import SolaredError
from solared_hf.training import parse_arguments
from solared_hf.training import train

def train_split(*arguments):
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
    configured = ("--accelerator_config", '{"use_configured_state": true}')
    train(parse_arguments([*sys.argv[1:], *configured, *arguments]))

held = set()

def print_size(module, inputs):
    if isinstance(module, FSDPModule) and isinstance(module, PreTrainedModel) and not held:
        weights = list(module.parameters())
        held.add((sum(weight.to_local().numel() for weight in weights), sum(weight.numel() for weight in weights)))
        print("holds {} of {}".format(*held.copy().pop()), flush=True)

torch.nn.modules.module.register_module_forward_pre_hook(print_size)
train_split()

os.environ["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"
try:
    train_split("--output_dir", "elsewhere")
except SolaredError as error:
    print(error, flush=True)
"""


def command_line(**options) -> list[str]:
    return [part for name, value in {**OPTIONS, **options}.items() for part in (f"--{name}", str(value))]


def losses(output: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((output / "metrics.json").read_text())["log"] if "loss" in entry]


@pytest.fixture(scope="module")
def runs(simulated_dataset, tmp_path_factory) -> Path:
    """Return a folder with a run by one process and split over two, and another by one process and on two machines.

    This machine plays both machines. `split.txt` holds the output of the split run.
    """
    folder = tmp_path_factory.mktemp("runs")
    split_on_cpu = folder / "split_on_cpu.py"
    split_on_cpu.write_text(SPLIT_ON_CPU)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def launch(config: str, *launcher: str, script: Path, output: str, **options) -> subprocess.Popen:
        options = {"per_device_train_batch_size": 2, **options}
        arguments = command_line(dataset=simulated_dataset, output_dir=folder / output, **options)
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"),
                *("--config_file", str(CONFIGS / config), "--num_processes", "2", *launcher),
                *(str(script), *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    for output, size, options in (("one", 4, {}), ("one_lstm", 64, LSTM)):
        options = {**options, "dataset": simulated_dataset, "output_dir": folder / output}
        train(parse_arguments(command_line(**options, per_device_train_batch_size=size)))
    launches = [
        launch(
            "two_nodes.yaml",
            *("--machine_rank", rank, "--main_process_ip", "127.0.0.1", "--main_process_port", port),
            script=REPOSITORY / "scripts" / "train.py",
            output="two",
            **LSTM,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            per_device_eval_batch_size=50,
        )
        for rank in ("0", "1")
    ]
    launches.append(launch("fsdp.yaml", "--main_process_port", "0", script=split_on_cpu, output="split"))
    try:
        for process in launches:
            printed, errors = process.communicate(timeout=1800)
            assert process.returncode == 0, errors[-4000:]
    finally:
        for process in launches:
            process.terminate()
    (folder / "split.txt").write_text(printed)
    return folder


def test_two_machines_train_like_one_process_with_four_times_the_batch(runs):
    """Each of two processes takes two parts of a step, and evaluates in other batches."""
    one, two = (json.loads((runs / name / "metrics.json").read_text()) for name in ("one_lstm", "two"))
    assert [metrics["train"]["world_size"] for metrics in (one, two)] == [1, 2]
    assert [len(metrics["hardware"]["devices"]) for metrics in (one, two)] == [1, 2]
    assert re.search(r"\| 2 x cpu \(\w+\), 2 processes, \d+ CPUs \|", (runs / "two" / "README.md").read_text())
    for name in ("eval_rmse_dn", "eval_loss"):
        assert two["validation"][name] == pytest.approx(one["validation"][name], rel=1e-4), name
    assert losses(runs / "two") == pytest.approx(losses(runs / "one_lstm"), rel=1e-4)


def test_a_model_split_over_processes_trains_like_a_whole_one(runs):
    held = [
        (int(part), int(whole))
        for part, whole in re.findall(r"holds (\d+) of (\d+)", (runs / "split.txt").read_text())
    ]
    whole = json.loads((runs / "one" / "metrics.json").read_text())["parameters"]
    assert [total for _, total in held] == [whole, whole]
    assert sum(part for part, _ in held) == whole
    assert max(part for part, _ in held) < 0.6 * whole
    assert len(losses(runs / "one")) == STEPS
    assert losses(runs / "split") == pytest.approx(losses(runs / "one"), rel=1e-4)


def test_a_model_split_over_processes_is_saved_whole_with_its_own_code(runs, simulated_dataset):
    one, split = runs / "one", runs / "split"
    for folder in (split, split / f"checkpoint-{STEPS}"):
        weights, expected = (load_file(which / "model.safetensors") for which in (folder, one))
        assert weights.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)
        assert json.loads((folder / "config.json").read_text()) == json.loads((one / "config.json").read_text())
        assert {path.name for path in one.glob("*.py")} == {path.name for path in folder.glob("*.py")}
    assert {path.name for path in one.iterdir()} == {path.name for path in split.iterdir()}
    assert AutoModel.from_pretrained(split).num_parameters() == AutoModel.from_pretrained(one).num_parameters()
    region = load_timelines(simulated_dataset, "test")[0]
    forecasts = [
        forecaster.forecast(forecaster.windows([region])) for forecaster in map(load_forecaster, (split, one))
    ]
    np.testing.assert_allclose(*forecasts, rtol=1e-3, atol=1)


def test_a_run_that_would_save_the_model_in_pieces_is_refused(runs):
    assert (runs / "split.txt").read_text().count("SHARDED_STATE_DICT leaves a model in pieces. Launch with") == 2


def test_gradient_checkpointing_changes_only_the_work(simulated_dataset, tmp_path, monkeypatch):
    """The second computation draws the same dropout."""
    encode, calls = encoder_layer_on_cpu.encode_on_cpu, []

    def counted(layer, hidden_states):
        calls.append(layer.training)
        return encode(layer, hidden_states)

    monkeypatch.setattr(encoder_layer_on_cpu, "encode_on_cpu", counted)
    counts = []
    for again in ("false", "true"):
        calls.clear()
        options = {"dataset": simulated_dataset, "output_dir": tmp_path / again, "per_device_train_batch_size": 4}
        dropout = json.dumps({**MODEL, "dropout": 0.3})
        train(parse_arguments(command_line(**options, model_config=dropout, gradient_checkpointing=again)))
        counts.append(sum(calls))
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), rel=1e-4)
    assert counts == [LAYERS * STEPS, 2 * LAYERS * STEPS]
