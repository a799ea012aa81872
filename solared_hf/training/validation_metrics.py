"""Metrics of a training's evaluations on the validation split."""

import numpy as np
import torch
from transformers import EvalPrediction

from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.data.windows import SolaredWindows
from solared_hf.evaluation.scores import forecast_errors
from solared_hf.forecasters.baselines import Persistence

# Every metric that an evaluation reports, and whether more of it is better.
GREATER_IS_BETTER = {
    "loss": False,
    "rmse_normalised": False,
    "mae_normalised": False,
    "rmse_dn": False,
    "mae_dn": False,
    "skill": True,
}


class ValidationMetrics:
    """What the Trainer's evaluation reports: errors in normalised and physical units, skill against persistence.

    Args:
        windows: the N windows of the validation split, in the order in which they are evaluated.
        processor: gives the forecasts back in DN.
    """

    def __init__(self, windows: SolaredWindows, processor: SolaredProcessor):
        self.processor = processor
        self.observed = windows.observed_targets
        self.persistence = Persistence().forecast(windows)
        self.batches = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Metrics of what the model predicted: (N, 63), normalised, or a list of such batches.

        With `batch_eval_metrics` the Trainer hands in one batch after the other, and wants the metrics of all of them
        with the last, which is the one with `compute_result`.
        """
        given = prediction.predictions
        self.batches += given if isinstance(given, list) else [given]
        if not compute_result:
            return {}
        predictions = np.concatenate([torch.as_tensor(batch).float().cpu().numpy() for batch in self.batches])
        self.batches.clear()
        return self.of_forecast(self.processor.inverse(predictions))

    def of_forecast(self, forecast: np.ndarray) -> dict[str, float]:
        """Metrics of a forecast in DN, (N, 63)."""
        return forecast_errors(forecast, self.persistence, self.observed, self.processor.target_range)
