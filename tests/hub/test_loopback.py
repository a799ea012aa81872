"""The loopback Hub answers the real clients as the Hub does, and fails when it is told to."""

import json
import socket
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, hf_hub_url
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils.sha import git_hash

from solared_hf.hub.push import check_card
from tests.hub.loopback import READER_TOKEN
from tests.processes import PATIENCE, run

CARD = "---\nlicense: apache-2.0\npipeline_tag: time-series-forecasting\ntags: [sun]\n---\n# Sun\n"
SHARD = b"PAR1" + bytes(range(256)) * 40
FILES = {
    "README.md": CARD.encode(),
    "data/train/a.parquet": SHARD,
    "data/notes.txt": b"sunny\n",
    "curve.png": b"\x89PNG",
}


@pytest.fixture
def api(token) -> HfApi:
    return HfApi()


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


@pytest.fixture
def pushed(hub, api, repo_id, folder) -> str:
    """A dataset repository that holds `FILES`."""
    api.create_repo(repo_id, repo_type="dataset")
    api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder)
    hub.requests.clear()
    return repo_id


def asked(hub, repo_id: str) -> list[str]:
    """Methods of the requests so far, each with what comes after the name of the repository."""
    return [f"{method} {path.partition(repo_id)[2]}" for method, path, _ in hub.requests]


def status_of(function, *arguments, **options) -> int:
    with pytest.raises(HfHubHTTPError) as error:
        function(*arguments, **options)
    return error.value.response.status_code


def test_a_folder_is_one_commit_and_again_none(hub, api, pushed, folder):
    first, initial = hub.commits(pushed, "dataset")
    assert (initial.message, initial.parent, list(initial.tree)) == ("initial commit", None, [".gitattributes"])
    assert first.parent == initial.oid
    files = hub.files(pushed, "dataset")
    assert {name: content for name, content in files.items() if name != ".gitattributes"} == FILES
    assert api.upload_folder(repo_id=pushed, repo_type="dataset", folder_path=folder).oid == first.oid
    assert hub.commits(pushed, "dataset") == [first, initial]
    assert not [line for line in asked(hub, pushed) if line.startswith("PUT") or "/commit/" in line]


def test_a_commit_adds_and_deletes_at_once(hub, api, pushed):
    head = api.repo_info(pushed, repo_type="dataset").sha
    here = {"repo_id": pushed, "repo_type": "dataset", "commit_message": "Clouds"}
    change = [
        CommitOperationDelete("data/train/"),
        CommitOperationDelete("curve.png"),
        CommitOperationAdd("b.txt", b"b"),
    ]
    api.create_commit(operations=change, parent_commit=head, **here)
    assert hub.files(pushed, "dataset").keys() == {".gitattributes", "README.md", "b.txt", "data/notes.txt"}
    assert hub.commits(pushed, "dataset")[0].message == "Clouds"
    again = [CommitOperationAdd("c.txt", b"c"), CommitOperationAdd("d.parquet", SHARD)]
    assert status_of(api.create_commit, operations=again, parent_commit=head, **here) == 412
    with pytest.raises(RemoteEntryNotFoundError):
        api.create_commit(operations=[*again, CommitOperationDelete("gone.txt")], **here)
    assert hub.commits(pushed, "dataset")[0].message == "Clouds"
    newest, *_, oldest = api.list_repo_commits(pushed, repo_type="dataset")
    assert (newest.title, oldest.title) == ("Clouds", "initial commit")


def test_large_files_have_to_be_there_and_to_be_what_they_are_named(hub, api, repo_id, tmp_path):
    api.create_repo(repo_id)
    shard = tmp_path / "weights.safetensors"
    shard.write_bytes(b"before")

    def change(method, path):
        if path.endswith("/objects/batch"):
            shard.write_bytes(b"after!")

    hub.before = change
    with pytest.raises(RuntimeError, match="Error while uploading") as error:
        api.upload_file(path_or_fileobj=shard, path_in_repo=shard.name, repo_id=repo_id)
    assert isinstance(error.value.__cause__, BadRequestError)
    hub.before = None
    uploaded = CommitOperationAdd(shard.name, shard)
    api.preupload_lfs_files(repo_id, [uploaded], free_memory=False)
    api.delete_repo(repo_id)
    api.create_repo(repo_id)
    with pytest.raises(BadRequestError, match="was not uploaded"):
        api.create_commit(repo_id, [uploaded], commit_message="Nothing behind it")
    assert len(hub.commits(repo_id)) == 1


