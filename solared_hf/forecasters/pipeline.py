"""The transformers pipeline of the task `solar-active-region-forecasting`: from regions to forecasts in one call."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from datasets import Dataset, IterableDataset
from transformers import Pipeline

from solared_hf.data.timelines import Timeline
from solared_hf.data.windows import SolaredWindows
from solared_hf.errors import SolaredError
from solared_hf.forecasters.base import ModelForecaster

TASK = "solar-active-region-forecasting"


class SolarActiveRegionForecastingPipeline(Pipeline):
    """Forecasts the continuum intensity of every tile of active regions, in HMI DN, with the times it speaks about.

    `transformers.pipeline` makes it once `solared_hf` is imported, before or after transformers. It loads the model
    with its processor from a folder or a repository on the Hub and takes the usual `revision`, `device` and `dtype`
    (bfloat16 rounds forecasts to some 0.4 % of the range of the intensity). Where the model is given as an object, the
    processor goes with it as `feature_extractor`.

    Args:
        model: a `PreTrainedModel` that takes `past_values` and gives `prediction_outputs` (B, 63).
        feature_extractor: the `SolaredProcessor` it was trained with.
        batch_size: windows at a time; by default 8 on a CPU and 64 on an accelerator.

    Raises:
        OSError: the model or its processor cannot be loaded.
        SolaredError: the processor is missing, or disagrees with the model on the channels, the steps or the horizon.

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

    # The processor is all that is loaded with the model.
    _load_feature_extractor = True
    _load_image_processor = False
    _load_processor = False
    _load_tokenizer = False
    _load_video_processor = False

    def __init__(self, *args, batch_size: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        name = self.model.name_or_path or type(self.model).__name__
        if self.feature_extractor is None:
            raise SolaredError(
                f"The model {name} came without its processor; pass "
                "feature_extractor=SolaredProcessor.from_pretrained(...)."
            )
        self.batch_size = batch_size
        self.forecaster = ModelForecaster(self.model, self.feature_extractor, Path(name).name, self.device)

    def __call__(
        self, inputs: Timeline | Iterable[Timeline] | Dataset | IterableDataset, batch_size: int | None = None
    ) -> dict | list[dict]:
        """Forecasts from every window that spans no gap, up to the latest, whose target lies in the future.

        Args:
            inputs: one region, several, or a split of the dataset, map-style or streaming.
            batch_size: windows at a time, of whichever regions; by default that of the pipeline.

        Returns:
            A dictionary for one region, otherwise a list of one for each region in their order. Each has

            - `ar_number`: int, NOAA active region number;
            - `last_input_time_tai`: (N,) datetime64[ms], naive TAI, the last step that each forecast has seen;
            - `target_time_tai`: (N,) datetime64[ms], naive TAI, the time that each forecast speaks about;
            - `forecast_intensity`: (N, 63) float32, continuum intensity in HMI DN.

            N is 0 for a region that gives no window.

        Raises:
            SolaredError: the regions give no window at all, or `inputs` is none of the above.
        """
        batch_size = self.batch_size if batch_size is None else batch_size
        forecasts = self.run_single(inputs, {}, {"batch_size": batch_size}, {})
        return forecasts[0] if isinstance(inputs, Timeline) else forecasts

    def preprocess(self, inputs) -> SolaredWindows:
        """The windows of all regions, normalised."""
        return self.forecaster.windows(inputs, require_target=False)

    def _forward(self, windows: SolaredWindows, batch_size: int | None) -> tuple[SolaredWindows, np.ndarray]:
        return windows, self.forecaster.forecast(windows, batch_size)

    def postprocess(self, outputs: tuple[SolaredWindows, np.ndarray]) -> list[dict]:
        """The forecasts of each region on their own, as `__call__` returns them, from (N, 63) of all windows."""
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

    def _sanitize_parameters(self) -> tuple[dict, dict, dict]:
        """There are no parameters beyond those of `__init__` and `__call__`."""
        return {}, {}, {}
