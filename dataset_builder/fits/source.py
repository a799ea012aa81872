"""FITS files of raw observations as a source of a build: scanned, cut into segments, and computed on a Dask cluster.

Tasks carry paths, never pixels, and return the tiles of a segment, some 90 kB; only the main process writes. If a
worker dies, its segment is computed again. A region with files whose pixels cannot be decoded is computed again in
every run, because a repaired file may have the same headers as the damaged file.
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

import torch
from distributed import Future, KilledWorker, get_worker
from tqdm import tqdm

from dataset_builder.fits.cluster import WORKER_TIMEOUT_S, Cluster, ClusterLost, connect
from dataset_builder.fits.headers import find_files, scan_files
from dataset_builder.fits.observations import UNDECODABLE, Observations, collect
from dataset_builder.fits.plan import Plan, ReductionSettings, assemble, plan_region
from dataset_builder.fits.reduction import CORRECTIONS, MOST_MISSING, ReducedSegment, Segment, reduce_segment
from dataset_builder.fits.region_file import OBSERVABLES, read_region_file
from dataset_builder.fits.times import CADENCES
from dataset_builder.fits.units import UNITS
from dataset_builder.shards import Shard, source_key
from dataset_builder.sources import RegionResult, find_regions, region_number
from solared_hf.errors import SolaredError

# Increase this number when the same files give other values, so that finished shards are built again.
REDUCTION_VERSION = 2

_FILES_IN_SCAN = 400


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
        settings: how to reduce the regions.
        workers: Dask processes to start on this machine, by default one per core.
        scheduler: address of a running Dask scheduler to use instead.
        worker_timeout_s: how long to wait while no worker is connected.

    Raises:
        SolaredError: If a setting is unknown.

    >>> from dataset_builder.fits import ReductionSettings
    >>> FitsSource("RAW", ReductionSettings(cadence="12min")).shared_settings
    {'correction': 'latitude_background', 'patch_pixels': 512, 'degrees_per_pixel': 0.06}
    """

    name = "fits"

    def __init__(
        self,
        folder: Path | str,
        settings: ReductionSettings | None = None,
        *,
        workers: int | None = None,
        scheduler: str | None = None,
        worker_timeout_s: float = WORKER_TIMEOUT_S,
    ):
        # Workers may run in another folder and must find the input under an absolute path.
        self.folder = Path(folder).absolute()
        self._settings = settings or ReductionSettings()
        self._workers, self._scheduler, self._worker_timeout_s = workers, scheduler, worker_timeout_s
        # Cadences may differ from region to region, because every timeline states its own.
        self.shared_settings = {key: value for key, value in asdict(self._settings).items() if key != "cadence"}
        for name, value, known in (
            ("cadence", self._settings.cadence, CADENCES),
            ("correction", self._settings.correction, CORRECTIONS),
        ):
            if value not in known:
                raise SolaredError(f"Unknown {name} {value!r}. Choose one of {', '.join(known)}.")

    def regions(self) -> list[Path]:
        """Return the folders `AR<number>`, ascending.

        Raises:
            SolaredError: If there is none.
        """
        return find_regions(self.folder)

    def build_regions(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[RegionResult]:
        """Yield one result for each region, in the order in which regions are finished; see `sources.Source`.

        Raises:
            SolaredError: If there is no region, or no cluster to work on, or the cluster is lost.
        """
        with (
            connect(self._workers, self._scheduler, self._worker_timeout_s) as cluster,
            _StepBar(cluster, progress) as bar,
        ):
            running: deque[_Region] = deque()
            for folder in self.regions():
                try:
                    region = self._start(cluster, folder, is_finished, bar)
                except ClusterLost:
                    raise
                except SolaredError as error:
                    yield RegionResult(region_number(folder), error=error)
                    continue
                if region is None:
                    yield RegionResult(region_number(folder))
                    continue
                running.append(region)
                # Enough segments to keep every worker busy, but few plans in memory.
                while sum(len(region.futures) for region in running) > 2 * cluster.threads():
                    yield self._finish(cluster, running.popleft())
            while running:
                yield self._finish(cluster, running.popleft())

    def _start(
        self, cluster: Cluster, folder: Path, is_finished: Callable[[int, str], bool], bar: "_StepBar"
    ) -> _Region | None:
        """Scan and plan a region and submit its segments; return None if its shard is finished.

        Raises:
            SolaredError: If the region's files cannot be used.
        """
        ar_number, region_file = region_number(folder), read_region_file(folder)
        if region_file is not None and region_file.ar_number != ar_number:
            raise SolaredError(
                f"{folder} describes AR{region_file.ar_number} in region.json. Correct the folder's name or the file."
            )
        observations, contents = {}, {}
        for observable in OBSERVABLES:
            observations[observable], fingerprints = _scan(cluster, folder / observable)
            contents[observable] = "\n".join(fingerprints).encode()
        if region_file is not None:
            contents["region"] = json.dumps(asdict(region_file), sort_keys=True, default=str).encode()
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
            plan = plan_region(region_file, observations, self._settings)
        except SolaredError as error:
            raise SolaredError(f"{folder}: {error}.") from error
        names = [f"AR{ar_number}-{index}-{key}" for index in range(len(plan.segments))]
        futures = [
            cluster.submit(_reduce, segment, name, bar.topic, key=name)
            for name, segment in zip(names, plan.segments, strict=True)
        ]
        bar.add(len(plan.starts))
        return _Region(ar_number, key, plan, futures)

    def _finish(self, cluster: Cluster, region: _Region) -> RegionResult:
        """Wait for a region's segments and return the region's shard or error.

        Raises:
            ClusterLost: If no segment can be finished any more.
        """
        try:
            reduced = _gather(cluster, region.futures)
            timeline, processing = assemble(region.ar_number, region.plan, reduced)
        except ClusterLost:
            raise
        except SolaredError as error:
            for future in region.futures:
                future.release()
            return RegionResult(region.ar_number, error=SolaredError(f"AR{region.ar_number}: {error}."))
        processing["source"] = self.name
        # A repaired file may have the same name, size and header as the damaged file, so the key would be the same.
        damaged = processing["unreadable"] or any(
            UNDECODABLE in observed.rejected for observed in region.plan.observations.values()
        )
        key = f"{region.key}-damaged" if damaged else region.key
        return RegionResult(region.ar_number, shard=Shard(timeline, key, processing))


def _gather(cluster: Cluster, futures: list[Future]) -> list:
    """Return the results of tasks; every failure becomes a sentence, so that other regions can go on.

    Raises:
        ClusterLost: If no worker is left to finish the tasks.
        SolaredError: If a task failed, or every worker that tried it died.
    """
    try:
        return cluster.gather(futures)
    except SolaredError:
        raise
    except KilledWorker as error:
        raise SolaredError(
            "the worker died each time it tried a segment, probably for lack of memory (a segment takes up to 2 GB). "
            "Run the same command with fewer --workers"
        ) from error
    except Exception as error:  # any error of a task concerns only the region of the task
        raise SolaredError(
            f"a task failed with {type(error).__name__} ({error}). Run the same command again, and report the error "
            "if it comes back"
        ) from error


def _scan(cluster: Cluster, folder: Path) -> tuple[Observations, list[str]]:
    """Return the observations in one observable's folder, and the fingerprints of the files.

    Raises:
        ClusterLost: If no worker is left to scan the files.
        SolaredError: If no file can be used.
    """
    paths = find_files(folder)
    chunks = [paths[first : first + _FILES_IN_SCAN] for first in range(0, len(paths), _FILES_IN_SCAN)]
    # With priority over the segments of earlier regions, so that the next plan is ready before workers run idle.
    futures = [cluster.submit(scan_files, chunk, priority=1) for chunk in chunks]
    try:
        files = [file for scan in _gather(cluster, futures) for file in scan]
    except ClusterLost:
        raise
    except SolaredError as error:
        raise SolaredError(f"{folder}: {error}.") from error
    return collect(folder, files, UNITS[folder.name]), [file.fingerprint for file in files]


def _reduce(segment: Segment, name: str, topic: str) -> ReducedSegment:
    """Run one task, on one thread, because Dask runs one task per core, and so that sums are the same everywhere."""
    torch.set_num_threads(1)
    return reduce_segment(segment, lambda steps: get_worker().log_event(topic, {"segment": name, "steps": steps}))


class _StepBar:
    """A progress bar over steps; the workers report their steps under `topic`."""

    def __init__(self, cluster: Cluster, progress: bool):
        # Other builds may run on the same cluster.
        self.topic = f"solared-steps-{uuid4().hex}"
        self._client = cluster.client
        cluster.show_status = self.show_status
        self._finished: dict[str, int] = {}
        self._bar = tqdm(desc="building", unit="step", total=0, file=sys.stderr, disable=not progress)

    def __enter__(self) -> Self:
        self._client.subscribe_topic(self.topic, self._advance)
        return self

    def __exit__(self, *raised) -> None:
        if self._client.status == "running":
            self._client.unsubscribe_topic(self.topic)
        self._bar.close()

    def show_status(self, status: str) -> None:
        self._bar.set_description(status)

    def add(self, steps: int) -> None:
        self._bar.total = (self._bar.total or 0) + steps
        self._bar.refresh()

    def _advance(self, event: tuple[float, dict]) -> None:
        _, report = event
        # A segment that is computed again starts from 0.
        self._finished[report["segment"]] = report["steps"]
        self._bar.update(sum(self._finished.values()) - self._bar.n)
