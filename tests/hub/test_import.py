"""`solared import`: the published repository, laid out as it is on the Hub, becomes the dataset that a build gives."""

import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from datasets import load_dataset
from huggingface_hub import CommitOperationAdd, HfApi

from dataset_builder import build_dataset
from dataset_builder.build import LOCK_NAME
from dataset_builder.published import PublishedSource
from dataset_builder.simulation import write_simulated
from tests.hub.loopback import READER_TOKEN, TOKEN
from tests.processes import PATIENCE

KINDS = ("int", "mag", "pmdop")
SMALL = (90001, 90007, 90009)  # one region of each split
# In the published repository t_end comes before the last step of the files, and t_start after the first.
TIMES = {90001: ("2001.01.01", "2001.01.04"), 90007: ("2001.02.24", "2001.03.01"), 90009: ("2001.03.14", "2001.03.16")}
TIMES |= {
    11130: ("2010.11.28", "2010.12.05"),
    11190: ("2011.04.12", "2011.04.17"),
    11698: ("2013.03.11", "2013.03.20"),
}


def index(*numbers: int) -> bytes:
    rows = ["AR,t_start,t_end,mean_int_path,mean_mag_path,mean_pmdop_path"]
    for number in numbers:
        start, end = TIMES.get(number, ("2001.01.01", "2001.12.31"))
        paths = (f"/data/AR{number}/mean_{kind}{number}_flat.npz" for kind in KINDS)
        rows.append(",".join([str(number), f"{start}_23:59:59Z", f"{end}_23:59:59Z", *paths]))
    return "\n".join([*rows, ""]).encode()


def upload(repo_id: str, folder: Path, others: Mapping[str, bytes], private: bool = False) -> None:
    """One commit with all regions of a folder, and files beside them."""
    api = HfApi(token=TOKEN)
    api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    regions = {f"data/{path.relative_to(folder)}": str(path) for path in sorted(folder.glob("AR*/*"))}
    operations = [CommitOperationAdd(name, file) for name, file in (regions | dict(others)).items()]
    api.create_commit(repo_id, operations, repo_type="dataset", commit_message="Published")


def build(folder: Path, output: Path) -> dict[str, bytes]:
    build_dataset(PublishedSource(folder), output)
    return tree(output)


def tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def fetched(hub) -> list[str]:
    """Files whose content was asked for."""
    return [
        re.sub(r".*/resolve/\w+/", "", path)
        for method, path, _ in hub.requests
        if "/resolve/" in path
        if method == "GET"
    ]


@pytest.fixture
def solared_import(solared):
    """Runs the command; gives its exit code, output and the last lines on standard error, from its own on."""

    def run(repo_id: str, output: Path, *options: str) -> tuple[int, str, str]:
        code, out, errors = solared("import", repo_id, "--output", output, *options)
        return code, out, errors.rpartition("solared: ")[2]

    return run


@pytest.fixture(scope="module")
def sun(tmp_path_factory) -> Path:
    """Three small regions in the published format."""
    folder = tmp_path_factory.mktemp("sun")
    write_simulated(folder, SMALL, steps=100)
    return folder


@pytest.fixture
def published(repo_id, sun) -> str:
    upload(
        repo_id, sun, {"index/train.csv": index(90001), "index/val.csv": index(90007), "index/test.csv": index(90009)}
    )
    return repo_id


def test_the_published_repository_becomes_a_dataset(hub, repo_id, sun, solared_import, tmp_path):
    others = {
        "train.csv": index(90001, 90007),
        "index/test.csv": index(90009),
        "statistics.csv": b"channel,mean\nflux,3\n",
        "README.md": b"---\nlicense: mit\n---\n# The published data\n",
        "ar_emergence.py": b"raise SystemExit('code was run')\n",
        "raw/cubes.npz": b"large",
        "data/AR90001/maps.npz": b"large",
        "data/AR90001_old/mean_int90001_flat.npz": b"old",
    }
    upload(repo_id, sun, others)
    hub.requests.clear()
    output = tmp_path / "out"
    code, out, _ = solared_import(repo_id, output)
    assert code == 0
    size = sum(len(content) for name, content in tree(output).items() if name.startswith("data/"))
    assert out.splitlines() == [
        f"{repo_id}, commit {hub.commits(repo_id, 'dataset')[0].oid}",
        f"{output}: 3 regions, 300 rows, {size:,} bytes of Parquet",
        "3 regions written, 0 kept",
        "The index files divide regions differently from the published split, which is used: train in the index and "
        "validation here: AR90007.",
    ]
    assert tree(output) == build(sun, tmp_path / "built")
    # Data and nothing else, each file once.
    regions = [f"data/AR{number}/mean_{kind}{number}_flat.npz" for number in SMALL for kind in KINDS]
    assert sorted(fetched(hub)) == sorted([*regions, "index/test.csv", "statistics.csv", "train.csv"])
    rows = load_dataset(str(output), cache_dir=str(tmp_path / "cache"))
    assert {split: set(part["ar_number"]) for split, part in rows.items()} == {
        "train": {90001}, "validation": {90007}, "test": {90009},
    }  # fmt: skip


