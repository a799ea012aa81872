"""Band power of 512 x 512 pixels: ours against loops over pixels as the original's, and against one batched real FFT.

The methods take turns in one run. The loops run on a part of the pixels, and their time is scaled. What bounds ours: a
window is a product of 230 x 639 by 639 x 262,144 (77 GFLOP), a sliding step of L frames one of 230 x L by L x 262,144
and one pass over the sums (230 x 262,144 float32, 241 MB).
"""

import statistics
import time

import numpy as np
from scipy.fft import rfft

from dataset_builder.acoustic_power import BANDS, CADENCE_S, FRAMES, SlidingBandPower, band_power

SIDE = 512
LOOPED_PIXELS = 4096
ROUNDS = 3
STEPS = {"hourly": 80, "12 minutes": 16}


def looped(cube: np.ndarray) -> np.ndarray:
    frames = cube.reshape(FRAMES, -1)
    result = np.empty((len(BANDS), frames.shape[1]))
    for pixel in range(frames.shape[1]):
        transform = np.fft.fft(np.diff(frames[:, pixel]))
        power = CADENCE_S / FRAMES * np.abs(transform) ** 2
        for band, (first, last) in enumerate(BANDS):
            result[band, pixel] = np.trapezoid(power[first : last + 1])
    return result.reshape(len(BANDS), *cube.shape[1:])


def batched(cube: np.ndarray) -> np.ndarray:
    transform = rfft(np.diff(cube, axis=0), axis=0, workers=-1)
    power = CADENCE_S / FRAMES * (transform.real**2 + transform.imag**2)
    return np.stack([np.trapezoid(power[first : last + 1], axis=0) for first, last in BANDS])


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main() -> None:
    random = np.random.default_rng(0)
    cube = random.normal(0, 200, (FRAMES, SIDE, SIDE)).astype(np.float32)
    sample = np.ascontiguousarray(cube[:, : LOOPED_PIXELS // SIDE])
    assert np.allclose(band_power(sample), looped(sample), rtol=1e-5)
    streams = {name: SlidingBandPower() for name in STEPS}
    for stream in streams.values():
        stream.push(cube)

    times = {name: [] for name in ("loops", "batched rfft", "one window", *STEPS)}
    for _ in range(ROUNDS):
        times["loops"].append(seconds(looped, sample) * SIDE * SIDE / LOOPED_PIXELS)
        times["batched rfft"].append(seconds(batched, cube))
        times["one window"].append(seconds(band_power, cube))
        for name, frames in STEPS.items():
            times[name].append(seconds(streams[name].push, cube[:frames]))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:14} {median:7.3f} s, loops take {medians['loops'] / median:6.0f} times as long")
    print(f"one window: {2 * 230 * 639 * SIDE * SIDE / medians['one window'] / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
