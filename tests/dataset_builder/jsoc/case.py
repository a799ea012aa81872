"""The region that the tests download, and the names of its files."""

from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.fits import Trajectory
from dataset_builder.jsoc.download import LOCK_NAME
from dataset_builder.jsoc.plan import region_slots
from dataset_builder.jsoc.transfer import Patience
from dataset_builder.noaa.selection import selection_features
from tests.dataset_builder.jsoc.images import time_of
from tests.dataset_builder.jsoc.loopback import LoopbackJsoc

EMAIL = "you@example.org"
AR = 11726
QUICK = Patience(attempts=3, pause_s=0.001, timeout_s=10, poll_s=0.001, wait_s=10)

# First seen 23 degrees east of the meridian.
REGION = {
    "ar_number": AR,
    "selected": True,
    "reason": "",
    "carrington_longitude": 321.0,
    "noaa_latitude": 13.3,
    "noaa_longitude": -23.0,
    "noaa_emergence_time": datetime(2013, 4, 19, 0, 0),
    "noaa_area": 420.5,
    "noaa_hale_class": "Beta-Gamma",
    "noaa_lifetime_days": 9,
    "first_report": date(2013, 4, 20),
    "last_report": date(2013, 4, 28),
    "reports": 9,
}
TRAJECTORY = Trajectory(321.0, 13.3, np.datetime64("2013-04-19T00:00:35"))
SPAN = region_slots(TRAJECTORY)
# Of one of its hourly windows.
MIDDLE = SPAN[0] + 320 + 80 * 100
# The server has records for a few minutes only, so that ten days are soon downloaded.
HELD = range(MIDDLE - 3, MIDDLE + 4)
SERIES = {"dopplergram": "hmi.v_45s", "magnetogram": "hmi.m_45s", "continuum": "hmi.ic_45s"}


def write_catalog(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=selection_features().arrow_schema), path)
    return path


def names(folder: Path) -> set[str]:
    """Everything in a folder but the lock, hidden files included."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if path != LOCK_NAME}


def file_of(observable: str, slot: int) -> str:
    """Our name of a frame's file."""
    series = {"dopplergram": "hmi.V_45s", "magnetogram": "hmi.M_45s", "continuum": "hmi.Ic_45s"}[observable]
    segment = {"dopplergram": "Dopplergram"}.get(observable, observable)
    return f"AR{AR}/{observable}/{series}.{time_of(slot).replace('.', '').replace(':', '')}.{segment}.fits"


def all_files(dopplergrams=HELD, middles=(MIDDLE,)) -> set[str]:
    velocity = {file_of("dopplergram", slot) for slot in dopplergrams}
    others = {file_of(observable, slot) for observable in ("magnetogram", "continuum") for slot in middles}
    return velocity | others | {f"AR{AR}/region.json"}


def ordered(jsoc: LoopbackJsoc) -> list[tuple[str, list[int]]]:
    return [(order.series, order.slots) for order in jsoc.orders.values()]
