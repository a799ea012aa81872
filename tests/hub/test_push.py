"""`solared push` of datasets: one commit for what differs, none for what does not, and the Hub's words made clear."""

import re
import shutil

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.constants import ENDPOINT

from solared_hf.files import locked
from tests.hub.loopback import READER_TOKEN, TOKEN


def test_a_new_repository_gets_the_folder_in_one_commit(hub, repo_id, token, solared, versions, on_hub, content_of):
    code, out, err = solared("push", versions["old"], "--repo-id", repo_id, "--private", "--tag", "v1.0")
    assert code == 0
    assert "100%" in err  # of a progress bar
    assert "7 added, 0 changed, 0 deleted, 0 unchanged" in out
    assert f"{ENDPOINT}/datasets/{repo_id}/tree/main, tag v1.0" in out
    assert on_hub(repo_id) == content_of(versions["old"], repo_id) == on_hub(repo_id, "v1.0")
    assert f'"{repo_id}"' in on_hub(repo_id)["README.md"].decode()
    assert len(hub.commits(repo_id, "dataset")) == 2  # the Hub makes the first
    assert HfApi().dataset_info(repo_id).private


def test_an_unchanged_folder_makes_no_commit_and_uploads_nothing(
    hub, repo_id, token, solared, versions, on_hub, content_of
):
    push = ("push", versions["old"], "--repo-id", repo_id)
    assert solared(*push)[0] == 0
    commits = [commit.oid for commit in hub.commits(repo_id, "dataset")]
    hub.requests.clear()
    code, out, _ = solared(*push, "--tag", "v1.0")
    assert code == 0
    assert "up to date; no commit was made" in out
    assert [commit.oid for commit in hub.commits(repo_id, "dataset")] == commits
    assert {method for method, path, _ in hub.requests if "/tag/" not in path} <= {"GET", "HEAD"}
    assert on_hub(repo_id, "v1.0") == content_of(versions["old"], repo_id)
    assert solared(*push, "--tag", "v1.0")[0] == 0  # again, as after a kill


def test_what_left_the_build_is_deleted_and_what_others_put_there_stays(
    hub, repo_id, token, solared, versions, on_hub, content_of
):
    assert solared("push", versions["old"], "--repo-id", repo_id)[0] == 0
    foreign = {"data/AR11130/mean_int11130_flat.npz": b"published", "train.csv": b"AR\n", "data/train/notes.txt": b"n"}
    added = [CommitOperationAdd(name, content) for name, content in foreign.items()]
    HfApi().create_commit(repo_id, added, commit_message="others", repo_type="dataset")

    code, out, _ = solared("push", versions["new"], "--repo-id", repo_id, "--dry-run")
    assert code == 0
    assert re.findall(r"^(\w+) +(\S+)$", out, re.MULTILINE) == [
        ("add", "data/train/AR90003.parquet"),
        ("change", "README.md"),
        ("change", "catalog/regions.parquet"),
        ("change", "data/train/AR90001.parquet"),
        ("change", "manifest.json"),
        ("delete", "data/train/AR90002.parquet"),
    ]
    content = content_of(versions["new"], repo_id)
    same = ("data/validation/AR90007.parquet", "data/test/AR90009.parquet")
    size = sum(len(data) for name, data in content.items() if name not in same)
    assert f"1 to add, 4 to change, 1 to delete, 2 unchanged; {size:,} bytes to upload" in out
    assert "nothing was changed" in out
    assert len(hub.commits(repo_id, "dataset")) == 3

    code, out, _ = solared("push", versions["new"], "--repo-id", repo_id)
    assert code == 0
    assert on_hub(repo_id) == {**content, **foreign}
    assert len(hub.commits(repo_id, "dataset")) == 4
    # The first revision is still there for those who named it.
    first = hub.commits(repo_id, "dataset")[2].oid
    assert on_hub(repo_id, first) == content_of(versions["old"], repo_id)


def test_a_dry_run_for_a_new_repository_does_not_make_it(hub, repo_id, token, solared, versions):
    code, out, _ = solared("push", versions["old"], "--repo-id", repo_id, "--dry-run")
    assert code == 0
    assert out.count("add    ") == 7
    assert f"{repo_id} would be created" in out
    assert not HfApi().repo_exists(repo_id, repo_type="dataset")


def test_a_branch_is_made_from_main(hub, repo_id, token, solared, versions, on_hub, content_of):
    assert solared("push", versions["old"], "--repo-id", repo_id)[0] == 0
    code, out, _ = solared("push", versions["new"], "--repo-id", repo_id, "--branch", "next")
    assert code == 0
    assert "1 added, 4 changed, 1 deleted, 2 unchanged" in out
    assert on_hub(repo_id) == content_of(versions["old"], repo_id)
    assert on_hub(repo_id, "next") == content_of(versions["new"], repo_id)


