"""Training and inference of the published families against plain stacks of torch and torchvision.

The plain stacks are those of the published code, `torch.nn.TransformerEncoder` and `r3d_18`, eager and in float32. Our
models have the same weights and, in evaluation mode, the same outputs. All variants take turns, so that a busy machine
slows all of them, and each ratio is the median over the rounds. A training step is forward, loss, backward and AdamW
on a batch in memory. The last line gives the time that it takes to make the batch. The rate of arithmetic counts the
products of the plain stack, forward and twice for backward, whatever a variant computes. On a CPU, everything is
measured a second time beside a process that keeps one core busy.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from memory import CHANNELS, STEPS, TILES, peak_of_step
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import r3d_18

from dataset_builder.simulation import SIMULATED_REGIONS, simulate_region
from solared_hf import SolaredWindows, SpatioTemporalAttentionForPrediction, SpatioTemporalResnetForPrediction
from solared_hf.models.spatio_temporal_attention import convert_original as attention_converter
from solared_hf.models.spatio_temporal_attention.modeling_spatio_temporal_attention import sinusoidal_table
from solared_hf.models.spatio_temporal_resnet import convert_original as resnet_converter

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
BATCH_SIZE = 8 if DEVICE.type == "cpu" else 64
ROUNDS = 5 if DEVICE.type == "cpu" else 20
WIDTH = 64


class PlainAttention(nn.Module):
    def __init__(self):
        super().__init__()

        def encoder() -> nn.Module:
            layer = nn.TransformerEncoderLayer(WIDTH, 8, dim_feedforward=256, dropout=0.1, batch_first=True)
            return nn.TransformerEncoder(layer, 2)

        self.input_proj = nn.Linear(CHANNELS, WIDTH)
        self.temporal_encoder, self.spatial_encoder = encoder(), encoder()
        self.fc = nn.Linear(WIDTH, 1)
        for name, length in (("temporal_pos_enc", STEPS), ("spatial_pos_enc", TILES)):
            self.add_module(name, nn.Module())
            self.get_submodule(name).register_buffer("pe", sinusoidal_table(length, WIDTH))

    def forward(self, past_values: torch.Tensor) -> torch.Tensor:
        hidden = self.input_proj(past_values.permute(0, 3, 1, 2)).flatten(0, 1)
        hidden = self.temporal_encoder(hidden + self.temporal_pos_enc.pe)
        hidden = hidden.unflatten(0, (-1, TILES)).transpose(1, 2).flatten(0, 1)
        hidden = self.spatial_encoder(hidden + self.spatial_pos_enc.pe)
        return self.fc(hidden.unflatten(0, (-1, STEPS)).mean(1)).squeeze(-1)


class PlainResnet(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = r3d_18(num_classes=TILES)
        self.backbone.stem[0] = nn.Conv3d(CHANNELS, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)

    def forward(self, past_values: torch.Tensor) -> torch.Tensor:
        return self.backbone(past_values.transpose(1, 2).unsqueeze(-2))


@dataclass(frozen=True)
class Family:
    """A family, the plain stack that it is compared with, and the conversion of weights."""

    name: str
    plain: Callable[[], nn.Module]
    ours: type
    convert: Callable[[Path, Path], Path]

    def models(self) -> tuple[nn.Module, nn.Module]:
        """Return the plain stack, and our model with the weights of the plain stack."""
        plain = self.plain()
        with tempfile.TemporaryDirectory() as folder:
            torch.save(plain.state_dict(), Path(folder) / "plain.pth")
            return plain, self.ours.from_pretrained(self.convert(Path(folder) / "plain.pth", Path(folder) / "ours"))


FAMILIES = (
    Family("attention", PlainAttention, SpatioTemporalAttentionForPrediction, attention_converter.convert),
    Family("ResNet", PlainResnet, SpatioTemporalResnetForPrediction, resnet_converter.convert),
)


@dataclass(frozen=True)
class Variant:
    """A model and the way in which it runs."""

    name: str
    model: nn.Module
    call: Callable
    optimizer: torch.optim.Optimizer
    half: bool = False

    @classmethod
    def of(cls, name: str, model: nn.Module, half: bool = False, compiled: bool = False) -> "Variant":
        call = torch.compile(model) if compiled else model
        return cls(name, model, call, torch.optim.AdamW(model.parameters(), fused=True), half)

    def predict(self, past_values: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.half):
            output = self.call(past_values)
        return output if isinstance(output, torch.Tensor) else output.prediction_outputs

    def train_step(self, past_values: torch.Tensor, future_values: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.predict(past_values).float(), future_values).backward()
        self.optimizer.step()

    @torch.inference_mode()
    def infer(self, past_values: torch.Tensor, _: torch.Tensor) -> None:
        self.predict(past_values)


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Keep a core busy with another process."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def seconds(run: Callable, *batch: torch.Tensor) -> float:
    start = time.perf_counter()
    run(*batch)
    if DEVICE.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def take_turns(variants: list[Variant], train: bool, batch: tuple[torch.Tensor, torch.Tensor]) -> list[list[float]]:
    """Return the seconds of each round of each variant."""
    runs = []
    for variant in variants:
        variant.model.train(train)
        runs.append(variant.train_step if train else variant.infer)
        # The first two compile, choose algorithms and allocate.
        seconds(runs[-1], *batch)
        seconds(runs[-1], *batch)
    rounds = [[seconds(run, *batch) for run in runs] for _ in range(ROUNDS)]
    return [list(times) for times in zip(*rounds, strict=True)]


def arithmetic(model: nn.Module, past_values: torch.Tensor, train: bool) -> float:
    """Return the floating point operations of the model's matrix products."""
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
        predictions = model.train()(past_values)
        if train:
            predictions.sum().backward()
    return counter.get_total_flops()