def test_tokens_are_looked_at(hub, api, repo_id, monkeypatch):
    assert (api.whoami()["name"], [one["name"] for one in api.whoami()["orgs"]]) == ("astronomer", ["solared-team"])
    assert status_of(api.create_repo, repo_id, token="hf_unknown") == 401
    assert status_of(api.create_repo, repo_id, token=False) == 401
    assert status_of(api.create_repo, repo_id, token=READER_TOKEN) == 403
    assert status_of(api.create_repo, "somebody-else/sun") == 403
    api.create_repo(repo_id)
    assert status_of(api.create_repo, repo_id) == 409
    assert api.create_repo(repo_id, exist_ok=True).repo_id == repo_id
    upload = {"path_or_fileobj": b"sun", "path_in_repo": "sun.txt", "repo_id": repo_id}
    assert status_of(api.upload_file, token="hf_unknown", **upload) == 401
    assert status_of(api.upload_file, token=False, **upload) == 401
    assert status_of(api.upload_file, token=READER_TOKEN, **upload) == 403
    assert status_of(api.create_tag, repo_id, tag="v1", token=READER_TOKEN) == 403
    assert status_of(api.auth_check, repo_id, write=True, token=READER_TOKEN) == 403
    assert status_of(api.delete_repo, repo_id, token=READER_TOKEN) == 403
    assert status_of(api.model_info, repo_id, token="hf_unknown") == 401
    assert api.model_info(repo_id, token=READER_TOKEN).id == repo_id
    assert len(hub.commits(repo_id)) == 1


def test_a_private_repository_is_not_there_for_strangers(hub, api, repo_id):
    api.create_repo(repo_id, private=True)
    api.upload_file(path_or_fileobj=b"sun", path_in_repo="sun.txt", repo_id=repo_id)
    assert api.model_info(repo_id).private
    for stranger, status in ((READER_TOKEN, 404), (False, 401)):
        for ask in (api.model_info, api.list_repo_files, api.list_repo_refs, api.snapshot_download):
            with pytest.raises(RepositoryNotFoundError) as error:
                ask(repo_id, token=stranger)
            assert error.value.response.status_code == status
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download(repo_id, "sun.txt", token=False)
    api.update_repo_settings(repo_id, private=False)
    assert api.list_repo_files(repo_id, token=False) == [".gitattributes", "sun.txt"]


def test_branches_and_tags(hub, api, pushed):
    here = {"repo_id": pushed, "repo_type": "dataset"}
    head, initial = (commit.commit_id for commit in api.list_repo_commits(**here))
    api.create_tag(**here, tag="v1.0")
    api.create_branch(**here, branch="trial/one", revision=initial)
    assert status_of(api.create_tag, **here, tag="v1.0", revision=initial) == 409
    assert status_of(api.create_branch, **here, branch="trial/one") == 409
    api.upload_file(path_or_fileobj=b"b", path_in_repo="b.txt", revision="trial/one", **here)
    assert hub.files(pushed, "dataset", "trial/one").keys() == {".gitattributes", "b.txt"}
    assert api.list_repo_files(revision=head, **here) == api.list_repo_files(revision="v1.0", **here)
    for revision in ("v1.0", "trial/two"):
        with pytest.raises(RevisionNotFoundError):
            api.upload_file(path_or_fileobj=b"c", path_in_repo="c.txt", revision=revision, **here)
    references = api.list_repo_refs(**here)
    assert {one.name: one.target_commit for one in references.tags} == {"v1.0": head}
    branches = {one.name: one.target_commit for one in references.branches}
    assert branches == {"main": head, "trial/one": hub.commits(pushed, "dataset", "trial/one")[0].oid}
    api.delete_tag(**here, tag="v1.0")
    api.delete_branch(**here, branch="trial/one")
    for revision in ("v1.0", "trial/one", "refs/convert/parquet", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            api.list_repo_files(revision=revision, **here)


def test_what_is_listed(api, pushed):
    here = {"repo_id": pushed, "repo_type": "dataset"}
    whole = {entry.path: entry for entry in api.list_repo_tree(recursive=True, expand=True, **here)}
    assert whole.keys() == {*FILES, ".gitattributes", "data", "data/train"}
    assert isinstance(whole["data"], RepoFolder)
    shard, notes = whole["data/train/a.parquet"], whole["data/notes.txt"]
    assert (shard.size, shard.lfs.size) == (len(SHARD), len(SHARD))
    assert (notes.size, notes.lfs, notes.blob_id) == (6, None, git_hash(b"sunny\n"))
    assert shard.last_commit.oid == api.dataset_info(pushed).sha
    assert whole[".gitattributes"].last_commit.title == "initial commit"
    assert {entry.path for entry in api.list_repo_tree(path_in_repo="data", **here)} == {
        "data/notes.txt",
        "data/train",
    }
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(path_in_repo="dat", **here))
    paths = api.get_paths_info(paths=["data", "data/notes.txt", "gone"], **here)
    assert [(entry.path, type(entry)) for entry in paths] == [("data", RepoFolder), ("data/notes.txt", RepoFile)]
    siblings = {one.rfilename: one for one in api.dataset_info(pushed, files_metadata=True).siblings}
    assert siblings["data/train/a.parquet"].lfs.sha256 == shard.lfs.sha256


