"""FITS files of raw observations as a source: scanned, cut into segments, and computed on a Dask cluster.

Tasks carry paths, never pixels, and give back the tiles of a segment, some 90 kB; this process alone writes. A worker
that dies costs the repetition of its segment. A region with files whose pixels cannot be decoded is reduced again in
every run, because their replacements cannot be told from them by their headers.
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
from dataset_builder.fits.observations import UNDECODABLE, Observations, collect, find_files, scan_files
from dataset_builder.fits.plan import Plan, ReductionSettings, assemble, plan_region
from dataset_builder.fits.reduction import CORRECTIONS, MOST_MISSING, ReducedSegment, Segment, reduce_segment
from dataset_builder.fits.region_file import OBSERVABLES, read_region_file
from dataset_builder.fits.times import CADENCES
from dataset_builder.fits.units import UNITS
from dataset_builder.shards import Shard, source_key
from dataset_builder.sources import RegionResult, find_regions, region_number
from solared_hf.errors import SolaredError

# Raised whenever the same files give other values, so that finished shards are built again.
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
        settings: how they are reduced.
        workers: Dask processes to start on this machine, by default one a core.
        scheduler: address of a running Dask scheduler, instead.
        worker_timeout_s: how long to wait while there is no worker at all.

    Raises:
        SolaredError: a setting is unknown.

    >>> from dataset_builder.fits.plan import ReductionSettings
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
        # Workers may run elsewhere and in another folder, but know the input by the name it was given here.
        self.folder = Path(folder).absolute()
        self._settings = settings or ReductionSettings()
        self._workers, self._scheduler, self._worker_timeout_s = workers, scheduler, worker_timeout_s
        # Cadences may differ from region to region, as every timeline states its own.
        self.shared_settings = {key: value for key, value in asdict(self._settings).items() if key != "cadence"}
        for name, value, known in (
            ("cadence", self._settings.cadence, CADENCES),
            ("correction", self._settings.correction, CORRECTIONS),
        ):
            if value not in known:
                raise SolaredError(f"Unknown {name} {value!r}; choose one of {', '.join(known)}.")

    def regions(self) -> list[Path]:
        """Folders `AR<number>`, ascending.

        Raises:
            SolaredError: there is none.
        """
        return find_regions(self.folder)

    def build_regions(self, is_finished: Callable[[int, str], bool], progress: bool) -> Iterator[RegionResult]:
        """One result for each region, in the order in which they are finished; see `sources.Source`.

        Raises:
            SolaredError: there is no region, or no cluster to work on, or none any more.
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
                # Enough to keep every worker busy, and no more plans in memory than that takes.
                while sum(len(region.futures) for region in running) > 2 * cluster.threads():
                    yield self._finish(cluster, running.popleft())
            while running:
                yield self._finish(cluster, running.popleft())

    def _start(
        self, cluster: Cluster, folder: Path, is_finished: Callable[[int, str], bool], bar: "_StepBar"
    ) -> _Region | None:
        """Scan and plan a region and submit its segments; None where its shard is finished.

        Raises:
            SolaredError: its files cannot be used.
        """
        ar_number, described = region_number(folder), read_region_file(folder)
        if described is not None and described.ar_number != ar_number:
            raise SolaredError(f"{folder} describes AR{described.ar_number} in region.json; correct one of them.")
        observations, contents = {}, {}
        for observable in OBSERVABLES:
            observations[observable], fingerprints = _scan(cluster, folder / observable)
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
        names = [f"AR{ar_number}-{index}-{key}" for index in range(len(plan.segments))]
        futures = [
            cluster.submit(_reduce, segment, name, bar.topic, key=name)
            for name, segment in zip(names, plan.segments, strict=True)
        ]
        bar.add(len(plan.starts))
        return _Region(ar_number, key, plan, futures)

    def _finish(self, cluster: Cluster, region: _Region) -> RegionResult:
        """Wait for a region's segments.

        Raises:
            ClusterLost: they cannot be finished, nor can any other.
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
        # A whole file in place of a damaged one may have the same name, size and header, so the key would be the same.
        damaged = processing["unreadable"] or any(
            UNDECODABLE in observed.rejected for observed in region.plan.observations.values()
        )
        key = f"{region.key}-damaged" if damaged else region.key
        return RegionResult(region.ar_number, shard=Shard(timeline, key, processing))


def _gather(cluster: Cluster, futures: list[Future]) -> list:
    """Results of tasks; whatever went wrong is told as a sentence, so that other regions go on.

    Raises:
        ClusterLost: there is nobody left who could finish them.
        SolaredError: a task failed, or its worker died time and again.
    """
    try:
        return cluster.gather(futures)
    except SolaredError:
        raise
    except KilledWorker as error:
        raise SolaredError(
            "the worker died each time that a piece of it was tried, presumably for lack of memory (it takes up to "
            "2 GB); run the same command with fewer --workers"
        ) from error
    except Exception as error:  # raised by a task: one region's trouble, whatever it is
        raise SolaredError(
            f"a task failed with {type(error).__name__} ({error}); run the same command again, and report it if it "
            "fails again"
        ) from error


def _scan(cluster: Cluster, folder: Path) -> tuple[Observations, list[str]]:
    """Observations in one observable's folder, and the fingerprints of its files.

    Raises:
        ClusterLost: there is nobody left to look at them.
        SolaredError: nothing there can be used.
    """
    paths = find_files(folder)
    chunks = [paths[first : first + _FILES_IN_SCAN] for first in range(0, len(paths), _FILES_IN_SCAN)]
    # Ahead of the segments of earlier regions, so that no worker waits for a plan.
    futures = [cluster.submit(scan_files, chunk, priority=1) for chunk in chunks]
    try:
        files = [file for scan in _gather(cluster, futures) for file in scan]
    except ClusterLost:
        raise
    except SolaredError as error:
        raise SolaredError(f"{folder}: {error}.") from error
    return collect(folder, files, UNITS[folder.name]), [file.fingerprint for file in files]


def _reduce(segment: Segment, name: str, topic: str) -> ReducedSegment:
    """One task. Dask runs as many as there are cores, so each keeps to one thread: also the same sums everywhere."""
    torch.set_num_threads(1)
    return reduce_segment(segment, lambda steps: get_worker().log_event(topic, {"segment": name, "steps": steps}))


class _StepBar:
    """A bar over steps, which the workers report under `topic` while they work."""

    def __init__(self, cluster: Cluster, progress: bool):
        # Other builds may run on the same cluster.
        self.topic = f"solared-steps-{uuid4().hex}"
        self._client = cluster.client
        cluster.say = self.say
        self._finished: dict[str, int] = {}
        self._bar = tqdm(desc="building", unit="step", total=0, file=sys.stderr, disable=not progress)

    def __enter__(self) -> Self:
        self._client.subscribe_topic(self.topic, self._advance)
        return self

    def __exit__(self, *raised) -> None:
        if self._client.status == "running":
            self._client.unsubscribe_topic(self.topic)
        self._bar.close()

    def say(self, what: str) -> None:
        self._bar.set_description(what)

    def add(self, steps: int) -> None:
        self._bar.total += steps
        self._bar.refresh()

    def _advance(self, event: tuple[float, dict]) -> None:
        _, report = event
        # A segment that is repeated begins again.
        self._finished[report["segment"]] = report["steps"]
        self._bar.update(sum(self._finished.values()) - self._bar.n)
