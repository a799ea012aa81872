"""The card of a trained model, generated from what the run measured."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from transformers import PreTrainedModel, TrainingArguments

from solared_hf.cards import render
from solared_hf.files import write_atomically
from solared_hf.processing_solared import SolaredProcessor

# Where a run happens and how it talks say nothing about the model.
_NOT_HYPERPARAMETERS = {
    *("output_dir", "run_name", "report_to", "resume_from_checkpoint", "disable_tqdm", "use_cpu", "label_names"),
    *("logging_steps", "save_total_limit", "dataloader_pin_memory", "greater_is_better", "project"),
}


def write_model_card(
    training: TrainingArguments, model: PreTrainedModel, processor: SolaredProcessor, metrics: dict
) -> None:
    """Write `README.md` beside the weights; `metrics` is the content of `metrics.json`."""
    name = Path(training.output_dir).name
    validation = metrics["validation"]
    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="time-series-forecasting",
        tags=["heliophysics", "space-weather", "solar-active-regions", "solared"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="time-series-forecasting",
                dataset_type=processor.fitted_on["dataset"],
                dataset_name="SOLARED, simulated" if processor.fitted_on["simulated"] else "SOLARED",
                dataset_split="validation",
                dataset_revision=processor.fitted_on["revision"],
                metric_type=metric,
                metric_value=round(validation[f"eval_{metric}"], 6),
            )
            for metric in ("rmse_normalised", "rmse_dn", "mae_dn", "skill")
        ],
    )
    facts = {
        "metadata": data.to_yaml(),
        "name": name,
        "family": model.config.model_type,
        "parameters": metrics["parameters"],
        "processor": processor,
        "scores": {name: {key.removeprefix("eval_"): value for key, value in validation.items()}}
        | metrics["validation_baselines"],
        "epochs": metrics["train"]["epoch"],
        "world_size": metrics["train"]["world_size"],
        "hyperparameters": changed_arguments(training),
    }
    write_atomically(Path(training.output_dir) / "README.md", render("model_card.md.j2", facts))


def changed_arguments(training: TrainingArguments) -> dict:
    """Training arguments that differ from the defaults of transformers."""
    # Made on the same machine, so that what is derived from the machine drops out.
    defaults = TrainingArguments(output_dir=training.output_dir, use_cpu=training.use_cpu).to_dict()
    return {
        name: value
        for name, value in sorted(training.to_dict().items())
        if name not in _NOT_HYPERPARAMETERS and value is not None and value != defaults.get(name)
    }
