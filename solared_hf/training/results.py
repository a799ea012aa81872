"""Write the results of a training: `metrics.json`, the learning curve and the card. Push the model."""

import json
from pathlib import Path

from transformers import TrainerState

from solared_hf.errors import SolaredError
from solared_hf.files import write_atomically
from solared_hf.hub.cards import CARD_NAME
from solared_hf.hub.model_card import CURVE_NAME, METRICS_NAME, model_card
from solared_hf.hub.model_folder import model_to_push
from solared_hf.hub.push import MAIN_BRANCH, make_repository, push
from solared_hf.plotting.style import as_png
from solared_hf.plotting.training import plot_training
from solared_hf.training.arguments import SolaredTrainingArguments


def metrics_of_finished_run(output: Path, state: TrainerState) -> dict | None:
    """Return the `metrics.json` of a run that ended at this state, or None if the file is missing or older."""
    metrics_file = output / METRICS_NAME
    metrics = json.loads(metrics_file.read_text()) if metrics_file.is_file() else None
    return metrics if metrics and metrics["log"][-1]["step"] == state.global_step else None


def write_results(output: Path, metrics: dict) -> None:
    """Write the learning curve and `metrics.json`, and then the card, which is made from the files of the folder."""
    if any({"loss", "eval_loss"} & entry.keys() for entry in metrics["log"]):
        persistence = metrics["validation_baselines"]["persistence"]["rmse_dn"]
        curve = plot_training(metrics["log"], persistence, metrics["best_step"])
        write_atomically(output / CURVE_NAME, as_png(curve))
    write_atomically(output / METRICS_NAME, json.dumps(metrics, indent=2) + "\n")
    write_atomically(output / CARD_NAME, model_card(output))


def make_model_repository(training: SolaredTrainingArguments) -> str:
    """Create the repository for the model if it does not exist, and return its id.

    Raises:
        SolaredError: If the user may not push there. Call this before the training, so that the error comes early.
    """
    name = training.hub_model_id or training.output.resolve().name
    return make_repository(name, "model", private=training.hub_private_repo, token=training.hub_token)


def push_model(training: SolaredTrainingArguments, repo_id: str) -> None:
    """Push the finished model, and print its address.

    Raises:
        SolaredError: If the push fails; the message tells how to push the finished model later.
    """
    output, branch = training.output, training.hub_revision or MAIN_BRANCH
    try:
        report = push(model_to_push(output, repo_id), repo_id, branch=branch, token=training.hub_token)
    except SolaredError as error:
        raise SolaredError(
            f"The model is finished in {output}, but it is not on the Hub: {error} To push it later: `solared push "
            f"{output} --repo-id {repo_id}`."
        ) from error
    print(f"Pushed to {report.url}")