def test_a_tag_never_moves(hub, repo_id, token, solared, versions, on_hub, content_of):
    assert solared("push", versions["old"], "--repo-id", repo_id, "--tag", "v1.0")[0] == 0
    code, _, err = solared("push", versions["new"], "--repo-id", repo_id, "--tag", "v1.0")
    assert code == 2
    assert "The tag v1.0" in err
    assert "Choose a new tag" in err
    assert on_hub(repo_id) == content_of(versions["old"], repo_id)


def test_a_public_repository_is_not_taken_for_private(hub, repo_id, token, solared, versions, on_hub):
    HfApi().create_repo(repo_id, repo_type="dataset")
    code, _, err = solared("push", versions["old"], "--repo-id", repo_id, "--private")
    assert code == 2
    assert "exists and is public" in err
    assert on_hub(repo_id) == {}


def test_a_card_edited_by_hand_is_pushed_as_it_is(hub, repo_id, token, solared, versions, tmp_path, on_hub):
    folder = shutil.copytree(versions["old"], tmp_path / "dataset")
    card = (folder / "README.md").read_bytes() + b"\nEdited.\n"
    (folder / "README.md").write_bytes(card)
    assert solared("push", folder, "--repo-id", repo_id)[0] == 0
    assert on_hub(repo_id)["README.md"] == card.replace(b"path/to/this/folder", repo_id.encode())


def test_a_file_that_changes_during_the_push_is_not_published(
    hub, repo_id, token, solared, versions, tmp_path, on_hub
):
    folder = shutil.copytree(versions["old"], tmp_path / "dataset")
    shard = folder / "data" / "train" / "AR90001.parquet"

    def replace(method, path):
        if "/preupload/" in path:
            hub.before = None
            shutil.copy(versions["new"] / "data" / "train" / "AR90001.parquet", shard)

    hub.before = replace
    code, _, err = solared("push", folder, "--repo-id", repo_id)
    assert code == 2
    assert f"{shard} changed during the push. Run the same command again" in err
    assert on_hub(repo_id) == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--tag", ""), "'' is not a name of a branch or tag"),
        (("--tag", "main"), "already has a branch or tag main"),
        (("--tag", "a tag"), "'a tag' is not a name of a branch or tag"),
        (("--branch", "v1.0"), "already has a branch or tag v1.0"),
        (("--branch", "0" * 40), "is not a name of a branch or tag"),
    ],
)
def test_odd_names_of_branches_and_tags_are_refused_first(
    hub, repo_id, token, solared, versions, options, sentence, on_hub, content_of
):
    assert solared("push", versions["old"], "--repo-id", repo_id, "--tag", "v1.0")[0] == 0
    code, _, err = solared("push", versions["new"], "--repo-id", repo_id, *options)
    assert code == 2
    assert sentence in err
    assert on_hub(repo_id) == content_of(versions["old"], repo_id)


def test_a_tag_that_fails_is_told_apart_from_the_push(hub, repo_id, token, solared, versions, on_hub, content_of):
    hub.refusals.append(("POST .*/tag/", 500, None, "no tags today"))
    push = ("push", versions["old"], "--repo-id", repo_id, "--tag", "v1.0")
    code, _, err = solared(*push)
    assert code == 2
    assert f"{repo_id} has all files, as commit" in err
    assert on_hub(repo_id) == content_of(versions["old"], repo_id)
    assert solared(*push)[0] == 0
    assert on_hub(repo_id, "v1.0") == content_of(versions["old"], repo_id)


def test_a_read_only_folder_can_be_pushed(hub, repo_id, token, solared, versions, tmp_path, on_hub, content_of):
    folder = shutil.copytree(versions["old"], tmp_path / "dataset", ignore=shutil.ignore_patterns(".build.lock"))
    folder.chmod(0o555)
    try:
        assert solared("push", folder, "--repo-id", repo_id)[0] == 0
    finally:
        folder.chmod(0o755)
    assert on_hub(repo_id) == content_of(versions["old"], repo_id)


def test_the_owner_decides_who_sees_new_repositories(hub, repo_id, token, solared, versions):
    hub.answers.private_owners.add("solared-team")
    assert solared("push", versions["old"], "--repo-id", repo_id)[0] == 0
    assert HfApi().dataset_info(repo_id).private


@pytest.mark.parametrize("owner", ["somebody-else", "solared-team"])
def test_a_dry_run_tells_who_may_not_make_the_repository(hub, repo_id, solared, versions, owner, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN if owner == "somebody-else" else READER_TOKEN)
    code, _, err = solared("push", versions["old"], "--repo-id", f"{owner}/new", "--dry-run")
    assert code == 2
    assert f"Your token cannot write to {owner}. Use a token with write access" in err


# Each says what to do to the hub, the environment or the folder, and what the user reads.
def without_token(hub, repo_id, patch, folder):
    patch.delenv("HF_TOKEN")


