"""From a source to a dataset folder: one region, one Parquet shard; a rerun does only what is left to do.

A shard carries a key in its footer: the checksum of its source files and of how it is built. A region whose shard is
whole and carries the key of today is done. Card, catalog and manifest are made at the end, from facts of each shard.
The facts of a new shard are taken when it is written; those of a shard that is as the last build left it are in the
manifest. So a build holds the values of a few regions only, and a rerun does not read finished shards.

A folder with a card is a finished dataset, and the card describes the files beside it. To keep that true, a rebuild
writes what is new into the hidden folder `.staged`, which is laid out as the dataset is, and moves it into place once
all of it is there: the old card goes first, the new one comes last. A build that fails or is killed before leaves the
old dataset as it was. One that is killed while it moves files leaves a folder without a card, and the next build
finishes that first.
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
    """What a build did: `written` and `kept` count regions, `rows` and `bytes` are those of all shards in `folder`.

    `regions` counts those of the dataset, also the ones that are not in the source.
    """

    folder: Path
    regions: int
    rows: int
    bytes: int
    written: int
    kept: int


def split_of_region(ar_number: int) -> str:
    """Split of a region: the published one, or the simulation's own for its numbers."""
    return simulate.split_of(ar_number) if simulate.is_simulated(ar_number) else published_split(ar_number)


def build_dataset(
    source: Source,
    output: Path | str,
    split_of: Callable[[int], str] = split_of_region,
    progress: bool = False,
) -> BuildReport:
    """Build, or bring up to date, a dataset folder that `datasets.load_dataset` reads.

    Regions that cannot be read do not stop the others: every region is tried, the good ones become shards, and then
    the build fails with a sentence for each bad one. A dataset that was in `output` stays as it was, a new one gets no
    card, and the next run takes up the finished shards. Shards of regions that are not in `source` are kept and
    described.

    Args:
        source: where the regions come from.
        output: new or empty folder, or one that an earlier build wrote.
        split_of: split by AR number; a region whose split changed moves.
        progress: show a bar on standard error.

    Raises:
        SolaredError: the arguments do not fit, another build is writing `output`, a region is bad, or the disk is
            full.

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
    busy = f"Another build is writing {output}; wait until it has finished, or name another folder."
    with locked(output / LOCK_NAME, busy):
        staging = output / STAGING_NAME
        remove_leftovers(*_written_folders(output), *_written_folders(staging))
        if (staging / CARD_NAME).exists():  # written last: an earlier build was killed while it moved files
            _move_into_place(output, staging)
        inventory = Inventory(output)
        _check_source(source, regions, output, inventory)
        # A folder without a card is no dataset yet, and its shards need no detour.
        target = staging if staging.exists() or (output / CARD_NAME).exists() else output
        bad, written = {}, 0
        for result in source.build_regions(partial(_is_finished, output, target, split_of, inventory), progress):
            path = _shard_path(target, result.ar_number, split_of)
            try:
                if result.error is not None:
                    raise result.error
                if result.shard is not None:
                    content = encode_shard(result.shard)
                    facts = shard_facts(result.shard, content)  # refuses a region that cannot be described
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
                f"{len(bad)} of {len(regions)} regions could not be built; the others are finished and kept for the "
                "next run, and a dataset that was there is left as it was. Mend these and run the same command "
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
    """Whether a region's shard of this key is in `output` or in `target`."""
    finished, path = (_shard_path(folder, ar_number, split_of) for folder in (output, target))
    if _is_current(finished, key, inventory):
        if path != finished:
            path.unlink(missing_ok=True)  # staged for sources that have changed back since
        return True
    return _is_current(path, key, inventory)


def _is_current(path: Path, key: str, inventory: Inventory) -> bool:
    try:
        return inventory.facts(path)["source_key"] == key
    except (OSError, SolaredError):
        return False  # missing or damaged