def test_real_regions(hub, repo_id, published_dir, solared_import, tmp_path):
    """AR11190 stands among the training regions of the index, and belongs to validation."""
    for number in (11130, 11190, 11698):
        shutil.copytree(published_dir / f"AR{number}", tmp_path / "some" / f"AR{number}")
    upload(repo_id, tmp_path / "some", {"train.csv": index(11130, 11190), "test.csv": index(11698)})
    code, out, _ = solared_import(repo_id, tmp_path / "out")
    assert code == 0
    assert out.splitlines()[3:] == [
        "The index files divide regions differently from the published split, which is used: train in the index and "
        "validation here: AR11190."
    ]
    assert tree(tmp_path / "out") == build(tmp_path / "some", tmp_path / "built")


def test_a_revision_is_pinned_and_a_second_run_does_what_is_left(hub, published, sun, solared_import, tmp_path):
    first = hub.commits(published, "dataset")[0].oid
    HfApi(token=TOKEN).create_tag(published, tag="v1", repo_type="dataset")
    write_simulated(tmp_path / "later", (90001,), seed=1, steps=100)
    upload(published, tmp_path / "later", {})
    old = build(sun, tmp_path / "old")
    output = tmp_path / "out"
    for revision in ("v1", first):
        code, out, _ = solared_import(published, output, "--revision", revision)
        assert (code, out.splitlines()[0]) == (0, f"{published}, commit {first}")
        assert tree(output) == old

    hub.requests.clear()
    code, out, _ = solared_import(published, output)
    assert "1 regions written, 2 kept" in out
    shutil.copytree(sun, tmp_path / "now")
    shutil.copytree(tmp_path / "later", tmp_path / "now", dirs_exist_ok=True)
    assert tree(output) == build(tmp_path / "now", tmp_path / "new")
    # What has not changed is in the cache.
    assert sorted(fetched(hub)) == [f"data/AR90001/mean_{kind}90001_flat.npz" for kind in KINDS]

    hub.requests.clear()
    code, out, _ = solared_import(published, output)
    assert (code, fetched(hub)) == (0, [])
    assert "0 regions written, 3 kept" in out


