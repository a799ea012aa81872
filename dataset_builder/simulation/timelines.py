"""A simulated Sun: a few emerging regions in the published format, so that everything runs without a download.

Nothing here is an observation. The amplitudes are those of the published files (52 regions, hourly, 63 tiles):

- *Flux* of the strongest tile grows from the noise to 200-480 G in one to three days, then decays over days.
- *Acoustic power* falls as soon as flux appears and saturates: about -140e6 at 100 G, -250e6 at 250 G, -310e6 at 450 G
  in 3-4 mHz; 0.19 and 0.42 of that in 2-3 and 4-5 mHz. In 5-6 mHz weak field brightens first (the acoustic halo, +9e6
  at 40 G) and strong field darkens (-30e6).
- *Continuum intensity* brightens by some 300 DN in weak field (faculae) and falls by about 30 DN per gauss above 90 G,
  when pores form. Intensity therefore follows the power by many hours, which makes a forecast possible and persistence
  poor.
- *Background*: the correction by rows 0 and 8 leaves a remainder of the limb darkening, close to a parabola over the
  rows: zero at the ends, 630 DN at the centre. It varies by a quarter while the region crosses the disk.
- *Noise*: power windows of 8 h overlap by 7/8, so part of the power noise, 76 % of the variance in the lowest band and
  24 % in the highest, is a moving mean of eight hourly draws; the rest has a memory of a day. Flux noise has a memory
  of about 12 h; half of the intensity noise is white. Removing the background from a column gives its seven tiles a
  common part, a correlation of 0.4. The satellite's orbit leaves a weak wave of 24 h.
- Edge tiles beyond the limb are NaN as whole columns, and eclipses leave gaps.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_builder.published.files import write_published
from solared_hf.data.timelines import Timeline
from solared_hf.errors import SolaredError, whole_number
from solared_hf.schema import CHANNELS, POWER_CHANNELS, TILE_COLUMNS, TILE_ROWS

# NOAA numbers will not reach 90,001 for decades, so a simulated region is never taken for a real region.
FIRST_SIMULATED = 90_001
SIMULATED_REGIONS = range(FIRST_SIMULATED, FIRST_SIMULATED + 10)
_SPLIT_OF_TEN = ("train",) * 6 + ("validation",) * 2 + ("test",) * 2

GAP_REGION, GAP_STEPS = FIRST_SIMULATED + 2, 9
NAN_REGION, NAN_POWER_STEPS, NAN_FIELD_STEPS = FIRST_SIMULATED + 4, 3, 1

# Before SDO was launched. Regions are seen one after another and overlap by a day, as some real regions do.
_FIRST_TIME = np.datetime64("2001-01-01T00:59:37.500", "ms")
_CADENCE = np.timedelta64(1, "h")
_REGION_SPACING = np.timedelta64(9, "D")

_POWER_WINDOW_STEPS = 8
_WINDOW_NOISE_SHARE = np.array([0.76, 0.40, 0.31, 0.24])[:, None]
_DISK_CROSSING_HOURS = 240.0
_LIMB_LONGITUDE = np.deg2rad(60.0)
_COLUMN_NOISE_SHARE = 0.4

# By channel, in the units of the channel: background at the patch centre, noise, orbital wave.
_BACKGROUND = np.array([0.9e6, 4.5e6, 3.3e6, 1.15e6, 0.5, 630.0])
_NOISE = np.array([1.5e6, 5.7e6, 2.4e6, 0.76e6, 0.94, 118.0])
_ORBITAL_WAVE = np.array([0.23e6, 0.72e6, 0.33e6, 0.10e6, 0.12, 10.0])

_SUPPRESSION = np.array([0.19, 1.0, 0.42]) * 350e6
_SUPPRESSION_SCALE_G = 200.0
_HALO, _HALO_SCALE_G = 25e6, 40.0
_HIGH_FREQUENCY_SUPPRESSION, _HIGH_FREQUENCY_SCALE_G = 30e6, 300.0
_FACULAE_DN, _FACULAE_SCALE_G = 300.0, 20.0
_DARKENING_DN_PER_G, _PORE_FIELD_G, _PORE_SOFTNESS_G = 30.0, 90.0, 8.0
# Rising flux affects the wave field below the surface before the magnetogram shows the flux.
POWER_LEAD_HOURS = 3.0


@dataclass(frozen=True)
class Emergence:
    """A bipole that rises at a known time and place: the truth behind a simulated region.

    Args:
        onset_hours: hours from the first step until flux begins to rise at the surface.
        rise_hours: hours from the onset until the flux reaches its peak.
        decay_hours: e-folding time of the flux afterwards.
        row, column: centre of the bipole among the 7 x 9 kept tiles, counted from south and east; may be fractions.
        peak_field: mean unsigned flux density of a tile at a polarity's centre, G, seen from above.
        separation: distance of the two polarities along the row when the flux peaks, in tiles.
    """

    onset_hours: float
    rise_hours: float
    decay_hours: float
    row: float
    column: float
    peak_field: float
    separation: float

    @property
    def tile(self) -> int:
        """Number of the kept tile (0..62) with most flux at the peak: a polarity comes closest to its centre."""
        polarities = [self.column - self.separation / 2, self.column + self.separation / 2]
        nearest = min(polarities, key=lambda polarity: abs(polarity - round(polarity)))
        return round(self.row) * TILE_COLUMNS + round(nearest)


def is_simulated(ar_number: int) -> bool:
    """Return True if the number is that of a simulated region."""
    return ar_number >= FIRST_SIMULATED


def split_of(ar_number: int) -> str:
    """Return the split of a simulated region: of every ten, six train, two validate, two test.

    >>> [split_of(number) for number in (90001, 90007, 90010)]
    ['train', 'validation', 'test']

    Raises:
        SolaredError: If the number is that of a real region.
    """
    if not is_simulated(ar_number):
        raise SolaredError(f"AR{ar_number} is not a simulated region. Simulated numbers start at {FIRST_SIMULATED}.")
    return _SPLIT_OF_TEN[(ar_number - FIRST_SIMULATED) % len(_SPLIT_OF_TEN)]


def emergence(ar_number: int, seed: int = 0) -> Emergence:
    """Return when, where and how strongly a simulated region emerges; the same arguments give the same result."""
    random = np.random.default_rng([seed, ar_number, 0])
    return Emergence(
        onset_hours=random.uniform(75.0, 130.0),
        rise_hours=random.uniform(28.0, 60.0),
        decay_hours=random.uniform(100.0, 250.0),
        row=3 + random.uniform(-0.4, 0.4),
        column=4 + random.uniform(-1.4, 1.4),
        peak_field=random.uniform(260.0, 480.0),
        separation=random.uniform(0.8, 1.8),
    )


def start_time(ar_number: int) -> np.datetime64:
    """Return the time of a simulated region's first step, naive TAI."""
    return _FIRST_TIME + (ar_number - FIRST_SIMULATED) * _REGION_SPACING


