"""The steps of a region, planned from the slots of the frames, without reading a pixel."""

from pathlib import Path

import numpy as np
import pytest

from dataset_builder.fits import WINDOW_FRAMES, slot_of
from dataset_builder.fits.headers import CUBE, IMAGE, PATCHES, ObservationFile
from dataset_builder.fits.observations import Frame, Observations
from dataset_builder.fits.plan import ReductionSettings, assemble, plan_region
from dataset_builder.fits.reduction import MOST_MISSING, ReducedSegment
from dataset_builder.fits.times import slot_time
from solared_hf import SolaredError

HOUR = 80
FIRST = slot_of(np.datetime64("2013-04-15T11:00:00"))


def observed(slots, form=PATCHES, reasons=None) -> Observations:
    slots = sorted(int(slot) for slot in slots)
    frames = {slot: Frame(ObservationFile(Path(f"{slot}.fits"), "", form=form), 0) for slot in slots}
    return Observations(form, frames, {}, reasons or {})


def plan(velocity: Observations, field=None, settings=None):
    field = observed(range(FIRST, FIRST + 20 * HOUR)) if field is None else field
    observations = {"dopplergram": velocity, "magnetogram": field, "continuum": field}
    return plan_region(None, observations, settings or ReductionSettings())


def steps(starts) -> list[int]:
    return ((np.asarray(starts) - FIRST) / HOUR).tolist()


def test_windows_begin_on_whole_hours_and_nothing_is_extrapolated():
    assert steps(plan(observed(range(FIRST, FIRST + WINDOW_FRAMES + 2 * HOUR))).starts) == [0, 1, 2]
    # One frame less at either end costs a step.
    assert steps(plan(observed(range(FIRST + 1, FIRST + WINDOW_FRAMES + 2 * HOUR))).starts) == [1, 2]
    assert steps(plan(observed(range(FIRST, FIRST + WINDOW_FRAMES + 2 * HOUR - 1))).starts) == [0, 1]


def test_twelve_minutes():
    planned = plan(observed(range(FIRST, FIRST + WINDOW_FRAMES + HOUR)), settings=ReductionSettings("12min"))
    assert np.diff(planned.starts).tolist() == [16] * 5


def test_a_gap_gives_nan_steps_inside_and_no_steps_at_the_ends():
    whole = set(range(FIRST, FIRST + 30 * HOUR))
    gap = set(range(FIRST + 15 * HOUR, FIRST + 15 * HOUR + MOST_MISSING + 1))
    assert steps(plan(observed(whole - gap)).starts) == list(range(23))
    # If one frame fewer is missing, the windows at the ends may reach over the gap.
    early_gap = set(range(FIRST + 1, FIRST + 1 + MOST_MISSING))
    assert steps(plan(observed(whole - early_gap)).starts) == list(range(23))
    early_gap.add(FIRST + 1 + MOST_MISSING)
    assert steps(plan(observed(whole - early_gap)).starts) == list(range(1, 23))


def test_stray_frames_far_away_add_no_steps():
    stray = [FIRST - 10_000 * HOUR, FIRST + 10_000 * HOUR]
    planned = plan(observed([*range(FIRST, FIRST + 30 * HOUR), *stray]))
    # The hour that is missing at either end may be interpolated, as in any gap.
    assert steps(planned.starts) == list(range(-1, 24))
    assert sorted(planned.segments[0].velocity) == list(range(FIRST, FIRST + 30 * HOUR))


def test_too_few_frames_raise():
    with pytest.raises(SolaredError, match=r"no window of 640 frames has at most 128 missing \(639 usable dop"):
        plan(observed(range(FIRST, FIRST + WINDOW_FRAMES - 1)))
    with pytest.raises(SolaredError, match="at most 128 missing"):
        plan(observed(range(FIRST, FIRST + 10 * WINDOW_FRAMES, 2)))


def test_images_of_the_sun_need_a_region_file():
    with pytest.raises(SolaredError, match=r"no region.json that says where the region is. Write region.json"):
        plan(observed(range(FIRST, FIRST + WINDOW_FRAMES), form=IMAGE))


def test_segments_carry_their_frames_and_some_beyond_their_ends():
    planned = plan(observed(range(FIRST, FIRST + 130 * HOUR)))
    assert [len(segment.starts) for segment in planned.segments] == [60, 60, 3]
    begin, stop = FIRST + 60 * HOUR - MOST_MISSING, FIRST + 119 * HOUR + WINDOW_FRAMES + MOST_MISSING
    assert sorted(planned.segments[1].velocity) == list(range(begin, stop))


