"""The published repository on the Hub, as it is, into a dataset folder: one revision, only data, no code."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError, OfflineModeIsEnabled

from dataset_builder.build import DATA_FOLDER, STAGING_NAME, BuildReport, build_dataset
from dataset_builder.published.files import FILE_CHANNELS, source_path
from dataset_builder.published.index import IndexRow, compare, read_index
from dataset_builder.published.source import PublishedSource
from dataset_builder.sources import region_number
from solared_hf.errors import SolaredError, reason_of
from solared_hf.hub.errors import explain
from solared_hf.schema import MANIFEST_NAME

PUBLISHED_REPOSITORY = "nasa-impact/ar_emergence"

# Numbers of regions have had five digits since 2002.
_REGION_FILES = f"AR[1-9]{'[0-9]' * 4}/mean_*_flat.npz"
_PLACES = (f"data/{_REGION_FILES}", _REGION_FILES)
_INDEX_FILES = "*.csv"


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Args:
        commit: the commit of the repository that was read.
        build: what was built.
        remarks: sentences on where the repository's index and its files differ.
    """

    commit: str
    build: BuildReport
    remarks: list[str]


def import_repository(
    repo_id: str,
    output: Path | str,
    revision: str | None = None,
    leave_out: Collection[int] = (),
    progress: bool = False,
) -> ImportReport:
    """Download the published files of a dataset repository and build a dataset folder, or bring it up to date.

    Downloads stay in the cache of the Hub's client, and finished regions in `output`, so the same call after an
    interruption does what is left. With `HF_HUB_OFFLINE=1`, what was downloaded before is taken.

    Args:
        repo_id: `owner/name`.
        output: new or empty folder, or one that an earlier build wrote.
        revision: branch, tag or commit; `main` by default.
        leave_out: AR numbers of regions that are not wanted, such as damaged ones.
        progress: show bars on standard error; those of the download follow the client's own settings.

    Raises:
        SolaredError: the repository cannot be read, or holds no published files; its index points out of it; a region
            to leave out is unknown, or in `output` already; or the regions could not be built.
    """
    if repo_id.count("/") != 1:
        raise SolaredError(f"{repo_id} is no name of a repository; name one as owner/name: {PUBLISHED_REPOSITORY}.")
    _check_not_there(output, leave_out)
    api = HfApi(library_name="solared-hf", library_version=version("solared-hf"))
    with _told_clearly(repo_id, revision):
        snapshot = _download(api, repo_id, revision)
        regions, incomplete = _regions(snapshot)
        if not regions:
            raise _nothing_to_import(api, repo_id, revision, snapshot.name)
    regions = _without(regions, incomplete, leave_out, repo_id)
    rows, remarks = _read_indexes(snapshot)
    try:
        build = build_dataset(PublishedSource(snapshot, regions), output, progress=progress)
    except SolaredError as error:
        if str(snapshot) not in str(error):
            raise
        raise SolaredError(
            f"{error}\nThese files are as {repo_id} has them in commit {snapshot.name}. `hf cache rm "
            f"dataset/{repo_id}` and the same command download them anew; if that is no better, tell their owner, and "
            "do without these regions by --leave-out and their number."
        ) from error
    numbers = {region_number(region) for region in regions}
    described = json.loads((build.folder / MANIFEST_NAME).read_bytes())["regions"]
    converted = [region for region in described if region["ar_number"] in numbers]
    earlier = {region["ar_number"] for region in described} - numbers
    remarks += compare(rows, converted, incomplete, leave_out, earlier)
    return ImportReport(snapshot.name, build, remarks)


def _download(api: HfApi, repo_id: str, revision: str | None) -> Path:
    """The folder of the client's cache that holds the data of one commit, whose name it bears."""
    # On its own the client takes an old copy in silence when the Hub does not answer, so that is asked first; who sets
    # HF_HUB_OFFLINE wants the copy.
    with suppress(OfflineModeIsEnabled):
        api.dataset_info(repo_id, revision=revision)
    patterns = [*_PLACES, _INDEX_FILES]
    return Path(api.snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=patterns))


def _regions(snapshot: Path) -> tuple[list[Path], list[int]]:
    """Folders of the regions that have their three files, and the numbers of those that lack one."""
    for place in _PLACES:
        folders = sorted({path.parent for path in snapshot.glob(place)})
        if folders:
            break
    whole = [folder for folder in folders if all(source_path(folder, kind).exists() for kind in FILE_CHANNELS)]
    return whole, [region_number(folder) for folder in folders if folder not in whole]


def _check_not_there(output: Path | str, leave_out: Collection[int]) -> None:
    """Refuse to leave out what a build would keep, for it keeps all regions that are in its folder."""
    for ar_number in sorted(leave_out):
        for folder in (Path(output), Path(output, STAGING_NAME)):
            if any((folder / DATA_FOLDER).glob(f"*/AR{ar_number}.parquet")):
                raise SolaredError(
                    f"AR{ar_number} is in {output} from an earlier import and would stay there; name a new folder to "
                    "leave it out."
                )


def _without(regions: list[Path], incomplete: list[int], leave_out: Collection[int], repo_id: str) -> list[Path]:
    unknown = sorted(set(leave_out) - {region_number(region) for region in regions} - set(incomplete))
    if unknown:
        raise SolaredError(f"{repo_id} has no region AR{unknown[0]} to leave out; correct the number.")
    kept = [region for region in regions if region_number(region) not in leave_out]
    if not kept:
        raise SolaredError(f"Nothing of {repo_id} is left to import; leave out fewer regions.")
    return kept


def _read_indexes(snapshot: Path) -> tuple[list[IndexRow], list[str]]:
    rows, remarks = [], []
    for path in sorted(path for path in snapshot.rglob(_INDEX_FILES) if path.is_file()):
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            found, odd = read_index(path.relative_to(snapshot).as_posix(), lines)
        rows += found
        remarks += odd
    return rows, remarks


def _nothing_to_import(api: HfApi, repo_id: str, revision: str | None, commit: str) -> SolaredError:
    names = api.list_repo_files(repo_id, repo_type="dataset", revision=commit)
    if any(name.endswith(".parquet") for name in names):
        pinned = "" if revision is None else f', revision="{revision}"'
        return SolaredError(
            f'{repo_id} holds Parquet files and no published ones, so there is nothing to import: load_dataset("'
            f'{repo_id}"{pinned}) reads it as it is.'
        )
    return SolaredError(
        f"{repo_id} holds no region, that is a folder data/AR<number> with mean_int<number>_flat.npz, "
        "mean_mag<number>_flat.npz and mean_pmdop<number>_flat.npz; name another repository, such as "
        f"{PUBLISHED_REPOSITORY}, or another --revision."
    )


@contextmanager
def _told_clearly(repo_id: str, revision: str | None) -> Iterator[None]:
    """What goes wrong between the Hub and here, as one sentence with the cure."""
    try:
        yield
    except SolaredError:
        raise
    except (HTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        no_room = (
            f"The download of {repo_id} could not be kept in {constants.HF_HUB_CACHE} ({reason_of(error)}); make room "
            "there, or set HF_HOME to another folder, and run the same command again."
        )
        raise SolaredError(explain(error, repo_id, revision) or no_room) from error