def disk_longitude(hours: np.ndarray) -> np.ndarray:
    """Return the angle of a simulated region from the central meridian, west positive, radians.

    Args:
        hours: hours since the first step, of any shape; the result has the same shape.

    >>> np.degrees(disk_longitude(np.array([0.0, 120.0, 240.0]))).round()
    array([-60.,   0.,  60.])
    """
    return _LIMB_LONGITUDE * _disk_crossing(hours)


def _disk_crossing(hours: np.ndarray) -> np.ndarray:
    """Return how far a region is across the disk, -1 at the first step and 1 after `_DISK_CROSSING_HOURS`."""
    return 2 * hours / _DISK_CROSSING_HOURS - 1


def flux_density(bipole: Emergence, hours: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the unsigned flux density of an emerging bipole, without noise and foreshortening.

    The flux grows as a smooth step over `rise_hours` and then decays exponentially, while two round polarities of 0.7
    tiles drift apart.

    Args:
        bipole: the emerging bipole.
        hours: (T,) hours since the first step.
        rows, columns: (P,) places in units of kept tiles; may be fractions.

    Returns:
        (T, P) float64, G.
    """
    hours = np.asarray(hours, dtype=np.float64)[:, None]
    phase = np.clip((hours - bipole.onset_hours) / bipole.rise_hours, 0.0, 1.0)
    growth = phase**2 * (3 - 2 * phase)
    past_peak = np.maximum(hours - bipole.onset_hours - bipole.rise_hours, 0.0)
    strength = bipole.peak_field * growth * np.exp(-past_peak / bipole.decay_hours)
    shapes = [
        np.exp(-((rows - bipole.row) ** 2 + (columns - bipole.column - side * phase) ** 2) / (2 * 0.7**2))
        for side in (-bipole.separation / 2, bipole.separation / 2)
    ]
    return strength * np.maximum(*shapes)


def power_response(field: np.ndarray) -> np.ndarray:
    """Return the change of acoustic power, (4, ...) in the unit of the power channels, by a field of any shape, G.

    >>> (power_response(np.array([40.0, 250.0])) / 1e6).round().tolist()
    [[-12.0, -47.0], [-63.0, -250.0], [-27.0, -105.0], [9.0, -15.0]]
    """
    saturation = 1 - np.exp(-field / _SUPPRESSION_SCALE_G)
    halo = _HALO * field / _HALO_SCALE_G * np.exp(-field / _HALO_SCALE_G)
    absorbed = _HIGH_FREQUENCY_SUPPRESSION * (1 - np.exp(-((field / _HIGH_FREQUENCY_SCALE_G) ** 2)))
    return np.stack([*(-depth * saturation for depth in _SUPPRESSION), halo - absorbed])


def intensity_response(field: np.ndarray) -> np.ndarray:
    """Return the change of continuum intensity, DN, by a field of any shape, G.

    >>> intensity_response(np.array([20.0, 100.0, 250.0])).round(-2).tolist()
    [200.0, -100.0, -4500.0]
    """
    faculae = _FACULAE_DN * (1 - np.exp(-field / _FACULAE_SCALE_G))
    # A rounded corner at the field where pores form.
    over = _PORE_SOFTNESS_G * np.logaddexp(0, (field - _PORE_FIELD_G) / _PORE_SOFTNESS_G)
    return faculae - _DARKENING_DN_PER_G * over


def simulate_region(ar_number: int, seed: int = 0, steps: int = 240) -> Timeline:
    """Return the timeline of one simulated region, after background removal, as in the published files.

    `GAP_REGION` lacks `GAP_STEPS` steps after three fifths of the time. In `NAN_REGION` the eastern column of tiles is
    NaN at the beginning, in power for longer than in flux and intensity.

    Args:
        ar_number: `FIRST_SIMULATED` or more.
        seed: the same seed gives the same values, bit for bit.
        steps: hourly steps, before a gap is cut out; the region emerges within the first 130 hours.

    Raises:
        SolaredError: If the number is that of a real region.

    >>> simulate_region(90001).values.shape
    (240, 6, 63)
    """
    split_of(ar_number)  # raises for the number of a real region
    steps = whole_number(steps, "The number of steps", "simulate at least one")
    bipole = emergence(ar_number, seed)
    hours = np.arange(steps, dtype=np.float64)
    rows, columns = (axis.ravel() for axis in np.divmod(np.arange(TILE_ROWS * TILE_COLUMNS), TILE_COLUMNS))
    # Magnetograms see the component along the line of sight, so the field fades towards the limb.
    across = _disk_crossing(hours)
    seen = np.cos(disk_longitude(hours))[:, None]
    field = flux_density(bipole, hours, rows, columns) * seen
    field_below = flux_density(bipole, hours + POWER_LEAD_HOURS, rows, columns) * seen

    response = np.stack([*power_response(field_below), field, intensity_response(field)], axis=1)
    parabola = (rows + 1) * (TILE_ROWS - rows) / 16
    background = (1 - 0.25 * across**2)[:, None, None] * _BACKGROUND[:, None] * parabola
    random = np.random.default_rng([seed, ar_number, 1])
    orbit = np.sin(2 * np.pi * (hours / 24 + random.uniform()))[:, None, None] * _ORBITAL_WAVE[:, None]
    values = (response + background + orbit + _noise(random, steps)).astype(np.float32)

    times = start_time(ar_number) + np.arange(steps) * _CADENCE
    if ar_number == NAN_REGION:
        eastern = np.flatnonzero(columns == 0)
        values[:NAN_POWER_STEPS, : len(POWER_CHANNELS), eastern] = np.nan
        values[:NAN_FIELD_STEPS, :, eastern] = np.nan
    if ar_number == GAP_REGION:
        start = 3 * steps // 5
        lost = slice(start, start + GAP_STEPS)
        times, values = np.delete(times, lost), np.delete(values, lost, axis=0)
    return Timeline(ar_number, times, values)


def write_simulated(
    folder: Path | str, regions: Iterable[int] = SIMULATED_REGIONS, seed: int = 0, steps: int = 240
) -> None:
    """Write simulated regions into `folder` in the published format; the arguments are those of `simulate_region`."""
    for ar_number in regions:
        write_published(folder, simulate_region(ar_number, seed, steps))


def _noise(random: np.random.Generator, steps: int) -> np.ndarray:
    """Return (T, 6, 63) correlated noise of unit variance times `_NOISE`."""
    spin_up = 5 * 12
    shape = (spin_up + steps, len(CHANNELS), TILE_ROWS, TILE_COLUMNS)
    own, shared = random.standard_normal(shape), random.standard_normal((*shape[:2], 1, TILE_COLUMNS))
    white = np.sqrt(1 - _COLUMN_NOISE_SHARE) * own + np.sqrt(_COLUMN_NOISE_SHARE) * shared
    white = white.reshape(*shape[:2], -1)

    # Slow noise needs separate draws, because it must not correlate with the fast noise.
    slow = random.standard_normal(white.shape)
    windows = np.lib.stride_tricks.sliding_window_view(white[:, :4], _POWER_WINDOW_STEPS, axis=0)
    fast_power = windows.mean(axis=-1)[-steps:] * np.sqrt(_POWER_WINDOW_STEPS)
    slow_power = _autoregression(slow[:, :4], 24.0)[-steps:]
    power = np.sqrt(_WINDOW_NOISE_SHARE) * fast_power + np.sqrt(1 - _WINDOW_NOISE_SHARE) * slow_power
    flux = _autoregression(white[:, 4:5], 12.0)[-steps:]
    intensity = np.sqrt(0.5) * (white[:, 5:] + _autoregression(slow[:, 5:], 5.0))[-steps:]
    return np.concatenate([power, flux, intensity], axis=1) * _NOISE[:, None]


def _autoregression(white: np.ndarray, hours: float) -> np.ndarray:
    """Return a first-order autoregression along axis 0 with unit variance and the given e-folding time."""
    memory = np.exp(-1 / hours)
    result = np.empty_like(white)
    result[0] = white[0]
    for step in range(1, len(white)):
        result[step] = memory * result[step - 1] + np.sqrt(1 - memory**2) * white[step]
    return result
