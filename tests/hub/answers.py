"""What the loopback Hub answers to each request: the addresses of the real one that the clients use."""

import base64
import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from itertools import islice
from urllib.parse import parse_qs, unquote, urlencode

from tests.hub import cards
from tests.hub.storage import Blob, Folder, RefusedError, Repository, folder_of, is_large, listing

PAGE = 1000
EXPANDED_PAGE = 50
REPOSITORY = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
API = r"/api/(?P<kind>models|datasets)/" + REPOSITORY
GIT = r"/(?:(?P<kind>datasets)/)?" + REPOSITORY
REVISION = r"(?P<revision>[^/]+)"


@dataclass(frozen=True)
class User:
    """Who a token belongs to, and whether it may write to the user's own namespace and those of the organisations."""

    name: str
    organisations: tuple[str, ...] = ()
    writes: bool = True

    def may_write(self, namespace: str) -> bool:
        return self.writes and namespace in (self.name, *self.organisations)


@dataclass
class Request:
    """A request that has come in whole. `user` is None without a token."""

    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    user: User | None

    def json(self) -> dict:
        return json.loads(self.body)

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[-1].lower() in ("true", "1")


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def answer_of(value, status: int = 200, **headers: str) -> Answer:
    headers = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(json.dumps(value, default=str).encode(), status, {"Content-Type": "application/json", **headers})


ROUTES: list[tuple[str, re.Pattern, Callable]] = []


