"""A folder onto the Hub: what differs there, and one commit that removes the difference.

Readers see the old revision or the new one, never a mixture: files are uploaded first, and one commit makes them all
visible. A push that is killed leaves the old revision, and the next one uploads only what the Hub does not hold yet.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_session, get_token
from huggingface_hub.errors import HTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import hf_raise_for_status
from huggingface_hub.utils.sha import git_hash

from solared_hf.errors import SolaredError, reason_of
from solared_hf.hub.cards import CARD_NAME
from solared_hf.hub.errors import NOT_LOGGED_IN, explain_push, may_not_write

MAIN_BRANCH = "main"
# The Hub's own file, which it keeps up to date itself.
_ATTRIBUTES_NAME = ".gitattributes"
# A branch or tag of git's that needs no quoting anywhere, and is no commit.
_REFERENCE = re.compile(r"(?![0-9a-f]{40}$)[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class LargeFile:
    """A file that is too large to be held in memory, as it was when its digest was taken.

    Args:
        path: the file.
        sha256: digest of its content, in hexadecimal.
        state: its size in bytes, time of change and inode: what differs when it has changed.
    """

    path: Path
    sha256: str
    state: tuple[int, int, int]

    @classmethod
    def of(cls, path: Path) -> "LargeFile":
        """The file as it is now.

        Raises:
            OSError: it cannot be read.
        """
        state = _state(path)
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest(), state)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.state[0]

    def is_as_it_was(self) -> bool:
        """Whether it has not changed since.

        Raises:
            OSError: it is there no longer.
        """
        return _state(self.path) == self.state


@dataclass(frozen=True)
class Content:
    """What a folder is on the Hub.

    Args:
        repo_type: `dataset` or `model`.
        files: by path in the repository.
        owned: patterns of the paths that only such a folder writes. What matches one on the Hub and is not in `files`
            has left the folder and is deleted; everything else there belongs to somebody else and stays.
    """

    repo_type: str
    files: Mapping[str, bytes | LargeFile]
    owned: tuple[str, ...]


@dataclass(frozen=True)
class PushReport:
    """How a repository differed from the folder, and what became of it.

    Args:
        repo_id: `owner/name`.
        url: page of the branch on the Hub.
        creates: the repository was not there.
        added, changed, deleted: paths, in order.
        unchanged: how many files were on the Hub already, as they are.
        foreign: paths on the Hub that are none of the folder's, left as they are.
        upload_bytes: size of what is added or changed.
        commit: the branch's commit afterwards; None after a dry run for a repository that is not there.
    """

    repo_id: str
    url: str
    creates: bool
    added: tuple[str, ...]
    changed: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: int
    foreign: tuple[str, ...]
    upload_bytes: int
    commit: str | None

    @property
    def is_different(self) -> bool:
        """Whether there is, or was, anything to commit."""
        return bool(self.added or self.changed or self.deleted)


def make_repository(repo_id: str, repo_type: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Make a repository, or see whether one may push to it if it is there: before hours are spent on its content.

    Args:
        repo_id: `owner/name`, or a name alone.
        repo_type: `dataset` or `model`.
        private: make a new repository private; None leaves it to its owner's settings.
        token: a token of the Hub; by default that of `hf auth login` or `HF_TOKEN`.

    Returns:
        Its whole name: `repo_id`, or that name among the user's own repositories if no owner is named.

    Raises:
        SolaredError: not logged in, no right to write there, it is public and shall be private, or the Hub cannot be
            reached.
    """
    api = _client(token)
    with _told_clearly(repo_id):
        repo_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        repository = {"repo_id": repo_id, "repo_type": repo_type}
        _make(api, repository, private)
        _check_access(api, repository, private)
    return repo_id


