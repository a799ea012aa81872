"""Raw observations of the simulated Sun: what HMI would have seen of the regions in `timelines`, pixel by pixel.

The regions, the growth of their flux and the response of power and intensity are those of `timelines`. Here they
become frames of velocity every 45 s, and a magnetogram and a continuum image for each step, which the pipeline turns
back into timelines. The right result is known: `expected_timeline`. A patch spans 9 x 9 tiles of 3.36 degrees.

*Velocity* is the sum of

- p-modes: one line in each bin of the transform of 639 differences. A line has the same strength in all pixels and a
  random phase in each. The envelope is a Lorentzian about 3.3 mHz, 290 m/s rms. Each band of lines is modulated in
  time and space so that the power changes exactly by `power_response`. Because a line lies in one bin of every window,
  the power of the lines has no noise. With random modes, the power of a tile would scatter by one over the root of
  bins times pixels: 6 % with 9 pixels a tile, while an HMI tile has 3136 pixels and published quiet tiles scatter by 1
  %.
- granulation: Gaussian noise whose density falls with frequency as Harvey's (1 + (f/f0)^2)^-1 (ESA SP-235, 199, 1985),
  f0 = 0.6 mHz and 105 m/s rms. Granulation adds to the lines with a random phase, which gives the noise in the power.
- the Sun's rotation along the line of sight, which varies over the patch and drifts while the patch crosses the disk,
  and the satellite's orbit, 3 km/s in 24 h. Both are smooth and vanish in the differences.

*Magnetograms* show two polarities of opposite sign, whose unsigned density is `flux_density`, and noise. *Continuum
images* show limb darkening, granulation and `intensity_response`. Towards the limb the modes fade and magnetograms
grow noisier. Together with limb darkening this gives the trend across the patch that the background correction
removes, except for the curvature.

Frames are missing singly and in runs. `GAP_REGION` has an eclipse. In `NAN_REGION` the eastern tiles lie beyond the
edge of the observations in the beginning.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.special

from dataset_builder.fits.band_transform import CADENCE_S
from dataset_builder.fits.tiles import keep_tiles, remove_latitude_background, tile_means
from dataset_builder.fits.times import HALF_WINDOW, WINDOW_FRAMES
from dataset_builder.fits.tracking import Trajectory
from dataset_builder.simulation.timelines import (
    FIRST_SIMULATED,
    GAP_REGION,
    NAN_FIELD_STEPS,
    NAN_POWER_STEPS,
    NAN_REGION,
    POWER_LEAD_HOURS,
    Emergence,
    disk_longitude,
    emergence,
    flux_density,
    intensity_response,
    power_response,
    split_of,
    start_time,
)
from solared_hf.schema import PATCH_COLUMNS, PATCH_ROWS

FRAMES_PER_STEP = 80
# A step takes flux and intensity from this frame: the first after the middle of the window, on the full hour.
FIELD_FRAME = WINDOW_FRAMES // 2
ECLIPSE_FRAMES = 200
SHORT_RUN_REGION, SHORT_RUN_FRAMES = FIRST_SIMULATED + 1, 30

# As in patches of 512 pixels of 0.06 degrees: the centre lies 256/56 tiles from the south-east corner.
TILE_DEGREES = 56 * 0.06
CENTRE_TILES = 256 / 56
OBSERVER_LATITUDE = -5.0

_DIFFERENCES = WINDOW_FRAMES - 1
# First and last bin of 2-3, 3-4, 4-5 and 5-6 mHz as published, stated independently of the code that is tested.
_BANDS = ((58, 86), (87, 115), (116, 144), (144, 172))

# Lines from 1.5 to 7 mHz.
_MODE_BINS = (43, 202)
_MODE_PEAK_HZ, _MODE_WIDTH_HZ = 3.3e-3, 0.8e-3
_MODE_POWER_3_4MHZ = 4.5e8
# (m/s)^2 per Hz at zero frequency, one-sided.
_GRANULATION_DENSITY, _GRANULATION_KNEE_HZ = 1.2e7, 0.6e-3
_POWER_LIMB_FADING = 0.3
_ROTATION_M_PER_S = 1990.0
_ORBIT_M_PER_S, _ORBIT_HOURS = 3000.0, 24.0

_FIELD_NOISE_G, _FIELD_NOISE_LIMB_GROWTH = 3.0, 1.0
_DISK_CENTRE_DN, _LIMB_DARKENING = 55_000.0, 0.5
_INTENSITY_NOISE_DN = 250.0

_SINGLE_DROPOUTS_PER_FRAME = 5e-4


@dataclass(frozen=True)
class SimulatedObservations:
    """The tracked observations of a simulated region, and the truth behind them.

    Args:
        ar_number: number of the region.
        emergence: the emerging bipole; hours count from the middle of the first step's window.
        trajectory: where the patch is.
        times: (frames,) naive TAI, 45 s apart; step i is computed from the 640 frames from frame 80 i on.
        velocity: (frames, pixels, pixels) float32, m/s, away from the observer; NaN where nothing was observed.
        orbital_velocity: (frames,) the satellite's part of the velocity, m/s: OBS_VR in headers.
        magnetogram: (steps, pixels, pixels) float32, G along the line of sight, at `FIELD_FRAME` of each step.
        continuum: (steps, pixels, pixels) float32, DN, at the same frames.
        missing: (frames,) bool, frames that are missing or bad.
        bad: (frames,) bool, frames that exist but are marked as bad in QUALITY.
    """

    ar_number: int
    emergence: Emergence
    trajectory: Trajectory
    times: np.ndarray
    velocity: np.ndarray
    orbital_velocity: np.ndarray
    magnetogram: np.ndarray
    continuum: np.ndarray
    missing: np.ndarray
    bad: np.ndarray

    @property
    def field_times(self) -> np.ndarray:
        """(steps,) times of the magnetograms and continuum images."""
        return self.times[_field_frames(len(self.magnetogram))]


def simulate_observations(ar_number: int, seed: int = 0, steps: int = 240, pixels: int = 27) -> SimulatedObservations:
    """Return the raw observations of one simulated region.

    Args:
        ar_number: number of a simulated region; the regions are those of `timelines.emergence`.
        seed: the same seed gives the same values, bit for bit.
        steps: hourly steps that the frames suffice for; the region emerges within the first 130 hours.
        pixels: pixels on a side of the patch, at least 9; with a multiple of 9 every pixel belongs to a tile.

    Raises:
        SolaredError: If the number is that of a real region.
        ValueError: If there are too few steps or pixels.

    >>> observations = simulate_observations(90001, steps=1, pixels=9)
    >>> observations.velocity.shape, observations.magnetogram.shape
    ((640, 9, 9), (1, 9, 9))
    """
    truth = _Truth(ar_number, seed, steps, pixels)
    random = np.random.default_rng([seed, ar_number, 3])
    frames = FRAMES_PER_STEP * (steps - 1) + WINDOW_FRAMES
    start = start_time(ar_number) - HALF_WINDOW
    missing, bad = _dropouts(random, ar_number, steps, frames)

    velocity = _velocity(random, truth, frames)
    orbits = np.arange(frames) / FRAMES_PER_STEP / _ORBIT_HOURS + random.uniform()
    orbital_velocity = _ORBIT_M_PER_S * np.sin(2 * np.pi * orbits)
    velocity += orbital_velocity.astype(np.float32)[:, None, None]
    velocity[missing] = np.nan

    field = truth.field(truth.field_hours)
    noise = random.standard_normal((2, *field.shape))
    polarity = np.where(truth.columns > truth.bipole.column, 1.0, -1.0)
    magnetogram = (polarity * field + truth.field_noise(truth.field_hours) * noise[0]).astype(np.float32)
    continuum = (truth.intensity(truth.field_hours) + _INTENSITY_NOISE_DN * noise[1]).astype(np.float32)
    for images in (magnetogram, continuum):
        images[missing[_field_frames(steps)]] = np.nan
    if ar_number == NAN_REGION:
        eastern = slice(pixels // PATCH_COLUMNS)
        velocity[: FRAMES_PER_STEP * NAN_POWER_STEPS, :, eastern] = np.nan
        magnetogram[:NAN_FIELD_STEPS, :, eastern] = np.nan
        continuum[:NAN_FIELD_STEPS, :, eastern] = np.nan
    return SimulatedObservations(
        ar_number=ar_number,
        emergence=truth.bipole,
        trajectory=truth.trajectory,
        times=start + np.arange(frames) * np.timedelta64(round(1000 * CADENCE_S), "ms"),
        velocity=velocity,
        orbital_velocity=orbital_velocity,
        magnetogram=magnetogram,
        continuum=continuum,
        missing=missing,
        bad=bad,
    )


def expected_timeline(ar_number: int, seed: int = 0, steps: int = 240, pixels: int = 27) -> np.ndarray:
    """Return the expectation of the pipeline's result for `simulate_observations`, if no frame were missing.

    Args:
        ar_number, seed, steps, pixels: see `simulate_observations`.

    Returns:
        (steps, 6, 63) float64, after the correction of the background, in the channels and units of `schema`.

    Raises:
        SolaredError: If the number is that of a real region.
        ValueError: If there are too few steps or pixels.
    """
    truth = _Truth(ar_number, seed, steps, pixels)
    at_hours = truth.power_ratios(truth.window_hours)
    # Amplitudes are linear in time between hours, so the mean of their square over an hour is the mean of these three.
    first, second = at_hours[:-1], at_hours[1:]
    over_hours = (first + np.sqrt(first * second) + second) / 3
    hours_per_window = WINDOW_FRAMES // FRAMES_PER_STEP
    windows = np.lib.stride_tricks.sliding_window_view(over_hours, hours_per_window, axis=0).mean(axis=-1)
    power = band_mode_power()[:, None, None] * windows

    field, noise = truth.field(truth.field_hours), truth.field_noise(truth.field_hours)
    # The mean of |field + noise|.
    unsigned = noise * np.sqrt(2 / np.pi) * np.exp(-((field / noise) ** 2) / 2)
    unsigned += field * scipy.special.erf(field / noise / np.sqrt(2))
    intensity = truth.intensity(truth.field_hours)
    maps = np.concatenate([power, unsigned[:, None], intensity[:, None]], axis=1)
    return keep_tiles(remove_latitude_background(tile_means(maps)))


def band_mode_power() -> np.ndarray:
    """Return the (4,) power of the modes that follow the field, at a quiet disk's centre, in the unit of `schema`.

    Bin 144 belongs to two bands, and its line, like those outside the bands, is left as it is.

    >>> (band_mode_power() / 1e8).round(2).tolist()
    [1.61, 4.5, 2.55, 1.34]
    """
    bins, amplitudes = _mode_lines()
    power = CADENCE_S / WINDOW_FRAMES * (_DIFFERENCES * amplitudes * np.sin(np.pi * bins / _DIFFERENCES)) ** 2
    ends = [np.where(np.isin(bins, band), 0.5, 1.0) for band in _BANDS]
    return np.array([(power * share)[_lines_of_band(bins) == band].sum() for band, share in enumerate(ends)])


class _Truth:
    """A region without noise: functions of hours since the middle of the first step's window, and of the pixels."""

    def __init__(self, ar_number: int, seed: int, steps: int, pixels: int):
        split_of(ar_number)  # raises for the number of a real region
        if steps < 1 or pixels < PATCH_ROWS:
            raise ValueError(f"steps={steps} and pixels={pixels} must be at least 1 and {PATCH_ROWS}.")
        place = np.random.default_rng([seed, ar_number, 2])
        self.bipole = emergence(ar_number, seed)
        self.trajectory = Trajectory(
            carrington_longitude=place.uniform(0.0, 360.0),
            latitude=place.uniform(-15.0, 15.0),
            t0=start_time(ar_number),
        )
        # Rows and columns in units of kept tiles; `corner` in tiles from the south-east corner of the patch.
        corner = (np.arange(pixels) + 0.5) / (pixels // PATCH_ROWS)
        self.rows, self.columns = (axis - 0.5 for axis in np.meshgrid(corner - 1, corner, indexing="ij"))
        self._offset = np.radians(TILE_DEGREES * (corner - CENTRE_TILES))
        # The full hours of the windows' frames, including the last hour.
        self.window_hours = np.arange(steps + WINDOW_FRAMES // FRAMES_PER_STEP) - (_DIFFERENCES / 2) / FRAMES_PER_STEP
        self.field_hours = np.arange(steps) + (FIELD_FRAME - _DIFFERENCES / 2) / FRAMES_PER_STEP

    def field(self, hours: np.ndarray, lead: float = 0.0) -> np.ndarray:
        """(hours, pixels, pixels) unsigned field along the line of sight `lead` hours later, G, seen now."""
        density = flux_density(self.bipole, hours + lead, self.rows.ravel(), self.columns.ravel())
        return (density * np.cos(disk_longitude(hours))[:, None]).reshape(-1, *self.rows.shape)

    def cosine(self, hours: np.ndarray) -> np.ndarray:
        """(hours, pixels, pixels) cosine of the angle between the vertical and the line of sight."""
        latitude, longitude = self._places(hours)
        observer = np.radians(OBSERVER_LATITUDE)
        return np.sin(latitude) * np.sin(observer) + np.cos(latitude) * np.cos(observer) * np.cos(longitude)

    def rotation(self, hours: np.ndarray) -> np.ndarray:
        """(hours, pixels, pixels) velocity of the Sun's rotation away from the observer, m/s."""
        latitude, longitude = self._places(hours)
        return _ROTATION_M_PER_S * np.cos(np.radians(OBSERVER_LATITUDE)) * np.cos(latitude) * np.sin(longitude)

    def power_ratios(self, hours: np.ndarray) -> np.ndarray:
        """(hours, 4, pixels, pixels) power of the modes in the four bands, in units of `band_mode_power`."""
        fading = 1 - _POWER_LIMB_FADING * (1 - self.cosine(hours))
        response = power_response(self.field(hours, lead=POWER_LEAD_HOURS))
        return fading[:, None] + np.moveaxis(response, 0, 1) / band_mode_power()[:, None, None]

    def field_noise(self, hours: np.ndarray) -> np.ndarray:
        """(hours, pixels, pixels) standard deviation of a magnetogram's noise, G."""
        return _FIELD_NOISE_G * (1 + _FIELD_NOISE_LIMB_GROWTH * (1 - self.cosine(hours)))

    def intensity(self, hours: np.ndarray) -> np.ndarray:
        """(hours, pixels, pixels) continuum intensity, DN."""
        quiet = _DISK_CENTRE_DN * (1 - _LIMB_DARKENING * (1 - self.cosine(hours)))
        return quiet + intensity_response(self.field(hours))

    def _places(self, hours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return latitude and longitude from the central meridian, radians, for a patch small enough to be flat."""
        latitude = np.radians(self.trajectory.latitude) + self._offset[:, None]
        return latitude, disk_longitude(np.asarray(hours))[:, None, None] + self._offset


def _field_frames(steps: int) -> np.ndarray:
    return FIELD_FRAME + FRAMES_PER_STEP * np.arange(steps)


def _mode_lines() -> tuple[np.ndarray, np.ndarray]:
    """Return the bins of the transform of 639 differences, and the amplitude of the line in each bin, m/s."""
    bins = np.arange(*_MODE_BINS)
    frequency = bins / (_DIFFERENCES * CADENCE_S)
    shape = 1 / np.sqrt(1 + ((frequency - _MODE_PEAK_HZ) / _MODE_WIDTH_HZ) ** 2)
    power = CADENCE_S / WINDOW_FRAMES * (_DIFFERENCES * shape * np.sin(np.pi * bins / _DIFFERENCES)) ** 2
    first, last = _BANDS[1]
    inside = (bins >= first) & (bins <= last)
    return bins, shape * np.sqrt(_MODE_POWER_3_4MHZ / np.trapezoid(power[inside]))


def _lines_of_band(bins: np.ndarray) -> np.ndarray:
    """Return the band with which each line is modulated: 0 to 3, or 4 for lines in no band or in two."""
    owners = [(bins >= first) & (bins <= last) for first, last in _BANDS]
    return np.where(np.sum(owners, axis=0) == 1, np.argmax(owners, axis=0), len(_BANDS))


def _velocity(random: np.random.Generator, truth: _Truth, frames: int) -> np.ndarray:
    """Return the velocity, (frames, pixels, pixels) float32, m/s, without the satellite's part."""
    shape = truth.rows.shape
    modes = _modes(random, truth.rows.size)
    velocity = _granulation(random, frames, truth.rows.size)
    amplitudes = (
        np.sqrt(truth.power_ratios(truth.window_hours)).astype(np.float32).reshape(-1, len(_BANDS), modes.shape[-1])
    )
    rotation = truth.rotation(truth.window_hours).astype(np.float32).reshape(-1, modes.shape[-1])
    # Slow changes are linear in time between hours.
    share = (np.arange(FRAMES_PER_STEP, dtype=np.float32) / FRAMES_PER_STEP)[:, None]
    for hour, block in enumerate(velocity.reshape(-1, FRAMES_PER_STEP, velocity.shape[-1])):
        phase = (FRAMES_PER_STEP * hour + np.arange(FRAMES_PER_STEP)) % _DIFFERENCES
        block += modes[-1, phase]
        for band, amplitude in enumerate(amplitudes[hour]):
            block += (amplitude + share * (amplitudes[hour + 1, band] - amplitude)) * modes[band, phase]
        block += rotation[hour] + share * (rotation[hour + 1] - rotation[hour])
    return velocity.reshape(frames, *shape)


def _modes(random: np.random.Generator, pixels: int) -> np.ndarray:
    """Return one period of the lines of each band, and of the other lines: (5, 639, pixels) float32, m/s."""
    bins, amplitudes = _mode_lines()
    turns = random.uniform(size=(len(bins), pixels))
    lines = _DIFFERENCES / 2 * amplitudes[:, None] * np.exp(2j * np.pi * turns)
    spectrum = np.zeros((len(_BANDS) + 1, _DIFFERENCES // 2 + 1, pixels), dtype=np.complex64)
    spectrum[_lines_of_band(bins), bins] = lines
    return scipy.fft.irfft(spectrum, n=_DIFFERENCES, axis=1)


def _granulation(random: np.random.Generator, frames: int, pixels: int) -> np.ndarray:
    """Return the velocity of granulation, (frames, pixels) float32, m/s."""
    length = scipy.fft.next_fast_len(frames, real=True)
    frequency = scipy.fft.rfftfreq(length, CADENCE_S)
    density = _GRANULATION_DENSITY / (1 + (frequency / _GRANULATION_KNEE_HZ) ** 2)
    # Half of the variance of a bin lies in the real part and half in the imaginary part.
    deviation = np.sqrt(density * length / CADENCE_S) / 2
    white = random.standard_normal((len(frequency), pixels, 2), dtype=np.float32)
    white *= deviation.astype(np.float32)[:, None, None]
    spectrum = white.view(np.complex64)[..., 0]
    return scipy.fft.irfft(spectrum, n=length, axis=0, overwrite_x=True)[:frames]


def _dropouts(random: np.random.Generator, ar_number: int, steps: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which frames are missing or bad, and which are bad, (frames,) bool each."""
    # No lone dropout on a full hour, because a step would lose flux and intensity.
    lone = (random.uniform(size=frames) < _SINGLE_DROPOUTS_PER_FRAME) & (np.arange(frames) % FRAMES_PER_STEP != 0)
    bad = lone & (random.uniform(size=frames) < 0.5)
    missing = lone.copy()
    middle = FRAMES_PER_STEP * (3 * steps // 5) + FIELD_FRAME
    if ar_number == GAP_REGION:
        run = slice(middle - ECLIPSE_FRAMES // 2, middle + ECLIPSE_FRAMES // 2)
        missing[run], bad[run] = True, False
    if ar_number == SHORT_RUN_REGION:
        run = slice(middle + 20, middle + 20 + SHORT_RUN_FRAMES)
        missing[run], bad[run] = True, False
    return missing, bad
