"""Fixtures of the Hub tests: two states of a dataset, and the files in a repository."""

from pathlib import Path

import pytest

from dataset_builder import build_dataset
from dataset_builder.published import PublishedSource
from dataset_builder.simulation import write_simulated


@pytest.fixture(scope="session")
def versions(tmp_path_factory) -> dict[str, Path]:
    """Return two dataset folders: the new one has other values of AR90001, and AR90003 instead of AR90002."""
    folders = {}
    for name, regions, seed in (("old", (90001, 90002, 90007, 90009), 0), ("new", (90001, 90003, 90007, 90009), 1)):
        folder = tmp_path_factory.mktemp(name)
        write_simulated(folder / "sun", [region for region in regions if region != 90001], steps=20)
        write_simulated(folder / "sun", (90001,), seed=seed, steps=20)
        build_dataset(PublishedSource(folder / "sun"), folder / "dataset")
        folders[name] = folder / "dataset"
    return folders


@pytest.fixture
def content_of():
    """Return a function that returns the files of a dataset folder by name, with the card of the repository."""

    def content_of(folder: Path, repo_id: str) -> dict[str, bytes]:
        paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        content = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        content["README.md"] = content["README.md"].replace(b"path/to/this/folder", repo_id.encode())
        return content

    return content_of


@pytest.fixture
def on_hub(hub):
    """Return a function that returns the files of a repository by name, without .gitattributes."""

    def on_hub(repo_id: str, revision: str = "main", repo_type: str = "dataset") -> dict[str, bytes]:
        files = hub.files(repo_id, repo_type, revision)
        return {name: content for name, content in files.items() if name != ".gitattributes"}

    return on_hub