def push(
    content: Content,
    repo_id: str,
    *,
    private: bool = False,
    branch: str = MAIN_BRANCH,
    tag: str | None = None,
    dry_run: bool = False,
    token: str | None = None,
) -> PushReport:
    """Bring a repository to a folder's state in one commit, or in none where it is in that state already.

    Args:
        content: what the repository shall hold.
        repo_id: `owner/name`; made if it is not there.
        private: make a new repository private.
        branch: where the commit goes; made from `main` if it is not there.
        tag: name for the resulting commit.
        dry_run: change nothing, only say what would change.
        token: a token of the Hub; by default that of `hf auth login` or `HF_TOKEN`.

    Raises:
        SolaredError: not logged in, no right to write there, somebody else pushed at the same time, the tag marks
            another commit, the card is not valid, a file changed meanwhile, or the Hub cannot be reached.
    """
    _check_names(repo_id, branch, tag)
    api, repository = _client(token), {"repo_id": repo_id, "repo_type": content.repo_type}
    with _told_clearly(repo_id):
        creates = not api.repo_exists(**repository)
        if (creates or dry_run) and CARD_NAME in content.files:
            # Otherwise the commit finds out, and a new repository would be left empty.
            check_card(content.files[CARD_NAME].decode(errors="replace"), content.repo_type)
        if creates and dry_run:
            _check_owner(api, repo_id)
            return _compare(content, {}, api, repository, branch, creates, None)
        if creates:
            # Someone else may make it at the same moment, which is as well.
            _make(api, repository, private)
        _check_access(api, repository, private)
        branches, tags = _references(api, repository)
        if branch in tags or tag in branches:
            name = branch if branch in tags else tag
            raise SolaredError(f"{repo_id} has {name} as branch or tag already; choose another name.")
        parent = branches.get(branch) or branches[MAIN_BRANCH]
        report = _compare(content, _files(api, repository, parent), api, repository, branch, creates, parent)
        # Some servers tell the commit of a tag, others that of its annotation: this is the commit.
        tagged = api.repo_info(**repository, revision=tag).sha if tag in tags else None
        if tagged is not None and (report.is_different or tagged != parent):
            raise SolaredError(
                f"The tag {tag} of {repo_id} marks another state, commit {tagged[:8]}; choose a new tag, or delete "
                f"that one with `hf repos tag delete {repo_id} {tag} --type {content.repo_type}`."
            )
        if dry_run:
            return report
        if branch not in branches:
            api.create_branch(**repository, branch=branch, revision=parent, exist_ok=True)
        commit = _commit(api, repository, branch, content, report) if report.is_different else parent
    if tag is not None and tagged is None:
        with _told_clearly(repo_id, f"{repo_id} holds everything, as commit {commit}, but not the tag {tag}"):
            api.create_tag(**repository, tag=tag, revision=commit)
    return replace(report, commit=commit)


def _client(token: str | None) -> HfApi:
    if token is None and get_token() is None:
        raise SolaredError(NOT_LOGGED_IN)
    return HfApi(token=token, library_name="solared-hf", library_version=version("solared-hf"))


def _check_names(repo_id: str, branch: str, tag: str | None) -> None:
    if repo_id.count("/") != 1:
        raise SolaredError(f"{repo_id} is no name of a repository; name one as owner/name, such as you/ar_emergence.")
    for name in (branch, *([] if tag is None else [tag])):
        if not _REFERENCE.fullmatch(name):
            raise SolaredError(
                f"{name!r} is no name for a branch or tag; use letters, digits and . _ - between them, such as v1.0."
            )


def _make(api: HfApi, repository: dict, private: bool | None) -> None:
    # None leaves the choice to the owner, who may want everything private.
    api.create_repo(**repository, private=private or None, exist_ok=True)


def check_card(card: str, repo_type: str) -> None:
    """Ask the Hub whether it would take a card.

    `RepoCard.validate` of huggingface_hub 1 asks huggingface.co even where HF_ENDPOINT names another Hub.

    Args:
        card: Text of the README.md.
        repo_type: "model", "dataset" or "space".

    Raises:
        ValueError: If the card is not valid; the message is the Hub's.
        HfHubHTTPError: If the Hub gives no answer.
    """
    answer = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"repoType": repo_type, "content": card},
        headers={"Accept": "text/plain"},
    )
    if answer.status_code == HTTPStatus.BAD_REQUEST:
        raise ValueError(answer.text)
    hf_raise_for_status(answer)


def _check_access(api: HfApi, repository: dict, private: bool | None) -> None:
    api.auth_check(**repository, write=True)
    if private and not api.repo_info(**repository).private:
        raise SolaredError(
            f"{repository['repo_id']} is there and public; ask for a public one, or make it private in its settings "
            "on the Hub first."
        )


