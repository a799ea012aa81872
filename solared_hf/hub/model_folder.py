"""A trained model's folder as the Hub gets it: weights, processor, code and card; no checkpoints, no pickles."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from solared_hf.errors import SolaredError
from solared_hf.hub.benchmark_facts import BENCHMARK_NAME, PICTURES
from solared_hf.hub.cards import CARD_NAME, card_for
from solared_hf.hub.model_card import CURVE_NAME, EXPERIMENTS_NAME, METRICS_NAME
from solared_hf.hub.model_files import PROCESSOR_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from solared_hf.hub.push import Content, LargeFile

_PACKAGE = Path(__file__).parents[1]
# Files of a model lie at the top of its folder; those of the Trainer's own, such as training_args.bin, stay at home.
_FILES = (CARD_NAME, "*.json", "*.safetensors", "*.py", "*.png", EXPERIMENTS_NAME)
# What no other than such a folder, or transformers in its name, brings to a repository.
_OWNED = (
    *("config.json", PROCESSOR_NAME, METRICS_NAME, CURVE_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME, "training_args.bin"),
    *(BENCHMARK_NAME, EXPERIMENTS_NAME, *PICTURES),
    *("model-*-of-*.safetensors", "configuration_*.py", "modeling_*.py", "*_on_cpu.py", "processing_solared.py"),
)


def model_to_push(folder: Path, repo_id: str) -> Content:
    """What a push of a model folder brings to the Hub.

    The card is the folder's own, but tells to load the repository. Code that the folder names and does not hold is
    that of the package: so it is with the models that come with it.

    Args:
        folder: a trained model.
        repo_id: `owner/name` of the repository, for the card.

    Raises:
        SolaredError: the processor or the weights are missing, or a file is damaged.
    """
    if not (folder / PROCESSOR_NAME).is_file():
        raise SolaredError(
            f"{folder} has no {PROCESSOR_NAME}, and nobody could use the model; put the processor there with "
            "processor.save_pretrained(...)."
        )
    files: dict[str, bytes | LargeFile] = {}
    for path in (path for pattern in _FILES for path in folder.glob(pattern)):
        try:
            files[path.name] = LargeFile.of(path) if path.suffix == ".safetensors" else path.read_bytes()
        except OSError as error:
            raise SolaredError(f"{path} cannot be read ({error.strerror}); mend this and push again.") from error
    files |= _missing_code(folder, files)
    for path in _weights(folder):
        try:
            with safe_open(path, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            raise SolaredError(f"{path} is missing or damaged ({error}); save the model again.") from error
    if CARD_NAME in files:
        files[CARD_NAME] = card_for(repo_id, files[CARD_NAME])
    return Content("model", files, _OWNED)


def _missing_code(folder: Path, files: Mapping[str, bytes | LargeFile]) -> dict[str, bytes]:
    """What `trust_remote_code=True` looks for in the repository, by the names in the folder's JSON files."""
    wanted = []
    for name in {"config.json", PROCESSOR_NAME} & files.keys():
        try:
            content = json.loads(files[name])
            wanted += [reference.partition(".")[0] for reference in content.get("auto_map", {}).values()]
        except (AttributeError, ValueError) as error:
            raise SolaredError(f"{folder / name} is damaged ({error!r}); save the model again.") from error
    code = {}
    for module in wanted:
        # The list grows by the neighbours that the code imports.
        name, (*found,) = f"{module}.py", _PACKAGE.rglob(f"{module}.py")
        if name not in code.keys() | files.keys() and found:
            code[name] = found[0].read_bytes()
            wanted += re.findall(r"^from \.(\w+) import", code[name].decode(), re.MULTILINE)
    return code


def _weights(folder: Path) -> list[Path]:
    """The files of weights that the folder ought to hold: one, or the shards that its index names."""
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    index = folder / WEIGHTS_INDEX_NAME
    if not index.is_file():
        raise SolaredError(f"{folder} has no weights in safetensors; put them there with model.save_pretrained(...).")
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SolaredError(f"{index} is damaged ({error!r}); save the model again.") from error