def test_a_killed_import_goes_on(hub, published, sun, solared_import, tmp_path):
    output, process = tmp_path / "out", None

    def kill(method, path):
        # The client takes eight files at a time, so three of twelve have arrived when it asks for the eleventh.
        if len(fetched(hub)) >= 11:
            process.kill()

    hub.before = kill
    command = [sys.executable, "-m", "solared_hf", "import", published, "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert not output.exists()
    hub.reset()
    assert solared_import(published, output)[0] == 0
    assert 1 <= len(fetched(hub)) <= 9
    assert tree(output) == build(sun, tmp_path / "built")


def test_what_index_and_files_lack_is_said(hub, repo_id, sun, solared_import, tmp_path):
    shutil.copytree(sun, tmp_path / "some")
    (tmp_path / "some/AR90009/mean_mag90009_flat.npz").unlink()
    bad_row = index(90001).splitlines()[1].replace(b"90001,", b"AR 90001,", 1)
    upload(repo_id, tmp_path / "some", {"index.csv": index(90001, 90002, 90001) + bad_row})
    code, out, _ = solared_import(repo_id, tmp_path / "out")
    assert code == 0
    assert out.splitlines()[2:] == [
        "2 regions written, 0 kept",
        "Unusable rows of the index: index.csv line 5: 'AR 90001' is not an AR number.",
        "Left out because the repository does not hold all three files: AR90002, AR90009.",
        "Converted but not in the index: AR90007.",
        "In the index more than once: AR90001 (index.csv line 2, index.csv line 4).",
    ]


def test_a_region_that_is_there_cannot_be_left_out(hub, published, solared_import, tmp_path):
    output = tmp_path / "out"
    assert solared_import(published, output)[0] == 0
    before = tree(output)
    code, _, error = solared_import(published, output, "--leave-out", "90007")
    assert code == 2
    assert error == (
        f"AR90007 is in {output} from an earlier import and would stay there. Name a new folder to leave it out.\n"
    )
    assert tree(output) == before
    code, out, _ = solared_import(published, tmp_path / "new", "--leave-out", "90007")
    assert (code, out.splitlines()[3:]) == (0, ["Left out as asked: AR90007."])
    assert "data/validation/AR90007.parquet" not in tree(tmp_path / "new")
    (tmp_path / "failed/.staged/data/test/AR90009.parquet").mkdir(parents=True)  # where a failed rebuild leaves it
    assert solared_import(published, tmp_path / "failed", "--leave-out", "90009")[2].startswith("AR90009 is in ")


def test_a_region_that_the_repository_dropped_stays(hub, published, sun, solared_import, tmp_path):
    output = tmp_path / "out"
    assert solared_import(published, output)[0] == 0
    HfApi(token=TOKEN).delete_folder("data/AR90007", published, repo_type="dataset")
    code, out, _ = solared_import(published, output)
    assert code == 0
    assert out.splitlines()[2:] == [
        "0 regions written, 2 kept",
        "Kept from an earlier import, although the repository does not hold all three files: AR90007.",
    ]
    assert tree(output) == build(sun, tmp_path / "built")


def test_an_index_that_leads_elsewhere_is_refused(hub, repo_id, sun, solared_import, tmp_path):
    upload(repo_id, sun, {"train.csv": index(90001).replace(b"/data/AR90001/mean_mag", b"/data/../../mean_mag")})
    code, _, error = solared_import(repo_id, tmp_path / "out")
    assert code == 2
    assert error.startswith(
        "train.csv line 2 names '/data/../../mean_mag90001_flat.npz' as mean_mag_path, which leads out of"
    )
    assert not (tmp_path / "out").exists()


class Code:
    """Unpickled by a trusting reader, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_file_is_refused_and_not_run(hub, repo_id, sun, solared_import, tmp_path):
    shutil.copytree(sun, tmp_path / "some")
    hostile, proof = tmp_path / "some/AR90007/mean_int90007_flat.npz", tmp_path / "proof"
    with np.load(hostile, allow_pickle=True) as archive:
        values, times = archive["arr_0"], archive["arr_1"]
    np.savez(hostile, values, np.array([Code(proof), *times[1:]], dtype=object))
    upload(repo_id, tmp_path / "some", {"index.csv": index(*SMALL)})
    code, _, error = solared_import(repo_id, tmp_path / "out")
    assert code == 2
    assert "1 of 3 regions could not be built" in error
    assert "data/AR90007/mean_int90007_flat.npz is damaged or is not a published file (the times ask for pa" in error
    commit = hub.commits(repo_id, "dataset")[0].oid
    assert f"These files come from commit {commit} of {repo_id}." in error
    assert f"run `hf cache rm dataset/{repo_id}` and then" in error
    assert not proof.exists()
    assert sorted(tree(tmp_path / "out")) == ["data/test/AR90009.parquet", "data/train/AR90001.parquet"]
    assert solared_import(repo_id, tmp_path / "out", "--leave-out", "90008")[0] == 2
    code, out, _ = solared_import(repo_id, tmp_path / "out", "--leave-out", "90007")
    assert (code, out.splitlines()[3:]) == (0, ["Left out as asked: AR90007."])
    assert load_dataset(str(tmp_path / "out"), "catalog", split="regions")["ar_number"][:] == [90001, 90009]
    # So much for the trap.
    with zipfile.ZipFile(hostile) as archive, archive.open("arr_1.npy") as member:
        np.lib.format.read_magic(member)
        np.lib.format.read_array_header_1_0(member)
        pickle.load(member)
    assert proof.exists()


def test_a_repository_in_parquet_needs_no_import(hub, repo_id, simulated_dataset, solared_import, tmp_path):
    names = ("README.md", "manifest.json", "data/train/AR90001.parquet")
    upload(repo_id, tmp_path, {name: (simulated_dataset / name).read_bytes() for name in names})
    code, _, error = solared_import(repo_id, tmp_path / "out", "--revision", "main")
    assert code == 2
    assert error == (
        f"{repo_id} holds Parquet files and no published files, so there is nothing to import. Load it with "
        f'load_dataset("{repo_id}", revision="main").\n'
    )
    assert not (tmp_path / "out").exists()


def test_other_repositories_are_refused(hub, repo_id, sun, solared_import, tmp_path):
    (tmp_path / "some/AR90001").mkdir(parents=True)
    shutil.copy(sun / "AR90001/mean_int90001_flat.npz", tmp_path / "some/AR90001")
    for folder in (tmp_path / "none", tmp_path / "some"):
        upload(repo_id, folder, {"train.csv": index(90001), "notes.txt": folder.name.encode()})
        code, _, error = solared_import(repo_id, tmp_path / "out")
        assert code == 2
        assert f"{repo_id} does not hold a region, which is a folder data/AR<number> with mean_int<number>_fl" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("repo", "token", "options", "words"),
    [
        (
            "solared-team/nowhere",
            None,
            (),
            "There is no solared-team/nowhere on the Hub that you can",
        ),
        ("{private}", None, (), "if the repository is private, run `hf auth login` with a token that can read it"),
        ("{private}", READER_TOKEN, (), "There is no {private} on the Hub that you can read"),
        (
            "{private}",
            "hf_nobodysowntoken",
            (),
            "The Hub does not know your token. Run `hf auth login` with a new token",
        ),
        ("{private}", TOKEN, ("--revision", "v9"), "{private} has no revision v9. Name a branch, tag or commit"),
        (
            "ar_emergence",
            None,
            (),
            "ar_emergence is not the name of a repository. Name it as owner/name, such as nasa-impact/ar_em",
        ),
        (
            "https://huggingface.co/datasets/a/b",
            None,
            (),
            "is not the name of a repository. Name it as owner/name, such as nasa-im",
        ),
        ("a/-b", None, (), "a/-b is not a valid repository name (Repo id must use"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    hub, repo_id, sun, solared_import, tmp_path, monkeypatch, repo, token, options, words
):
    upload(repo_id, sun, {}, private=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    code, _, error = solared_import(repo.format(private=repo_id), tmp_path / "out", *options)
    assert code == 2
    assert error.startswith(words.format(private=repo_id)) or words.format(private=repo_id) in error
    assert error.count("\n") == 1
    assert "hf_nobodysowntoken" not in error
    assert not (tmp_path / "out").exists()


def test_a_private_repository_with_a_token(hub, repo_id, sun, token, solared_import, tmp_path):
    upload(repo_id, sun, {}, private=True)
    assert solared_import(repo_id, tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == build(sun, tmp_path / "built")


def test_an_old_copy_is_taken_only_when_asked_for(hub, published, solared_import, tmp_path, monkeypatch):
    output = tmp_path / "out"
    assert solared_import(published, output)[0] == 0
    before = tree(output)
    hub.down = True
    code, _, error = solared_import(published, output)
    assert code == 2
    assert error.startswith(f"{published} could not be read from the Hub (")
    assert "Check the connection and run the same command again: finished downloads are kept." in error
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, out, _ = solared_import(published, output)
    assert code == 0
    assert out.splitlines()[0] == f"{published}, commit {hub.commits(published, 'dataset')[0].oid}"
    assert "0 regions written, 3 kept" in out
    assert tree(output) == before
    code, _, error = solared_import("solared-team/never-seen", output)
    assert (code, error.count("\n")) == (2, 1)
    assert "HF_HUB_OFFLINE" in error


def test_a_full_disk_then_room(hub, published, sun, solared_import, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the largest file has 261,000 bytes
    try:
        code, _, error = solared_import(published, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    assert error.startswith(
        f"The download of {published} could not be written to {huggingface_hub.constants.HF_HUB_CACHE} ("
    )
    assert "Make room there, or set HF_HOME to another folder" in error
    assert not (tmp_path / "out").exists()
    assert solared_import(published, tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == build(sun, tmp_path / "built")
