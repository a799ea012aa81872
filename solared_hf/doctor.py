"""What `solared doctor` looks at: the machine, the packages, torch, the devices, the Hub, and the folders for files.

It has to run where something is broken, so this module imports nothing but the standard library: each check imports
what it needs, and what goes wrong with that is what it finds.
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

from solared_hf.errors import SolaredError, reason_of

_DISTRIBUTION = "solared-hf"
_EXTRAS_OF_DEVELOPERS = {"release", "test"}
_SECONDS_FOR_THE_HUB = 5
_UNAUTHORISED = 401
_LITTLE_ROOM = 1e9  # bytes
_BOTH_AGAIN = (
    "run `pip uninstall --yes torch torchvision`, then `pip install torch torchvision`: both in one command, so that "
    "they come from one index"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        found: how it is.
        advice: a sentence that says what is wrong or missing, with the cure; empty where all is well.
        broken: whether something fails as long as the advice is not followed. Without, it is worth knowing only.
    """

    name: str
    found: str
    advice: str = ""
    broken: bool = False


def examine(subject: str) -> list[Finding]:
    """What the check of one of `CHECKS` finds; a check that fails is a finding too."""
    try:
        return CHECKS[subject]()
    except Exception as error:  # anything may be raised where packages are broken
        reason = f"{type(error).__name__}: {reason_of(error)}"
        advice = (
            f"{subject.partition(' (')[0]}: this could not be looked at ({reason}); reinstall what is named there, or "
            f"everything with `pip install --force-reinstall {_DISTRIBUTION}`."
        )
        return [Finding("this check", "failed", advice, broken=True)]


def machine() -> list[Finding]:
    """The package, the interpreter and the machine they run on."""
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
    """What the installed package depends on, with the lowest version it can do with."""
    findings = []
    for requirement, version in _requirements(_DISTRIBUTION):
        name, found = requirement.name, f"{version or 'missing'} ({requirement.specifier})"
        if _suits(requirement, version):
            findings.append(Finding(name, found))
        else:
            state = f"is {version}, and {requirement.specifier} is needed" if version else "is missing"
            # One of the pair alone would break the other.
            wanted = "torch torchvision" if name in ("torch", "torchvision") else f"'{name}{requirement.specifier}'"
            advice = f"{name} {state}; run `pip install --upgrade {wanted}`."
            findings.append(Finding(name, found, advice, broken=True))
    return findings


def extras() -> list[Finding]:
    """Which optional parts are installed or too old, and the command for those that are not."""
    findings = []
    for extra in metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra", []):
        if extra not in _EXTRAS_OF_DEVELOPERS:
            unsuited = [needed for needed in _requirements(_DISTRIBUTION, extra) if not _suits(*needed)]
            lacking = ", ".join(f"{requirement.name}{requirement.specifier}" for requirement, _ in unsuited)
            too_old = [f"{requirement.name} {version}" for requirement, version in unsuited if version]
            install = f"pip install --upgrade '{_DISTRIBUTION}[{extra}]'"
            if too_old:
                advice = f"{', '.join(too_old)} cannot do what the extra {extra} needs ({lacking}); run `{install}`."
                findings.append(Finding(extra, "too old", advice))
            else:
                missing = f"not installed; where you want it: {install} (it lacks {lacking})"
                findings.append(Finding(extra, missing if lacking else "installed"))
    return findings


def torch_and_torchvision() -> list[Finding]:
    """Whether both load and fit each other, and the libraries that import them.

    The first that fails is the last that is looked at: each imports those before it, and would fail for its reason.
    """
    findings = []
    for name, load, cure in (
        ("torch", _load_torch, _BOTH_AGAIN),
        ("torchvision", _load_torchvision, _BOTH_AGAIN),
        ("torchvision's operators", _run_operator, _BOTH_AGAIN),
        ("datasets", _load_datasets, "run `pip install --upgrade datasets pyarrow pandas`"),
        ("transformers.Trainer", _load_trainer, "run `pip install --upgrade transformers accelerate`"),
    ):
        try:
            findings.append(Finding(name, load()))
        except Exception as error:  # anything may be raised where packages are broken
            advice = f"{name} cannot be used ({reason_of(error)}); {cure}."
            return [*findings, Finding(name, "broken", advice, broken=True)]
    return findings


