"""SolaredProcessor: the normalisation and window settings that are saved with a model.

This file imports only numpy and transformers, so that it can be saved beside a model and loaded without the package.
"""

import json
from collections.abc import Iterable, Sequence
from operator import index
from typing import ClassVar

import numpy as np
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

NAN_POLICIES = ("zero", "interpolate", "drop")

# A patch has 9 x 9 tiles. The first and the last row hold the background and are not input.
_PATCH_TILES = 81


class SolaredProcessor(FeatureExtractionMixin):
    """Min-max normalisation per channel, fitted on the train split, with the settings of the windows.

    The processor is saved as `preprocessor_config.json` in every checkpoint, so that a model always comes with the
    statistics of its training. Normalised values are `(value - minimum) / (maximum - minimum)`: 0..1 on the regions of
    the fit, and possibly outside of 0..1 on others (arXiv 2508.14107).

    Args:
        minimum (`dict[str, float]`): smallest observed value of each channel, in physical units.
        maximum (`dict[str, float]`): largest observed value of each channel, in physical units.
        input_channels (`list[str]`): channels of the input, in the order of the model.
        target_channel (`str`, defaults to `"continuum_intensity"`): channel the model forecasts.
        input_steps (`int`, defaults to 120): steps of input.
        horizon_hours (`float`, defaults to 12.0): time from the last input step to the target.
        cadence_minutes (`float`, *optional*): spacing of the steps in the fit.
        nan_policy (`str`, defaults to `"zero"`): what to do with NaN in the input, see `SolaredWindows`.
        fitted_on (`dict`, *optional*): dataset, revision, source, schema version, whether the Sun is
            simulated, split and regions.

    Numbers may have any type, such as numpy types, and are stored as Python numbers for JSON.

    Raises:
        ValueError: If the statistics of a channel are missing, not finite or have no range, or a setting has an
            invalid value.

    >>> observed = np.array([[[0.0, 100.0]], [[200.0, np.nan]]])  # two steps of one channel in two tiles, in DN
    >>> processor = SolaredProcessor.fit([observed], ["continuum_intensity"], input_steps=2)
    >>> inputs = processor(observed)
    >>> inputs["past_values"].ravel(), inputs["past_observed_mask"].ravel()
    (array([0. , 0.5, 1. , 0. ], dtype=float32), array([ True,  True,  True, False]))
    >>> processor.inverse(0.75)
    150.0
    """

    # register_for_auto_class would set this attribute, but would import the Auto classes. The attribute makes
    # save_pretrained save this file, so that `trust_remote_code=True` works without the package.
    _auto_class = "AutoFeatureExtractor"  # type: ignore[assignment]  # transformers declares None and sets a str
    model_input_names: ClassVar[list[str]] = ["past_values", "past_observed_mask"]

    def __init__(
        self,
        minimum: dict[str, float],
        maximum: dict[str, float],
        input_channels: Sequence[str],
        target_channel: str = "continuum_intensity",
        input_steps: int = 120,
        horizon_hours: float = 12.0,
        cadence_minutes: float | None = None,
        nan_policy: str = "zero",
        fitted_on: dict | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if isinstance(input_channels, str):
            raise ValueError(
                f"input_channels must be a list of names, but got {input_channels!r}. Put the name in a list."
            )
        for channel in (*input_channels, target_channel):
            if channel not in minimum or channel not in maximum:
                raise ValueError(
                    f"The processor has no minimum and maximum for {channel}. Fit the processor with that channel."
                )
            if not np.isfinite([minimum[channel], maximum[channel]]).all() or minimum[channel] >= maximum[channel]:
                raise ValueError(
                    f"Channel {channel} ranges from {minimum[channel]} to {maximum[channel]}, which cannot be "
                    "normalised. Fit the processor on regions where the channel is observed and varies."
                )
        if nan_policy not in NAN_POLICIES:
            raise ValueError(f"Unknown NaN policy {nan_policy!r}. Choose one of {', '.join(NAN_POLICIES)}.")
        self.minimum = {str(channel): float(value) for channel, value in minimum.items()}
        self.maximum = {str(channel): float(value) for channel, value in maximum.items()}
        self.input_channels = list(map(str, input_channels))
        self.target_channel = str(target_channel)
        self.input_steps = _count(input_steps)
        self.horizon_hours = _duration("horizon_hours", horizon_hours)
        self.cadence_minutes = None if cadence_minutes is None else _duration("cadence_minutes", cadence_minutes)
        self.nan_policy = str(nan_policy)
        self.fitted_on = None if fitted_on is None else _plain(fitted_on)

    @classmethod
    def fit(cls, values: Iterable[np.ndarray], channels: Sequence[str], input_channels=None, **settings):
        """Return a processor with the range of each channel over all regions, ignoring NaN.

        Args:
            values (iterable of `np.ndarray` of shape `(steps, channels, tiles)`): physical units, one array a region.
            channels: names of the second axis.
            input_channels: channels of the input; all by default.
            settings: the other arguments of the processor.

        Raises:
            ValueError: If there is no region, or a channel is never observed or never varies.
        """
        # Region by region, because all regions together may not fit into memory.
        ranges = []
        for array in map(_unmasked, values):
            observed = np.moveaxis(array, 1, 0).reshape(len(channels), -1)
            nan = np.isnan(observed)
            lowest = np.where(nan, np.inf, observed).min(axis=1, initial=np.inf)
            ranges.append((lowest, np.where(nan, -np.inf, observed).max(axis=1, initial=-np.inf)))
        if not ranges:
            raise ValueError("There is no region to fit the processor on. Choose a split with regions.")
        lowest, highest = (np.array(ends) for ends in zip(*ranges, strict=True))
        lowest, highest = lowest.min(axis=0), highest.max(axis=0)
        return cls(
            minimum=dict(zip(channels, lowest.tolist(), strict=True)),
            maximum=dict(zip(channels, highest.tolist(), strict=True)),
            input_channels=channels if input_channels is None else input_channels,
            **settings,
        )

    @property
    def target_range(self) -> float:
        """Size of one normalised unit in the physical unit of the target."""
        return self.maximum[self.target_channel] - self.minimum[self.target_channel]

    def normalise(self, values: np.ndarray, channels: Sequence[str]) -> np.ndarray:
        """Return physical `values` of shape (..., len(channels), tiles) as normalised float32; NaN and masked are NaN.

        Raises:
            ValueError: If the processor has no statistics for a channel, or the values have another shape.
        """
        lowest, span = self._ranges(channels)
        values = _unmasked(values)
        if values.ndim < 2 or values.shape[-2] != len(channels):
            raise ValueError(
                f"Expected values of shape (..., {len(channels)}, tiles) for the channels {', '.join(channels)}, but "
                f"got {values.shape}. Put the channels before the tiles."
            )
        return ((values - lowest[:, None]) / span[:, None]).astype(np.float32)

    def inverse(self, values, channel: str | None = None):
        """Return normalised `values` of any shape (numpy or torch) in the physical unit of `channel` (the target).

        Raises:
            ValueError: If the processor has no statistics for the channel.
        """
        lowest, span = self._ranges([channel or self.target_channel])
        return values * float(span[0]) + float(lowest[0])

    def __call__(self, past_values, return_tensors: str | None = None) -> BatchFeature:
        """Return the input of a model for some observations.

        Args:
            past_values (`np.ndarray` of shape `(steps, channels, tiles)` or `(batch, steps, channels, tiles)`):
                physical units, `input_steps` steps of the input channels in their order, NaN if not observed.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            `BatchFeature` with `past_values` (batch, steps, channels, tiles) float32, normalised, and
            `past_observed_mask`, bool, of the same shape.

        Raises:
            ValueError: If the number of steps or channels differs, or there is NaN and the NaN policy is `"drop"`.
        """
        values = _unmasked(past_values)
        with np.errstate(over="ignore"):
            values = values.astype(np.float32, copy=False)
        values = values[None] if values.ndim == 3 else values
        if values.ndim != 4 or values.shape[1:3] != (self.input_steps, len(self.input_channels)):
            raise ValueError(
                f"Expected past_values of shape (batch, {self.input_steps}, {len(self.input_channels)}, tiles) for "
                f"the channels {', '.join(self.input_channels)}, but got {values.shape}."
            )
        if values.shape[3] == _PATCH_TILES:
            raise ValueError(
                f"The input has all {_PATCH_TILES} tiles of the patch, with the latitude background. Give the 63 "
                "tiles of rows 1 to 7, past_values[..., 9:72]."
            )
        if np.isinf(values).any():
            raise ValueError("The input has values that are infinite or too large for float32. Replace them with NaN.")
        observed = ~np.isnan(values)
        if self.nan_policy == "drop" and not observed.all():
            raise ValueError(
                "The input has NaN, and the NaN policy of the processor is 'drop'. Give observed steps only."
            )
        filled = self.normalise(np.where(observed, values, np.float32(0)), self.input_channels)
        if self.nan_policy == "interpolate":
            filled = np.stack([interpolate_in_time(*window) for window in zip(filled, observed, strict=True)])
        return BatchFeature({"past_values": filled, "past_observed_mask": observed}, tensor_type=return_tensors)

    def save_pretrained(self, save_directory, **kwargs):
        """Save the settings as `preprocessor_config.json`, and this file for `trust_remote_code=True`.

        See [`~transformers.FeatureExtractionMixin.save_pretrained`] for the arguments.
        """
        # A class can be registered for one Auto class only, but the processor is needed by two.
        reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        self.auto_map = dict.fromkeys(("AutoFeatureExtractor", "AutoProcessor"), reference)
        return super().save_pretrained(save_directory, **kwargs)

    def _ranges(self, channels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return minimum and range of each channel; float64, because float32 would lose digits of powers of 1e8."""
        missing = [channel for channel in channels if channel not in self.minimum]
        if missing:
            raise ValueError(
                f"The processor has no statistics for {', '.join(missing)}, only for {', '.join(self.minimum)}. Use a "
                "dataset with the channels of the model, or fit a new processor."
            )
        lowest = np.array([self.minimum[channel] for channel in channels])
        return lowest, np.array([self.maximum[channel] for channel in channels]) - lowest


def _unmasked(values) -> np.ndarray:
    """Return values as an array of floats, NaN where they are masked; an array without a mask is not copied."""
    masked: np.ma.MaskedArray = np.ma.asarray(values)
    array, mask = np.ma.getdata(masked), np.ma.getmask(masked)
    return np.where(mask, np.float32(np.nan), array) if np.any(mask) else array


def _count(value) -> int:
    try:
        count = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"input_steps must be a whole number of at least 1, but got {value!r}. Try 120.")
    return count


def _duration(name: str, value) -> float:
    try:
        duration = np.nan if isinstance(value, bool | str) else float(value)
    except TypeError:
        duration = np.nan
    if not 0 < duration < np.inf:
        raise ValueError(f"{name} must be a number above 0, but got {value!r}. Try {name}=12.0.")
    return duration


def _plain(facts: dict) -> dict:
    """Return facts as JSON reads them back, with Python numbers and lists instead of numpy types."""
    try:
        return json.loads(json.dumps(facts, default=lambda value: value.tolist()))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"fitted_on holds a value that JSON cannot store ({error}). Give text and numbers."
        ) from error


def interpolate_in_time(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return one window with linear interpolation in time between the observed steps of each channel and tile.

    Before the first and after the last observed step, the nearest observed value is used. A tile that was never
    observed is unchanged. Only steps of the window are used, because later steps are unknown at the time of a
    forecast.

    Args:
        values: (steps, channels, tiles) float32, any unit.
        observed: the same shape, bool.

    >>> interpolate_in_time(np.array([[[0.0]], [[9.0]], [[4.0]]]), np.array([[[True]], [[False]], [[True]]])).ravel()
    array([0., 2., 4.])
    """
    filled = values.copy()
    steps = np.arange(len(values))
    for channel, tile in np.argwhere(~observed.all(axis=0) & observed.any(axis=0)):
        known = observed[:, channel, tile]
        filled[~known, channel, tile] = np.interp(steps[~known], steps[known], values[known, channel, tile])
    return filled
