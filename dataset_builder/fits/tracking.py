"""From images of the Sun to patches that follow a region.

An image is a pinhole picture of a sphere, so one matrix takes points on the Sun to pixels. The points of a patch are
computed once, and each frame costs a matrix product and the interpolation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np

from dataset_builder.fits.axes import read_axes
from dataset_builder.fits.times import parse_time
from dataset_builder.fits.units import arcsec
from solared_hf.errors import SolaredError

# The radius that HMI's pipeline uses; sunpy's radius is 695.7 Mm, which is up to half a pixel off.
HMI_SOLAR_RADIUS = 696.0e6
# Plausible values in m, so that a value in another unit is refused: the radii in use, and SDO's distance.
_SOLAR_RADII, _DISTANCES = (6.9e8, 7.0e8), (1.4e11, 1.6e11)
# Plausible radius of the Sun in pixels, so that a wrong unit of angles is refused.
_RADIUS_PIXELS = (10, 100_000)

Matrix = tuple[tuple[float, float], tuple[float, float]]

_ARCSEC_PER_RADIAN = np.degrees(3600)
# Pixels of the patch per block, so that the scratch arrays of a block stay in the cache.
_PIXELS_AT_ONCE = 16_384
# Pixels of NaN around the used part of the image: two for the kernel, two for points that lie further out.
_FRAME = 4


@dataclass(frozen=True)
class Trajectory:
    """Where the centre of a region's patch is at any time.

    The centre keeps its latitude B. In Carrington longitude it moves at the rate of JSOC's `mtrack`, relative to
    Carrington's 2.865329 urad/s: -0.02893 - 0.3441 sin^2 B - 0.5037 sin^4 B urad/s.

    Args:
        carrington_longitude: longitude at `t0`, degrees.
        latitude: degrees north.
        t0: naive TAI, kept to the millisecond.

    Raises:
        SolaredError: If an angle is out of range, or `t0` is not a time.

    >>> Trajectory(100.0, 0.0, np.datetime64("2011-02-15")).longitude(np.datetime64("2011-02-16"))
    99.85678...
    """

    carrington_longitude: float
    latitude: float
    t0: np.datetime64

    def __post_init__(self):
        if not -180 <= self.carrington_longitude <= 360:
            raise SolaredError(
                f"Carrington longitude {self.carrington_longitude} is not in degrees. Give -180 to 360 (or 0 to 360)."
            )
        if not -90 <= self.latitude <= 90:
            raise SolaredError(f"Latitude {self.latitude} is not in degrees. Give -90 (south) to 90 (north).")
        t0 = np.datetime64(self.t0, "ms")
        if np.isnat(t0):
            raise SolaredError("The trajectory has no time t0. Give the TAI at which the region is at its longitude.")
        object.__setattr__(self, "t0", t0)

    def longitude(self, time: np.datetime64) -> float:
        """Return the Carrington longitude of the centre at a time (naive TAI), 0 to 360 degrees."""
        seconds = (time - self.t0) / np.timedelta64(1, "s")
        sine_squared = np.sin(np.radians(self.latitude)) ** 2
        rate = (-0.02893 - 0.3441 * sine_squared - 0.5037 * sine_squared**2) * 1e-6
        return float((self.carrington_longitude + np.degrees(rate * seconds)) % 360)


@dataclass(frozen=True)
class Pointing:
    """Where the Sun is in an image, read from the header of a helioprojective gnomonic image (HPLN-TAN).

    Args:
        shape: rows and columns of the image.
        reference_pixel: CRPIX1 and CRPIX2, counted from 1.
        reference_value: CRVAL1 and CRVAL2, arcsec.
        scale: arcsec to the west and to the north for a pixel along columns and along rows,
            ((CD1_1, CD1_2), (CD2_1, CD2_2)) of FITS.
        distance: distance of the observer from the centre of the Sun, m.
        radius: radius of the Sun, m.
        carrington_longitude: longitude of the observer, degrees.
        latitude: latitude of the observer, degrees.
        time: the time for which the observer's position is stated, naive TAI.
    """

    shape: tuple[int, int]
    reference_pixel: tuple[float, float]
    reference_value: tuple[float, float]
    scale: Matrix
    distance: float
    radius: float
    carrington_longitude: float
    latitude: float
    time: np.datetime64

    @classmethod
    def from_header(cls, header: Mapping) -> "Pointing":
        """Return the pointing in an HMI header, full disk or a cutout, which differ only in CRPIX and size.

        The axes may be spelled in any way that `axes.read_axes` knows, in any order, and CUNIT may be any unit of
        angles. The time is T_OBS, for which CRLN_OBS, CRLT_OBS and DSUN_OBS are stated. The radius is RSUN_REF, or
        HMI's 696.0 Mm. The rotation is taken from PCi_j or CDi_j if these are given, as FITS defines it (Greisen and
        Calabretta, Astronomy & Astrophysics 395, 1061, 2002, section 2.1), and otherwise from CROTA2 (Calabretta and
        Greisen, Astronomy & Astrophysics 395, 1077, 2002, section 6.1).

        Args:
            header: an astropy header, or any mapping of keywords.

        Raises:
            SolaredError: If a keyword is missing, or has a value that no image of the Sun can have.
        """
        axes = read_axes(header)
        if axes.is_map:
            raise SolaredError(
                f"The image is not a picture of the Sun: CTYPE1 is {header['CTYPE1']!r}. Use HMI images."
            )
        scale, reference = _scale(header, axes.swapped)
        if np.linalg.det(scale) == 0:
            raise SolaredError(f"The header gives pixels of no size ({scale} arcsec). Download the file again.")
        distance, radius = _number(header, "DSUN_OBS"), _number(header, "RSUN_REF", HMI_SOLAR_RADIUS)
        if not 0 < radius < distance:
            raise SolaredError(
                f"The header puts the observer inside the Sun: DSUN_OBS is {distance:g} m and RSUN_REF {radius:g} m. "
                "Download the file again."
            )
        _check(header, scale, distance, radius)
        try:
            time = parse_time(header.get("T_OBS"))
        except SolaredError as error:
            raise SolaredError(f"The header does not say in T_OBS when the image was taken: {error}") from error
        return cls(
            shape=(int(_number(header, "NAXIS2")), int(_number(header, "NAXIS1"))),
            reference_pixel=(_number(header, "CRPIX1"), _number(header, "CRPIX2")),
            reference_value=reference,
            scale=scale,
            distance=distance,
            radius=radius,
            carrington_longitude=_number(header, "CRLN_OBS"),
            latitude=_number(header, "CRLT_OBS"),
            time=time,
        )

    def camera(self, longitude: float) -> np.ndarray:
        """Return the (4, 4) matrix that takes points on the Sun to pixels.

        The matrix applies to (x, y, z, 1): a point in solar radii, with z north and x towards the given Carrington
        longitude. In the result, the first two components over the third are the 0-based column and row; the fourth is
        positive if the point is on the near side of the limb.

        The rotations and the projection are those of Thompson, Astronomy & Astrophysics 449, 791 (2006), and of FITS
        for TAN (Calabretta and Greisen, Astronomy & Astrophysics 395, 1077, 2002, section 5.1.3), as one product.

        Args:
            longitude: Carrington longitude of the x axis, degrees.
        """
        distance = self.distance / self.radius
        # Axes: towards the observer, west, north.
        toward, west, north = _turn(0, 2, self.latitude) @ _turn(0, 1, self.carrington_longitude - longitude)
        seen = np.zeros((3, 4))
        seen[:, :3] = west, north, -toward
        seen[2, 3] = distance
        column, row = self.reference_value
        # Axes: west, north, and away from the observer towards the reference point.
        seen = _turn(2, 1, row / 3600) @ _turn(2, 0, column / 3600) @ seen
        plate = np.eye(3)
        plate[:2, :2] = np.linalg.inv(self.scale) * _ARCSEC_PER_RADIAN
        plate[:2, 2] = np.subtract(self.reference_pixel, 1)
        return np.vstack([plate @ seen, [*toward, -1 / distance]])


class PatchMapper:
    """Maps images of the Sun to patches that move with a region, in Postel's azimuthal equidistant projection.

    The projection is `ARC` of FITS (Calabretta and Greisen, Astronomy & Astrophysics 395, 1077, 2002, section 5.1.6).
    Row 0 is south and column 0 is east. The region's centre lies in the middle; if the size is even, where the four
    middle pixels meet. The position of each patch pixel in an image is computed in float64. The value comes from the
    16 pixels around by cubic convolution with a = -1/2, as in JSOC's `mtrack` (Keys, IEEE Transactions on Acoustics,
    Speech, and Signal Processing 29, 1153, 1981).

    Args:
        trajectory: where the centre of the patch is at any time.
        size: pixels a side.
        degrees_per_pixel: heliographic degrees, along great circles through the centre.

    Raises:
        SolaredError: If the patch has no pixels, or does not fit on a hemisphere.
    """

    def __init__(self, trajectory: Trajectory, *, size: int = 512, degrees_per_pixel: float = 0.06):
        if not (size >= 1 and degrees_per_pixel > 0 and size * degrees_per_pixel < 127):
            raise SolaredError(
                f"A patch of {size} pixels of {degrees_per_pixel} degrees does not fit on a hemisphere. Choose a "
                "size whose side is below 127 degrees."
            )
        self.trajectory = trajectory
        self.size = size
        offsets = np.radians((np.arange(size) - (size - 1) / 2) * degrees_per_pixel)
        north, west = (axis.ravel() for axis in np.meshgrid(offsets, offsets, indexing="ij"))
        angle = np.hypot(north, west)
        # np.sinc(x) is sin(pi x) / (pi x), and 1 at the centre.
        shrink = np.sinc(angle / np.pi)
        tilt = _turn(0, 2, -trajectory.latitude)
        x, y, z = tilt @ np.stack([np.cos(angle), west * shrink, north * shrink])
        self._points = np.stack([x, y, z, np.ones_like(x)])
        self._edges = self._points[:, np.maximum(np.abs(north), np.abs(west)) == offsets[-1]]

    def pixel_coordinates(self, pointing: Pointing) -> tuple[np.ndarray, np.ndarray]:
        """Return where the patch's pixels lie in the image: 0-based columns and rows, each (size, size) float64.

        Pixels beyond the limb are NaN; pixels outside the image have coordinates too.
        """
        column, row, depth, height = self._camera(pointing) @ self._points
        column, row = (np.where(height > 0, axis / depth, np.nan) for axis in (column, row))
        return column.reshape(self.size, self.size), row.reshape(self.size, self.size)

    def rows(self, pointing: Pointing) -> slice:
        """Return the image rows that `map` needs; an empty slice if the image shows no pixel of the patch."""
        return self._window(pointing)[0]

    def map(self, image: np.ndarray, pointing: Pointing, first_row: int = 0) -> np.ndarray:
        """Return the patch that an image shows.

        Args:
            image: (rows, columns) of any number type and byte order: the whole image, or some rows that include
                `rows(pointing)`.
            pointing: pointing of the whole image.
            first_row: the row of the whole image with which `image` begins.

        Returns:
            (size, size) float32, in the unit of the image. A pixel is NaN beyond the limb, and if any of the 16 pixels
            around it is NaN, outside the image, or not among the given rows.

        Raises:
            ValueError: If the given rows cannot be part of an image of `pointing.shape`.
        """
        image = np.asarray(image)
        image_rows, image_columns = pointing.shape
        if image.ndim != 2 or image.shape[1] != image_columns or not 0 <= first_row <= image_rows - len(image):
            raise ValueError(
                f"Rows of shape {image.shape} from row {first_row} are not part of an image of shape {pointing.shape}."
            )
        rows, columns = self._window(pointing)
        rows = slice(max(rows.start, first_row), min(rows.stop, first_row + len(image)))
        height, width = max(rows.stop - rows.start, 0), columns.stop - columns.start
        # A frame of NaN around the needed pixels, wide enough to compute every pixel of the patch in the same way.
        framed = np.full((height + 2 * _FRAME, width + 2 * _FRAME), np.nan, np.float32)
        needed = image[rows.start - first_row :, columns][:height]
        framed[_FRAME : _FRAME + height, _FRAME : _FRAME + width] = needed
        camera = self._camera(pointing)
        camera[:2] -= np.outer([columns.start, rows.start], camera[2])
        patch = np.empty(self.size * self.size, np.float32)
        for start in range(0, patch.size, _PIXELS_AT_ONCE):
            block = slice(start, start + _PIXELS_AT_ONCE)
            _sample(framed, camera @ self._points[:, block], patch[block])
        return patch.reshape(self.size, self.size)

    def _camera(self, pointing: Pointing) -> np.ndarray:
        return pointing.camera(self.trajectory.longitude(pointing.time))

    def _window(self, pointing: Pointing) -> tuple[slice, slice]:
        """Return the rows and columns of the image that the kernels touch."""
        nothing = slice(0, 0), slice(0, 0)
        camera = self._camera(pointing)
        seen = camera @ self._edges
        # The extremes of a patch in full view lie on the edges; otherwise they may lie where the limb cuts the patch.
        if (seen[3] <= 0).any():
            seen = camera @ self._points
            seen = seen[:, seen[3] > 0]
        if not seen.size:
            return nothing
        columns, rows = (_touched(seen[axis] / seen[2], pointing.shape[1 - axis]) for axis in (0, 1))
        return (rows, columns) if rows.stop > rows.start and columns.stop > columns.start else nothing


def _number(header: Mapping, key: str, default: float | None = None) -> float:
    value = header.get(key, default)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    says = "has no " + key if value is None else f"says {key} = {value!r}"
    raise SolaredError(
        f"The header {says}, so it is unknown where the Sun is in the image. Download the file again, with all "
        "keywords."
    )


def _check(header: Mapping, scale: Matrix, distance: float, radius: float) -> None:
    """Refuse numbers that can only be in a wrong unit.

    Raises:
        SolaredError: If a number is implausible, or contradicts the others.
    """
    for key, value, (least, most) in (("RSUN_REF", radius, _SOLAR_RADII), ("DSUN_OBS", distance, _DISTANCES)):
        if not least <= value <= most:
            raise SolaredError(
                f"{key} is {value:g}, and {least:g} to {most:g} m are expected. Give {key} in m, as HMI's headers do."
            )
    angle = np.arcsin(radius / distance) * _ARCSEC_PER_RADIAN
    pixels = angle / np.sqrt(abs(np.linalg.det(scale)))
    if not _RADIUS_PIXELS[0] <= pixels <= _RADIUS_PIXELS[1]:
        raise SolaredError(
            f"The Sun would have a radius of {pixels:g} pixels by CDELT1 ({header.get('CDELT1')!r}) and CUNIT1 "
            f"({header.get('CUNIT1')!r}). Correct the unit."
        )
    stated = header.get("RSUN_OBS")
    if isinstance(stated, Real) and math.isfinite(stated) and abs(stated / angle - 1) > 0.01:
        raise SolaredError(
            f"RSUN_OBS is {stated:g}, but RSUN_REF and DSUN_OBS give {angle:.1f} arcsec. Correct the wrong keyword."
        )


def _scale(header: Mapping, swapped: bool) -> tuple[Matrix, tuple[float, float]]:
    """Return the FITS matrix CDi_j in arcsec per pixel, from the keywords that the header has, and CRVALi in arcsec.

    The longitude comes first, whatever the order of the header's axes.
    """
    pairs = [(1, 1), (1, 2), (2, 1), (2, 2)]
    if any(f"CD{i}_{j}" in header for i, j in pairs):
        matrix = np.reshape([_number(header, f"CD{i}_{j}", 0.0) for i, j in pairs], (2, 2))
    else:
        size = np.array([_number(header, "CDELT1"), _number(header, "CDELT2")])
        if any(f"PC{i}_{j}" in header for i, j in pairs):
            turn = np.reshape([_number(header, f"PC{i}_{j}", float(i == j)) for i, j in pairs], (2, 2))
            matrix = size[:, None] * turn
        else:
            # CROTAi belongs to the axis of the latitude.
            matrix = _turn(1, 0, -_number(header, "CROTA1") if swapped else _number(header, "CROTA2"))[:2, :2] * size
    values = np.array([_number(header, "CRVAL1"), _number(header, "CRVAL2")])
    units = np.array([arcsec(str(header.get(f"CUNIT{axis}", "arcsec"))) for axis in (1, 2)])
    order = slice(None, None, -1 if swapped else 1)
    matrix, values = (units[:, None] * matrix)[order], (units * values)[order]
    (west_by_column, west_by_row), (north_by_column, north_by_row) = matrix.tolist()
    west, north = values.tolist()
    return ((west_by_column, west_by_row), (north_by_column, north_by_row)), (west, north)


def _turn(first: int, second: int, degrees: float) -> np.ndarray:
    """Return the matrix that rotates coordinates by turning the first of three axes towards the second."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = sine, -sine
    return matrix


