"""FITS files of raw observations as a source: scanned, cut into segments, and computed on a Dask cluster.

Tasks carry paths, never pixels, and give back the tiles of a segment, some 90 kB; this process alone writes. A worker
that dies costs the repetition of its segment.
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from distributed import Client, Future, KilledWorker, get_worker
from tqdm import tqdm

from dataset_builder.cluster import connect
from dataset_builder.observations import Observations, collect, find_files, scan_files
from dataset_builder.plan import Plan, Settings, assemble, plan_region
from dataset_builder.reduction import CORRECTIONS, MOST_MISSING, Reduced, Segment, reduce_segment
from dataset_builder.region_file import OBSERVABLES, read_region_file
from dataset_builder.region_folders import find_regions, region_number
from dataset_builder.shards import Shard, source_key
from dataset_builder.sources import Outcome
from dataset_builder.times import CADENCES
from solared_hf.errors import SolaredError

# Raised whenever the same files give other values, so that finished shards are built again.
REDUCTION_VERSION = 1

_FILES_IN_SCAN = 400
_TOPIC = "solared-steps"


@dataclass
class _Region:
    """A region whose segments are being computed."""

    ar_number: int
    key: str
    plan: Plan
    futures: list[Future]


class FitsSource:
    """Raw observations in the layout of `region_file`: images of the Sun, tracked patches, or cubes of a window.

    Args:
        folder: the folder that holds the AR<number> folders.
        settings: how they are reduced.
        workers: Dask processes to start on this machine, by default one a core.
        scheduler: address of a running Dask scheduler, instead.

    Raises:
        SolaredError: a setting is unknown.
    """

    name = "fits"

    def __init__(
        self,
        folder: Path | str,
        settings: Settings | None = None,
        *,
        workers: int | None = None,
        scheduler: str | None = None,
    ):
        # Workers may run elsewhere and in another folder.
        self.folder = Path(folder).resolve()
        self._settings = settings or Settings()
        self._workers, self._scheduler = workers, scheduler
        for name, value, known in (
            ("cadence", self._settings.cadence, CADENCES),
            ("correction", self._settings.correction, CORRECTIONS),
        ):
            if value not in known:
                raise SolaredError(f"Unknown {name} {value!r}; choose one of {', '.join(known)}.")

    def regions(self) -> list[Path]:
        return find_regions(self.folder)

    def outcomes(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[Outcome]:
        with connect(self._workers, self._scheduler) as client, _step_bar(client, progress) as add_steps:
            running: deque[_Region] = deque()
            for folder in self.regions():
                try:
                    region = self._start(client, folder, is_finished)
                except SolaredError as error:
                    yield Outcome(region_number(folder), error=error)
                    continue
                if region is None:
                    yield Outcome(region_number(folder))
                    continue
                add_steps(len(region.plan.starts))
                running.append(region)
                # Enough to keep every worker busy, and no more plans in memory than that takes.
                while sum(len(region.futures) for region in running) > 2 * sum(client.nthreads().values()):
                    yield self._finish(client, running.popleft())
            while running:
                yield self._finish(client, running.popleft())

    def _start(self, client: Client, folder: Path, is_finished: Callable[[int, str], bool]) -> _Region | None:
        """Scan and plan a region and submit its segments; None where its shard is finished.

        Raises:
            SolaredError: its files cannot be used.
        """
        ar_number, described = region_number(folder), read_region_file(folder)
        if described is not None and described.ar_number != ar_number:
            raise SolaredError(f"{folder} describes AR{described.ar_number} in region.json; correct one of them.")
        observations, contents = {}, {}
        for observable in OBSERVABLES:
            observations[observable], fingerprints = _scan(client, folder / observable)
            contents[observable] = "\n".join(fingerprints).encode()
        if described is not None:
            contents["region"] = json.dumps(asdict(described), sort_keys=True, default=str).encode()
        settings = {
            "source": self.name,
            "reduction_version": REDUCTION_VERSION,
            "most_missing": MOST_MISSING,
            **asdict(self._settings),
        }
        key = source_key(settings, contents)
        if is_finished(ar_number, key):
            return None
        try:
            plan = plan_region(described, observations, self._settings)
        except SolaredError as error:
            raise SolaredError(f"{folder}: {error}.") from error
        futures = [
            client.submit(_reduce, segment, name, key=name, pure=False)
            for name, segment in ((f"AR{ar_number}-{i}-{key}", segment) for i, segment in enumerate(plan.segments))
        ]
        return _Region(ar_number, key, plan, futures)

    def _finish(self, client: Client, region: _Region) -> Outcome:
        """Wait for a region's segments."""
        try:
            reduced = client.gather(region.futures)
            timeline, processing = assemble(region.ar_number, region.plan, reduced)
        except (SolaredError, KilledWorker, CancelledError) as error:
            client.cancel(region.futures)
            return Outcome(region.ar_number, error=_in_words(region.ar_number, error))
        processing["source"] = self.name
        return Outcome(region.ar_number, shard=Shard(timeline, region.key, processing))


def _in_words(ar_number: int, error: Exception) -> SolaredError:
    if isinstance(error, KilledWorker):
        return SolaredError(
            f"AR{ar_number}: the worker died each time one of its segments was tried, presumably for lack of memory "
            "(a segment takes some 1.5 GB); run the same command with fewer --workers."
        )
    if isinstance(error, CancelledError):
        return SolaredError(f"AR{ar_number}: the Dask scheduler was lost; run the same command again.")
    return SolaredError(f"AR{ar_number}: {error}")


def _scan(client: Client, folder: Path) -> tuple[Observations, list[str]]:
    """Observations in one observable's folder, and the fingerprints of its files."""
    paths = find_files(folder)
    chunks = [paths[first : first + _FILES_IN_SCAN] for first in range(0, len(paths), _FILES_IN_SCAN)]
    # Ahead of the segments of earlier regions, so that no worker waits for a plan.
    scans = client.gather(client.map(scan_files, chunks, pure=False, priority=1))
    files = [file for scan in scans for file in scan]
    return collect(folder, files), [file.fingerprint for file in files]


def _reduce(segment: Segment, name: str) -> Reduced:
    """One task. Dask runs as many as there are cores, so each keeps to one thread: also the same sums everywhere."""
    torch.set_num_threads(1)
    return reduce_segment(segment, lambda steps: get_worker().log_event(_TOPIC, {"segment": name, "steps": steps}))


@contextmanager
def _step_bar(client: Client, progress: bool) -> Iterator[Callable[[int], None]]:
    """A bar over steps, which the workers report while they work; gives the function that adds to its total."""
    finished: dict[str, int] = {}
    with tqdm(desc="building", unit="step", total=0, file=sys.stderr, disable=not progress) as bar:

        def advance(event: tuple[float, dict]) -> None:
            _, report = event
            # A segment that is repeated begins again.
            finished[report["segment"]] = report["steps"]
            bar.update(sum(finished.values()) - bar.n)

        def add_steps(count: int) -> None:
            bar.total += count
            bar.refresh()

        client.subscribe_topic(_TOPIC, advance)
        yield add_steps
        client.unsubscribe_topic(_TOPIC)