def _describe(output: Path, target: Path, source: str, inventory: Inventory) -> dict:
    """Write catalog, manifest and card of the shards into `target`, each only where `output` differs; the manifest."""
    regions = []
    for name, path in _shards_to_be(output, target):
        try:
            facts = inventory.facts(path)
        except SolaredError as error:
            raise SolaredError(f"{path} is damaged or no shard of ours; delete it and build again.") from error
        regions.append({**facts, "split": Path(name).parent.name, "path": name})
    regions.sort(key=lambda region: region["ar_number"])
    for first, second in pairwise(regions):
        if first["ar_number"] == second["ar_number"]:
            raise SolaredError(
                f"{output} holds AR{first['ar_number']} as {first['path']} and {second['path']}; delete one of them."
            )
    by_split = {region["split"]: [] for region in regions}
    for region in regions:
        by_split[region["split"]].append(region)
    catalog_content = encode_table(catalog_table(regions))
    manifest = {
        "generator": _GENERATOR,
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "simulated": all(simulate.is_simulated(region["ar_number"]) for region in regions),
        "regions": regions,
        "facts_version": FACTS_VERSION,
        "statistics": {split: statistics(by_split[split]) for split in SPLITS if split in by_split},
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
        # The card comes last, and whenever anything is staged: the old one is about to be deleted.
        if not _holds(output / name, content) or (name == CARD_NAME and target.exists()):
            write_atomically(target / name, content)
        elif target != output:
            (target / name).unlink(missing_ok=True)  # staged by a run that failed, for other shards
    return manifest


def _move_into_place(output: Path, staging: Path) -> None:
    """Make what is staged part of the dataset; after an interruption it can be called again.

    Raises:
        SolaredError: the folder cannot be written.
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
            f"Could not write {output} ({error.strerror or error}); mend this and run the same command again."
        ) from error


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    path.replace(to)


def _shard_path(output: Path, ar_number: int, split_of: Callable[[int], str]) -> Path:
    split = split_of(ar_number)
    if split not in SPLITS:
        raise SolaredError(f"AR{ar_number} was given the split {split!r}; choose one of {', '.join(SPLITS)}.")
    return output / DATA_FOLDER / split / f"AR{ar_number}.parquet"


def _shard_paths(output: Path) -> list[Path]:
    return sorted((output / DATA_FOLDER).glob("*/*.parquet"))


def _shards_to_be(output: Path, target: Path) -> list[tuple[str, Path]]:
    """Names in the finished dataset, and files, of the shards in `target` and of those in `output` that stay."""
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
    """Refuse simulated regions among real ones, and those of two sources in one folder: the card would be untrue."""
    shards = _shard_paths(output)
    paths = [*regions, *shards]
    simulated = [simulate.is_simulated(region_number(path.with_suffix(""))) for path in paths]
    if len(set(simulated)) > 1:
        raise SolaredError(
            f"{paths[simulated.index(True)]} is simulated and {paths[simulated.index(False)]} is not; build simulated "
            "regions in a folder of their own."
        )
    built_anew = {region.name for region in regions}
    for path in shards:
        try:
            facts = inventory.facts(path)
        except (OSError, SolaredError):
            continue  # damaged: it is built again, or refused when the shards are described
        if facts["source"] != source.name:
            raise SolaredError(
                f"{path} was built with --source {facts['source']}, and this is --source {source.name}; name "
                "another folder."
            )
        for name, value in source.shared_settings.items():
            other = facts["settings"][name]
            if other != value and path.stem not in built_anew:
                raise SolaredError(
                    f"{path} was built with {name} {other}, and this is {name} {value}; name another folder, or build "
                    f"{path.stem} again too."
                )


def _check_output(output: Path, input: Path, regions: list[Path]) -> None:
    """Refuse a folder that a build would spoil; nothing has been written yet."""
    if output.exists() and not output.is_dir():
        raise SolaredError(f"{output} is a file; name a folder for the dataset.")
    if output.resolve() in (input.resolve(), regions[0].parent.resolve()):
        raise SolaredError(f"{output} holds the input; name another folder for the dataset.")
    manifest = output / MANIFEST_NAME
    if not manifest.exists():
        foreign = _foreign_entries(output) if output.exists() else []
        if foreign:
            raise SolaredError(
                f"{output} holds {foreign[0]} and no manifest of `{_GENERATOR}`, so it is not ours to change; name a "
                "new or an empty folder."
            )
        return
    try:
        facts = json.loads(manifest.read_bytes())
        ours, version = facts["generator"] == _GENERATOR, int(facts["schema_version"])
    except (OSError, ValueError, KeyError, TypeError):
        ours, version = False, 0
    if not ours:
        raise SolaredError(f"{manifest} was not written by `{_GENERATOR}`; name a new or an empty folder.")
    if version > SCHEMA_VERSION:
        raise SolaredError(
            f"{output} was built with schema version {version}, and this package knows {SCHEMA_VERSION}; upgrade it "
            "with `pip install --upgrade solared-hf`, or name another folder."
        )


def _foreign_entries(output: Path) -> list[str]:
    """What a build that was cut short could not have left in a folder; hidden entries, such as .git, are no matter."""
    ours = {DATA_FOLDER, Path(CATALOG_PATH).parent.name}
    entries = [path.name for path in output.iterdir() if path.name not in ours and not path.name.startswith(".")]
    if (output / DATA_FOLDER).is_dir():
        entries += [f"data/{path.name}" for path in (output / DATA_FOLDER).iterdir() if path.name not in SPLITS]
    return sorted(entries)