def _touched(coordinates: np.ndarray, length: int) -> slice:
    """Return the pixels, along one axis of an image, that the kernels at some coordinates touch."""
    start, stop = np.floor(coordinates.min()) - 1, np.floor(coordinates.max()) + 3
    return slice(int(np.clip(start, 0, length)), int(np.clip(stop, 0, length)))


def _sample(framed: np.ndarray, seen: np.ndarray, values: np.ndarray) -> None:
    """Compute the values of an image at points by cubic convolution.

    Args:
        framed: the image in a frame of NaN.
        seen: (4, points), the product of `Pointing.camera` and the points.
        values: (points,), receives the result.
    """
    height, width = framed.shape
    place = seen[1::-1] / seen[2]
    # Points out of sight or off the image are moved to where the kernel touches the frame of NaN.
    np.copyto(place, -2, where=seen[3] <= 0)
    np.clip(place, -2, [[height - 2 * _FRAME + 1], [width - 2 * _FRAME + 1]], out=place)
    corner = np.floor(place)
    down, across = _cubic_convolution((place - corner).astype(np.float32))
    corner += _FRAME - 1
    first = (width * corner[0] + corner[1]).astype(np.intp)
    pixels = framed.ravel()
    line, lines = np.empty((2, 4, len(first)), np.float32)
    for row in range(4):
        for column in range(4):
            # All indices are valid; mode="clip" is the fastest way for numpy to take them.
            pixels[row * width + column :].take(first, mode="clip", out=line[column])
        np.einsum("ip,ip->p", line, across, out=lines[row])
    np.einsum("ip,ip->p", lines, down, out=values)


def _cubic_convolution(fraction: np.ndarray) -> np.ndarray:
    """Return Keys' weights, a = -1/2, of the pixels at -1, 0, 1 and 2 for points at `fraction` of the way from 0 to 1.

    The fractions are (axes, points), the weights (axes, 4, points).
    """
    square = fraction * fraction
    cube = square * fraction
    before = square - (cube + fraction) / 2
    near = 1 + (3 * cube - 5 * square) / 2
    next_near = (fraction - 3 * cube) / 2 + 2 * square
    after = (cube - square) / 2
    return np.stack([before, near, next_near, after], axis=1)
