"""The checks of `solared doctor`: the machine, the packages, torch, the devices, the Hub and the folders for files.

`solared doctor` must run in a broken environment, so this module imports only the standard library. Each check imports
what it needs, and a failed import is a finding.
"""

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from solared_hf.errors import SolaredError, reason_of

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_DISTRIBUTION = "solared-hf"
_EXTRAS_OF_DEVELOPERS = {"release", "test"}
_SECONDS_FOR_THE_HUB = 5
_UNAUTHORISED = 401
_LITTLE_ROOM = 1e9  # bytes
_BOTH_AGAIN = (
    "Run `pip uninstall --yes torch torchvision`, then `pip install torch torchvision`: both in one command, so that "
    "they come from one index"
)


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: Name of the checked thing.
        found: State of the checked thing.
        advice: What is wrong or missing, and what to do; empty if all is well.
        broken: True if something fails until the advice is followed; False if the advice is only information.
    """

    name: str
    found: str
    advice: str = ""
    broken: bool = False


def examine(subject: str) -> list[Finding]:
    """Run one of `CHECKS` and return its findings; a check that raises is a finding too."""
    try:
        return CHECKS[subject]()
    except Exception as error:  # broken packages can raise anything
        reason = f"{type(error).__name__}: {reason_of(error)}"
        advice = (
            f"{subject.partition(' (')[0]}: this check failed ({reason}). Reinstall the named package, or "
            f"everything with `pip install --force-reinstall {_DISTRIBUTION}`."
        )
        return [Finding("this check", "failed", advice, broken=True)]


def machine() -> list[Finding]:
    """Check the package, the interpreter and the machine."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    return [
        Finding(_DISTRIBUTION, f"{metadata.version(_DISTRIBUTION)} in {Path(__file__).parent}"),
        Finding("Python", f"{platform.python_version()}, {sys.executable}"),
        Finding("platform", platform.platform()),
        Finding("CPU cores", f"{cores} for this process, {os.cpu_count()} in all"),
        Finding("memory", f"{_size(memory.available)} available, {_size(memory.total)} in all"),
    ]


def packages() -> list[Finding]:
    """Check the dependencies of the package and their lowest versions."""
    findings = []
    for requirement, version in _requirements(_DISTRIBUTION):
        name, found = requirement.name, f"{version or 'missing'} ({requirement.specifier})"
        if _suits(requirement, version):
            findings.append(Finding(name, found))
        else:
            state = f"is {version}, but {requirement.specifier} is needed" if version else "is missing"
            # An upgrade of only one would break the other.
            wanted = "torch torchvision" if name in ("torch", "torchvision") else f"'{name}{requirement.specifier}'"
            advice = f"{name} {state}. Run `pip install --upgrade {wanted}`."
            findings.append(Finding(name, found, advice, broken=True))
    return findings


def extras() -> list[Finding]:
    """Check which extras are installed or too old."""
    findings = []
    for extra in metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra", []):
        if extra not in _EXTRAS_OF_DEVELOPERS:
            unsuited = [needed for needed in _requirements(_DISTRIBUTION, extra) if not _suits(*needed)]
            lacking = ", ".join(f"{requirement.name}{requirement.specifier}" for requirement, _ in unsuited)
            too_old = [f"{requirement.name} {version}" for requirement, version in unsuited if version]
            install = f"pip install --upgrade '{_DISTRIBUTION}[{extra}]'"
            if too_old:
                advice = f"{', '.join(too_old)} is too old for the extra {extra} ({lacking}). Run `{install}`."
                findings.append(Finding(extra, "too old", advice))
            else:
                missing = f"not installed (missing: {lacking}); install it with {install}"
                findings.append(Finding(extra, missing if lacking else "installed"))
    return findings


def torch_and_torchvision() -> list[Finding]:
    """Check that torch and torchvision load and fit each other, and the libraries that import them.

    The checks stop at the first failure, because each library imports the earlier ones and would fail with the same
    error.
    """
    findings = []
    for name, load, cure in (
        ("torch", _load_torch, _BOTH_AGAIN),
        ("torchvision", _load_torchvision, _BOTH_AGAIN),
        ("torchvision's operators", _run_operator, _BOTH_AGAIN),
        ("datasets", _load_datasets, "Run `pip install --upgrade datasets pyarrow pandas`"),
        ("transformers.Trainer", _load_trainer, "Run `pip install --upgrade transformers accelerate`"),
    ):
        try:
            findings.append(Finding(name, load()))
        except Exception as error:  # broken packages can raise anything
            advice = f"{name} cannot be used ({reason_of(error)}). {cure}."
            return [*findings, Finding(name, "broken", advice, broken=True)]
    return findings


