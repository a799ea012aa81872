"""Import the published Hub repository into a dataset folder: one revision, only data, no code."""

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

# AR numbers have had five digits since 2002.
_REGION_FILES = f"AR[1-9]{'[0-9]' * 4}/mean_*_flat.npz"
_PLACES = (f"data/{_REGION_FILES}", _REGION_FILES)
_INDEX_FILES = "*.csv"


@dataclass(frozen=True)
class ImportReport:
    """Result of an import.

    Args:
        commit: the commit of the repository that was imported.
        build: the result of the build.
        remarks: one sentence for each difference between the index of the repository and the files.
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
    """Download the published files of a dataset repository and build or update a dataset folder.

    Downloads stay in the cache of the Hub client, and finished regions stay in `output`, so the same call completes an
    interrupted import. With `HF_HUB_OFFLINE=1`, only the cached download is used.

    Args:
        repo_id: `owner/name`.
        output: a new or empty folder, or a folder that an earlier build wrote.
        revision: branch, tag or commit; `main` by default.
        leave_out: AR numbers of regions to leave out, such as damaged regions.
        progress: show progress bars on standard error. The Hub client's settings control the bars of the download.

    Raises:
        SolaredError: If the repository cannot be read or does not hold published files, a path in the index leads out
            of the repository, a region to leave out is unknown or already in `output`, or a region cannot be built.
    """
    if repo_id.count("/") != 1:
        raise SolaredError(
            f"{repo_id} is not the name of a repository. Name it as owner/name, such as {PUBLISHED_REPOSITORY}."
        )
    _check_not_imported(output, leave_out)
    api = HfApi(library_name="solared-hf", library_version=version("solared-hf"))
    with _explained_errors(repo_id, revision):
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
            f"{error}\nThese files come from commit {snapshot.name} of {repo_id}. To download them again, run `hf "
            f"cache rm dataset/{repo_id}` and then the same command. If they are still damaged, tell the owner of the "
            "repository, and leave out these regions with --leave-out and the AR number."
        ) from error
    numbers = {region_number(region) for region in regions}
    described = json.loads((build.folder / MANIFEST_NAME).read_bytes())["regions"]
    converted = [region for region in described if region["ar_number"] in numbers]
    earlier = {region["ar_number"] for region in described} - numbers
    remarks += compare(rows, converted, incomplete, leave_out, earlier)
    return ImportReport(snapshot.name, build, remarks)


def _download(api: HfApi, repo_id: str, revision: str | None) -> Path:
    """Return the folder in the Hub client's cache with the data of one commit; its name is that of the commit."""
    # If the Hub does not answer, `snapshot_download` silently returns an old copy, so ask the Hub first. With
    # HF_HUB_OFFLINE the user wants the old copy.
    with suppress(OfflineModeIsEnabled):
        api.dataset_info(repo_id, revision=revision)
    patterns = [*_PLACES, _INDEX_FILES]
    return Path(api.snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=patterns))


def _regions(snapshot: Path) -> tuple[list[Path], list[int]]:
    """Return the folders of regions with all three files, and the AR numbers of regions that lack a file."""
    for place in _PLACES:
        folders = sorted({path.parent for path in snapshot.glob(place)})
        if folders:
            break
    complete = [folder for folder in folders if all(source_path(folder, kind).exists() for kind in FILE_CHANNELS)]
    return complete, [region_number(folder) for folder in folders if folder not in complete]


def _check_not_imported(output: Path | str, leave_out: Collection[int]) -> None:
    """Raise if `output` holds a region to leave out, because a build keeps all regions in the folder."""
    for ar_number in sorted(leave_out):
        for folder in (Path(output), Path(output, STAGING_NAME)):
            if any((folder / DATA_FOLDER).glob(f"*/AR{ar_number}.parquet")):
                raise SolaredError(
                    f"AR{ar_number} is in {output} from an earlier import and would stay there. Name a new folder to "
                    "leave it out."
                )


def _without(regions: list[Path], incomplete: list[int], leave_out: Collection[int], repo_id: str) -> list[Path]:
    unknown = sorted(set(leave_out) - {region_number(region) for region in regions} - set(incomplete))
    if unknown:
        raise SolaredError(f"{repo_id} has no region AR{unknown[0]} to leave out. Correct the number.")
    kept = [region for region in regions if region_number(region) not in leave_out]
    if not kept:
        raise SolaredError(f"No region of {repo_id} is left to import. Leave out fewer regions.")
    return kept


def _read_indexes(snapshot: Path) -> tuple[list[IndexRow], list[str]]:
    rows: list[IndexRow] = []
    remarks: list[str] = []
    for path in sorted(path for path in snapshot.rglob(_INDEX_FILES) if path.is_file()):
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            file_rows, file_remarks = read_index(path.relative_to(snapshot).as_posix(), lines)
        rows += file_rows
        remarks += file_remarks
    return rows, remarks


def _nothing_to_import(api: HfApi, repo_id: str, revision: str | None, commit: str) -> SolaredError:
    names = api.list_repo_files(repo_id, repo_type="dataset", revision=commit)
    if any(name.endswith(".parquet") for name in names):
        pinned = "" if revision is None else f', revision="{revision}"'
        return SolaredError(
            f"{repo_id} holds Parquet files and no published files, so there is nothing to import. Load it with "
            f'load_dataset("{repo_id}"{pinned}).'
        )
    return SolaredError(
        f"{repo_id} does not hold a region, which is a folder data/AR<number> with mean_int<number>_flat.npz, "
        "mean_mag<number>_flat.npz and mean_pmdop<number>_flat.npz. Name another repository, such as "
        f"{PUBLISHED_REPOSITORY}, or another --revision."
    )


@contextmanager
def _explained_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the Hub, the connection and the cache into a `SolaredError` that says what to do."""
    try:
        yield
    except SolaredError:
        raise
    except (HTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        no_room = (
            f"The download of {repo_id} could not be written to {constants.HF_HUB_CACHE} ({reason_of(error)}). Make "
            "room there, or set HF_HOME to another folder, and run the same command again."
        )
        raise SolaredError(explain(error, repo_id, revision) or no_room) from error