def _check_owner(api: HfApi, repo_id: str) -> None:
    """Refuse what making the repository would be refused for, without making it."""
    user, owner = api.whoami(), repo_id.partition("/")[0]
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read" or owner not in (user["name"], *(one["name"] for one in user["orgs"])):
        raise SolaredError(may_not_write(repo_id))


def _references(api: HfApi, repository: dict) -> tuple[dict[str, str], set[str]]:
    """Commits of the branches, and names of the tags."""
    references = api.list_repo_refs(**repository)
    branches = {reference.name: reference.target_commit for reference in references.branches}
    return branches, {reference.name for reference in references.tags}


def _files(api: HfApi, repository: dict, commit: str) -> dict[str, RepoFile]:
    tree = api.list_repo_tree(**repository, recursive=True, revision=commit)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _compare(content: Content, on_hub: dict[str, RepoFile], api, repository, branch, creates, parent) -> PushReport:
    names = sorted(content.files)
    added = tuple(name for name in names if name not in on_hub)
    changed = tuple(name for name in names if name in on_hub and not _is_same(content.files[name], on_hub[name]))
    others = sorted(set(on_hub) - {*names, _ATTRIBUTES_NAME})
    deleted = tuple(name for name in others if any(_matches(name, pattern) for pattern in content.owned))
    folder = "datasets/" if repository["repo_type"] == "dataset" else ""
    return PushReport(
        repo_id=repository["repo_id"],
        url=f"{api.endpoint}/{folder}{repository['repo_id']}/tree/{branch}",
        creates=creates,
        added=added,
        changed=changed,
        deleted=deleted,
        unchanged=len(names) - len(added) - len(changed),
        foreign=tuple(name for name in others if name not in deleted),
        upload_bytes=sum(_size(content.files[name]) for name in (*added, *changed)),
        commit=parent,
    )


def _commit(api: HfApi, repository: dict, branch: str, content: Content, report: PushReport) -> str:
    """Upload and commit the difference, and look whether the Hub holds the folder's content then."""
    files = {name: content.files[name] for name in (*report.added, *report.changed)}
    additions = [
        CommitOperationAdd(name, file if isinstance(file, bytes) else str(file.path)) for name, file in files.items()
    ]
    try:
        api.preupload_lfs_files(**repository, additions=additions, revision=branch, free_memory=False)
    finally:
        # The Hub may have noticed a change too, but knows no cure.
        for file in files.values():
            if isinstance(file, LargeFile) and not file.is_as_it_was():
                raise SolaredError(f"{file.path} changed while it was pushed; run the same command again.")
    # Whoever pushes in between makes the parent stale, and the Hub refuses what would undo their work.
    commit = api.create_commit(
        **repository,
        operations=[*additions, *(CommitOperationDelete(name) for name in report.deleted)],
        commit_message=f"Push with solared-hf {version('solared-hf')}",
        revision=branch,
        parent_commit=report.commit,
    ).oid
    on_hub = _files(api, repository, commit)
    wrong = [name for name, file in content.files.items() if name not in on_hub or not _is_same(file, on_hub[name])]
    wrong += [name for name in report.deleted if name in on_hub]
    if wrong:
        raise SolaredError(
            f"After the push, {', '.join(sorted(wrong))} of {report.repo_id} is not what was pushed; look there for a "
            ".gitignore that leaves it out, and run the same command again."
        )
    return commit


def _matches(name: str, pattern: str) -> bool:
    # fnmatch alone would let a star stand for folders too.
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _is_same(file: bytes | LargeFile, entry: RepoFile) -> bool:
    if _size(file) != entry.size:
        return False
    if entry.lfs is None:
        return git_hash(file if isinstance(file, bytes) else file.path.read_bytes()) == entry.blob_id
    sha256 = hashlib.sha256(file).hexdigest() if isinstance(file, bytes) else file.sha256
    return sha256 == entry.lfs.sha256


def _size(file: bytes | LargeFile) -> int:
    return len(file) if isinstance(file, bytes) else file.size


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file does."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@contextmanager
def _told_clearly(repo_id: str, what_happened: str | None = None) -> Iterator[None]:
    """What goes wrong between here and the Hub, as one sentence with the cure."""
    try:
        yield
    except SolaredError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        # The client wraps what interrupts an upload.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        if what_happened is not None:
            raise SolaredError(f"{what_happened} ({reason_of(cause)}); run the same command again.") from error
        raise SolaredError(explain_push(cause, repo_id)) from error