def devices() -> list[Finding]:
    """What torch can compute on."""
    try:
        import torch
    except Exception:  # `torch_and_torchvision` says what is wrong
        return [Finding("devices", "unknown, for torch cannot be imported")]

    limit = os.environ.get("OMP_NUM_THREADS")
    threads = f"{torch.get_num_threads()} threads" + (f" (OMP_NUM_THREADS={limit})" if limit else "")
    findings = [Finding("CPU", threads)]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        return findings + [_accelerator(torch.device(kind, i)) for i in range(torch.accelerator.device_count())]
    if torch.version.cuda is None:
        advice = (
            "No GPU can be used by this build of torch; where there is one, install the build for it that "
            "https://pytorch.org/get-started/locally names, and torchvision with it."
        )
        return [*findings, Finding("GPU", "none", advice)]
    try:
        torch.zeros(1, device="cuda")
        reason = "it says no more"
    except Exception as error:  # of several kinds
        reason = reason_of(error).partition(". ")[0]
    advice = (
        f"torch is built for CUDA {torch.version.cuda} and finds no GPU ({reason}); where there is one, install or "
        "update its driver until `nvidia-smi` shows it, and everything runs on the CPU meanwhile."
    )
    return [*findings, Finding("GPU", "none", advice)]


def hub() -> list[Finding]:
    """Where the Hub is, whether it answers, and whom it takes us for."""
    from huggingface_hub import constants, get_token

    endpoint = Finding("endpoint", constants.ENDPOINT)
    try:
        token = get_token()
    except OSError as error:
        advice = (
            f"Your token in {constants.HF_TOKEN_PATH} cannot be read ({error.strerror}), and the Hub's clients stop "
            "there; make it yours again, or name a folder of yours in HF_HOME and run `hf auth login`."
        )
        return [endpoint, Finding("login", "unreadable", advice, broken=True)]
    if constants.HF_HUB_OFFLINE:
        advice = "The Hub's clients are offline, for HF_HUB_OFFLINE is set; unset it to download from the Hub or push."
        answer = [_login(token), Finding("connection", "not tried", advice)]
    else:
        answer = _ask_hub(constants.ENDPOINT, token)
    return [endpoint, *answer]


def folders() -> list[Finding]:
    """The caches and the folder for temporary files: what is in them, and whether more can be written."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    hub_cache = Path(constants.HF_HUB_CACHE)
    damaged = []
    try:
        scanned = scan_cache_dir(hub_cache)
        content = f"{_size(scanned.size_on_disk)} of {len(scanned.repos)} repositories"
        for damage in scanned.warnings:
            advice = f"The Hub cache is damaged ({reason_of(damage)}); delete that repository's folder there."
            damaged.append(Finding("Hub cache", "damaged", advice))
    except CacheNotFound:
        content = "nothing"
    except (OSError, ValueError):  # whether something can be written there says the rest
        content = "unreadable"
    # As in datasets.config, which cannot be imported where torch is broken.
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


def _requirements(distribution: str, extra: str = "") -> list[tuple]:
    """What a distribution needs here, as packaging's requirements, each with the version that is installed (or None).

    With `extra`, what that extra adds, and what its packages need for extras of theirs, as in `dask[distributed]`.
    """
    from packaging.requirements import Requirement

    needed = []
    for requirement in map(Requirement, metadata.requires(distribution) or ()):
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if always if extra == "" else not always and requirement.marker.evaluate({"extra": extra}):
            try:
                needed.append((requirement, metadata.version(requirement.name)))
            except metadata.PackageNotFoundError:
                needed.append((requirement, None))
            else:
                for theirs in requirement.extras:
                    needed += _requirements(requirement.name, theirs)
    return needed


def _suits(requirement, version: str | None) -> bool:
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _load_torch() -> str:
    import torch

    cuda = torch.version.cuda
    return f"{torch.__version__}, {f'built for CUDA {cuda}' if cuda else 'built without CUDA'}"


def _load_torchvision() -> str:
    """Raises ValueError where torchvision was made for another torch than the one that is installed."""
    import torch

    wanted = next((one for one, _ in _requirements("torchvision") if one.name == "torch"), None)
    # A build of one's own may say nothing about torch.
    if wanted and not _suits(wanted, torch.__version__):
        raise ValueError(f"{metadata.version('torchvision')} is made for torch{wanted.specifier}")
    import torchvision

    return f"{torchvision.__version__}" + (f", made for torch{wanted.specifier}" if wanted else "")


def _run_operator() -> str:
    """One of the compiled operators: to have none, or those for another torch, is torchvision's classic fault."""
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
    """A device that torch found: its name and memory, and whether it computes."""
    import torch

    module = torch.get_device_module(device)
    name = module.get_device_name(device) if hasattr(module, "get_device_name") else platform.machine()
    try:
        torch.ones(2, device=device).sum().item()
        free, total = module.mem_get_info(device) if hasattr(module, "mem_get_info") else (None, None)
    except Exception as error:  # of several kinds
        advice = (
            f"{device}, {name}, does not compute ({reason_of(error)}); install a build of torch, and its torchvision, "
            "for this device, or free it if it is busy."
        )
        return Finding(str(device), f"{name}, does not compute", advice, broken=True)
    return Finding(str(device), name + (f", {_size(free)} free of {_size(total)}" if total else ""))