def test_what_is_no_text_or_is_long_is_a_large_file(hub, api, repo_id, tmp_path):
    contents = {"sun.fits": b"SIMPLE\0", "long.csv": b"1\n" * 6_000_000, "empty.npz": b"", "short.csv": b"1\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    api.create_repo(repo_id)
    for _ in range(2):
        api.upload_folder(repo_id=repo_id, folder_path=tmp_path)
    assert len(hub.commits(repo_id)) == 2
    assert {one.path for one in api.list_repo_tree(repo_id) if one.lfs} == {"sun.fits", "long.csv"}
    lines = hub.files(repo_id)[".gitattributes"].decode().splitlines()[-2:]
    assert {line.split()[0] for line in lines} == {"sun.fits", "long.csv"}


def test_a_thousand_files_are_listed_whole(hub, api, repo_id, tmp_path):
    for number in range(1201):
        (tmp_path / f"{number:04}.txt").write_text(str(number))
    api.create_repo(repo_id)
    api.upload_folder(repo_id=repo_id, folder_path=tmp_path)
    assert len(hub.commits(repo_id)) == 2
    hub.requests.clear()
    assert len(list(api.list_repo_tree(repo_id, recursive=True))) == 1202
    assert len(hub.requests) == 2


def test_what_is_downloaded_is_what_was_pushed(hub, pushed, api):
    here = {"repo_id": pushed, "repo_type": "dataset"}
    head = hub.commits(pushed, "dataset")[0].oid
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(filename="gone.txt", **here)
    snapshot = Path(api.snapshot_download(**here))
    assert snapshot.name == head
    assert {name: (snapshot / name).read_bytes() for name in FILES} == FILES
    for name in FILES:
        hub.requests.clear()
        assert Path(api.hf_hub_download(filename=name, **here)).read_bytes() == FILES[name]
        assert asked(hub, pushed) == [f"HEAD /resolve/main/{name}"]
    large, regular = "data/train/a.parquet", "data/notes.txt"
    for name, etag in ((large, sha256(SHARD).hexdigest()), (regular, git_hash(FILES[regular]))):
        about = api.get_hf_file_metadata(url=hf_hub_url(filename=name, revision="main", **here))
        assert (about.etag, about.size, about.commit_hash) == (etag, len(FILES[name]), head)


def test_parts_of_files(hub, pushed):
    files, path = HfFileSystem(skip_instance_cache=True), f"datasets/{pushed}/data/train/a.parquet"
    assert files.cat_file(path, start=4, end=10) == SHARD[4:10]
    assert files.cat_file(path, start=len(SHARD) - 3) == SHARD[-3:]
    with files.open(path, block_size=100) as opened:
        opened.seek(1000)
        assert opened.read(16) == SHARD[1000:1016]
    assert not [line for line in asked(hub, pushed) if line.startswith("PUT")]


def test_a_dataset_goes_there_and_back(api, repo_id, hub):
    rows = Dataset.from_dict({"step": list(range(40)), "power": [[0.5, step] for step in range(40)]})
    rows.push_to_hub(repo_id, num_shards=3)
    loaded = load_dataset(repo_id, split="train")
    assert loaded.to_dict() == rows.to_dict()
    streamed = load_dataset(repo_id, split="train", streaming=True)
    assert list(streamed) == list(rows)
    rows.push_to_hub(repo_id, "more", split="test")
    assert load_dataset(repo_id, "more", split="test").num_rows == 40


def test_what_a_card_says_is_known_of_the_model(api, repo_id, folder):
    api.create_repo(repo_id)
    api.upload_file(path_or_fileobj=folder / "README.md", path_in_repo="README.md", repo_id=repo_id)
    info = api.model_info(repo_id)
    assert (info.pipeline_tag, info.card_data.license, info.tags) == ("time-series-forecasting", "apache-2.0", ["sun"])


RESULT = {"task": {"type": "x"}, "dataset": {"type": "a/b", "name": "b"}, "metrics": [{"type": "rmse", "value": 1}]}


@pytest.mark.parametrize(
    ("repo_type", "metadata", "complaint"),
    [
        ("model", "license: [", "while parsing a flow node"),
        ("model", "just text", "no YAML mapping"),
        ("model", "license: mit\nlicense: mit", "twice"),
        ("model", "license: my-own", '"license" must be one of'),
        ("dataset", "license: other", '"license_name" is required'),
        ("dataset", "tags: sun", '"tags" must be an array'),
        ("dataset", "configs: [{data_files: a.parquet}]", r'"configs\[0\].config_name" is required'),
        ("dataset", "configs: [{config_name: a}]", r'"configs\[0\].data_files" is required'),
        ("model", "model-index: [{results: []}]", r'"model-index\[0\].name" is required'),
        ("model", {"model-index": [{"name": "a", "results": [RESULT | {"metrics": []}]}]}, "metrics"),
        ("model", {"model-index": [{"name": "a", "results": [RESULT | {"task": None}]}]}, "task"),
        ("model", {"model-index": [{"name": "a", "results": [RESULT | {"dataset": {"name": "b"}}]}]}, "type"),
    ],
)
def test_an_invalid_card_is_refused(hub, api, repo_id, repo_type, metadata, complaint):
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    api.create_repo(repo_id, repo_type=repo_type)
    card = {"path_or_fileobj": f"---\n{text}\n---\n# Sun\n".encode(), "path_in_repo": "README.md"}
    with pytest.raises(ValueError, match=rf"Invalid metadata in README.md.\s.*{complaint}"):
        api.upload_file(repo_id=repo_id, repo_type=repo_type, **card)
    assert len(hub.commits(repo_id, repo_type)) == 1


def test_a_valid_card_is_taken_and_odd_words_are_told(hub, api, repo_id):
    index = json.dumps([{"name": "a", "results": [RESULT]}])
    check_card(f"---\nlicense: mit\nmodel-index: {index}\n---\n", "model")
    # Trainer writes such cards.
    check_card("---\nmodel-index: [{name: a, results: []}]\n---\n", "model")
    api.create_repo(repo_id)
    card = b"---\npipeline_tag: sun-gazing\n---\n"
    with pytest.warns(UserWarning, match='pipeline_tag "sun-gazing" is not in the official list'):
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo_id)
    assert hub.files(repo_id)["README.md"] == card


