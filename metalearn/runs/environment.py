"""What the numbers of a run may depend on outside its configuration: versions, device, platform, commit; and the memory that it needed."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.sizes import count_text
from metalearn.version import __version__

if TYPE_CHECKING:
    import torch

_GIT_SECONDS = 5  # more than any local checkout needs; a dead network drive must not hold up a run
_MIB = 2**20


def environment(device: str) -> dict[str, Any]:
    """The `environment` entry of results.json: versions, device, platform, commit."""
    import torch

    on_gpu = torch.device(device).type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "learn2learn": _version("learn2learn"),
        "numpy": _version("numpy"),
        "hydra-core": _version("hydra-core"),
        "metalearn": __version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "device": torch.cuda.get_device_name(device) if on_gpu else _cpu_model(),
        "cpu_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # AVX2, AVX512, ...: processors of one name may differ in it
        "platform": platform.platform(),
        "git": git_commit(Path(__file__).resolve().parent),
    }


def machine_text(environment: dict[str, Any]) -> str:
    """What computed, of an `environment` entry: `AMD EPYC with AVX2, 2 threads`; records of earlier versions do not say the instructions."""
    capability = environment.get("cpu_capability")
    device = f"{environment['device']} with {capability}" if capability else environment["device"]
    return f"{device}, {count_text(environment['cpu_threads'], 'thread')}"


def git_commit(package: Path) -> str | None:
    """The commit of the checkout that tracks `package`, with `-dirty` where tracked files were changed; None without one."""
    # A hook's GIT_DIR would name another repository; taking git's index lock could make the user's own git command fail.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    clean |= {"GIT_OPTIONAL_LOCKS": "0"}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(package), *arguments],
            env=clean,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
        return done.stdout.strip()

    try:
        # An installed package may lie in a .venv inside somebody else's checkout, whose commit says nothing about it.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None  # no git, no checkout, no commit yet, or too slow


def peak_memory_mib(device: torch.device) -> float:
    """The most memory this process has held so far: resident on the CPU, allocated by tensors on a GPU; NaN where the system does not tell."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / _MIB
    try:
        # Not getrusage where this exists: Linux lets its ru_maxrss start at the size of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        try:
            import resource
        except ImportError:  # Windows
            return math.nan
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / _MIB if sys.platform == "darwin" else peak / 1024


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
