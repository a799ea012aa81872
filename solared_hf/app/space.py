"""The page as a folder to push to a Space on the Hub: https://huggingface.co/docs/hub/spaces."""

import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCardData

from dataset_builder.dataset_folder import dataset_to_push
from solared_hf.errors import SolaredError
from solared_hf.files import write_atomically
from solared_hf.hub.cards import CARD_NAME
from solared_hf.hub.model_folder import model_to_push
from solared_hf.hub.push import Content, LargeFile

MODEL_FOLDER, DATASET_FOLDER = "model", "dataset"
_APP_NAME, _REQUIREMENTS_NAME = "app.py", "requirements.txt"
_FIRST_LINE = '"""The page of `solared app` as a Space, written by `solared app --export`."""'
_TAGS = ["heliophysics", "space-weather", "solar-active-regions", "solared"]
_BODY = """
# SOLARED: forecast of emerging solar active regions

An interactive page: a map of every tile, observed and forecast intensity, and alarms beside those of persistence.
`solared app --export` wrote this folder; `python app.py` runs the page on your own machine.
"""


def export_space(
    folder: Path,
    model: str,
    dataset: str | None = None,
    model_revision: str | None = None,
    dataset_revision: str | None = None,
) -> None:
    """Write the folder of a Space.

    A model or dataset in a local folder is copied into the Space; a repository on the Hub is named in `app.py`.

    Args:
        folder: A new or empty folder, or the folder of an earlier export, which is replaced as a whole.
        model, dataset, model_revision, dataset_revision: The same as in `serving.serve`.

    Raises:
        SolaredError: If the folder holds other files or cannot be written, or the model or the dataset is incomplete.
    """
    _check_replaceable(folder)
    names = {"model": model, "model_revision": model_revision}
    names |= {"dataset": dataset, "dataset_revision": dataset_revision}
    arguments = {name: repr(value) for name, value in names.items() if value is not None}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # In the same parent folder, so that one rename moves the finished Space into place.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            space = Path(temporary) / "space"
            if Path(model).is_dir():
                _copy(model_to_push(Path(model), MODEL_FOLDER), space / MODEL_FOLDER)
                arguments["model"] = f'here / "{MODEL_FOLDER}"'
            if dataset is not None and Path(dataset).is_dir():
                with dataset_to_push(Path(dataset), DATASET_FOLDER) as content:
                    _copy(content, space / DATASET_FOLDER)
                arguments["dataset"] = f'here / "{DATASET_FOLDER}"'
            write_atomically(space / _APP_NAME, _app(arguments))
            write_atomically(space / _REQUIREMENTS_NAME, f"solared-hf[app]=={version('solared-hf')}\n")
            write_atomically(space / CARD_NAME, _card(model, dataset))
            if folder.exists():
                folder.rename(Path(temporary) / "before")
            space.rename(folder)
    except OSError as error:
        raise SolaredError(
            f"Could not write {folder} ({error.strerror or error}). Free some space, or choose another folder."
        ) from error


def _check_replaceable(folder: Path) -> None:
    names = {_APP_NAME, _REQUIREMENTS_NAME, CARD_NAME, MODEL_FOLDER, DATASET_FOLDER}
    if folder.is_dir():
        found = {path.name for path in folder.iterdir()}
        app = folder / _APP_NAME
        if not found or (found <= names and app.is_file() and app.read_text().startswith(_FIRST_LINE)):
            return
    if folder.exists():
        raise SolaredError(f"{folder} holds other files than an exported Space. Name a new folder with --export.")


def _copy(content: Content, folder: Path) -> None:
    for name, file in content.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, LargeFile):
            shutil.copyfile(file.path, target)
        else:
            target.write_bytes(file)


def _app(arguments: dict[str, str]) -> str:
    imports, here = ["from solared_hf.app import serve", ""], []
    if any(value.startswith("here") for value in arguments.values()):
        imports, here = ["from pathlib import Path", "", *imports], ["here = Path(__file__).parent"]
    call = ", ".join(f"{name}={value}" for name, value in arguments.items())
    return "\n".join([_FIRST_LINE, "", *imports, *here, f"serve({call})", ""])


def _card(model: str, dataset: str | None) -> str:
    repositories: dict[str, Any] = {
        kind: [name]
        for kind, name in (("models", model), ("datasets", dataset))
        if name is not None and "/" in name and not Path(name).is_dir()
    }
    card = SpaceCardData(
        title="SOLARED forecasts",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file=_APP_NAME,
        license="apache-2.0",
        tags=_TAGS,
        short_description="Forecasts of emerging solar active regions",
        **repositories,
    )
    return f"---\n{card.to_yaml(line_break=chr(10))}\n---\n{_BODY}"
