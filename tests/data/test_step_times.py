"""Times of steps in many types are rounded, not truncated, and small jitter is not a gap."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from solared_hf import SolaredError
from solared_hf.data.step_times import cadence_of, is_spaced_by, nearest_steps, step_times

FIRST = np.datetime64("2013-04-15T00:59:37.500", "ms")
HOUR = np.timedelta64(1, "h")
TIMES = FIRST + np.arange(99) * HOUR
DAYS = (TIMES - np.datetime64("1858-11-17")) / np.timedelta64(1, "D")


def astropy_time(days: np.ndarray, **form):
    return pytest.importorskip("astropy.time").Time(days, **form)


@pytest.mark.parametrize(
    "times",
    [
        TIMES,
        TIMES.astype("datetime64[ns]"),
        TIMES.astype("datetime64[us]") + np.timedelta64(499, "us"),
        TIMES.astype("datetime64[ns]") - np.timedelta64(1, "ns"),
        TIMES.astype("datetime64[us]").tolist(),
        [time + timedelta(microseconds=-1) for time in TIMES.astype("datetime64[us]").tolist()],
        pd.DatetimeIndex(TIMES),
        pd.Series(TIMES),
        [pd.Timestamp(time) for time in TIMES],
        TIMES.astype(str).tolist(),
        [f"{time}999" for time in (TIMES - np.timedelta64(1, "ms")).astype(str)],
        TIMES.astype(np.int64),
        np.ma.masked_array(TIMES),
    ],
)
def test_every_type_of_time_is_rounded_to_the_same_milliseconds(times):
    converted = step_times(times)
    assert converted.dtype == "datetime64[ms]"
    np.testing.assert_array_equal(converted, TIMES)


@pytest.mark.parametrize(("form", "offset"), [("mjd", 0), ("jd", 2_400_000.5)])
def test_astropy_days_are_rounded(form, offset):
    times = astropy_time(DAYS + offset, format=form, scale="tai")
    assert (times.datetime64.astype("datetime64[ms]") != TIMES).any()  # cut, they would be off
    np.testing.assert_array_equal(step_times(times), TIMES)
    np.testing.assert_array_equal(step_times(list(times)), TIMES)
    # The same instants on another scale give the same times.
    np.testing.assert_array_equal(step_times(times.utc), TIMES)
    with pytest.raises(SolaredError, match=r"times on the scale 'local'. Give them in TAI"):
        step_times(astropy_time(DAYS, format="mjd", scale="local"))


def test_masked_time_is_nat():
    masked = np.ma.masked_array(TIMES[:3], mask=[False, True, False])
    assert np.isnat(step_times(masked)).tolist() == [False, True, False]
    times = astropy_time(DAYS[:3], format="mjd", scale="tai")
    times[1] = np.ma.masked
    assert np.isnat(step_times(times)).tolist() == [False, True, False]
    assert np.isnat(step_times([TIMES[0].item(), None, pd.NaT])).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([datetime(2013, 4, 15, tzinfo=UTC)], "with a time zone, such as 2013-04-15 00:00:00"),
        (pd.DatetimeIndex(TIMES, tz="UTC"), "with a time zone"),
        (["2013-04-15T00:00:00Z"], "with a time zone, such as 2013-04-15T00:00:00Z"),
        (["2013-04-15T00:00:00+05:00"], "with a time zone"),
        (DAYS, "such as 56397.0.*whose unit is unknown.*format="),
        (["2013.04.15_00:00:00_TAI"], "numpy cannot read, such as 2013.04.15_00:00:00_TAI"),
        (["yesterday", None], "numpy cannot read, such as yesterday"),
        (np.diff(TIMES), "whose unit is unknown"),
        ([timedelta(hours=1)], "such as datetime.timedelta"),
        ([object()], "such as <object"),
        (TIMES.reshape(3, 33), r"shape \(3, 33\). Give one time for each step"),
        (TIMES[0], r"shape \(\)"),
        ([[1], [2, 3]], "not a list"),
    ],
)
def test_times_that_are_not_tai_are_refused(times, message):
    with pytest.raises(SolaredError, match=rf"^AR90001 has times .*{message}") as refused:
        step_times(times, "AR90001")
    assert "\n" not in str(refused.value)


def test_dates_without_a_time_of_day_are_midnight():
    assert step_times(["2013-04-15", "2013-04-16"]).tolist() == [datetime(2013, 4, 15), datetime(2013, 4, 16)]
    assert step_times([date(2013, 4, 15)]).tolist() == [datetime(2013, 4, 15)]


def jittered(seconds: int, steps: int, jitter: float = 0.7, seed: int = 0) -> np.ndarray:
    """Return times with a random error of at most `jitter` seconds."""
    off = np.random.default_rng(seed).uniform(-jitter, jitter, steps)
    return FIRST + np.round(1000 * (np.arange(steps) * seconds + off)).astype("timedelta64[ms]")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("seconds", [45, 720, 3600])
def test_jitter_of_frames_changes_neither_gaps_nor_cadence(seconds, seed):
    times = jittered(seconds, 99, seed=seed)
    kept = np.delete(times, [40, 41])
    for one, gaps in ((times, 0), (kept, 1)):
        assert cadence_of(one) == np.timedelta64(seconds, "s")
        assert (~is_spaced_by(np.diff(one), cadence_of(one))).sum() == gaps


def test_cadence_is_exact_if_the_spacings_are():
    assert cadence_of(FIRST + np.arange(9) * np.timedelta64(1500, "ms")) == np.timedelta64(1500, "ms")
    # Times that were truncated elsewhere: neighbouring spacings differ.
    cut = FIRST + np.cumsum([0, 3599999, 3600000, 3600001] * 20).astype("timedelta64[ms]")[::1]
    assert cadence_of(cut[1:]) == HOUR


def test_nearest_step_is_found_only_within_the_jitter():
    times = np.delete(jittered(3600, 9), 4)
    wanted = np.append(FIRST + np.arange(-1, 10) * HOUR, FIRST + np.timedelta64(30, "m"))
    assert nearest_steps(times, wanted, HOUR).tolist() == [-1, 0, 1, 2, 3, -1, 4, 5, 6, 7, -1, -1]