def devices() -> list[Finding]:
    """Check the devices that torch can use."""
    try:
        import torch
    except Exception:  # `torch_and_torchvision` reports the error
        return [Finding("devices", "unknown, because torch cannot be imported")]

    limit = os.environ.get("OMP_NUM_THREADS")
    threads = f"{torch.get_num_threads()} threads" + (f" (OMP_NUM_THREADS={limit})" if limit else "")
    findings = [Finding("CPU", threads)]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        found = [torch.device(accelerator.type, i) for i in range(torch.accelerator.device_count())]
        return findings + [_accelerator(device) for device in found]
    if torch.version.cuda is None:
        advice = (
            "This build of torch cannot use a GPU. If the machine has a GPU, install the builds of torch and "
            "torchvision for it from https://pytorch.org/get-started/locally."
        )
        return [*findings, Finding("GPU", "none", advice)]
    try:
        torch.zeros(1, device="cuda")
        reason = "no reason given"
    except Exception as error:  # the type depends on the driver
        reason = reason_of(error).partition(". ")[0]
    advice = (
        f"torch is built for CUDA {torch.version.cuda} and finds no GPU ({reason}). If the machine has a GPU, install "
        "or update the driver until `nvidia-smi` shows the GPU. Until then everything runs on the CPU."
    )
    return [*findings, Finding("GPU", "none", advice)]


def hub() -> list[Finding]:
    """Check the address of the Hub, the connection and the login."""
    from huggingface_hub import constants, get_token

    endpoint = Finding("endpoint", constants.ENDPOINT)
    try:
        token = get_token()
    except OSError as error:
        advice = (
            f"Your token in {constants.HF_TOKEN_PATH} cannot be read ({error.strerror}), so the clients of the Hub "
            "fail. Make the file readable, or set HF_HOME to another folder and run `hf auth login`."
        )
        return [endpoint, Finding("login", "unreadable", advice, broken=True)]
    if constants.HF_HUB_OFFLINE:
        advice = "The clients of the Hub are offline, because HF_HUB_OFFLINE is set. Unset it to download or push."
        answer = [_login(token), Finding("connection", "not tried", advice)]
    else:
        answer = _ask_hub(constants.ENDPOINT, token)
    return [endpoint, *answer]


