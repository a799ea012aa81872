"""Converted checkpoints forecast as the original networks, which are written here in plain torch."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.video import r3d_18

from solared_hf.models import SpatioTemporalAttentionForPrediction, SpatioTemporalResnetForPrediction
from solared_hf.models.spatio_temporal_attention.convert_original import main as convert_attention
from solared_hf.models.spatio_temporal_resnet.convert_original import main as convert_resnet
from solared_hf.schema import CHANNELS

STEPS, TILES, HIDDEN, HEADS, WIDE = 12, 63, 24, 4, 40
OPTIONS = ["--num_attention_heads", str(HEADS)]


class OriginalPositions(nn.Module):
    def __init__(self, width, length):
        super().__init__()
        pe = torch.zeros(1, length, width)
        for position in range(length):
            for column in range(width):
                angle = position / 10000 ** (2 * (column // 2) / width)
                pe[0, position, column] = math.cos(angle) if column % 2 else math.sin(angle)
        self.register_buffer("pe", pe)

    def forward(self, x):
        return x + self.pe[:, : x.shape[1]]


class OriginalAttention(nn.Module):
    def __init__(self, channels=6, temporal=2, spatial=1):
        super().__init__()

        def encoder(layers):
            layer = nn.TransformerEncoderLayer(HIDDEN, HEADS, WIDE, batch_first=True)
            return nn.TransformerEncoder(layer, layers)

        self.input_proj = nn.Linear(channels, HIDDEN)
        self.temporal_pos_enc = OriginalPositions(HIDDEN, STEPS)
        self.temporal_encoder = encoder(temporal)
        self.spatial_pos_enc = OriginalPositions(HIDDEN, TILES)
        self.spatial_encoder = encoder(spatial)
        self.fc = nn.Linear(HIDDEN, 1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            # Fresh biases are all zeros and fresh norms all ones, so a converter could mix them up unnoticed.
            for parameter in self.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x):
        batch, steps, channels, tiles = x.shape
        x = x.permute(0, 3, 1, 2).reshape(batch * tiles, steps, channels)
        x = self.temporal_encoder(self.temporal_pos_enc(self.input_proj(x)))
        x = x.view(batch, tiles, steps, HIDDEN).transpose(1, 2).reshape(batch * steps, tiles, HIDDEN)
        x = self.spatial_encoder(self.spatial_pos_enc(x))
        return self.fc(x.view(batch, steps, tiles, HIDDEN).mean(1)).squeeze(-1)


@pytest.fixture(scope="module")
def original():
    return OriginalAttention().eval()


def wrap_bare(state_dict):
    return state_dict


def wrap_training(state_dict):
    return {"epoch": 3, "model_state_dict": state_dict}


def wrap_ddp(state_dict):
    return {"state_dict": {f"module.{name}": tensor for name, tensor in state_dict.items()}}


@pytest.mark.parametrize("wrap", [wrap_bare, wrap_training, wrap_ddp])
def test_converted_attention_equals_the_torch_encoders(original, wrap, tmp_path, capsys):
    torch.save(wrap(original.state_dict()), tmp_path / "original.pth")
    assert convert_attention([str(tmp_path / "original.pth"), str(tmp_path / "new" / "sta"), *OPTIONS]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'new' / 'sta'}\n"
    past = torch.randn(2, STEPS, 6, TILES, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = original(past)
        for implementation in ("sdpa", "eager"):
            model = SpatioTemporalAttentionForPrediction.from_pretrained(
                tmp_path / "new" / "sta", attn_implementation=implementation
            )
            torch.testing.assert_close(model(past).prediction_outputs, expected, atol=1e-5, rtol=0)
    config = model.config
    assert (config.num_temporal_layers, config.num_spatial_layers, config.intermediate_size) == (2, 1, WIDE)
    assert (config.input_steps, config.max_position_embeddings, config.num_tiles) == (STEPS, STEPS, TILES)
    assert config.input_channels == list(CHANNELS)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sta"]


def test_five_channels_are_the_powers_and_the_flux(tmp_path):
    torch.save(OriginalAttention(channels=5).state_dict(), tmp_path / "original.pth")
    assert convert_attention([str(tmp_path / "original.pth"), str(tmp_path / "out"), *OPTIONS]) == 0
    config = SpatioTemporalAttentionForPrediction.from_pretrained(tmp_path / "out").config
    assert (config.input_channels, config.target_channel) == (list(CHANNELS[:5]), "continuum_intensity")


def test_other_numbers_of_channels_must_be_named(tmp_path, capsys):
    torch.save(OriginalAttention(channels=2).state_dict(), tmp_path / "original.pth")
    command = [str(tmp_path / "original.pth"), str(tmp_path / "out"), *OPTIONS]
    assert convert_attention(command) == 2
    assert "reads 2 channels. Name each channel" in capsys.readouterr().err
    assert convert_attention([*command, "--input_channels", *CHANNELS[4:], "--input_steps", "9"]) == 0
    config = SpatioTemporalAttentionForPrediction.from_pretrained(tmp_path / "out").config
    assert (config.input_channels, config.input_steps) == (list(CHANNELS[4:]), 9)


def without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def with_tensor(name, tensor):
    return lambda state: {**state, name: tensor}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without("fc.bias"), "lacks fc.bias"),
        (without("input_proj.weight"), "no 'input_proj.weight'"),
        (without("spatial_pos_enc.pe"), "lacks spatial_pos_enc.pe"),
        (without("temporal_encoder.layers.1.norm2.weight"), "lacks temporal_encoder.layers.1.norm2.weight"),
        (with_tensor("extra.weight", torch.zeros(1)), "also holds extra.weight"),
        (with_tensor("fc.weight", torch.zeros(2, HIDDEN)), "'fc.weight' has shape (2, 24)"),
        (with_tensor("temporal_pos_enc.pe", torch.randn(1, STEPS, HIDDEN)), "'temporal_pos_enc.pe' is not the sinus"),
        (with_tensor("spatial_pos_enc.pe", torch.zeros(1, TILES, 7)), "'spatial_pos_enc.pe' is not the sinusoidal"),
        (with_tensor("temporal_pos_enc.pe", torch.zeros(1, 0, HIDDEN)), "'temporal_pos_enc.pe' is not the sinusoidal"),
        (with_tensor("input_proj.weight", torch.zeros(0, 6)), "no 'input_proj.weight' with 2 axes and numbers"),
        (with_tensor("temporal_encoder.layers.100000000.x", torch.zeros(1)), "lacks temporal_encoder.layers.2"),
        (with_tensor("fc.weight", torch.full((1, HIDDEN), math.nan)), "'fc.weight' in"),
        (with_tensor("fc.weight", torch.full((1, HIDDEN), -math.inf)), "holds NaN or numbers beyond"),
        (with_tensor("fc.weight", torch.full((1, HIDDEN), 1e300, dtype=torch.double)), "holds NaN or numbers beyond"),
        (with_tensor("fc.weight", torch.ones(1, HIDDEN).to_sparse()), "is not a dense tensor"),
        (with_tensor("fc.weight", torch.ones(1, HIDDEN, dtype=torch.complex64)), "is not a dense tensor"),
        (with_tensor("fc.weight", torch.ones(1, HIDDEN, device="meta")), "is not a dense tensor"),
        (with_tensor("fc.weight", torch.ones(1).expand(10**6, 10**6)), "is not a dense tensor"),
        (with_tensor(3, torch.zeros(1)), "holds no state dict"),
        (lambda state: {3: torch.zeros(1)}, "holds no state dict"),
        (lambda state: {"weights": 3}, "holds no state dict"),
        (lambda state: [1, 2], "holds no state dict"),
        (lambda state: {}, "holds no state dict"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(original, damage, sentence, tmp_path, capsys):
    torch.save(damage(original.state_dict()), tmp_path / "original.pth")
    assert_refused(tmp_path, capsys, sentence)


def assert_refused(folder, capsys, sentence, options=OPTIONS):
    before = sorted(folder.rglob("*"))
    assert convert_attention([str(folder / "original.pth"), str(folder / "new" / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert sorted(folder.rglob("*")) == before


def test_a_missing_file_is_refused(tmp_path, capsys):
    assert_refused(tmp_path, capsys, "There is no checkpoint file")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02garbage", b"PK\x03\x04garbage"])
def test_garbage_is_refused(content, tmp_path, capsys):
    (tmp_path / "original.pth").write_bytes(content)
    assert_refused(tmp_path, capsys, "cannot be read as a checkpoint of plain tensors")


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_not_run(original, tmp_path, capsys):
    torch.save({**original.state_dict(), "evil": Exploit(tmp_path / "ran")}, tmp_path / "original.pth")
    assert_refused(tmp_path, capsys, "cannot be read as a checkpoint of plain tensors")


def test_heads_that_do_not_divide_the_width_are_refused(original, tmp_path, capsys):
    torch.save(original.state_dict(), tmp_path / "original.pth")
    assert_refused(tmp_path, capsys, "Choose a number of heads", ["--num_attention_heads", "7"])


@pytest.mark.parametrize("hours", ["nan", "inf", "0", "-1"])
def test_a_horizon_that_is_not_ahead_is_refused(original, hours, tmp_path, capsys):
    torch.save(original.state_dict(), tmp_path / "original.pth")
    assert_refused(tmp_path, capsys, "must be positive", [*OPTIONS, f"--horizon_hours={hours}"])


def test_unknown_channels_are_refused(original, tmp_path, capsys):
    torch.save(original.state_dict(), tmp_path / "original.pth")
    names = [*CHANNELS[:4], "flux", "intensity"]
    sentence = "There is no channel flux, intensity. The channels are power_2_3mhz,"
    assert_refused(tmp_path, capsys, sentence, [*OPTIONS, "--input_channels", *names])


def test_an_existing_output_is_kept(original, tmp_path, capsys):
    torch.save(original.state_dict(), tmp_path / "original.pth")
    (tmp_path / "new" / "out").mkdir(parents=True)
    (tmp_path / "new" / "out" / "mine.txt").write_text("keep")
    assert_refused(tmp_path, capsys, "exists already")


def test_interrupted_saving_leaves_nothing(original, tmp_path, monkeypatch):
    torch.save(original.state_dict(), tmp_path / "original.pth")
    written = []

    def stop_half_way(self, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        written.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(SpatioTemporalAttentionForPrediction, "save_pretrained", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        convert_attention([str(tmp_path / "original.pth"), str(tmp_path / "out"), *OPTIONS])
    assert written
    assert [path.name for path in tmp_path.iterdir()] == ["original.pth"]


def test_converted_resnet_equals_the_original(tmp_path, capsys):
    torch.manual_seed(0)
    backbone = r3d_18(num_classes=TILES)
    backbone.stem[0] = nn.Conv3d(5, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
    # Fresh statistics are zeros and ones, and a converter could leave them out unnoticed.
    backbone.stem[1].running_mean.fill_(0.25)
    backbone.eval()
    state_dict = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    torch.save(wrap_ddp(state_dict), tmp_path / "original.pth")
    command = [str(tmp_path / "original.pth"), str(tmp_path / "out"), "--spatial_layout", "grid"]
    assert convert_resnet(command) == 0
    model = SpatioTemporalResnetForPrediction.from_pretrained(tmp_path / "out")
    past = torch.randn(2, 4, 5, TILES, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = backbone(past.reshape(2, 4, 5, 7, 9).transpose(1, 2))
        torch.testing.assert_close(model(past).prediction_outputs, expected, atol=1e-5, rtol=0)
    assert (model.config.spatial_layout, model.config.input_channels) == ("grid", list(CHANNELS[:5]))

    torch.save(state_dict | {"backbone.fc.bias": torch.full((TILES,), math.nan)}, tmp_path / "diverged.pth")
    assert convert_resnet([str(tmp_path / "diverged.pth"), str(tmp_path / "other")]) == 2
    assert "'backbone.fc.bias' in" in capsys.readouterr().err
    assert convert_resnet([str(tmp_path / "original.pth"), str(tmp_path / "other"), "--horizon_hours", "nan"]) == 2
    assert "must be positive" in capsys.readouterr().err
    del state_dict["backbone.layer2.0.conv1.0.weight"]
    torch.save(state_dict, tmp_path / "damaged.pth")
    assert convert_resnet([str(tmp_path / "damaged.pth"), str(tmp_path / "other")]) == 2
    assert "lacks backbone.layer2.0.conv1.0.weight" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
