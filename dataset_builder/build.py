"""Build a dataset folder from a source: one Parquet shard for each region. A rerun builds only what changed.

The footer of a shard holds a key: the checksum of the source files and of the build settings. A region is finished if
the shard is intact and the key still matches. Card, catalog and manifest are written at the end, from the facts of
each shard. The facts of a new shard are computed when the shard is written; the facts of an unchanged shard come from
the manifest. So a build holds the values of only a few regions in memory, and a rerun does not read finished shards.

A folder with a card is a finished dataset, and the card describes the files beside it. To keep that true, a rebuild
writes new files into the hidden folder `.staged`, which has the same layout as the dataset, and moves them into place
when all of them are written: first the old card is deleted, and the new card is moved last. A build that fails or is
killed before the move leaves the old dataset unchanged. A build that is killed during the move leaves a folder without
a card, and the next build completes the move first.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from dataset_builder.description import FACTS_VERSION, catalog_table, dataset_card, statistics
from dataset_builder.inventory import Inventory, shard_facts
from dataset_builder.shards import encode_shard, encode_table
from dataset_builder.simulation import timelines as simulate
from dataset_builder.sources import Source, region_number
from solared_hf.errors import SolaredError
from solared_hf.files import locked, remove_leftovers, write_atomically
from solared_hf.hub.cards import CARD_NAME
from solared_hf.schema import CATALOG_PATH, MANIFEST_NAME, SCHEMA_VERSION
from solared_hf.splits import SPLITS, published_split

LOCK_NAME = ".build.lock"
DATA_FOLDER = "data"
STAGING_NAME = ".staged"
_GENERATOR = "solared build"


@dataclass(frozen=True)
class BuildReport:
    """Result of a build.

    Args:
        folder: the dataset folder.
        regions: number of regions in the dataset, including regions that are not in the source.
        rows: number of rows of all shards.
        bytes: size of all shards.
        written: number of regions whose shards were written.
        kept: number of regions of the source whose shards were finished before.
    """

    folder: Path
    regions: int
    rows: int
    bytes: int
    written: int
    kept: int


def split_of_region(ar_number: int) -> str:
    """Return the split of a region: the published split, or the simulation's split for a simulated region."""
    return simulate.split_of(ar_number) if simulate.is_simulated(ar_number) else published_split(ar_number)


def build_dataset(
    source: Source,
    output: Path | str,
    split_of: Callable[[int], str] = split_of_region,
    progress: bool = False,
) -> BuildReport:
    """Build or update a dataset folder that `datasets.load_dataset` reads.

    Every region is tried, even if others cannot be read. If regions failed, the build ends with an error that has one
    sentence for each of them. A dataset that was in `output` then stays as it was, a new folder gets no card, and the
    next run keeps the finished shards. Shards of regions that are not in `source` are kept and described.

    Args:
        source: the regions to build.
        output: a new or empty folder, or a folder that an earlier build wrote.
        split_of: returns the split of an AR number. A shard moves when the split of its region changes.
        progress: show a progress bar on standard error.

    Raises:
        SolaredError: If the arguments do not fit together, another build is writing `output`, a region cannot be
            built, or the disk is full.

    >>> from tempfile import TemporaryDirectory
    >>> from dataset_builder.published import PublishedSource
    >>> with TemporaryDirectory() as folder:
    ...     simulate.write_simulated(folder, [90001, 90007], steps=48)
    ...     report = build_dataset(PublishedSource(folder), f"{folder}/dataset")
    ...     again = build_dataset(PublishedSource(folder), f"{folder}/dataset")
    >>> report.regions, report.rows, report.written, again.written
    (2, 96, 2, 0)
    """
    regions, output = source.regions(), Path(output)
    _check_output(output, source.folder, regions)
    busy = f"Another build is writing {output}. Wait until it has finished, or name another folder."
    with locked(output / LOCK_NAME, busy):
        staging = output / STAGING_NAME
        remove_leftovers(*_written_folders(output), *_written_folders(staging))
        if (staging / CARD_NAME).exists():  # the card is written last, so an earlier build was killed during the move
            _move_into_place(output, staging)
        inventory = Inventory(output)
        _check_source(source, regions, output, inventory)
        # A folder without a card is not a dataset yet, so its shards can be written into place at once.
        target = staging if staging.exists() or (output / CARD_NAME).exists() else output
        bad, written = {}, 0
        for result in source.build_regions(partial(_is_finished, output, target, split_of, inventory), progress):
            path = _shard_path(target, result.ar_number, split_of)
            try:
                if result.error is not None:
                    raise result.error
                if result.shard is not None:
                    content = encode_shard(result.shard)
                    facts = shard_facts(result.shard, content)  # raises if the region cannot be described
            except SolaredError as error:
                bad[result.ar_number] = str(error)
                continue
            if result.shard is not None:
                write_atomically(path, content)
                inventory.add(path, facts)
                written += 1
            _remove_from_other_splits(target, result.ar_number, split_of)
        if bad:
            sentences = "\n".join(sentence for _, sentence in sorted(bad.items()))
            raise SolaredError(
                f"{len(bad)} of {len(regions)} regions could not be built. The other regions are finished and kept "
                "for the next run, and an existing dataset is unchanged. Mend these regions and run the same command "
                f"again:\n{sentences}"
            )
        manifest = _describe(output, target, source.name, inventory)
        if target != output and target.exists():
            _move_into_place(output, target)
    return BuildReport(
        folder=output,
        regions=len(manifest["regions"]),
        rows=sum(region["steps"] for region in manifest["regions"]),
        bytes=sum(region["bytes"] for region in manifest["regions"]),
        written=written,
        kept=len(regions) - written,
    )


