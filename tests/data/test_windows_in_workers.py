"""Workers of a loader give the same batches, and share one copy of the values."""

import copy
import pickle
from datetime import timedelta
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from solared_hf import SolaredProcessor, SolaredWindows
from solared_hf.data import batch_of
from solared_hf.schema import CHANNELS


@pytest.fixture
def windows(make_timeline) -> SolaredWindows:
    timelines = [make_timeline(90001, 90, missing=[30]), make_timeline(90002, 5), make_timeline(90003, 80, seed=1)]
    processor = SolaredProcessor.fit([timelines[0].values], CHANNELS, input_steps=10, horizon_hours=3.0)
    return SolaredWindows(timelines, processor=processor, trajectory_steps=2)


def assert_same(twin: SolaredWindows, windows: SolaredWindows) -> None:
    everything = range(len(windows))
    for name, tensor in windows.batch(everything).items():
        torch.testing.assert_close(twin.batch(everything)[name], tensor, rtol=0, atol=0, equal_nan=True)
    np.testing.assert_array_equal(twin.target_times, windows.target_times)
    np.testing.assert_array_equal(twin.observed_targets, windows.observed_targets)
    assert list(map(str, twin.report())) == list(map(str, windows.report()))
    assert twin.horizon == timedelta(hours=3)


def test_windows_sent_to_another_process_share_the_memory(windows):
    values = windows.regions[2].timeline.values.copy()
    first, second = (ForkingPickler.loads(ForkingPickler.dumps(windows)) for _ in range(2))
    for twin in (first, second):
        assert_same(twin, windows)
        np.testing.assert_array_equal(twin.regions[2].timeline.values, values)
    # Only the times and the first steps of the windows.
    assert len(ForkingPickler.dumps(windows)) < 0.1 * sum(region.timeline.values.nbytes for region in windows.regions)
    for tensor in ("values", "observed", "target", "shared_values"):
        assert getattr(windows, tensor).is_shared()
    windows.values[3], windows.regions[2].timeline.values[3] = 7, 8
    for twin in (first, second):
        assert (twin.values[3] == 7).all()
        assert (twin.regions[2].timeline.values[3] == 8).all()
        assert (twin[0]["past_values"][3] == 7).all()


def test_list_of_references_is_sent_with_one_copy_of_the_windows(windows):
    references = ForkingPickler.loads(ForkingPickler.dumps(windows.references()))
    assert len({id(one) for one, _ in references}) == 1
    assert_same(references[0][0], windows)


def test_copies_and_pickles_in_files_do_not_share_memory(windows):
    for twin in (copy.deepcopy(windows), pickle.loads(pickle.dumps(windows))):
        assert_same(twin, windows)
        twin.values[:] = 0
        assert windows.values.any()


@pytest.mark.parametrize("references", [False, True])
def test_workers_give_the_same_batches_as_no_workers(windows, references):
    def batches(workers: int, **settings) -> list[dict[str, torch.Tensor]]:
        data = windows.references() if references else range(len(windows))
        collate = batch_of if references else windows.batch
        loader = DataLoader(data, batch_size=40, collate_fn=collate, num_workers=workers, **settings)
        return list(loader)

    expected = batches(0)
    given = batches(2, multiprocessing_context="spawn" if references else None)
    assert len(given) == len(expected) > 2
    for batch, same in zip(given, expected, strict=True):
        for name, tensor in same.items():
            torch.testing.assert_close(batch[name], tensor, rtol=0, atol=0, equal_nan=True)