def folders() -> list[Finding]:
    """Check the caches and the folder for temporary files: their content, and whether they are writable."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    hub_cache = Path(constants.HF_HUB_CACHE)
    damaged = []
    try:
        scanned = scan_cache_dir(hub_cache)
        content = f"{_size(scanned.size_on_disk)} of {len(scanned.repos)} repositories"
        for damage in scanned.warnings:
            advice = (
                f"The Hub cache is damaged ({reason_of(damage)}). Delete the folder of that repository in the cache."
            )
            damaged.append(Finding("Hub cache", "damaged", advice))
    except CacheNotFound:
        content = "nothing"
    except (OSError, ValueError):  # `_folder` reports whether the folder is writable
        content = "unreadable"
    # As in datasets.config, which cannot be imported if torch is broken.
    datasets_cache = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    return [
        _folder("Hub cache", hub_cache, content, "HF_HOME"),
        *damaged,
        _folder("datasets cache", datasets_cache, _size(_bytes_in(datasets_cache)), "HF_HOME or HF_DATASETS_CACHE"),
        _temporary_folder(),
    ]


CHECKS: dict[str, Callable[[], list[Finding]]] = {
    "Machine": machine,
    "Packages": packages,
    "Extras": extras,
    "Imports (some seconds)": torch_and_torchvision,
    "Devices": devices,
    "Hub": hub,
    "Folders (a large cache takes a while)": folders,
}


def _requirements(distribution: str, extra: str = "") -> list[tuple["Requirement", str | None]]:
    """Return the requirements of a distribution on this machine, each with the installed version or None.

    With `extra`, return the requirements that the extra adds, including the extras of its packages, as in
    `dask[distributed]`.
    """
    from packaging.requirements import Requirement

    needed: list[tuple[Requirement, str | None]] = []
    for requirement in map(Requirement, metadata.requires(distribution) or ()):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always if extra == "" else marker is not None and not always and marker.evaluate({"extra": extra}):
            try:
                needed.append((requirement, metadata.version(requirement.name)))
            except metadata.PackageNotFoundError:
                needed.append((requirement, None))
            else:
                for nested_extra in requirement.extras:
                    needed += _requirements(requirement.name, nested_extra)
    return needed


def _suits(requirement: "Requirement", version: str | None) -> bool:
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _load_torch() -> str:
    import torch

    cuda = torch.version.cuda
    return f"{torch.__version__}, {f'built for CUDA {cuda}' if cuda else 'built without CUDA'}"


def _load_torchvision() -> str:
    """Return the version of torchvision; raise ValueError if it needs another version of torch."""
    import torch

    wanted = next((needed for needed, _ in _requirements("torchvision") if needed.name == "torch"), None)
    # A custom build may have no requirement for torch.
    if wanted and not _suits(wanted, torch.__version__):
        raise ValueError(f"{metadata.version('torchvision')} is made for torch{wanted.specifier}")
    import torchvision

    return f"{torchvision.__version__}" + (f", made for torch{wanted.specifier}" if wanted else "")


def _run_operator() -> str:
    """Run a compiled operator, because torchvision often lacks operators for the installed torch."""
    import torch
    import torchvision

    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return "they run"


def _load_datasets() -> str:
    importlib.import_module("datasets")
    return "can be imported"


def _load_trainer() -> str:
    import transformers

    _ = transformers.Trainer  # imported now, with torchvision
    return "can be imported"


def _accelerator(device) -> Finding:
    """Check a device that torch found: its name, its memory and whether it computes."""
    import torch

    module = torch.get_device_module(device)
    name = module.get_device_name(device) if hasattr(module, "get_device_name") else platform.machine()
    try:
        torch.ones(2, device=device).sum().item()
        free, total = module.mem_get_info(device) if hasattr(module, "mem_get_info") else (None, None)
    except Exception as error:  # the type depends on the device
        advice = (
            f"{device}, {name}, does not compute ({reason_of(error)}). Install builds of torch and torchvision for "
            "this device, or stop the processes that use it."
        )
        return Finding(str(device), f"{name}, does not compute", advice, broken=True)
    return Finding(
        str(device),
        name + (f", {_size(free)} free of {_size(total)}" if free is not None and total is not None else ""),
    )


def _ask_hub(endpoint: str, token: str | None) -> list[Finding]:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers

    try:
        # Not HfApi.whoami, which has no time limit.
        answer = get_session().get(
            f"{endpoint}/api/whoami-v2",
            headers=build_hf_headers(token=token or False),
            timeout=_SECONDS_FOR_THE_HUB,
        )
        known = answer.status_code != _UNAUTHORISED
        user = answer.raise_for_status().json()["name"] if token and known else None
    except UnicodeError:  # the token has invalid characters
        known = False
    except Exception as error:  # from the connection, the proxy, or a page that is not the Hub
        # Clients quote a token that does not fit into a header; SolaredError masks it.
        reason = reason_of(SolaredError(str(error)))
        advice = (
            f"The Hub at {endpoint} does not answer correctly ({reason}). Check the connection, the proxy and "
            "HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to work with the files on this machine."
        )
        return [_login(token), Finding("connection", "failed", advice)]
    by_variable = bool(os.environ.get("HF_TOKEN"))
    if not token:
        advice = "You are not logged in, which pushes and private repositories need. Run `hf auth login`."
        login = Finding("login", "none", advice)
    elif not known:
        advice = "The Hub does not know your token, and refuses even public files with it. Run `hf auth login`" + (
            " with a new token, and unset HF_TOKEN, which has priority." if by_variable else " with a new token."
        )
        login = Finding("login", "a token that the Hub does not know", advice, broken=True)
    else:
        login = Finding("login", f"{user}, by HF_TOKEN" if by_variable else str(user))
    return [Finding("connection", "the Hub answers"), login]


def _login(token: str | None) -> Finding:
    """Return the finding about the login without asking the Hub."""
    return Finding("login", "a token, unchecked" if token else "none")


def _temporary_folder() -> Finding:
    try:
        return _folder("temporary files", Path(tempfile.gettempdir()), "", "TMPDIR")
    except FileNotFoundError as error:
        advice = f"There is no folder for temporary files ({reason_of(error)}). Set TMPDIR to a folder with space."
        return Finding("temporary files", "nowhere", advice, broken=True)


def _folder(name: str, folder: Path, content: str, variable: str) -> Finding:
    """Check a folder that may not exist yet; `variable` is the environment variable for another folder."""
    # Not Path.exists, which raises below unreadable folders.
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.access(path, os.F_OK))
    free = shutil.disk_usage(existing).free
    found = f"{folder}: {content and content + ', '}{_size(free)} free"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        advice = f"{folder} is not writable ({error.strerror}). Set {variable} to a writable folder."
        return Finding(name, f"{found}, not writable", advice, broken=True)
    if free < _LITTLE_ROOM:
        advice = f"{folder} has only {_size(free)} left. Make room, or set {variable} to a folder with more space."
        return Finding(name, found, advice)
    return Finding(name, found)


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # other processes may delete files in a cache
                total += Path(parent, name).lstat().st_size
    return total


def _size(number: float) -> str:
    """Return a number of bytes with a unit."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
