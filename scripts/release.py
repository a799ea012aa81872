"""`make release`: builds the source distribution and the wheel, tries them as users get them, and writes CHANGELOG.md.

Nothing is published. `make test-floors` comes before it, because the wheel promises its floors to users. The wheel is
tried in an empty environment, which takes some minutes, 9 GB of the folder for temporary files while pip unpacks
torch, and an index for pip. Files are written when all has gone well, not before.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from markdown_it import MarkdownIt

from solared_hf import SolaredError

BEGINNING = time.monotonic()
REPOSITORY = Path(__file__).resolve().parents[1]
CHANGELOG = "CHANGELOG.md"
UNRELEASED = "Unreleased"
# The folders that are in the wheel with all that is committed in them, and their places there.
PLACES = {
    "dataset_builder": "dataset_builder",
    "model_cards": "solared_hf/model_cards",
    "solared_hf": "solared_hf",
}
# The trained model is one that the wheel brings.
TRIED = ("quickstart", "evaluate --model solared-quantile-trajectory --dataset runs/quickstart/dataset --split test")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="solared-release-") as temporary:
        folder = Path(temporary).resolve()
        source, output = folder / "source", REPOSITORY / "dist"
        say("Reading what is committed")
        export(REPOSITORY, source)
        version = tomllib.loads((source / "pyproject.toml").read_text())["project"]["version"]
        before = (source / CHANGELOG).read_text()
        after = with_release(before, version, date.today())
        (source / CHANGELOG).write_text(after)
        check_links((source / "README.md").read_text())

        say("Building")
        built = archive, wheel = build(source, folder / "dist")
        check_content(wheel, source)
        run(sys.executable, "-m", "twine", "check", "--strict", archive, wheel)

        say("Installing the wheel in an empty environment, some minutes, and trying it there")
        try_wheel(wheel, folder)

        output.mkdir(exist_ok=True)
        files = [shutil.copy2(path, output) for path in built]
    (REPOSITORY / CHANGELOG).write_text(after)
    say(f"{version} is ready. It is not published; this does it:")
    if after != before:
        print(f"git commit --message 'Release {version}' {CHANGELOG}")
    print(f"git tag v{version}")
    print(shlex.join([sys.executable, "-m", "twine", "upload", *map(str, files)]))


def export(repository: Path, folder: Path) -> None:
    """Copy what is committed in a repository to a new folder: nothing else that lies around gets into a release.

    Raises:
        SolaredError: something is not committed.
    """
    lines = run("git", "status", "--porcelain", cwd=repository, stdout=subprocess.PIPE).stdout.decode().splitlines()
    if lines:
        raise SolaredError(
            f"{lines[0][3:]} and {len(lines) - 1} more files are not as they are committed; commit or remove them, "
            "and run `make release` again."
        )
    # With nothing changed, the index is what is committed.
    run("git", "checkout-index", "--all", f"--prefix={folder}/", cwd=repository)


def with_release(changelog: str, version: str, today: date) -> str:
    """The changelog with what was unreleased as the section of a version; unchanged where it has that section.

    Raises:
        SolaredError: nothing, or something more, is unreleased.
    """
    head, *sections = re.split(r"^## ", changelog, flags=re.MULTILINE)
    content = {title.strip(): text for title, _, text in (section.partition("\n") for section in sections)}
    unreleased = content.get(UNRELEASED, "").strip()
    if any(title.partition(" ")[0] == version for title in content):
        if unreleased:
            raise SolaredError(
                f"{CHANGELOG} has a section {version} and unreleased changes; raise the version in pyproject.toml, or "
                f"move them to {version} if that is not published yet."
            )
        return changelog
    if not unreleased:
        raise SolaredError(
            f"{CHANGELOG} says nothing of {version}; write under `## {UNRELEASED}` what users get with it."
        )
    released = f"## {UNRELEASED}\n\n## {version} - {today}\n\n{unreleased}\n"
    older = "".join(f"\n## {section.strip()}\n" for section in sections if not section.startswith(f"{UNRELEASED}\n"))
    return head + released + older


def check_links(readme: str) -> None:
    """Check that what README links to and shows is found from another page too, as PyPI's.

    Raises:
        SolaredError: an address is relative.
    """
    for block in MarkdownIt().parse(readme):
        for part in block.children or ():
            address = part.attrs.get("href") or part.attrs.get("src")
            if address and not address.startswith("#") and not urlsplit(address).scheme:
                raise SolaredError(
                    f"README.md points to {address}, which nobody finds from the package's page; give a whole "
                    "address, or name the file without a link."
                )


def build(source: Path, output: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it, with the setuptools of this environment.

    Raises:
        SolaredError: the build failed.
    """
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, source, stdout=subprocess.DEVNULL)
    (archive,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    return archive, wheel


def check_content(wheel: Path, source: Path) -> None:
    """Check that a wheel holds the folders of `PLACES`, byte for byte, its description and the license, and no more.

    Raises:
        SolaredError: something else is in it, or missing.
    """
    expected = {
        f"{place}/{path.relative_to(source / folder).as_posix()}": path.read_bytes()
        for folder, place in PLACES.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    description = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/"
    expected[f"{description}licenses/LICENSE"] = (source / "LICENSE").read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    missing = sorted(expected.keys() - held.keys())
    strange = sorted(name for name in held.keys() - expected.keys() if not name.startswith(description))
    other = sorted(name for name in expected.keys() & held.keys() if held[name] != expected[name])
    if missing:
        raise SolaredError(f"{wheel.name} lacks {missing[0]}; add its folder to the packages in pyproject.toml.")
    if strange:
        raise SolaredError(f"{wheel.name} holds {strange[0]}; take it out of the packages in pyproject.toml.")
    if other:
        raise SolaredError(f"{wheel.name} holds another {other[0]} than is committed; find out what changes it.")


def try_wheel(wheel: Path, folder: Path) -> None:
    """Install a wheel into an empty environment in `folder`, and run there what a newcomer runs.

    Raises:
        SolaredError: a command failed, or came from elsewhere.
    """
    environment, elsewhere = folder / "environment", folder / "elsewhere"
    elsewhere.mkdir()
    # Nothing may lead Python to other packages than those of the new environment.
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and name not in ("VIRTUAL_ENV", "CONDA_PREFIX")
    }

    def there(program: str, *arguments: str, **options) -> subprocess.CompletedProcess:
        return run(environment / "bin" / program, *arguments, cwd=elsewhere, env=variables, **options)

    run(sys.executable, "-m", "venv", environment)
    there("python", "-m", "pip", "install", "--quiet", str(wheel))
    there("solared", "doctor")
    say("Its extra, the builder")
    there("python", "-m", "pip", "install", "--quiet", f"{wheel}[builder]")
    for arguments in TRIED:
        say(f"solared {arguments}")
        there("solared", *arguments.split())
    where = "import dataset_builder, solared_hf; print(dataset_builder.__file__, solared_hf.__file__, sep='\\n')"
    for file in there("python", "-c", where, stdout=subprocess.PIPE).stdout.decode().splitlines():
        if not Path(file).is_relative_to(environment):
            raise SolaredError(f"{file} was tried instead of the wheel's; find out what led there.")


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    """Run a command.

    Raises:
        SolaredError: it failed; it has said why.
    """
    finished = subprocess.run([str(part) for part in command], **options)
    if finished.returncode:
        raise SolaredError(
            f"`{shlex.join(map(str, command))}` failed; mend what it says and run `make release` again."
        )
    return finished


def say(what: str) -> None:
    print(f"\n[{time.monotonic() - BEGINNING:.0f} s] {what}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except SolaredError as error:
        sys.exit(f"release: {error}")