def compare(family: Family, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    plain, ours = (model.to(DEVICE) for model in family.models())
    with torch.inference_mode():
        difference = (plain.eval()(batch[0]) - ours.eval()(batch[0]).prediction_outputs).abs().max().item()
    assert difference < (1e-5 if DEVICE.type == "cpu" else 1e-3), difference
    variants = [
        Variant.of("plain", plain),
        Variant.of("ours", ours),
        Variant.of("ours, bf16 autocast", ours, half=True),
    ]
    if DEVICE.type != "cpu":
        # On a CPU, minutes of compilation gain nothing: dropout dominates training, and products dominate inference.
        variants += [
            Variant.of("ours, compiled", ours, compiled=True),
            Variant.of("ours, compiled, bf16", ours, half=True, compiled=True),
        ]
    print(f"{family.name}: outputs differ by at most {difference:.0e} in evaluation mode")
    measure(variants, batch)
    if DEVICE.type == "cpu":
        print("  beside a process that keeps a core busy:")
        with busy_neighbour():
            measure(variants, batch)


def measure(variants: list[Variant], batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Print times and ratios of all variants, compared with the first variant."""
    for train in (True, False):
        times = take_turns(variants, train, batch)
        operations = arithmetic(variants[0].model, batch[0], train)
        for variant, own in zip(variants, times, strict=True):
            ratio = statistics.median(first / second for first, second in zip(times[0], own, strict=True))
            median = statistics.median(own)
            print(
                f"  {'train' if train else 'infer'} {variant.name:22} {median / BATCH_SIZE * 1e3:9.2f} ms a sample "
                f"{ratio:6.2f} times plain {operations / median / 1e9:9,.0f} GFLOP/s, "
                f"longest {max(own) / median:.1f} times the median",
                flush=True,
            )


def feed_seconds() -> float:
    """Return the median time to make a batch of random windows, as in training."""
    windows = SolaredWindows([simulate_region(number) for number in SIMULATED_REGIONS])
    random = np.random.default_rng(0)
    draws = [random.integers(len(windows), size=BATCH_SIZE).tolist() for _ in range(50)]
    return statistics.median(seconds(windows.batch, draw) for draw in draws)


def main() -> None:
    # Measured before anything is computed here, because the measurement forks processes.
    peaks = {
        family.name: [peak_of_step(model, BATCH_SIZE) for model in (family.plain, partial(_ours, family))]
        for family in FAMILIES
    }
    torch.manual_seed(0)
    batch = (
        torch.randn(BATCH_SIZE, STEPS, CHANNELS, TILES, device=DEVICE),
        torch.randn(BATCH_SIZE, TILES, device=DEVICE),
    )
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}, torch {torch.__version__}, batch {BATCH_SIZE}, input {tuple(batch[0].shape[1:])}")
    for family in FAMILIES:
        compare(family, batch)
        print("  peak memory of a step: plain {:,.0f} MB, ours {:,.0f} MB".format(*peaks[family.name]))
    print(f"feeding a batch from memory: {feed_seconds() / BATCH_SIZE * 1e3:.3f} ms a sample")


def _ours(family: Family) -> nn.Module:
    return family.ours(family.ours.config_class())


if __name__ == "__main__":
    main()