def test_a_segment_without_enough_frames_reads_nothing():
    slots = set(range(FIRST, FIRST + 200 * HOUR)) - set(range(FIRST + 61 * HOUR, FIRST + 130 * HOUR))
    planned = plan(observed(slots))
    assert len(planned.segments[0].velocity) == 61 * HOUR
    assert planned.segments[1].velocity == {}


def test_flux_and_intensity_come_from_the_nearest_frames_of_at_most_half_a_cadence():
    field = observed([FIRST + 319 - 40, FIRST + 320, FIRST + 321, FIRST + 319, FIRST + 80 + 320 + 40])
    planned = plan(observed(range(FIRST, FIRST + WINDOW_FRAMES + HOUR)), field)
    # Slots 319 and 320 are equally near the middle: the earlier slot comes first.
    names = [[int(frame.file.path.stem) - FIRST for frame in frames] for frames in planned.segments[0].field]
    assert names == [[319, 320, 321], []]


def test_each_cube_is_a_step():
    velocity = observed(FIRST + 16 * np.array([0, 5, 6, 15, 20]), CUBE, reasons={FIRST + 2 * HOUR: "truncated"})
    field = observed([FIRST, FIRST + HOUR], CUBE)
    planned = plan(velocity, field)
    assert steps(planned.starts) == [0, 1, 2, 3, 4]  # the third cube cannot be used
    assert sorted(planned.segments[0].velocity) == [FIRST, FIRST + HOUR, FIRST + 3 * HOUR, FIRST + 4 * HOUR]
    assert [len(frames) for frames in planned.segments[0].field] == [1, 1, 0, 0, 0]
    assert planned.segments[0].field[0][0].plane == 319
    # The cube between the hours is set aside and counted.
    assert planned.observations["dopplergram"].rejected == {"it lies between the steps": 1}


@pytest.mark.parametrize("rounded", [0, 2])
def test_cubes_with_a_rounded_time_belong_to_their_steps(rounded):
    """A MIDTIME of 01:00:00 for 00:59:37.5 is a slot off, in the first cube or in another."""
    slots = FIRST + 7 + HOUR * np.arange(4)
    slots[rounded] += 1
    planned = plan(observed(slots, CUBE))
    assert planned.starts.tolist() == (FIRST + 7 + HOUR * np.arange(4)).tolist()
    assert planned.segments[0].velocity[planned.starts[rounded]].file.path.stem == str(slots[rounded])
    assert planned.observations["dopplergram"].rejected == {}


def test_the_facts_of_processing_describe_the_frames():
    velocity = observed(
        range(FIRST, FIRST + WINDOW_FRAMES + 2 * HOUR), reasons={FIRST + 100: "QUALITY marks it as bad"}
    )
    planned = plan(velocity)
    values = np.ones((3, 6, 63), np.float32)
    values[1, :4] = np.nan
    values[2, 4] = np.nan
    values[0, :, ::9] = np.nan  # tiles beyond the limb are not reported
    unreadable = {"b.fits": "cut", "a.fits": "cut", "c.fits": "no time"}
    reduced = ReducedSegment(values, np.array([3, 200, 0]), np.array([0, 0, 9]), unreadable)
    timeline, processing = assemble(90001, planned, [reduced])
    assert timeline.times[0] == slot_time(FIRST) + np.timedelta64(14_377_500, "ms")
    assert processing["interpolated_frames"] == {"0": 3}
    assert processing["patched_frames"] == {"2": 9}
    assert processing["unreadable"] == [
        {"reason": "cut", "files": 2, "first": "a.fits"},
        {"reason": "no time", "files": 1, "first": "c.fits"},
    ]
    assert processing["frames"]["dopplergram"]["used"] == WINDOW_FRAMES + 2 * HOUR
    assert [(entry["step"], entry["reasons"]) for entry in processing["unobserved"]] == [
        (1, ["200 of 640 velocity frames are missing; 1: QUALITY marks it as bad"]),
        (2, ["no magnetogram with enough observed pixels within 30 minutes of the middle"]),
    ]


def test_steps_without_frames_at_the_ends_are_dropped():
    planned = plan(observed(range(FIRST, FIRST + WINDOW_FRAMES + 3 * HOUR)))
    values = np.ones((4, 6, 63), np.float32)
    none = np.zeros(4, int)
    timeline, processing = assemble(90001, planned, [ReducedSegment(values, np.array([640, 5, 0, 129]), none, {})])
    assert timeline.times.tolist() == (slot_time(planned.starts) + np.timedelta64(14_377_500, "ms"))[1:3].tolist()
    assert processing["interpolated_frames"] == {"0": 5}
    with pytest.raises(SolaredError, match="no step has enough frames, mostly because the file cannot be decoded"):
        assemble(
            90001, planned, [ReducedSegment(values, np.full(4, 640), none, {"a.fits": "the file cannot be decoded"})]
        )