def _is_finished(
    output: Path, target: Path, split_of: Callable[[int], str], inventory: Inventory, ar_number: int, key: str
) -> bool:
    """Return True if `output` or `target` holds a shard of the region with this key."""
    finished, path = (_shard_path(folder, ar_number, split_of) for folder in (output, target))
    if _is_current(finished, key, inventory):
        if path != finished:
            path.unlink(missing_ok=True)  # staged for a version of the source that was changed back since
        return True
    return _is_current(path, key, inventory)


def _is_current(path: Path, key: str, inventory: Inventory) -> bool:
    try:
        return inventory.facts(path)["source_key"] == key
    except (OSError, SolaredError):
        return False  # missing or damaged


def _describe(output: Path, target: Path, source: str, inventory: Inventory) -> dict:
    """Write catalog, manifest and card into `target` where they differ from those in `output`; return the manifest."""
    regions = []
    for name, path in _shards_of_dataset(output, target):
        try:
            facts = inventory.facts(path)
        except SolaredError as error:
            raise SolaredError(f"{path} is damaged or is not a shard. Delete it and build again.") from error
        regions.append({**facts, "split": Path(name).parent.name, "path": name})
    regions.sort(key=lambda region: region["ar_number"])
    for first, second in pairwise(regions):
        if first["ar_number"] == second["ar_number"]:
            raise SolaredError(
                f"{output} holds AR{first['ar_number']} as {first['path']} and {second['path']}. Delete one of them."
            )
    by_split = {
        split: in_split for split in SPLITS if (in_split := [region for region in regions if region["split"] == split])
    }
    catalog_content = encode_table(catalog_table(regions))
    manifest = {
        "generator": _GENERATOR,
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "simulated": all(simulate.is_simulated(region["ar_number"]) for region in regions),
        "regions": regions,
        "facts_version": FACTS_VERSION,
        "statistics": {split: statistics(in_split) for split, in_split in by_split.items()},
        "catalog": {
            "path": CATALOG_PATH,
            "bytes": len(catalog_content),
            "sha256": hashlib.sha256(catalog_content).hexdigest(),
        },
    }
    described = {
        CATALOG_PATH: catalog_content,
        MANIFEST_NAME: (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode(),
        CARD_NAME: dataset_card(manifest).encode(),
    }
    for name, content in described.items():
        # The card comes last. It is also written if anything is staged, because the move deletes the old card.
        if not _holds(output / name, content) or (name == CARD_NAME and target.exists()):
            write_atomically(target / name, content)
        elif target != output:
            (target / name).unlink(missing_ok=True)  # staged by a failed run that described other shards
    return manifest


def _move_into_place(output: Path, staging: Path) -> None:
    """Move the staged files into the dataset; after an interruption, a second call completes the move.

    Raises:
        SolaredError: If the folder cannot be written.
    """
    try:
        (output / CARD_NAME).unlink(missing_ok=True)
        for path in _shard_paths(staging):
            for split in SPLITS:
                (output / DATA_FOLDER / split / path.name).unlink(missing_ok=True)
            _move(path, output / path.relative_to(staging))
        for name in (CATALOG_PATH, MANIFEST_NAME, CARD_NAME):
            if (staging / name).exists():
                _move(staging / name, output / name)
        shutil.rmtree(staging)
    except OSError as error:
        raise SolaredError(
            f"Could not write {output} ({error.strerror or error}). Mend this and run the same command again."
        ) from error


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    path.replace(to)


def _shard_path(output: Path, ar_number: int, split_of: Callable[[int], str]) -> Path:
    split = split_of(ar_number)
    if split not in SPLITS:
        raise SolaredError(f"AR{ar_number} was given the split {split!r}. Choose one of {', '.join(SPLITS)}.")
    return output / DATA_FOLDER / split / f"AR{ar_number}.parquet"


def _shard_paths(output: Path) -> list[Path]:
    return sorted((output / DATA_FOLDER).glob("*/*.parquet"))


def _shards_of_dataset(output: Path, target: Path) -> list[tuple[str, Path]]:
    """Return (name in the finished dataset, path) of each shard: all of `target`, and those of `output` that stay."""
    new = _shard_paths(target)
    replaced = {path.name for path in new}
    stay = [path for path in _shard_paths(output) if path.name not in replaced]
    return sorted(
        (path.relative_to(folder).as_posix(), path)
        for folder, paths in ((target, new), (output, stay))
        for path in paths
    )


def _written_folders(output: Path) -> list[Path]:
    return [output, (output / CATALOG_PATH).parent, *(output / DATA_FOLDER / split for split in SPLITS)]


def _remove_from_other_splits(output: Path, ar_number: int, split_of: Callable[[int], str]) -> None:
    right = _shard_path(output, ar_number, split_of)
    for split in SPLITS:
        path = output / DATA_FOLDER / split / right.name
        if path != right:
            path.unlink(missing_ok=True)


def _holds(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def _check_source(source: Source, regions: list[Path], output: Path, inventory: Inventory) -> None:
    """Raise if one folder would mix simulated and real regions, or two sources: the card would be wrong."""
    shards = _shard_paths(output)
    paths = [*regions, *shards]
    simulated = [simulate.is_simulated(region_number(path.with_suffix(""))) for path in paths]
    if len(set(simulated)) > 1:
        raise SolaredError(
            f"{paths[simulated.index(True)]} is simulated and {paths[simulated.index(False)]} is not. Build simulated "
            "regions in a separate folder."
        )
    built_anew = {region.name for region in regions}
    for path in shards:
        try:
            facts = inventory.facts(path)
        except (OSError, SolaredError):
            continue  # a damaged shard is built again, or reported when the shards are described
        if facts["source"] != source.name:
            raise SolaredError(
                f"{path} was built with --source {facts['source']}, but this build has --source {source.name}. Name "
                "another folder."
            )
        for name, value in source.shared_settings.items():
            other = facts["settings"][name]
            if other != value and path.stem not in built_anew:
                raise SolaredError(
                    f"{path} was built with {name} {other}, but this build has {name} {value}. Name another folder, "
                    f"or also build {path.stem} again."
                )


def _check_output(output: Path, input: Path, regions: list[Path]) -> None:
    """Raise if a build must not write into the folder `output`."""
    if output.exists() and not output.is_dir():
        raise SolaredError(f"{output} is a file. Name a folder for the dataset.")
    if output.resolve() in (input.resolve(), regions[0].parent.resolve()):
        raise SolaredError(f"{output} holds the input. Name another folder for the dataset.")
    manifest = output / MANIFEST_NAME
    if not manifest.exists():
        foreign = _foreign_entries(output) if output.exists() else []
        if foreign:
            raise SolaredError(
                f"{output} holds {foreign[0]} but no manifest of `{_GENERATOR}`, so the build does not change it. "
                "Name a new or an empty folder."
            )
        return
    try:
        facts = json.loads(manifest.read_bytes())
        ours, version = facts["generator"] == _GENERATOR, int(facts["schema_version"])
    except (OSError, ValueError, KeyError, TypeError):
        ours, version = False, 0
    if not ours:
        raise SolaredError(f"{manifest} was not written by `{_GENERATOR}`. Name a new or an empty folder.")
    if version > SCHEMA_VERSION:
        raise SolaredError(
            f"{output} was built with schema version {version}, but this package knows {SCHEMA_VERSION}. Run `pip "
            "install --upgrade solared-hf`, or name another folder."
        )


def _foreign_entries(output: Path) -> list[str]:
    """Return the entries that an interrupted build cannot have left in a folder; hidden entries are ignored."""
    ours = {DATA_FOLDER, Path(CATALOG_PATH).parent.name}
    entries = [path.name for path in output.iterdir() if path.name not in ours and not path.name.startswith(".")]
    if (output / DATA_FOLDER).is_dir():
        entries += [f"data/{path.name}" for path in (output / DATA_FOLDER).iterdir() if path.name not in SPLITS]
    return sorted(entries)
