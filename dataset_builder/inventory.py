"""What is known of the shards of a dataset folder, so that a build reads none of them twice."""

import hashlib
import json
from pathlib import Path

from dataset_builder.description import FACTS_VERSION, moments, region_facts
from dataset_builder.shards import Shard, decode_shard
from solared_hf.schema import MANIFEST_NAME


class Inventory:
    """Facts of the shards in a dataset folder, and of those that are to go there.

    The manifest has the facts of a shard while the shard is the file that the manifest describes: a file of the same
    size that is older than the manifest, or else of the same content. Any other shard is read, one at a time.

    Args:
        output: the dataset folder, with or without a manifest.
    """

    def __init__(self, output: Path):
        self._output = output
        self._described, self._described_at = _described(output / MANIFEST_NAME)
        self._facts: dict[Path, dict] = {}

    def add(self, path: Path, facts: dict) -> None:
        """Remember the `shard_facts` of a shard that has just been written to `path`."""
        self._facts[path] = facts

    def facts(self, path: Path) -> dict:
        """The `shard_facts` of the shard at `path`.

        Raises:
            OSError: The file cannot be read.
            SolaredError: The file is damaged, or it is not a shard.
        """
        if path not in self._facts:
            self._facts[path] = self._facts_in_manifest(path) or self._facts_of_content(path)
        return self._facts[path]

    def _facts_in_manifest(self, path: Path) -> dict | None:
        facts, state = self._described.get(path), path.stat()
        # A file that is put in the place of another keeps its time of modification, but not its time of change.
        is_older = max(state.st_mtime_ns, state.st_ctime_ns) < self._described_at
        return facts if facts is not None and facts["bytes"] == state.st_size and is_older else None

    def _facts_of_content(self, path: Path) -> dict:
        content, facts = path.read_bytes(), self._described.get(path)
        if facts is not None and facts["sha256"] == hashlib.sha256(content).hexdigest():
            return facts
        return shard_facts(decode_shard(content), content)


def shard_facts(shard: Shard, content: bytes) -> dict:
    """What the manifest says of a shard, except where the shard lies.

    Args:
        shard: the shard.
        content: its bytes.

    Raises:
        SolaredError: The region has a single step, so its cadence is unknown.
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
    """Facts by the path of the shard, and when they were written, in nanoseconds; none from other versions."""
    try:
        state, content = manifest.stat(), json.loads(manifest.read_bytes())
        if content["facts_version"] != FACTS_VERSION:
            return {}, 0
        facts = {manifest.parent / region["path"]: region for region in content["regions"]}
    except (OSError, KeyError, TypeError, ValueError):
        return {}, 0
    return facts, max(state.st_mtime_ns, state.st_ctime_ns)
