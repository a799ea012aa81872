"""A full-disk frame of 4096 x 4096 mapped to a patch of 512 x 512: our code against `reproject_interp` and a read.

All methods run on one core, like a process of the pipeline, and take turns in one run. `reproject_interp` interpolates
bicubically, as we do, and bilinearly, which is less work. The frame is Rice-compressed like those of JSOC, one tile
per row, in steps of 0.5 m/s, and only the rows that the patch needs are read. Our code gathers 16 pixels for each of
262,144 pixels: these 4.2 million loads from the cache take about a third of the time. The rest are some 40 passes over
the patch, for coordinates in float64, weights and sums.
"""

import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import sunpy.coordinates  # noqa: F401 (teaches astropy the coordinates of the Sun)
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from reproject import reproject_interp
from scipy.ndimage import gaussian_filter

from dataset_builder.fits import PatchMapper, Pointing, Trajectory

SIDE = 4096
ROUNDS = 7
STEP_M_S = 0.5
BLANK = -(2**31)


def full_disk_header() -> fits.Header:
    header = fits.Header()
    header.update({"NAXIS": 2, "NAXIS1": SIDE, "NAXIS2": SIDE, "CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN"})
    header.update({"CUNIT1": "arcsec", "CUNIT2": "arcsec", "CRPIX1": 2043.7, "CRPIX2": 2051.1, "CROTA2": 179.93})
    header.update({"CRVAL1": 0.0, "CRVAL2": 0.0, "CDELT1": 0.504338, "CDELT2": 0.504338, "RSUN_REF": 696e6})
    header.update({"DSUN_OBS": 148.2e9, "CRLN_OBS": 132.56, "CRLT_OBS": -7.2267})
    header.update({"DATE-OBS": "2014-03-01T00:00:27.90", "T_OBS": "2014.03.01_00:01:25_TAI"})
    return header


def velocities(header: fits.Header) -> np.ndarray:
    """Return velocities in m/s: rotation, and noise like granules and oscillations; NaN beyond the limb."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32), 1.5)
    row, column = np.indices((SIDE, SIDE), dtype=np.float32)
    x, y = (column + 1 - header["CRPIX1"]) / 1921, (row + 1 - header["CRPIX2"]) / 1921
    return np.where(x**2 + y**2 < 1, -2000 * x + 300 / noise.std() * noise, np.nan)


def write_frame(path: Path, image: np.ndarray, header: fits.Header) -> None:
    steps = np.where(np.isnan(image), BLANK, np.round(np.nan_to_num(image) / STEP_M_S)).astype(np.int32)
    compressed = fits.CompImageHDU(steps, header, compression_type="RICE_1", tile_shape=(1, SIDE))
    compressed.header.update({"BSCALE": STEP_M_S, "BZERO": 0.0, "BLANK": BLANK})
    compressed.writeto(path)


def read_rows(path: Path, rows: slice) -> np.ndarray:
    with fits.open(path) as hdus:
        return hdus[1].section[rows]


def patch_wcs(mapper: PatchMapper, header: fits.Header) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit = ["CRLN-ARC", "CRLT-ARC"], ["deg", "deg"]
    wcs.wcs.crpix, wcs.wcs.cdelt = [(mapper.size + 1) / 2] * 2, [0.06] * 2
    wcs.wcs.crval = [mapper.trajectory.longitude(Pointing.from_header(header).time), mapper.trajectory.latitude]
    wcs.wcs.dateobs = header["DATE-OBS"]
    wcs.wcs.aux.rsun_ref, wcs.wcs.aux.dsun_obs = header["RSUN_REF"], header["DSUN_OBS"]
    wcs.wcs.aux.crln_obs, wcs.wcs.aux.hglt_obs = header["CRLN_OBS"], header["CRLT_OBS"]
    wcs.array_shape = (mapper.size, mapper.size)
    return wcs


def seconds(function, *arguments, **options) -> float:
    start = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - start


def main() -> None:
    warnings.simplefilter("ignore", FITSFixedWarning)
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    header = full_disk_header()
    pointing = Pointing.from_header(header)
    mapper = PatchMapper(Trajectory(110.0, -22.0, np.datetime64("2014-03-01")))
    rows = mapper.rows(pointing)
    image = velocities(header)
    # The spline of `reproject_interp` would spread NaN over the whole image.
    source, target = (np.nan_to_num(image).astype(np.float32), WCS(header)), patch_wcs(mapper, header)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.fits"
        write_frame(path, image, header)
        needed = read_rows(path, rows)
        # Both methods map the same place. Two interpolations differ by the structure of granules between pixels.
        theirs, _ = reproject_interp(source, target, order="bicubic")
        difference = theirs - mapper.map(needed, pointing, rows.start)
        assert np.std(difference) < 0.1 * 300, np.std(difference)

        times = {name: [] for name in ("map", "read", "bicubic", "bilinear")}
        for _ in range(ROUNDS):
            times["read"].append(seconds(read_rows, path, rows))
            times["map"].append(seconds(lambda: mapper.map(needed, pointing, mapper.rows(pointing).start)))
            for order in ("bicubic", "bilinear"):
                times[order].append(seconds(reproject_interp, source, target, order=order))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"map {1e3 * medians['map']:.1f} ms, at best {1e3 * min(times['map']):.1f} ms")
    for order in ("bicubic", "bilinear"):
        ratio = medians[order] / medians["map"]
        print(f"reproject_interp, {order}: {1e3 * medians[order]:.0f} ms, {ratio:.0f} times as long")
    share = medians["read"] / (medians["read"] + medians["map"])
    print(f"read of {len(needed)} rows {1e3 * medians['read']:.0f} ms: {share:.0%} of read and map")


if __name__ == "__main__":
    main()
