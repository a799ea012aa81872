"""Push a folder to the Hub: compare the folder with the repository, and commit the difference.

Readers see the old revision or the new revision, never a mixture: files are uploaded first, and one commit makes all
of them visible. A killed push leaves the old revision, and the next push uploads only the files that are missing.
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
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_session, get_token
from huggingface_hub.errors import HTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import hf_raise_for_status
from huggingface_hub.utils.sha import git_hash

from solared_hf.errors import SolaredError, reason_of
from solared_hf.hub.cards import CARD_NAME
from solared_hf.hub.errors import NOT_LOGGED_IN, explain_push, may_not_write

MAIN_BRANCH = "main"
# A file that the Hub writes and updates.
_ATTRIBUTES_NAME = ".gitattributes"
# Names of git branches and tags that need no quoting and do not look like a commit.
_REFERENCE = re.compile(r"(?![0-9a-f]{40}$)[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class LargeFile:
    """A file that is too large for memory, in its state when the digest was computed.

    Args:
        path: The file.
        sha256: SHA-256 of the content, in hexadecimal.
        state: Size in bytes, modification time and inode, which differ after a change.
    """

    path: Path
    sha256: str
    state: tuple[int, int, int]

    @classmethod
    def of(cls, path: Path) -> "LargeFile":
        """Return the file in its present state.

        Raises:
            OSError: If the file cannot be read.
        """
        state = _state(path)
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest(), state)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.state[0]

    def is_unchanged(self) -> bool:
        """Return whether the file has not changed since the digest was computed.

        Raises:
            OSError: If the file is gone.
        """
        return _state(self.path) == self.state


@dataclass(frozen=True)
class Content:
    """The content of a folder for the Hub.

    Args:
        repo_type: `dataset` or `model`.
        files: Content by path in the repository.
        owned: Patterns of paths that only pushes of this package write. A file on the Hub that matches a pattern and
            is not in `files` is deleted; all other files on the Hub are kept.
    """

    repo_type: str
    files: Mapping[str, bytes | LargeFile]
    owned: tuple[str, ...]


@dataclass(frozen=True)
class PushReport:
    """The difference between a repository and a folder, and the commit of a push.

    Args:
        repo_id: `owner/name`.
        url: Page of the branch on the Hub.
        creates: True if the repository did not exist.
        added, changed, deleted: Sorted paths.
        unchanged: Number of files that were already on the Hub.
        foreign: Paths on the Hub that do not belong to the folder and are kept.
        upload_bytes: Size of the added and changed files.
        commit: Commit of the branch after the push; None after a dry run if the repository does not exist.
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
        """True if there is, or was, something to commit."""
        return bool(self.added or self.changed or self.deleted)