def test_another_machine_is_out_of_reach(hub):
    for reach in (
        lambda: socket.create_connection(("192.0.2.1", 443), timeout=1),
        lambda: socket.getaddrinfo("example.org", 443),
    ):
        with pytest.raises(AssertionError, match="must not reach other machines"):
            reach()
    # A process of its own has no guard but the proxy.
    for address in ("http://example.org/", "https://example.org/"):
        code = f"import urllib.request; urllib.request.urlopen({address!r}, timeout=5)"
        assert run([sys.executable, "-c", code]).returncode == 1
    assert hub.elsewhere == ["192.0.2.1", "example.org", "example.org", "example.org:443"]
    hub.elsewhere.clear()


def test_faults(hub, api, pushed):
    hub.refusals.append((r"GET /api/datasets/.*", 503, None, "Resting"))
    with pytest.raises(HfHubHTTPError, match="503"):
        api.dataset_info(pushed)
    told, seen = threading.Event(), []
    hub.before = lambda *request: seen.append(request)
    assert api.dataset_info(pushed).id == pushed
    assert seen == [("GET", f"/api/datasets/{pushed}")]
    hub.after = lambda *request: told.set()
    assert api.dataset_info(pushed).id == pushed
    assert told.wait(PATIENCE)

    def lose(method, path):
        raise ConnectionError

    hub.before = lose
    with pytest.raises(Exception, match="disconnected"):
        api.dataset_info(pushed)
    hub.before = None
    hub.down = True
    with pytest.raises(Exception, match="refused"):
        api.dataset_info(pushed)
    hub.down = False
    assert api.dataset_info(pushed).id == pushed