def _ask_hub(endpoint: str, token: str | None) -> list[Finding]:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers

    try:
        # Not HfApi.whoami, which waits as long as the other end does.
        answer = get_session().get(
            f"{endpoint}/api/whoami-v2",
            headers=build_hf_headers(token=token or False),
            timeout=_SECONDS_FOR_THE_HUB,
        )
        known = answer.status_code != _UNAUTHORISED
        user = answer.raise_for_status().json()["name"] if token and known else None
    except UnicodeError:  # characters that no token has
        known = False
    except Exception as error:  # the connection's, the proxy's, or that of a page which is not the Hub's
        # Clients quote a token that no header can hold; SolaredError blots it out.
        reason = reason_of(SolaredError(str(error)))
        advice = (
            f"The Hub at {endpoint} does not answer as it should ({reason}); check the connection, the proxy and "
            "HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to work with what is on this machine."
        )
        return [_login(token), Finding("connection", "failed", advice)]
    by_variable = bool(os.environ.get("HF_TOKEN"))
    if not token:
        advice = "You are not logged in, which pushing and private repositories need; run `hf auth login`."
        login = Finding("login", "none", advice)
    elif not known:
        advice = "The Hub does not know your token, and refuses with it even what is public; run `hf auth login`" + (
            " with a new one, and unset HF_TOKEN, which goes before it." if by_variable else " with a new one."
        )
        login = Finding("login", "a token that the Hub does not know", advice, broken=True)
    else:
        login = Finding("login", f"{user}, by HF_TOKEN" if by_variable else user)
    return [Finding("connection", "the Hub answers"), login]


def _login(token: str | None) -> Finding:
    """What can be said of the login without asking the Hub."""
    return Finding("login", "a token, unchecked" if token else "none")


def _temporary_folder() -> Finding:
    try:
        return _folder("temporary files", Path(tempfile.gettempdir()), "", "TMPDIR")
    except FileNotFoundError as error:
        advice = f"There is no folder for temporary files ({reason_of(error)}); name one with room in TMPDIR."
        return Finding("temporary files", "nowhere", advice, broken=True)


def _folder(name: str, folder: Path, content: str, variable: str) -> Finding:
    """A folder, which is made when it is needed; `variable` is the environment's name for another."""
    # Not Path.exists, which fails below folders that may not be read.
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.access(path, os.F_OK))
    free = shutil.disk_usage(there).free
    found = f"{folder}: {content and content + ', '}{_size(free)} free"
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        advice = f"{folder} cannot be written ({error.strerror}); name a folder of yours in {variable}."
        return Finding(name, f"{found}, cannot be written", advice, broken=True)
    if free < _LITTLE_ROOM:
        advice = f"{folder} has only {_size(free)} left; make room, or name a folder with more in {variable}."
        return Finding(name, found, advice)
    return Finding(name, found)


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # other processes come and go in a cache
                total += Path(parent, name).lstat().st_size
    return total


def _size(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