def with_unknown_token(hub, repo_id, patch, folder):
    patch.setenv("HF_TOKEN", "hf_" + "x" * 34)


def with_token_of_a_reader(hub, repo_id, patch, folder):
    patch.setenv("HF_TOKEN", READER_TOKEN)


def with_a_card_that_the_hub_refuses(hub, repo_id, patch, folder):
    card = folder / "README.md"
    card.write_text(card.read_text().replace("license: apache-2.0", "license: not-a-license"))


def with_the_repository_deleted_meanwhile(hub, repo_id, patch, folder):
    def delete(method, path):
        if method == "POST" and "/commit/" in path:
            hub.before = None
            HfApi().delete_repo(repo_id, repo_type="dataset")

    hub.before = delete


def with_another_push_meanwhile(hub, repo_id, patch, folder):
    def push(method, path):
        if method == "POST" and "/commit/" in path:
            hub.before = None
            HfApi().upload_file(
                path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id=repo_id, repo_type="dataset"
            )

    hub.before = push


def with_the_hub_down(hub, repo_id, patch, folder):
    hub.down = True


def with_the_hub_out_of_order(hub, repo_id, patch, folder):
    hub.refusals.append(("POST .*/commit/", 500, None, "out of order"))


def with_the_hub_overrun(hub, repo_id, patch, folder):
    hub.refusals.append(("GET .*/refs", 429, None, "too many requests"))


def with_the_storage_full(hub, repo_id, patch, folder):
    hub.refusals.append(("POST .*/commit/", 403, None, "Private repository storage limit reached"))


def with_a_damaged_shard(hub, repo_id, patch, folder):
    shard = folder / "data" / "train" / "AR90001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])


def with_a_shard_missing(hub, repo_id, patch, folder):
    (folder / "data" / "train" / "AR90001.parquet").unlink()


def with_the_build_unfinished(hub, repo_id, patch, folder):
    (folder / "README.md").unlink()


def with_something_else(hub, repo_id, patch, folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "notes.txt").touch()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (without_token, "You are not logged in to the Hub. Run `hf auth login`"),
        (with_unknown_token, "The Hub does not know your token. Run `hf auth login` with a new token"),
        (with_token_of_a_reader, "Your token cannot write to solared-team .*. Use a token with write access"),
        (with_a_card_that_the_hub_refuses, "The Hub refuses the content of .*license.*. Correct it"),
        (with_the_repository_deleted_meanwhile, "There is no .* on the Hub that you can read. Check the name"),
        (with_another_push_meanwhile, "Somebody else pushed to .* run the same command again"),
        (with_the_hub_down, "could not be pushed .*. Check the connection to the Hub"),
        (with_the_hub_out_of_order, "could not be pushed .*500.*. Check the connection to the Hub"),
        (with_the_hub_overrun, r"The Hub got too many requests .*. Run the same command again in some minutes"),
        (with_the_storage_full, r"Your token cannot write to .*storage limit reached"),
        (with_a_damaged_shard, r"AR90001\.parquet is not the file that was built. Run the same `solared build`"),
        (with_a_shard_missing, r"AR90001\.parquet cannot be read \(No such file.*\). Run the same `solared build`"),
        (with_the_build_unfinished, "is not a finished dataset. Run `solared build` again"),
        (with_something_else, "holds neither a dataset nor a model. Name a folder"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_leaves_the_hub_as_it_was(
    fault, sentence, hub, repo_id, token, solared, versions, on_hub, tmp_path, monkeypatch
):
    folder = shutil.copytree(versions["old"], tmp_path / "dataset")
    with monkeypatch.context() as patch:
        fault(hub, repo_id, patch, folder)
        code, out, err = solared("push", folder, "--repo-id", repo_id)
        secret = TOKEN if fault is not with_unknown_token else "hf_xxxx"
    hub.before, hub.down = None, False
    assert code == 2
    told = err.splitlines()[-1]
    assert re.match(f"solared: .*{sentence}", told), err
    assert "Traceback" not in err
    assert secret not in out + err
    if HfApi().repo_exists(repo_id, repo_type="dataset"):
        assert set(on_hub(repo_id)) <= {"theirs.txt"}


def test_nothing_is_pushed_while_a_build_writes(hub, repo_id, token, solared, versions):
    with locked(versions["old"] / ".build.lock", "busy"):
        code, _, err = solared("push", versions["old"], "--repo-id", repo_id)
    assert code == 2
    assert "Another command is writing or pushing" in err
    assert not HfApi().repo_exists(repo_id, repo_type="dataset")


def test_a_name_without_owner_is_answered_with_the_form(hub, token, solared, versions):
    code, _, err = solared("push", versions["old"], "--repo-id", "solared")
    assert code == 2
    assert "owner/name" in err
