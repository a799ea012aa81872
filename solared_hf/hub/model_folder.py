"""The files of a trained model for the Hub: weights, processor, code and card, but no checkpoints or pickles."""

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
# The files of a model are at the top of the folder. Other files of the Trainer, such as training_args.bin, are not
# pushed.
_FILES = (CARD_NAME, "*.json", "*.safetensors", "*.py", "*.png", EXPERIMENTS_NAME)
# Files that only a push of a model folder, by this package or by transformers, adds to a repository.
_OWNED = (
    *("config.json", PROCESSOR_NAME, METRICS_NAME, CURVE_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME, "training_args.bin"),
    *(BENCHMARK_NAME, EXPERIMENTS_NAME, *PICTURES),
    *("model-*-of-*.safetensors", "configuration_*.py", "modeling_*.py", "*_on_cpu.py", "processing_solared.py"),
)


def model_to_push(folder: Path, repo_id: str) -> Content:
    """Return the content of a push of a model folder.

    The snippets in the card load the repository instead of the folder. Code that the folder names but does not hold
    comes from the package, which is the case for the models in the package.

    Args:
        folder: A trained model.
        repo_id: `owner/name` of the repository, for the card.

    Raises:
        SolaredError: If the processor or the weights are missing, or a file is damaged.
    """
    if not (folder / PROCESSOR_NAME).is_file():
        raise SolaredError(
            f"{folder} has no {PROCESSOR_NAME}, which the model needs. Add it with processor.save_pretrained(...)."
        )
    weights: dict[str, LargeFile] = {}
    small: dict[str, bytes] = {}
    for path in (path for pattern in _FILES for path in folder.glob(pattern)):
        try:
            if path.suffix == ".safetensors":
                weights[path.name] = LargeFile.of(path)
            else:
                small[path.name] = path.read_bytes()
        except OSError as error:
            raise SolaredError(
                f"{path} cannot be read ({error.strerror}). Make the file readable and push again."
            ) from error
    small |= _missing_code(folder, small)
    for path in _weights(folder):
        try:
            with safe_open(path, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            raise SolaredError(f"{path} is missing or damaged ({error}). Save the model again.") from error
    if CARD_NAME in small:
        small[CARD_NAME] = card_for(repo_id, small[CARD_NAME])
    return Content("model", {**weights, **small}, _OWNED)


def _missing_code(folder: Path, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the code that `trust_remote_code=True` needs, by the names in the JSON files of the folder."""
    wanted = []
    for name in {"config.json", PROCESSOR_NAME} & files.keys():
        try:
            content = json.loads(files[name])
            wanted += [reference.partition(".")[0] for reference in content.get("auto_map", {}).values()]
        except (AttributeError, ValueError) as error:
            raise SolaredError(f"{folder / name} is damaged ({error!r}). Save the model again.") from error
    code: dict[str, bytes] = {}
    for module in wanted:
        # The list grows by the modules that the code imports from the same folder.
        name, (*found,) = f"{module}.py", _PACKAGE.rglob(f"{module}.py")
        if name not in code.keys() | files.keys() and found:
            code[name] = found[0].read_bytes()
            wanted += re.findall(r"^from \.(\w+) import", code[name].decode(), re.MULTILINE)
    return code


def _weights(folder: Path) -> list[Path]:
    """Return the expected files of weights: a single file, or the shards in the index."""
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    index = folder / WEIGHTS_INDEX_NAME
    if not index.is_file():
        raise SolaredError(f"{folder} has no weights in safetensors. Add them with model.save_pretrained(...).")
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SolaredError(f"{index} is damaged ({error!r}). Save the model again.") from error
