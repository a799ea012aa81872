"""The vocabulary of SOLARED: channels, units, the tile grid and the columns of the dataset.

Every other module takes the names from here; this module does not import any other module of the package.
"""

from datetime import timedelta

from datasets import Features, List, Value

# Increased when the meaning of the columns changes; readers refuse a newer version.
SCHEMA_VERSION = 1

# Files of a dataset folder, beside the card and the shards data/<split>/AR<number>.parquet.
MANIFEST_NAME = "manifest.json"
CATALOG_PATH = "catalog/regions.parquet"

POWER_CHANNELS = ("power_2_3mhz", "power_3_4mhz", "power_4_5mhz", "power_5_6mhz")
CHANNELS = (*POWER_CHANNELS, "unsigned_magnetic_flux", "continuum_intensity")
TARGET_CHANNEL = "continuum_intensity"

UNITS = {
    **dict.fromkeys(POWER_CHANNELS, "(m/s)^2 per Hz, summed over bins with unit spacing"),
    "unsigned_magnetic_flux": "G",
    "continuum_intensity": "HMI DN",
}

# A patch is cut into 9 x 9 tiles, row 0 south and column 0 east, numbered row by row. Rows 0 and 8 hold the latitude
# background. They are zero after the background is removed, and are dropped: 63 tiles remain.
PATCH_ROWS, PATCH_COLUMNS = 9, 9
NUM_PATCH_TILES = PATCH_ROWS * PATCH_COLUMNS
TILE_ROWS, TILE_COLUMNS = PATCH_ROWS - 2, PATCH_COLUMNS
NUM_TILES = TILE_ROWS * TILE_COLUMNS
KEPT_TILES = slice(PATCH_COLUMNS, PATCH_COLUMNS + NUM_TILES)

KEY_COLUMNS = ("ar_number", "step", "time_tai")
COLUMNS = (*KEY_COLUMNS, *CHANNELS)

# The time of a step is the middle of 8 h of observations, so the last of them come 4 h later.
AVAILABILITY_DELAY = timedelta(hours=4)

# Columns with the facts that NOAA reports about a region.
NOAA_FACTS = {
    "noaa_latitude": Value("float32"),
    "noaa_longitude": Value("float32"),
    "noaa_emergence_time": Value("timestamp[ms]"),
    "noaa_area": Value("float32"),
    "noaa_hale_class": Value("string"),
    "noaa_lifetime_days": Value("int32"),
}


def timeline_features() -> Features:
    """Return the columns of the `timelines` config: one row per step of one region.

    `ar_number` (int32) is the NOAA active region number, `step` (int32) counts the rows of the region from 0,
    `time_tai` (timestamp[ms], naive TAI) is the middle of the step's 8 h window, and each channel is a list of 63
    float32 in the unit given in `UNITS`.
    """
    return Features(
        {
            "ar_number": Value("int32"),
            "step": Value("int32"),
            "time_tai": Value("timestamp[ms]"),
            **{channel: List(Value("float32"), length=NUM_TILES) for channel in CHANNELS},
        }
    )


def catalog_features() -> Features:
    """Return the columns of the `catalog` config: one row per region; unknown NOAA facts are null.

    Times are naive TAI, except `noaa_emergence_time`, which is UTC as NOAA reports it. `noaa_area` is in millionths of
    a solar hemisphere, latitude and longitude in degrees (Stonyhurst, north and west positive).
    """
    return Features(
        {
            "ar_number": Value("int32"),
            "split": Value("string"),
            "start_tai": Value("timestamp[ms]"),
            "end_tai": Value("timestamp[ms]"),
            "steps": Value("int32"),
            "cadence_s": Value("float64"),
            "gaps": Value("int32"),
            "missing_steps": Value("int32"),
            "nan_steps": Value("int32"),
            **NOAA_FACTS,
        }
    )
