"""The walk-through: a notebook of cells, and a script that runs from end to end."""

import ast
import os
import re
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from solared_hf.schema import CHANNELS
from tests.processes import run

WALKTHROUGH = Path(__file__).parents[2] / "scripts" / "walkthrough.py"
TEXT = WALKTHROUGH.read_text()
# Two regions of the test split, so that there are intervals, and one of each other split, one of them with an eclipse,
# for six days; and a model that is trained for some seconds.
FASTER = {
    "REGIONS = range(90001, 90011)": "REGIONS = (90003, 90007, 90009, 90010)",
    "HOURS = 240": "HOURS = 144",
    "NETWORKS, EPOCHS = 4, 3": "NETWORKS, EPOCHS = 1, 3",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, str]:
    """The folder that the walk-through was run in, as a script, and what it printed."""
    folder, text = tmp_path_factory.mktemp("walkthrough"), TEXT
    for line, faster in FASTER.items():
        assert text.count(f"\n{line}\n") == 1
        text = text.replace(line, faster)
    (folder / WALKTHROUGH.name).write_text(text)
    finished = run(
        [sys.executable, WALKTHROUGH.name],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return folder, finished.stdout


def number(pattern: str, printed: str) -> float:
    (found,) = re.findall(pattern, printed, re.MULTILINE)
    return float(found)


def test_it_is_a_notebook_in_percent_format():
    before, *cells = re.split(r"^(?=# %%)", TEXT, flags=re.MULTILINE)
    assert before == ""
    kinds = []
    for cell in cells:
        marker, _, body = cell.partition("\n")
        kinds.append(marker)
        if marker == "# %% [markdown]":
            assert all(line.startswith("# ") or line in ("#", "") for line in body.splitlines())
        else:
            assert marker == "# %%"
            assert ast.parse(body).body
    assert kinds[0] == "# %% [markdown]"
    assert kinds.count("# %%") > 10
    # Cells are run one by one, so none may wait for the file to be run as a program.
    assert not re.search(r"^if __name__", TEXT, re.MULTILINE)


def test_it_uses_nothing_private():
    for node in ast.walk(ast.parse(TEXT)):
        if isinstance(node, ast.ImportFrom):
            words = [*node.module.split("."), *(alias.name for alias in node.names)]
        else:
            words = [node.attr] if isinstance(node, ast.Attribute) else []
        assert not [word for word in words if word.startswith("_")]


def test_every_figure_shows_something(ran):
    folder, printed = ran
    made = {path.stem: path for path in (folder / "runs" / "walkthrough").glob("*.png")}
    assert set(made) == set(re.findall(r'"(\d_\w+)"\)$', TEXT, re.MULTILINE))
    assert len(made) == 6
    for path in made.values():
        picture = imread(path)
        assert picture.shape[1] == 1350
        assert picture.std() > 0.05
        assert f"figure: runs/walkthrough/{path.name}\n" in printed


def test_it_leaves_what_it_makes_in_one_folder(ran):
    folder, _ = ran
    assert {path.name for path in folder.iterdir()} == {WALKTHROUGH.name, "runs"}
    made = folder / "runs" / "walkthrough"
    assert (made / "dataset" / "README.md").is_file()
    assert (made / "model" / "model.safetensors").is_file()


def test_frames_become_the_step_that_the_dataset_holds(ran):
    _, printed = ran
    assert 70 < number(r"^dopplergram: (\d+) frames of the form 'image of the Sun'", printed) <= 80
    assert re.search(r"^80 patches of \(27, 27\), \d of them filled in$", printed, re.MULTILINE)
    assert "maps (6, 27, 27) -> tiles (6, 81) -> without background (6, 63)" in printed
    for channel in CHANNELS:
        assert number(rf"^{channel} +differs by (\S+) of its largest value", printed) < 1e-4


def test_flux_surfaces_before_the_intensity_falls(ran):
    _, printed = ran
    flux = number(r"flux surfaces at (\d+) h", printed)
    assert flux < number(r"the onset in intensity is at (\d+) h", printed) < flux + 48


def test_an_eclipse_costs_steps_and_windows(ran):
    _, printed = ran
    assert number(r"^AR90003: 144 steps, .* (\d+) lost: \d+ of 640 velocity frames are missing$", printed) == 7
    report = r"^(\d+) windows for training\nAR90003: \1 windows from 144 steps, (\d+) dropped"
    windows, dropped = map(int, re.search(report, printed, re.MULTILINE).groups())
    assert windows == 144 - 48 - 12 + 1 - dropped


def test_scores_are_beside_persistence(ran):
    _, printed = ran
    # A model that has learnt nothing is persistence, and one that has is better.
    assert 0 < number(r"skill on the validation split (\S+)", printed) < 1
    assert number(r"^│ persistence +│.* (\S+) │ +\S+ │$", printed) == 0
    assert re.search(r"^│ model .*\n│ +│.*\[\d+, *\d+\]", printed, re.MULTILINE)
    assert 0 < number(r"within the 80 % interval: (\d+)%", printed) <= 100


def test_alarms_and_the_latest_forecast(ran):
    _, printed = ran
    hits, onsets = re.search(r"^model: (\d+) of (\d+) onsets warned of", printed, re.MULTILINE).groups()
    assert 0 <= int(hits) <= int(onsets) > 5
    forecasts = re.findall(r"^ *(\d+) h later: +(\S+) DN, 80 % interval +(\S+) to +(\S+) DN", printed, re.MULTILINE)
    assert [int(ahead) for ahead, *_ in forecasts] == [6, 12, 18, 24]
    assert all(float(low) <= float(middle) <= float(high) for _, middle, low, high in forecasts)