def route(method: str, pattern: str):
    def add(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return add


class Answers:
    """Repositories, and what is answered about them."""

    def __init__(self, users: dict[str, User]):
        self.users = users
        self.url = ""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.private_owners: set[str] = set()  # whose new repositories are private unless asked otherwise
        self._tickets: dict[str, tuple[Repository, str, int]] = {}
        self._lock = threading.Lock()

    def user(self, token: str | None) -> User | None:
        if token is not None and token not in self.users:
            message = "Invalid credentials in Authorization header"
            raise RefusedError(401, None, message)
        return self.users.get(token)

    def answer(self, method: str, request: Request) -> Answer:
        """Finds out what is asked for; a HEAD is answered as the GET.

        Raises:
            RefusedError: it is not to be had.
        """
        method = "GET" if method == "HEAD" else method
        for asked, pattern, function in ROUTES:
            found = pattern.fullmatch(request.path)
            if asked == method and found:
                parts = {name: unquote(text or "") for name, text in found.groupdict().items()}
                return function(self, request, **parts)
        raise RefusedError(404, None, f"The loopback Hub knows no {method} {request.path}")

    def repository(self, request: Request, kind: str, repo_id: str, write: bool = False) -> Repository:
        """A repository that the user may see, and write to if that is asked."""
        repository = self.repositories.get(((kind or "models").removesuffix("s"), repo_id))
        may_write = repository and request.user and request.user.may_write(repository.namespace)
        if repository is None or (repository.private and not may_write) or (write and request.user is None):
            # Who has not said who he is hears the same of what does not exist and of what he may not see.
            if request.user is None:
                raise RefusedError(401, "RepoNotFound", "Invalid username or password.")
            raise RefusedError(404, "RepoNotFound", "Repository not found")
        if write and not may_write:
            cure = "pass `create_pr=1` as a query parameter to create a Pull Request"
            cure = cure if request.user.writes else "you must use a write token to upload to a repository"
            raise RefusedError(403, None, f"Forbidden: {cure}.")
        return repository

    def address(self, repository: Repository) -> str:
        prefix = "datasets/" if repository.repo_type == "dataset" else ""
        return f"{self.url}/{prefix}{repository.repo_id}"

    @route("GET", "/api/whoami-v2")
    def _who_am_i(self, request):
        user = request.user
        if user is None:
            raise RefusedError(401, None, "Invalid username or password.")
        role = "write" if user.writes else "read"
        organisations = [{"type": "org", "name": name, "roleInOrg": role} for name in user.organisations]
        token = {"type": "access_token", "accessToken": {"displayName": "tests", "role": role}}
        return answer_of({"type": "user", "name": user.name, "orgs": organisations, "auth": token})

    @route("POST", "/api/validate-yaml")
    def _validate_yaml(self, request):
        asked = request.json()
        errors, warnings = cards.validate(asked["content"], asked["repoType"])
        told = {"errors": [{"message": one} for one in errors], "warnings": [{"message": one} for one in warnings]}
        return answer_of(told, 400 if errors else 200)

    def _named(self, request) -> tuple[str, str]:
        """Type and id of the repository that is to be made or deleted."""
        if request.user is None:
            raise RefusedError(401, None, "Invalid username or password.")
        asked = request.json()
        repo_type, namespace = asked.get("type") or "model", asked.get("organization") or request.user.name
        if not request.user.may_write(namespace):
            rights = f'You don\'t have the rights to create a {repo_type} under the namespace "{namespace}"'
            raise RefusedError(403, None, rights)
        return repo_type, f"{namespace}/{asked['name']}"

    @route("POST", "/api/repos/create")
    def _create_repository(self, request):
        repo_type, repo_id = self._named(request)
        asked = request.json()
        usual = "private" if repo_id.partition("/")[0] in self.private_owners else "public"
        private = asked.get("visibility", usual) == "private" or bool(asked.get("private"))
        with self._lock:
            made = Repository(repo_id, repo_type, private, request.user.name)
            exists = self.repositories.setdefault((repo_type, repo_id), made) is not made
        told = {"url": self.address(made), "name": repo_id}
        if exists:
            return answer_of({**told, "error": f"You already created this {repo_type} repo"}, 409)
        return answer_of(told)

    @route("DELETE", "/api/repos/delete")
    def _delete_repository(self, request):
        repo_type, repo_id = self._named(request)
        with self._lock:
            if self.repositories.pop((repo_type, repo_id), None) is None:
                raise RefusedError(404, "RepoNotFound", "Repository not found")
        return answer_of({})

    @route("GET", API + "/auth-check(?P<write>/write)?")
    def _check_access(self, request, kind, repo_id, write):
        self.repository(request, kind, repo_id, write=bool(write))
        return answer_of({})

    @route("PUT", API + "/settings")
    def _change_settings(self, request, kind, repo_id):
        repository = self.repository(request, kind, repo_id, write=True)
        asked = request.json()
        if "visibility" in asked or "private" in asked:
            repository.private = asked.get("visibility") == "private" or bool(asked.get("private"))
        return answer_of({"private": repository.private})

    @route("POST", API + "/preupload/" + REVISION)
    def _preupload(self, request, kind, repo_id, revision):
        tree = self.repository(request, kind, repo_id, write=True).at(revision).tree
        files = []
        for one in request.json()["files"]:
            path, sample = one["path"], base64.b64decode(one["sample"])
            mode = "lfs" if is_large(tree, path, one["size"], sample) else "regular"
            known = {"oid": tree[path].etag} if path in tree else {}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        return answer_of({"files": files})

    @route("POST", GIT + r"\.git/info/lfs/objects/batch")
    def _announce(self, request, kind, repo_id):
        repository = self.repository(request, kind, repo_id, write=True)
        objects = []
        for one in request.json()["objects"]:
            known = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in repository.large:
                ticket = secrets.token_hex(8)
                self._tickets[ticket] = (repository, one["oid"], one["size"])
                upload = f"{self.url}/upload/{one['oid']}?ticket={ticket}"
                verify = f"{self.address(repository)}.git/info/lfs/verify"
                known["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            objects.append(known)
        return answer_of({"transfer": "basic", "objects": objects})

    @route("PUT", "/upload/(?P<oid>[0-9a-f]{64})")
    def _upload(self, request, oid):
        # Who has the address may write there: clients send no token to storage that is elsewhere.
        repository, announced, size = self._tickets.get(request.query.get("ticket", [""])[0], (None, None, None))
        if announced != oid:
            raise RefusedError(403, None, "Nothing was announced for this address")
        repository.store(oid, size, request.body)
        return Answer()

    @route("POST", GIT + r"\.git/info/lfs/verify")
    def _verify(self, request, kind, repo_id):
        repository, asked = self.repository(request, kind, repo_id, write=True), request.json()
        stored = repository.large.get(asked["oid"])
        if stored is None or len(stored.data) != asked["size"]:
            raise RefusedError(404, None, f"{asked['oid']} was not uploaded")
        return answer_of({})

    @route("POST", API + "/commit/" + REVISION)
    def _commit(self, request, kind, repo_id, revision):
        repository = self.repository(request, kind, repo_id, write=True)
        lines = [json.loads(line) for line in request.body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        operations = [(line["key"], line["value"]) for line in lines if line["key"] != "header"]
        message = "\n\n".join(filter(None, (header["summary"], header.get("description"))))
        commit = repository.commit(revision, operations, message, header.get("parentCommit"), request.user.name)
        address = f"{self.address(repository)}/commit/{commit.oid}"
        return answer_of({"success": True, "commitOid": commit.oid, "commitUrl": address, "hookOutput": ""})

    @route("GET", API + "(?:/revision/" + REVISION + ")?")
    def _information(self, request, kind, repo_id, revision):
        repository = self.repository(request, kind, repo_id)
        commit = repository.at(revision or "main")
        siblings = [
            {"rfilename": path, **({"blobId": blob.oid, **_sizes(blob)} if request.flag("blobs") else {})}
            for path, blob in commit.tree.items()
        ]
        try:
            card = cards.metadata(commit.tree["README.md"].data.decode()) if "README.md" in commit.tree else {}
        except ValueError:
            card = {}
        told = {name: card[name] for name in ("pipeline_tag", "library_name", "model-index") if name in card}
        tags = [*card.get("tags", []), *told.get("library_name", "").split()]
        return answer_of(
            {"id": repo_id, "author": repository.namespace, "sha": commit.oid}
            | {"private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
            | {"createdAt": _time(repository.created), "lastModified": _time(commit.date)}
            | {"tags": tags, "siblings": siblings, "cardData": card or None}
            | (told if repository.repo_type == "model" else {}),
        )

    def _paged(self, request, entries, size: int) -> Answer:
        """A part of the entries, with the address of the next part, if there is more."""
        start = int(request.query.get("cursor", ["0"])[0])
        size = min(size, int(request.query.get("limit", [size])[0]))
        some = list(islice(entries, start, start + size + 1))
        headers = {}
        if len(some) > size:
            following = urlencode({**request.query, "cursor": [str(start + size)]}, doseq=True)
            headers["Link"] = f'<{self.url}{request.path}?{following}>; rel="next"'
        return answer_of(some[:size], **headers)

    @route("GET", API + "/tree/" + REVISION + "(?:/(?P<folder>.+?))?/?")
    def _tree(self, request, kind, repo_id, revision, folder):
        repository = self.repository(request, kind, repo_id)
        commit, expand = repository.at(revision), request.flag("expand")
        found = listing(commit, folder, request.flag("recursive"))
        entries = (_entry(repository, commit, path, one, expand) for path, one in found.items())
        return self._paged(request, entries, EXPANDED_PAGE if expand else PAGE)

    @route("POST", API + "/paths-info/" + REVISION)
    def _paths(self, request, kind, repo_id, revision):
        repository = self.repository(request, kind, repo_id)
        commit, form = repository.at(revision), parse_qs(request.body.decode())
        expand = form.get("expand", ["false"])[0].lower() == "true"
        found = ((path, commit.tree.get(path) or folder_of(commit.tree, path)) for path in form["paths"])
        return answer_of([_entry(repository, commit, path, one, expand) for path, one in found if one])

    @route("GET", API + "/commits/" + REVISION)
    def _commits(self, request, kind, repo_id, revision):
        repository = self.repository(request, kind, repo_id)
        told = (
            {"id": one.oid, "title": one.title, "message": one.message.partition("\n\n")[2], "date": _time(one.date)}
            | {"authors": [{"user": one.author}]}
            for one in repository.history(repository.at(revision))
        )
        return self._paged(request, told, EXPANDED_PAGE)

    @route("GET", API + "/refs")
    def _references(self, request, kind, repo_id):
        repository = self.repository(request, kind, repo_id)

        def told(references, place):
            return [{"name": name, "ref": place + name, "targetCommit": oid} for name, oid in references.items()]

        branches, tags = told(repository.branches, "refs/heads/"), told(repository.tags, "refs/tags/")
        return answer_of({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    @route("POST", API + "/branch/(?P<name>[^/]+)")
    def _add_branch(self, request, kind, repo_id, name):
        repository = self.repository(request, kind, repo_id, write=True)
        asked = request.json() if request.body else {}
        repository.add_reference(repository.branches, name, asked.get("startingPoint") or "main")
        return answer_of({})

    @route("DELETE", API + "/(?P<what>branch|tag)/(?P<name>[^/]+)")
    def _remove_reference(self, request, kind, repo_id, what, name):
        repository = self.repository(request, kind, repo_id, write=True)
        repository.remove_reference(repository.branches if what == "branch" else repository.tags, name)
        return answer_of({})

    @route("POST", API + "/tag/" + REVISION)
    def _add_tag(self, request, kind, repo_id, revision):
        repository = self.repository(request, kind, repo_id, write=True)
        repository.add_reference(repository.tags, request.json()["tag"], revision)
        return answer_of({})

    @route("GET", GIT + "/resolve/" + REVISION + "/(?P<path>.+)")
    def _file(self, request, kind, repo_id, revision, path):
        commit = self.repository(request, kind, repo_id).at(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.tree:
            raise RefusedError(404, "EntryNotFound", "Entry not found", headers)
        blob = commit.tree[path]
        headers |= {"ETag": f'"{blob.etag}"', "Content-Type": "application/octet-stream"}
        if blob.sha256:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
        if asked is None or asked[0] == "bytes=-":
            return Answer(blob.data, 200, headers)
        size = len(blob.data)
        first, last = (int(text) if text else None for text in asked.groups())
        start = max(size - last, 0) if first is None else first
        stop = size if first is None or last is None else min(last + 1, size)
        if start >= stop:
            raise RefusedError(416, None, "Nothing there", {**headers, "Content-Range": f"bytes */{size}"})
        return Answer(blob.data[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})


def _time(date) -> str:
    return date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _sizes(blob: Blob) -> dict:
    size = len(blob.data)
    about = {"size": size, "sha256": blob.sha256, "oid": blob.sha256, "pointerSize": len(blob.pointer)}
    return {"size": size, **({"lfs": about} if blob.sha256 else {})}


def _entry(repository: Repository, commit, path: str, one: Blob | Folder, expand: bool) -> dict:
    kind = {"type": "directory", "size": 0} if isinstance(one, Folder) else {"type": "file", **_sizes(one)}
    entry = {**kind, "oid": one.oid, "path": path}
    if expand:
        last = commit
        for before in repository.history(commit):
            there = before.tree.get(path) or folder_of(before.tree, path)
            if there is None or there.oid != one.oid:
                break
            last = before
        entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": _time(last.date)}
    return entry
