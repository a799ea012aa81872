"""The address of weights in memory changes only how a processor rounds."""

import pytest
import torch

from solared_hf.schema import CHANNELS, NUM_TILES
from tests.models.families import SMALL, STEPS, small_model, with_shifted_weights

OFFSETS = (4, 16, 20)


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, STEPS, len(CHANNELS), NUM_TILES, generator=generator)


@pytest.fixture(scope="module", params=SMALL)
def model(request):
    """Return a model whose weights begin at multiples of 64, without weights of 0."""
    model = small_model(request.param).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return with_shifted_weights(model, 0)


@pytest.mark.parametrize("offset", OFFSETS)
def test_moved_weights_have_the_same_bits(model, offset):
    moved = with_shifted_weights(model, offset)
    for (name, weight), other in zip(model.state_dict().items(), moved.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
        if weight.is_floating_point():
            assert (weight.data_ptr() % 64, other.data_ptr() % 64) == (0, offset), name


@pytest.mark.parametrize("offset", OFFSETS)
def test_forecasts_differ_only_by_rounding(model, windows, offset):
    forecasts = []
    for network in (model, with_shifted_weights(model, offset)):
        with torch.no_grad():
            forecasts.append(network(past_values=windows).prediction_outputs)
    torch.testing.assert_close(*forecasts, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offset", OFFSETS)
def test_gradients_differ_only_by_rounding(model, windows, offset):
    found = []
    for network in (with_shifted_weights(model, 0), with_shifted_weights(model, offset)):
        network(past_values=windows).prediction_outputs.square().mean().backward()
        found.append({name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None})
    assert found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_model_from_a_file_forecasts_the_same_for_every_address(model, windows, offset, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for (name, weight), other in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    with torch.no_grad():
        forecasts = [
            network(past_values=windows).prediction_outputs
            for network in (model, with_shifted_weights(loaded.eval(), offset))
        ]
    torch.testing.assert_close(*forecasts, rtol=1e-5, atol=1e-5)
