"""Metrics of a training's evaluations on the validation split."""

from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.data.windows import SolaredWindows
from solared_hf.evaluation.scores import forecast_errors
from solared_hf.forecasters.baselines import Persistence

# Each metric that an evaluation reports, and whether a larger value is better.
GREATER_IS_BETTER = {
    "loss": False,
    "rmse_normalised": False,
    "mae_normalised": False,
    "rmse_dn": False,
    "mae_dn": False,
    "skill": True,
}


class ValidationMetrics:
    """The metrics of the Trainer's evaluation: errors in normalised and physical units, and skill against persistence.

    Args:
        windows: The N windows of the validation split, in the order of the evaluation.
        processor: Turns forecasts into DN.
    """

    def __init__(self, windows: SolaredWindows, processor: SolaredProcessor):
        self.processor = processor
        self.observed = windows.observed_targets
        self.persistence = Persistence().forecast(windows)
        self.batches: list[np.ndarray] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Return the metrics of normalised predictions (N, 63), or of a list of batches of them.

        With `batch_eval_metrics` the Trainer passes one batch after the other, and wants the metrics of all batches
        with the last batch, for which `compute_result` is True.
        """
        predictions: Any = prediction.predictions
        self.batches += predictions if isinstance(predictions, list) else [predictions]
        if not compute_result:
            return {}
        of_all = np.concatenate([torch.as_tensor(batch).float().cpu().numpy() for batch in self.batches])
        self.batches.clear()
        return self.of_forecast(self.processor.inverse(of_all))

    def of_forecast(self, forecast: np.ndarray) -> dict[str, float]:
        """Return the metrics of a forecast in DN, (N, 63)."""
        return forecast_errors(forecast, self.persistence, self.observed, self.processor.target_range)
