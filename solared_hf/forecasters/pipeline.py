"""The transformers pipeline `solar-active-region-forecasting`: from regions to forecasts in one call."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset, IterableDataset
from transformers import Pipeline

from solared_hf.data.processing_solared import SolaredProcessor
from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError
from solared_hf.forecasters.base import ModelForecaster

TASK = "solar-active-region-forecasting"


class SolarActiveRegionForecastingPipeline(Pipeline):
    """Forecast the continuum intensity of every tile of active regions, in HMI DN.

    Import `solared_hf`, before or after transformers, and create the pipeline with `transformers.pipeline`. The
    pipeline loads the model and its processor from a folder or a repository on the Hub. It accepts the usual
    `revision`, `device` and `dtype` (bfloat16 rounds forecasts to some 0.4 % of the intensity range). If the model is
    given as an object, give its processor as `feature_extractor`.

    Args:
        model: A `PreTrainedModel` that takes `past_values` and returns `prediction_outputs` (B, 63).
        feature_extractor: The `SolaredProcessor` that the model was trained with.
        batch_size: Windows per batch; by default 8 on a CPU and 64 on an accelerator.

    Raises:
        OSError: If the model or its processor cannot be loaded.
        SolaredError: If the processor is missing, or differs from the model in channels, steps or horizon.

    >>> import solared_hf
    >>> from transformers import pipeline
    >>> config = solared_hf.SpatioTemporalAttentionConfig(hidden_size=8, num_attention_heads=2, input_steps=24)
    >>> model = solared_hf.SpatioTemporalAttentionForPrediction(config)
    >>> times = np.datetime64("2013-04-15T00:00") + np.arange(48) * np.timedelta64(1, "h")
    >>> values = np.random.default_rng(0).normal(size=(48, 6, 63))
    >>> timeline = solared_hf.Timeline(11726, times, values)
    >>> processor = solared_hf.SolaredProcessor.fit([values], config.input_channels, input_steps=24)
    >>> forecaster = pipeline("solar-active-region-forecasting", model=model, feature_extractor=processor)
    >>> forecast = forecaster(timeline)
    >>> forecast["ar_number"], forecast["forecast_intensity"].shape
    (11726, (25, 63))
    >>> str(forecast["last_input_time_tai"][-1]), str(forecast["target_time_tai"][-1])
    ('2013-04-16T23:00:00.000', '2013-04-17T11:00:00.000')
    """

    # Only the processor is loaded with the model. transformers declares these as None, but its pipelines set bools.
    _load_feature_extractor = True  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_processor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]

    def __init__(self, *args, batch_size: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        name = self.model.name_or_path or type(self.model).__name__
        if self.feature_extractor is None:
            raise SolaredError(
                f"The model {name} lacks its processor. Pass feature_extractor=SolaredProcessor.from_pretrained(...)."
            )
        self.batch_size = batch_size
        processor = cast(SolaredProcessor, self.feature_extractor)
        self.forecaster = ModelForecaster(self.model, processor, Path(name).name, self.device)

    # The pipelines of transformers narrow the signatures below in the same way.
    def __call__(  # type: ignore[override]
        self, inputs: Timeline | Iterable[Timeline] | Dataset | IterableDataset, batch_size: int | None = None
    ) -> dict | list[dict]:
        """Forecast from every window without a gap, up to the latest window, whose target lies in the future.

        Args:
            inputs: One region, several regions, or a split of the dataset, map-style or streaming.
            batch_size: Windows per batch; by default the batch size of the pipeline.

        Returns:
            A dictionary for one region, otherwise a list with a dictionary for each region, in order:

            - `ar_number`: int, NOAA active region number;
            - `last_input_time_tai`: (N,) datetime64[ms], naive TAI, time of the last input step;
            - `target_time_tai`: (N,) datetime64[ms], naive TAI, time of the forecast;
            - `forecast_intensity`: (N, 63) float32, continuum intensity in HMI DN.

            N is 0 for a region that gives no window.

        Raises:
            SolaredError: If no region gives a window, or `inputs` has another type.
        """
        batch_size = self.batch_size if batch_size is None else batch_size
        forecasts = self.run_single(inputs, {}, {"batch_size": batch_size}, {})
        return forecasts[0] if isinstance(inputs, Timeline) else forecasts

    def preprocess(self, inputs) -> SolaredWindows:  # type: ignore[override]
        """Return the normalised windows of all regions."""
        return self.forecaster.windows(inputs, require_target=False)

    def _forward(  # type: ignore[override]
        self, windows: SolaredWindows, batch_size: int | None
    ) -> tuple[SolaredWindows, np.ndarray]:
        return windows, self.forecaster.forecast(windows, batch_size)

    def postprocess(  # type: ignore[override]
        self, outputs: tuple[SolaredWindows, np.ndarray]
    ) -> list[dict]:
        """Return the forecasts of each region as in `__call__`, from the (N, 63) forecasts of all windows."""
        windows, intensities = outputs
        columns = {
            "last_input_time_tai": windows.by_region(windows.last_input_times),
            "target_time_tai": windows.by_region(windows.target_times),
            "forecast_intensity": windows.by_region(intensities),
        }
        return [
            {"ar_number": region.timeline.ar_number, **{name: parts[i] for name, parts in columns.items()}}
            for i, region in enumerate(windows.regions)
        ]

    def _sanitize_parameters(self) -> tuple[dict, dict, dict]:  # type: ignore[override]
        """Accept no parameters beyond those of `__init__` and `__call__`."""
        return {}, {}, {}
