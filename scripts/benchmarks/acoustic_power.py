"""Band power of 512 x 512 pixels: our code against loops over pixels like the original's, and a batched real FFT.

The methods take turns in one run with all threads of torch. Our code then runs again with one thread, like a worker of
the cluster. The loops run on some of the pixels, and their time is scaled. 12-minute steps are pushed one hour at a
time. The table also shows the smallest possible arithmetic and memory traffic of a step, and the time that these would
take at the rates that the machine reaches in the same run with a large matrix product and a large copy.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.fft import rfft

from dataset_builder.fits import WINDOW_FRAMES, SlidingBandPower, band_power
from dataset_builder.fits.band_transform import CADENCE_S

BANDS = ((58, 86), (87, 115), (116, 144), (144, 172))
SIDE = 512
PIXELS = SIDE * SIDE
LOOPED_PIXELS = 4096
ROUNDS = 5
HOUR = 80
# Real and imaginary parts of the 115 bins.
SUMS = 230
# A window's two stages: 9 x 639, then, for real and imaginary part, 13 bins from 71 and 102 bins from 142 numbers.
WINDOW_FLOP = 2 * (9 * 639 + 2 * (13 * 71 + 102 * 142))
# A push reads its frames, and reads and writes as many differences, and the sums once.
HOUR_BYTES = 4 * (3 * HOUR + 2 * SUMS)
# For each method: steps per call, then floating point operations and bytes per step and pixel.
OURS = {
    "one window": (1, WINDOW_FLOP, 4 * WINDOW_FRAMES),
    "hourly": (1, 2 * SUMS * HOUR, HOUR_BYTES),
    "12 minutes": (5, 2 * SUMS * HOUR // 5, HOUR_BYTES // 5),
}


def looped(cube: np.ndarray) -> np.ndarray:
    frames = cube.reshape(WINDOW_FRAMES, -1)
    result = np.empty((len(BANDS), frames.shape[1]))
    for pixel in range(frames.shape[1]):
        transform = np.fft.fft(np.diff(frames[:, pixel]))
        power = CADENCE_S / WINDOW_FRAMES * np.abs(transform) ** 2
        for band, (first, last) in enumerate(BANDS):
            result[band, pixel] = np.trapezoid(power[first : last + 1])
    return result.reshape(len(BANDS), *cube.shape[1:])


def batched(cube: np.ndarray) -> np.ndarray:
    transform = rfft(np.diff(cube, axis=0), axis=0, workers=-1)
    power = CADENCE_S / WINDOW_FRAMES * (transform.real**2 + transform.imag**2)
    return np.stack([np.trapezoid(power[first : last + 1], axis=0) for first, last in BANDS])


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    random = np.random.default_rng(0)
    cube = 200 * random.standard_normal((WINDOW_FRAMES, SIDE, SIDE), dtype=np.float32)
    sample = np.ascontiguousarray(cube[:, : LOOPED_PIXELS // SIDE])
    expected = looped(sample)
    assert np.allclose(band_power(sample), expected, rtol=1e-5)
    hourly, twelve_minutes = SlidingBandPower(HOUR), SlidingBandPower(HOUR // 5)
    for stream in (hourly, twelve_minutes):
        assert np.allclose(stream.push(cube)[0, :, : sample.shape[1]], expected, rtol=1e-5)

    matrix = torch.rand(2048, 2048)
    product, copy = torch.empty_like(matrix), torch.empty(64 * 2**20)
    source = torch.rand_like(copy)
    limits = {
        "product": partial(torch.mm, matrix, matrix, out=product),
        "copy": partial(copy.copy_, source),
    }
    ours = {
        "one window": partial(band_power, cube),
        "hourly": partial(hourly.push, cube[:HOUR]),
        "12 minutes": partial(twelve_minutes.push, cube[:HOUR]),
    }
    plain = {"loops": partial(looped, sample), "batched rfft": partial(batched, cube)}
    all_threads = torch.get_num_threads()
    turns = [(name, all_threads, call) for name, call in (plain | limits | ours).items()]
    turns += [(name, 1, call) for name, call in (limits | ours).items() if all_threads > 1]
    times: dict[tuple[str, int], list[float]] = {(name, threads): [] for name, threads, _ in turns}
    for _ in range(ROUNDS):
        for name, threads, call in turns:
            torch.set_num_threads(threads)
            times[name, threads].append(seconds(call))
    torch.set_num_threads(all_threads)

    medians = {turn: statistics.median(values) for turn, values in times.items()}
    loops = medians["loops", all_threads] * PIXELS / LOOPED_PIXELS
    rfft_seconds = medians["batched rfft", all_threads]
    print(f"loops {loops:.1f} s, batched rfft {rfft_seconds:.2f} s a window; medians of {ROUNDS} rounds, (best)")
    for threads in sorted({threads for _, threads in times}, reverse=True):
        most_flop = 2 * 2048**3 / medians["product", threads]
        most_bytes = 2 * copy.nbytes / medians["copy", threads]
        print(f"torch on {threads}: product {most_flop / 1e9:.0f} GFLOP/s, copy {most_bytes / 1e9:.1f} GB/s")
        for name, (steps, flop, moved) in OURS.items():
            step, best = medians[name, threads] / steps, min(times[name, threads]) / steps
            flop, moved = flop * PIXELS, moved * PIXELS
            print(
                f"  {name:10} {step:.3f} s a step ({best:.3f}), loops take {loops / step:3.0f} times as long,"
                f" rfft {rfft_seconds / step:4.1f}; {flop / step / 1e9:3.0f} GFLOP/s, {moved / step / 1e9:.1f} GB/s:"
                f" {flop / most_flop:.3f} s of arithmetic, {moved / most_bytes:.3f} s of memory"
            )


if __name__ == "__main__":
    main()
