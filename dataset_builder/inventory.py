"""The facts of the shards of a dataset folder, so that a build reads each shard at most once."""

import hashlib
import json
from pathlib import Path

from dataset_builder.description import FACTS_VERSION, moments, region_facts
from dataset_builder.shards import Shard, decode_shard
from solared_hf.schema import MANIFEST_NAME


class Inventory:
    """Facts of the shards in a dataset folder and of the staged shards.

    The facts of a shard are taken from the manifest if the shard is the file that the manifest describes: a file of
    the same size that is older than the manifest, or a file with the same content. All other shards are read, one at a
    time.

    Args:
        output: the dataset folder, with or without a manifest.
    """

    def __init__(self, output: Path):
        self._output = output
        self._described, self._described_at = _described(output / MANIFEST_NAME)
        self._facts: dict[Path, dict] = {}

    def add(self, path: Path, facts: dict) -> None:
        """Store the `shard_facts` of a shard that was just written to `path`."""
        self._facts[path] = facts

    def facts(self, path: Path) -> dict:
        """Return the `shard_facts` of the shard at `path`.

        Raises:
            OSError: If the file cannot be read.
            SolaredError: If the file is damaged or is not a shard.
        """
        if path not in self._facts:
            self._facts[path] = self._facts_in_manifest(path) or self._facts_of_content(path)
        return self._facts[path]

    def _facts_in_manifest(self, path: Path) -> dict | None:
        facts, state = self._described.get(path), path.stat()
        # A file that replaces another keeps its modification time (mtime), but gets a new change time (ctime).
        is_older = max(state.st_mtime_ns, state.st_ctime_ns) < self._described_at
        return facts if facts is not None and facts["bytes"] == state.st_size and is_older else None

    def _facts_of_content(self, path: Path) -> dict:
        content, facts = path.read_bytes(), self._described.get(path)
        if facts is not None and facts["sha256"] == hashlib.sha256(content).hexdigest():
            return facts
        return shard_facts(decode_shard(content), content)


def shard_facts(shard: Shard, content: bytes) -> dict:
    """Return the facts of a shard for the manifest, except split and path.

    Args:
        shard: the shard.
        content: the encoded bytes of the shard.

    Raises:
        SolaredError: If the region has a single step, so that its cadence is unknown.
    """
    return {
        **region_facts(shard.timeline),
        **shard.processing,
        "statistics": moments(shard.timeline),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "source_key": shard.key,
    }


def _described(manifest: Path) -> tuple[dict[Path, dict], int]:
    """Return the facts in a manifest by shard path, and the time in ns when it was written; no facts if outdated."""
    try:
        state, content = manifest.stat(), json.loads(manifest.read_bytes())
        if content["facts_version"] != FACTS_VERSION:
            return {}, 0
        facts = {manifest.parent / region["path"]: region for region in content["regions"]}
    except (OSError, KeyError, TypeError, ValueError):
        return {}, 0
    return facts, max(state.st_mtime_ns, state.st_ctime_ns)
