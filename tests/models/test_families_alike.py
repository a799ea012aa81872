"""All families treat missing targets, requests for attention weights and short inputs alike."""

import json
import logging
import re

import pytest
import torch
from transformers.utils.logging import warning_once

from solared_hf import models
from solared_hf.schema import CHANNELS, NUM_TILES
from tests.models.families import SMALL, STEPS, small_model


@pytest.fixture(params=SMALL)
def model(request):
    return small_model(request.param).eval()


def past_values(steps=STEPS):
    return torch.randn(2, steps, len(CHANNELS), NUM_TILES, generator=torch.Generator().manual_seed(1))


def targets(model) -> dict[str, torch.Tensor]:
    """Return every target that the family learns from, alone."""
    generator = torch.Generator().manual_seed(2)
    given = {"future_values": torch.rand(2, NUM_TILES, generator=generator)}
    if hasattr(model.config, "forecast_steps"):
        given["future_trajectory"] = torch.rand(2, model.config.forecast_steps, NUM_TILES, generator=generator)
    return given


def test_every_family_has_a_small_model():
    assert set(SMALL) == set(models.FAMILIES)


def test_a_target_that_is_nan_does_not_count_in_the_loss(model):
    """A loss over the observed half is the same whether the other half is NaN or in no batch."""
    past = past_values()
    for name, observed in targets(model).items():
        missing = observed.clone()
        missing[1] = torch.nan
        loss = model(past, **{name: missing}).loss
        expected = model(past[:1], **{name: observed[:1]}).loss
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
        loss.backward()
        assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_without_any_observed_target_the_loss_is_zero(model):
    for name, observed in targets(model).items():
        assert model(past_values(), **{name: torch.full_like(observed, torch.nan)}).loss.item() == 0


def test_attention_weights_are_returned_or_refused(model):
    if hasattr(model(past_values()), "attentions"):
        with pytest.raises(ValueError, match=r"'sdpa' attention does not return attention weights\. Call model\.set_"):
            model(past_values(), output_attentions=True)
        model.set_attn_implementation("eager")
        assert len(model(past_values(), output_attentions=True).attentions) == 2
        return
    message = f"{model.config.model_type} has no attention weights. Leave out output_attentions."
    with pytest.raises(ValueError, match=message):
        model(past_values(), output_attentions=True)
    model.config.output_attentions = True
    with pytest.raises(ValueError, match=message):
        model(past_values())


@pytest.fixture
def warnings(caplog):
    """Return a function that gives the warnings since the last call."""
    warning_once.cache_clear()
    caplog.set_level(logging.WARNING)

    def messages() -> list[str]:
        found = [record.getMessage() for record in caplog.records if "input steps" in record.getMessage()]
        caplog.clear()
        return found

    return messages


def test_fewer_steps_than_in_training_give_a_forecast_and_one_warning(model, warnings):
    assert model(past_values(STEPS - 2)).prediction_outputs.isfinite().all()
    assert warnings() == [
        f"This {model.config.model_type} model was configured for {STEPS} input steps and got {STEPS - 2}, so the "
        f"forecasts may be worse. Pass {STEPS} steps."
    ]
    model(past_values(STEPS - 2))
    assert not warnings()


def test_as_many_steps_as_in_training_or_more_give_no_warning(model, warnings):
    for steps in (STEPS, STEPS + 3):
        assert model(past_values(steps)).prediction_outputs.isfinite().all()
    assert not warnings()


def test_no_steps_are_refused(model):
    with pytest.raises(ValueError, match="at least one step"):
        model(past_values(0))


def test_a_saved_folder_holds_the_code_of_its_family_for_every_auto_class(model, tmp_path):
    model.save_pretrained(tmp_path)
    family = model.config.model_type
    config_class, model_class = models.FAMILIES[family]
    auto_models = dict.fromkeys(("AutoModel", "AutoModelForTimeSeriesPrediction"), f"modeling_{family}.{model_class}")
    auto_map = {"AutoConfig": f"configuration_{family}.{config_class}", **auto_models}
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == auto_map
    code = {path.stem: path.read_text() for path in tmp_path.glob("*.py")}
    neighbours = {name for text in code.values() for name in re.findall(r"^from \.(\w+) import", text, re.MULTILINE)}
    assert code.keys() == {f"modeling_{family}", f"configuration_{family}"} | neighbours
