"""Times in the notations of HMI headers, and the 45 s slots."""

import numpy as np
import pytest

from dataset_builder.fits import format_time, slot_of
from dataset_builder.fits.times import SLOT_SECONDS, parse_time, slot_time
from solared_hf import SolaredError


@pytest.mark.parametrize(
    ("text", "tai"),
    [
        ("2011.02.15_00:00:05_TAI", "2011-02-15T00:00:05"),
        ("2013.04.15_14:59:37.500_TAI", "2013-04-15T14:59:37.5"),
        ("2011.02.15_00:00:59.9996_TAI", "2011-02-15T00:01:00"),
        ("2011.02.15_00:00:05.2345678912_TAI", "2011-02-15T00:00:05.235"),
        ("2011.02.15_07:12_TAI", "2011-02-15T07:12:00"),
        ("2011.02.15_TAI", "2011-02-15"),
        (" 2011.02.15_00:00:05_TAI ", "2011-02-15T00:00:05"),
        # 34 leap seconds and ten since 1958 until mid-2012, 37 from 2017.
        ("2011.02.15_00:00:05_UTC", "2011-02-15T00:00:39"),
        ("2011.02.15_00:00:05_UT", "2011-02-15T00:00:39"),
        ("2011.02.15_00:00:05Z", "2011-02-15T00:00:39"),
        ("2011-02-14T23:59:31.60Z", "2011-02-15T00:00:05.6"),
        ("2014-03-01T00:00:27.90", "2014-03-01T00:01:02.9"),
        ("2017-01-01T00:00:00", "2017-01-01T00:00:37"),
        ("2016-12-31T23:59:60.5Z", "2017-01-01T00:00:36.5"),
    ],
)
def test_times_of_headers_become_naive_tai(text, tai):
    time = parse_time(text)
    assert time == np.datetime64(tai)
    assert time.dtype == np.dtype("datetime64[ms]")


@pytest.mark.parametrize(
    "text",
    [
        "MISSING",
        "-4712.01.01_11:59:28_TAI",  # JSOC writes a missing time so if it must write a time.
        "2011.02.30_00:00:05_TAI",
        "2011.02.15_24:00:05_TAI",
        "2011.02.15_00:00:60_TAI",
        "2011.02.15_00:00:65Z",
        "2011.13.15_00:00:05",
        "2011.02-15_00:00:05_TAI",
        "2011.02.15_00:00:05_PST",
        "2011.02.15_00:00:05_TAI and more",
        "0000.02.15_00:00:05_TAI",
        "",
        None,
        20110215,
    ],
)
def test_other_texts_raise(text):
    with pytest.raises(SolaredError, match="is not a time; expected one such as 2011"):
        parse_time(text)


@pytest.mark.parametrize(
    ("tai", "digits", "text"),
    [
        ("2013-04-15T14:59:37.500", 3, "2013.04.15_14:59:37.500_TAI"),
        ("2013-04-15T15:00:00", 3, "2013.04.15_15:00:00.000_TAI"),
        ("2013-04-15T15:00:00", 0, "2013.04.15_15:00:00_TAI"),
        ("2013-04-15", 0, "2013.04.15_00:00:00_TAI"),
    ],
)
def test_a_written_time_is_read_back(tai, digits, text):
    time = np.datetime64(tai, "ms")
    assert format_time(time, digits) == text
    assert parse_time(text) == time


def test_slots_are_counted_from_1993_and_whole_hours_are_slots():
    assert SLOT_SECONDS == 45
    assert slot_of(np.datetime64("1993-01-01")) == 0
    assert slot_time(1) == np.datetime64("1993-01-01T00:00:45")
    hours = np.datetime64("2010-05-01") + np.arange(5000) * np.timedelta64(1, "h")
    np.testing.assert_array_equal(slot_time(slot_of(hours)), hours)


def test_a_time_belongs_to_the_nearest_slot():
    slot = slot_of(np.datetime64("2013-04-15T11:00:00"))
    assert isinstance(slot, int)
    for milliseconds, expected in [
        (-22_501, slot - 1),
        (-22_500, slot),
        (0, slot),
        (22_499, slot),
        (22_500, slot + 1),
    ]:
        assert slot_of(slot_time(slot) + np.timedelta64(milliseconds, "ms")) == expected
    assert slot_of(np.datetime64("1992-12-31T23:59:15")) == -1


def test_slots_of_arrays():
    slots = np.array([[-3, 0], [5, 14_226_160]])
    times = slot_time(slots)
    assert times.dtype == np.dtype("datetime64[ms]")
    assert times[1, 1] == slot_time(14_226_160)
    back = slot_of(times + np.timedelta64(20, "s"))
    assert back.dtype == np.int64
    np.testing.assert_array_equal(back, slots)
