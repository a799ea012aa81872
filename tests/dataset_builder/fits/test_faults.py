"""A build from FITS files survives killed workers, being killed, bad frames and a full disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from distributed import Client

from dataset_builder import FitsSource, build_dataset
from dataset_builder.build import LOCK_NAME
from dataset_builder.simulation import write_observations
from solared_hf import SolaredError, open_dataset
from tests.processes import finish, run, wait_until

REGIONS = (90001, 90007, 90009)
COMMAND = (sys.executable, "-m", "solared_hf", "build", "--source", "fits")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Return observations of three regions over two days, long enough to interrupt a build."""
    folder = tmp_path_factory.mktemp("raw")
    write_observations(folder, REGIONS, steps=48)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(raw, cluster, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    build_dataset(FitsSource(raw, scheduler=cluster), folder)
    return folder


@pytest.fixture(scope="module")
def twelve_steps(tmp_path_factory) -> Path:
    """Return the folder of a region of twelve steps, with a file for each frame."""
    folder = tmp_path_factory.mktemp("frames")
    write_observations(folder, (90001,), steps=12, form="frames")
    return folder / "AR90001"


@pytest.fixture
def two_steps(twelve_steps, tmp_path) -> Path:
    """Return a copy of the first two of the twelve steps; tests may damage it."""
    folder = tmp_path / "frames" / "AR90001"
    for observable, count in (("dopplergram", 720), ("magnetogram", 2), ("continuum", 2)):
        (folder / observable).mkdir(parents=True)
        for path in sorted((twelve_steps / observable).iterdir())[:count]:
            shutil.copy(path, folder / observable)
    return folder


def command(raw: Path, output: Path, *arguments: str) -> subprocess.Popen:
    arguments = (*COMMAND, "--input", str(raw), "--output", str(output), *arguments)
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(child) for path in listed for child in path.read_text().split()]
    return direct + [descendant for child in direct for descendant in children(child)]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_work_of_a_killed_worker_is_repeated(raw, uninterrupted, cluster, tmp_path, assert_same_dataset):
    reports = []
    source = FitsSource(raw, scheduler=cluster)
    build = threading.Thread(target=lambda: reports.append(build_dataset(source, tmp_path / "out")), daemon=True)
    with Client(cluster) as client:
        pids = client.run(os.getpid)
        build.start()
        wait_until(lambda: any("AR" in str(tasks) for tasks in client.processing().values()))
        victim = next(worker for worker, tasks in client.processing().items() if "AR" in str(tasks))
        os.kill(pids[victim], signal.SIGKILL)
        build.join()
    assert [report.written for report in reports] == [len(REGIONS)]
    assert_same_dataset(tmp_path / "out", uninterrupted)


def test_a_killed_build_resumes(raw, uninterrupted, cluster, tmp_path, assert_same_dataset, shards):
    output = tmp_path / "out"
    build = command(raw, output, "--workers", "1")
    wait_until(lambda: shards(output))
    workers = children(build.pid)
    build.kill()
    finish(build)
    finished = len(shards(output))
    assert 0 < finished < len(REGIONS)
    assert workers
    # No process is left that could still write or use the machine.
    wait_until(lambda: not any(running(pid) for pid in workers))
    rerun = command(raw, output, "--scheduler", cluster)
    printed, _ = finish(rerun)
    assert rerun.returncode == 0
    assert f"{len(REGIONS) - finished} regions written, {finished} kept" in printed
    assert_same_dataset(output, uninterrupted)


def test_a_script_without_a_main_guard_is_told_to_add_one(twelve_steps, tmp_path, tree):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from dataset_builder.build import build_dataset\n"
        "from dataset_builder.fits.source import FitsSource\n"
        f"build_dataset(FitsSource(Path({str(twelve_steps.parent)!r}), workers=1), Path({str(tmp_path / 'out')!r}))\n"
    )
    result = run([sys.executable, script])
    assert result.returncode == 1
    assert 'under `if __name__ == "__main__":`' in result.stderr.splitlines()[-1]
    assert tree(tmp_path / "out") == {}


def test_a_second_build_of_the_same_output_raises(raw, cluster, tmp_path):
    output = tmp_path / "out"
    first = threading.Thread(target=build_dataset, args=(FitsSource(raw, scheduler=cluster), output), daemon=True)
    first.start()
    wait_until((output / LOCK_NAME).exists)
    with pytest.raises(SolaredError, match="Another build is writing"):
        build_dataset(FitsSource(raw, scheduler=cluster), output)
    first.join()
    assert (output / "README.md").is_file()


