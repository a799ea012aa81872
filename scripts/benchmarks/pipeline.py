"""`solared build --source fits` of one region of 240 hourly steps: memory, and two Dask workers against one.

The input is 19,760 tracked dopplergrams of 512 x 512 pixels, scaled integers like those of HMI, one hour per file: 10
GB in the temporary folder. The same hour of noise is repeated, which changes neither reading nor arithmetic. A step
reads and scales its 80 frames (42 MB to 84 MB), and updates the sums of the sliding window (see sliding_power.py). A
segment of 60 steps also reads 7 h of frames that the previous segment reads.
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from astropy.io import fits

STEPS = 240
SIDE = 512
HOUR = 80
START = np.datetime64("2013-04-15T11:00:00")


def write_region(folder: Path) -> None:
    random = np.random.default_rng(0)
    hour = random.normal(0, 600, (HOUR, SIDE, SIDE)).astype(np.int16)
    field = random.normal(0, 100, (1, SIDE, SIDE)).astype(np.int16)
    for observable, planes, offset in (("dopplergram", hour, 0), ("magnetogram", field, 4), ("continuum", field, 4)):
        (folder / observable).mkdir(parents=True)
        for index in range(STEPS + (7 if observable == "dopplergram" else 0)):
            time_text = str(START + np.timedelta64(index + offset, "h")).replace("-", ".").replace("T", "_")
            hdu = fits.PrimaryHDU(planes)
            hdu.header.update({"T_REC": f"{time_text}_TAI", "CDELT3": 45.0, "BSCALE": 0.5, "BZERO": 0.0})
            hdu.add_checksum()
            hdu.writeto(folder / observable / f"{index:03d}.fits")


def build(raw: Path, output: Path, workers: int) -> tuple[float, float, float]:
    """Return the seconds, and the peak memory in GB of all processes together and of the largest process."""
    arguments = ["--source", "fits", "--input", str(raw), "--output", str(output), "--workers", str(workers)]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "solared_hf", "build", *arguments], stderr=subprocess.DEVNULL)
    largest = [0, 0]

    def watch() -> None:
        while process.poll() is None:
            try:
                main = psutil.Process(process.pid)
                sizes = [one.memory_info().rss for one in (main, *main.children(recursive=True))]
                largest[:] = max(largest[0], sum(sizes)), max(largest[1], *sizes)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        raise SystemExit(f"The build with {workers} workers failed.")
    seconds = time.perf_counter() - start
    watcher.join()
    return seconds, largest[0] / 1e9, largest[1] / 1e9


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary) / "raw"
        write_region(raw / "AR99999")
        times = {}
        for workers in (1, 2):
            times[workers], together, largest = build(raw, Path(temporary) / f"out{workers}", workers)
            print(
                f"{workers} workers: {times[workers]:.1f} s, {times[workers] / STEPS:.2f} s a step; "
                f"{together:.2f} GB in all processes, {largest:.2f} GB in the largest"
            )
    print(f"two workers are {times[1] / times[2]:.2f} times as fast as one")


if __name__ == "__main__":
    main()
