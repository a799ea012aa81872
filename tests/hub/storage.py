"""What the loopback Hub holds: repositories of immutable commits, whose files are named by their content."""

import base64
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import sha1, sha256
from types import MappingProxyType

# Endings that the Hub stores as large files from the start, and more of them in datasets.
LARGE_ENDINGS = (
    "7z arrow avro bin bz2 ckpt ftz gz h5 joblib lz4 mds mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl "
    "pt pth rar safetensors tar tflite tgz wasm xz zip zst"
)
LARGE_ENDINGS_OF_DATASETS = "pcm sam raw aac flac mp3 ogg wav bmp gif png tiff jpg jpeg webp mp4 webm"
OTHER_LARGE_NAMES = ["*.lfs.*", "*.tar.*", "*tfevents*", "saved_model/**/*"]
LFS_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"
ATTRIBUTES_NAME = ".gitattributes"
LARGEST_REGULAR_FILE = 10 * 2**20


class RefusedError(Exception):
    """An answer that is not what was asked for: HTTP status, the Hub's code of the error if it has one, and why."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] = MappingProxyType({})):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


def git_hash(kind: str, content: bytes) -> str:
    return sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """Content of a file; `sha256` is given for a file of large file storage, which git knows by its pointer only."""

    data: bytes = field(repr=False)
    sha256: str | None = None

    @cached_property
    def pointer(self) -> bytes:
        version = "version https://git-lfs.github.com/spec/v1"
        return f"{version}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def oid(self) -> str:
        return git_hash("blob", self.pointer if self.sha256 else self.data)

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """A state of all files; `message` is its title, and after an empty line its description where it has one."""

    oid: str
    message: str
    parent: str | None
    author: str
    date: datetime
    tree: Mapping[str, Blob] = field(repr=False)

    @property
    def title(self) -> str:
        return self.message.partition("\n")[0]


@dataclass(frozen=True)
class Folder:
    """A folder of a commit, by the names and contents of the files below it."""

    oid: str


class Repository:
    """Commits, and the branches and tags that point at them.

    A commit is built beside what is there, and one assignment under a lock makes it the head of its branch.
    """

    def __init__(self, repo_id: str, repo_type: str, private: bool, author: str):
        self.repo_id, self.repo_type, self.private = repo_id, repo_type, private
        self.namespace = repo_id.partition("/")[0]
        self.large: dict[str, Blob] = {}  # by sha256, whether a commit names them or not
        self.tags: dict[str, str] = {}
        self.branches: dict[str, str] = {}
        self._commits: dict[str, Commit] = {}
        self._lock = threading.Lock()
        endings = f"{LARGE_ENDINGS} {LARGE_ENDINGS_OF_DATASETS}" if repo_type == "dataset" else LARGE_ENDINGS
        patterns = [f"*.{ending}" for ending in endings.split()] + OTHER_LARGE_NAMES
        attributes = "".join(f"{pattern} {LFS_ATTRIBUTES}\n" for pattern in patterns)
        self._add_commit("main", {ATTRIBUTES_NAME: Blob(attributes.encode())}, "initial commit", None, author)

    @property
    def created(self) -> datetime:
        return next(iter(self._commits.values())).date

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag or a full commit hash."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self._commits:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self._commits[oid]

    def history(self, commit: Commit) -> Iterator[Commit]:
        """The commit and those before it."""
        while True:
            yield commit
            if commit.parent is None:
                return
            commit = self._commits[commit.parent]

    def store(self, oid: str, size: int, data: bytes) -> None:
        """Keeps a large file, if it is the one that was announced."""
        if sha256(data).hexdigest() != oid or len(data) != size:
            raise RefusedError(400, None, f"The content is not the {size} bytes of sha256 {oid} that were announced")
        self.large[oid] = Blob(data, oid)

    def commit(
        self, branch: str, operations: list[tuple[str, dict]], message: str, parent: str | None, author: str
    ) -> Commit:
        """Makes a commit out of the branch's head and operations on its files.

        Args:
            operations: kind and value of each line of a commit, as the clients send them.
            parent: commit that has to be the head, if given.

        Raises:
            RefusedError: the head is another, there is no such branch, or an operation cannot be done.
        """
        with self._lock:
            if branch not in self.branches:
                raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {branch} is not a branch")
            head = self.branches[branch]
            if parent not in (None, head):
                raise RefusedError(412, None, "A commit has happened since. Please refresh and try again.")
            tree = self._changed(self._commits[head].tree, operations)
            _name_large_files(tree)
            return self._add_commit(branch, tree, message, head, author)

    def _changed(self, before: Mapping[str, Blob], operations: list[tuple[str, dict]]) -> dict[str, Blob]:
        tree = dict(before)
        for kind, value in operations:
            path = value["path"]
            if kind == "file":
                data = base64.b64decode(value["content"])
                if is_large(before, path, len(data), data[:512]):
                    raise RefusedError(400, None, f"{path} must be uploaded as a large file")
                tree[path] = Blob(data)
            elif kind == "lfsFile":
                stored = self.large.get(value["oid"])
                if stored is None or value.get("size", len(stored.data)) != len(stored.data):
                    raise RefusedError(400, None, f"The content of {path} was not uploaded: {value['oid']}")
                tree[path] = stored
            elif kind in ("deletedFile", "deletedFolder"):
                below = f"{path.rstrip('/')}/"
                gone = [one for one in tree if one == path or (kind == "deletedFolder" and one.startswith(below))]
                if not gone:
                    raise RefusedError(404, "EntryNotFound", f"{path} does not exist, so it cannot be deleted")
                for one in gone:
                    del tree[one]
            else:
                raise RefusedError(400, None, f"The loopback Hub does not know {kind} in a commit")
        return tree

    def _add_commit(self, branch, tree, message, parent, author) -> Commit:
        date = datetime.now(UTC)
        lines = [f"tree {tree_oid(tree)}", f"author {author} {date.isoformat()}", "", message]
        oid = git_hash("commit", "\n".join([f"parent {parent}"] * bool(parent) + lines).encode())
        commit = Commit(oid, message, parent, author, date, MappingProxyType(dict(sorted(tree.items()))))
        self._commits[oid] = commit
        self.branches[branch] = oid
        return commit

    def add_reference(self, references: dict[str, str], name: str, revision: str) -> None:
        """Lets a new branch or tag, of `branches` or `tags`, point at a revision."""
        with self._lock:
            if name in references:
                raise RefusedError(409, None, f"Reference {name} already exists")
            references[name] = self.at(revision).oid

    def remove_reference(self, references: dict[str, str], name: str) -> None:
        with self._lock:
            if references is self.branches and name == "main":
                raise RefusedError(403, None, "The default branch cannot be deleted")
            if name not in references:
                raise RefusedError(404, "RevisionNotFound", f"Reference {name} does not exist")
            del references[name]


def tree_oid(tree: Mapping[str, Blob]) -> str:
    return git_hash("tree", "\n".join(f"{blob.oid} {path}" for path, blob in sorted(tree.items())).encode())


def listing(commit: Commit, folder: str, recursive: bool) -> dict[str, Blob | Folder]:
    """Files and folders below a folder ("" is the top), or only those in it, by their whole path."""
    start = f"{folder}/" if folder else ""
    inside = {path: blob for path, blob in commit.tree.items() if path.startswith(start)}
    if folder and not inside:
        raise RefusedError(404, "EntryNotFound", f"{folder} does not exist on {commit.oid}")
    found: dict[str, Blob | Folder] = {}
    for path, blob in inside.items():
        parts = path.removeprefix(start).split("/")
        depths = range(1, len(parts)) if recursive else range(1, min(len(parts), 2))
        for depth in depths:
            name = start + "/".join(parts[:depth])
            if name not in found:
                found[name] = folder_of(inside, name)
        if recursive or len(parts) == 1:
            found[path] = blob
    return found


def folder_of(tree: Mapping[str, Blob], name: str) -> Folder | None:
    below = {path: blob for path, blob in tree.items() if path.startswith(f"{name}/")}
    return Folder(tree_oid(below)) if below else None


def is_large(tree: Mapping[str, Blob], path: str, size: int, sample: bytes) -> bool:
    """Whether a file belongs into large file storage: by its name, its size, or because it is not text."""
    return size > 0 and (_has_large_name(tree, path) or size > LARGEST_REGULAR_FILE or b"\0" in sample)


def _has_large_name(tree: Mapping[str, Blob], path: str) -> bool:
    attributes = tree[ATTRIBUTES_NAME].data.decode() if ATTRIBUTES_NAME in tree else ""
    patterns = (line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line)
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)


def _name_large_files(tree: dict[str, Blob]) -> None:
    """Adds large files to .gitattributes that no pattern there covers, as the Hub does in the same commit."""
    unnamed = [path for path, blob in tree.items() if blob.sha256 and not _has_large_name(tree, path)]
    if unnamed:
        lines = (f"{path} {LFS_ATTRIBUTES}\n" for path in unnamed)
        before = tree[ATTRIBUTES_NAME].data.decode() if ATTRIBUTES_NAME in tree else ""
        tree[ATTRIBUTES_NAME] = Blob((before + "".join(lines)).encode())