def make_repository(repo_id: str, repo_type: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Make a repository, or check the access to an existing repository, before hours are spent on its content.

    Args:
        repo_id: `owner/name`, or a name without an owner.
        repo_type: `dataset` or `model`.
        private: Make a new repository private; None uses the settings of the owner.
        token: A token of the Hub; by default the token of `hf auth login` or `HF_TOKEN`.

    Returns:
        `repo_id` with an owner: the user, if no owner is named.

    Raises:
        SolaredError: If the user is not logged in or has no write access, the repository is public but must be
            private, or the Hub cannot be reached.
    """
    api = _client(token)
    with _readable_errors(repo_id):
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
    """Make a repository equal to a folder with one commit, or without a commit if they are equal.

    Args:
        content: The content of the folder.
        repo_id: `owner/name`; the repository is made if it does not exist.
        private: Make a new repository private.
        branch: Branch of the commit; made from `main` if it does not exist.
        tag: Name of a tag for the resulting commit.
        dry_run: Only report the difference.
        token: A token of the Hub; by default the token of `hf auth login` or `HF_TOKEN`.

    Raises:
        SolaredError: If the user is not logged in or has no write access, somebody else pushed at the same time, the
            tag exists at another commit, the card is not valid, a file changed during the push, or the Hub cannot be
            reached.
    """
    _check_names(repo_id, branch, tag)
    api = _client(token)
    repository: dict[str, Any] = {"repo_id": repo_id, "repo_type": content.repo_type}
    with _readable_errors(repo_id):
        creates = not api.repo_exists(**repository)
        card = content.files.get(CARD_NAME)
        if (creates or dry_run) and isinstance(card, bytes):
            # The commit checks the card too, but would leave a new repository empty.
            check_card(card.decode(errors="replace"), content.repo_type)
        if creates and dry_run:
            _check_owner(api, repo_id)
            return _compare(content, {}, api, repository, branch, creates, None)
        if creates:
            # Somebody else may make the repository at the same moment, which does no harm.
            _make(api, repository, private)
        _check_access(api, repository, private)
        branches, tags = _references(api, repository)
        if branch in tags or tag in branches:
            name = branch if branch in tags else tag
            raise SolaredError(f"{repo_id} already has a branch or tag {name}. Choose another name.")
        parent = branches.get(branch) or branches[MAIN_BRANCH]
        report = _compare(content, _files(api, repository, parent), api, repository, branch, creates, parent)
        # From `repo_info`, because some servers list the commit of a tag, and others the commit of its annotation.
        tagged = api.repo_info(**repository, revision=tag).sha if tag in tags else None
        if tagged is not None and (report.is_different or tagged != parent):
            raise SolaredError(
                f"The tag {tag} of {repo_id} exists at another commit, {tagged[:8]}. Choose a new tag, or delete the "
                f"tag with `hf repos tag delete {repo_id} {tag} --type {content.repo_type}`."
            )
        if dry_run:
            return report
        if branch not in branches:
            api.create_branch(**repository, branch=branch, revision=parent, exist_ok=True)
        commit = _commit(api, repository, branch, content, report) if report.is_different else parent
    if tag is not None and tagged is None:
        with _readable_errors(repo_id, f"{repo_id} has all files, as commit {commit}, but not the tag {tag}"):
            api.create_tag(**repository, tag=tag, revision=commit)
    return replace(report, commit=commit)


def _client(token: str | None) -> HfApi:
    if token is None and get_token() is None:
        raise SolaredError(NOT_LOGGED_IN)
    return HfApi(token=token, library_name="solared-hf", library_version=version("solared-hf"))


def _check_names(repo_id: str, branch: str, tag: str | None) -> None:
    if repo_id.count("/") != 1:
        raise SolaredError(
            f"{repo_id} is not a valid repository name. Use the form owner/name, such as you/ar_emergence."
        )
    for name in (branch, *([] if tag is None else [tag])):
        if not _REFERENCE.fullmatch(name):
            raise SolaredError(
                f"{name!r} is not a name of a branch or tag. Use letters, digits and . _ - between them, such as v1.0."
            )


def _make(api: HfApi, repository: dict, private: bool | None) -> None:
    # None uses the settings of the owner, who may want all repositories private.
    api.create_repo(**repository, private=private or None, exist_ok=True)


def check_card(card: str, repo_type: str) -> None:
    """Ask the Hub whether it would take a card.

    `RepoCard.validate` of huggingface_hub 1 asks huggingface.co even where HF_ENDPOINT names another Hub.

    Args:
        card: Text of the README.md.
        repo_type: "model", "dataset" or "space".

    Raises:
        ValueError: If the card is not valid; the message comes from the Hub.
        HfHubHTTPError: If the Hub does not answer.
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
            f"{repository['repo_id']} exists and is public. Push to it without --private, or make it private in its "
            "settings on the Hub first."
        )


def _check_owner(api: HfApi, repo_id: str) -> None:
    """Check that the user can make the repository, without making it."""
    user, owner = api.whoami(), repo_id.partition("/")[0]
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read" or owner not in (user["name"], *(organisation["name"] for organisation in user["orgs"])):
        raise SolaredError(may_not_write(repo_id))


def _references(api: HfApi, repository: dict) -> tuple[dict[str, str], set[str]]:
    """Return the commits of the branches, and the names of the tags."""
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
    """Upload and commit the difference, and check that the Hub then holds the content of the folder."""
    files = {name: content.files[name] for name in (*report.added, *report.changed)}
    additions = [
        CommitOperationAdd(name, file if isinstance(file, bytes) else str(file.path)) for name, file in files.items()
    ]
    try:
        api.preupload_lfs_files(**repository, additions=additions, revision=branch, free_memory=False)
    finally:
        # This error says more than the error of the Hub about a changed file.
        for file in files.values():
            if isinstance(file, LargeFile) and not file.is_unchanged():
                raise SolaredError(f"{file.path} changed during the push. Run the same command again.")
    # If somebody else pushed in the meantime, the parent is stale, and the Hub refuses the commit.
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
            f"After the push, {', '.join(sorted(wrong))} of {report.repo_id} differs from the folder. Look for a "
            ".gitignore there that excludes the file, and run the same command again."
        )
    return commit


def _matches(name: str, pattern: str) -> bool:
    # In fnmatch alone, a star would match folders too.
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
    """Return size, modification time and inode."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@contextmanager
def _readable_errors(repo_id: str, what_happened: str | None = None) -> Iterator[None]:
    """Turn errors of the connection to the Hub into a SolaredError that says what to do."""
    try:
        yield
    except SolaredError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        # The client wraps the cause of an interrupted upload.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        if what_happened is not None:
            raise SolaredError(f"{what_happened} ({reason_of(cause)}). Run the same command again.") from error
        raise SolaredError(explain_push(cause, repo_id)) from error