def test_a_full_disk_ends_the_build_with_an_error(raw, cluster, tmp_path, tree):
    """`ulimit -f` counts blocks of 1024 bytes; a shard of 48 steps has some 70 blocks."""
    arguments = (*COMMAND, "--input", str(raw), "--output", str(tmp_path / "out"), "--scheduler", cluster)
    result = run(["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *arguments])
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "Make room" in result.stderr.splitlines()[-1]
    assert tree(tmp_path / "out") == {}


def manifest_of(dataset: Path) -> dict:
    return json.loads((dataset / "manifest.json").read_text())["regions"][0]


def rewrite(path: Path, pixels: np.ndarray) -> None:
    """Replace the pixels of a file, as floats."""
    header = fits.getheader(path)
    for keyword in ("BSCALE", "BZERO", "BLANK"):
        header.remove(keyword, ignore_missing=True)
    fits.writeto(path, pixels.astype(np.float32), header, overwrite=True)


def spoil(frames: Path) -> dict[str, int]:
    """Damage the velocity frames in every known way, and return how many are set aside, by reason."""
    files = sorted((frames / "dopplergram").iterdir())
    present = [path for path in files if fits.getheader(path)["QUALITY"] >= 0]
    bad = len(files) - len(present)
    broken, wrong, gone, empty, again, early, doubled, speckled, eclipsed, poor = present[100::60][:10]
    broken.write_bytes(broken.read_bytes()[:-2000])
    rewrite(wrong, np.zeros((18, 18)))
    gone.unlink()
    rewrite(empty, np.full((27, 27), np.nan))
    shutil.copy(again, again.with_name("copy.fits"))
    # A frame with a wrong time claims the time of another frame.
    with fits.open(early, mode="update", do_not_scale_image_data=True) as hdus:
        for keyword in ("T_REC", "T_OBS"):
            hdus[0].header[keyword] = fits.getheader(doubled)[keyword]
    pixels = fits.getdata(speckled)
    pixels[13, 13] = np.nan
    rewrite(speckled, pixels)
    for path, quality in ((eclipsed, 0x200), (poor, 0x20)):
        rewrite(path, np.full((27, 27), 9000.0))
        fits.setval(path, "QUALITY", value=quality)
    # The order of the names says nothing.
    for number, path in enumerate(sorted((frames / "dopplergram").iterdir())):
        path.rename(path.with_name(f"{(number * 7919) % 10007:05d}_{path.name}"))
    (frames / "dopplergram" / "page.fits").write_text("<html>Service unavailable</html>")
    return {
        "the file is truncated": 1,
        "18 x 18 pixels instead of 27 x 27": 1,
        "the same frame again": 1,
        "frames that differ claim one time": 2,
        "the file cannot be read as FITS": 1,
        "QUALITY marks it as bad: eclipse": 1,
        "QUALITY marks it as bad: poor quality": 1,
        **({"QUALITY marks it as bad: no image": bad} if bad else {}),
    }


def test_bad_frames_are_counted_and_interpolated(two_steps, cluster, tmp_path):
    build_dataset(FitsSource(two_steps.parent, scheduler=cluster), tmp_path / "clean")
    missing = manifest_of(tmp_path / "clean")["interpolated_frames"]
    set_aside = spoil(two_steps)
    build_dataset(FitsSource(two_steps.parent, scheduler=cluster), tmp_path / "spoiled")
    facts = manifest_of(tmp_path / "spoiled")
    assert facts["frames"]["dopplergram"]["set_aside"] == set_aside
    assert facts["unobserved"] == []
    # Truncated, misshapen, gone, empty, early, doubled and eclipsed: seven slots in the window of the first step.
    assert facts["interpolated_frames"]["0"] == missing.get("0", 0) + 7
    # The speckled frame, in which a pixel was interpolated.
    assert facts["patched_frames"] == {"0": 1, "1": 1}
    clean, spoiled = (open_dataset(tmp_path / name).region(90001) for name in ("clean", "spoiled"))
    scale = clean.values.std(axis=(0, 2))[:, np.newaxis]
    difference = abs((spoiled.values - clean.values) / scale)
    assert difference.mean() < 0.3
    # The tile of the speckled pixel has eight other pixels.
    assert difference.max() < 3
    np.testing.assert_allclose(spoiled.values[:, 4:], clean.values[:, 4:], rtol=1e-5, atol=1e-3)


def test_too_many_missing_frames_make_a_step_nan_with_its_reason(two_steps, twelve_steps, cluster, tmp_path):
    for path in sorted((two_steps / "dopplergram").iterdir())[200:400]:
        path.unlink()
    with pytest.raises(SolaredError, match="no window of 640 frames has at most 128 missing"):
        build_dataset(FitsSource(two_steps.parent, scheduler=cluster), tmp_path / "out")
    longer = tmp_path / "longer" / "AR90001"
    shutil.copytree(twelve_steps, longer)
    for path in sorted((longer / "dopplergram").iterdir())[700:900]:
        path.unlink()
    build_dataset(FitsSource(longer.parent, scheduler=cluster), tmp_path / "out")
    region, facts = open_dataset(tmp_path / "out").region(90001), manifest_of(tmp_path / "out")
    steps = [entry["step"] for entry in facts["unobserved"]]
    # These windows of 640 frames contain more than 128 of the 200 deleted frames.
    assert steps == list(range(3, 10))
    assert np.isnan(region.values[steps, :4]).all()
    assert not np.isnan(np.delete(region.values, steps, axis=0)).any()
    assert all("velocity frames are missing" in entry["reasons"][0] for entry in facts["unobserved"])
    assert facts["nan_steps"] == len(steps)


def test_a_truncated_or_misshapen_cube_is_a_nan_step(cluster, tmp_path):
    write_observations(tmp_path / "raw", (90001,), steps=5, form="cubes")
    cubes = sorted((tmp_path / "raw" / "AR90001" / "dopplergram").iterdir())
    cubes[1].write_bytes(cubes[1].read_bytes()[:-6000])
    with fits.open(cubes[2]) as hdus:
        fits.writeto(cubes[2], hdus[0].data[:639], hdus[0].header, overwrite=True)
    cubes[3].unlink()
    build_dataset(FitsSource(tmp_path / "raw", scheduler=cluster), tmp_path / "out")
    region, facts = open_dataset(tmp_path / "out").region(90001), manifest_of(tmp_path / "out")
    assert np.isnan(region.values[:, 0]).all(axis=1).tolist() == [False, True, True, False]
    assert [entry["reasons"] for entry in facts["unobserved"]] == [
        ["640 of 640 velocity frames are missing; 1: the file is truncated"],
        ["640 of 640 velocity frames are missing; 1: 639 frames instead of 640"],
    ]
    # A missing cube is a missing step.
    assert facts["missing_steps"] == 1
