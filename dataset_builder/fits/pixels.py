"""The pixels of FITS files, and the patch that an image of the Sun shows."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from astropy.io import fits

from dataset_builder.fits.axes import number
from dataset_builder.fits.headers import ObservationFile
from dataset_builder.fits.opened_fits import Unreachable, open_fits
from dataset_builder.fits.tracking import PatchMapper, Pointing
from solared_hf.errors import SolaredError


def read_planes(file: ObservationFile, planes: slice) -> np.ndarray:
    """Return planes of a file, (planes, rows, columns) float32; unobserved pixels are NaN.

    Raises:
        Unreachable: If the file cannot be read here and now, or has changed since it was scanned.
        SolaredError: If the pixels cannot be decoded.
    """
    with _open_image(file) as hdu:
        # A file of a single patch has two axes.
        section = hdu.section[planes] if len(hdu.shape) == 3 else hdu.section[:][np.newaxis][planes]
        return _pixels(section, hdu.header, file.scale)


def read_patch(file: ObservationFile, mapper: PatchMapper) -> np.ndarray | None:
    """Return the patch that an image of the Sun shows; only the rows that the patch needs are decoded.

    Args:
        file: a file of the form `IMAGE`.
        mapper: says where the patch lies.

    Returns:
        (size, size) float32, in the unit of the observable, as `PatchMapper.map` returns; unobserved pixels are NaN.
        None if nothing was observed in these rows.

    Raises:
        Unreachable: If the file cannot be read here and now, or has changed since it was scanned.
        SolaredError: If the pixels cannot be decoded, or the header does not say where the Sun is in the image.
    """
    with _open_image(file) as hdu:
        pointing = Pointing.from_header(hdu.header)
        rows = mapper.rows(pointing)
        pixels = _pixels(hdu.section[rows], hdu.header, file.scale)
    return None if is_empty(pixels) else mapper.map(pixels, pointing, rows.start)


def is_empty(pixels: np.ndarray) -> bool:
    """Return True if every pixel is NaN, or there is none.

    The middle row is looked at first, because it usually has observed pixels.
    """
    return bool(np.isnan(pixels[len(pixels) // 2 :][:1]).all() and np.isnan(pixels).all())


@contextmanager
def _open_image(file: ObservationFile) -> Iterator[fits.ImageHDU | fits.CompImageHDU]:
    try:
        with open_fits(file.path) as (hdus, opened):
            hdu = hdus[file.hdu] if opened.size == file.size else None
            if hdu is None or (1, *hdu.shape)[-3:] != file.shape:
                raise Unreachable(f"{file.path} has changed since it was scanned. Run the same command again")
            yield hdu
            opened.check()
    except SolaredError:
        raise
    except Exception as error:  # on damaged bytes decoders raise almost anything
        raise SolaredError(f"{file.path} cannot be decoded ({error}). Download it again.") from error


def _pixels(section: np.ndarray, header: fits.Header, scale: float) -> np.ndarray:
    """Return the pixels in the unit of the observable, with NaN where nothing was observed.

    BLANK belongs to scaled integers, for which astropy applies it. Some files give BLANK for other pixels as well.
    """
    pixels = np.require(section, dtype=np.float32, requirements="W")
    blank = header.get("BLANK")
    if blank is not None and (section.dtype.kind != "f" or header["BITPIX"] < 0 or not isinstance(blank, int)):
        blank = number(blank) * header.get("BSCALE", 1.0) + header.get("BZERO", 0.0)
        pixels[np.isclose(pixels, blank, rtol=1e-6, atol=0)] = np.nan
    if scale != 1:
        pixels *= np.float32(scale)
    # The sum is finite only if every pixel is, which one pass over the pixels tells.
    if not np.isfinite(pixels.sum()):
        pixels[np.isinf(pixels)] = np.nan
    return pixels
