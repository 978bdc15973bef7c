"""The files of a run directory that are read again: config.yaml and results.json, always whole; and what goes into their records."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf

from metalearn import atomic
from metalearn.config.tree import leaves
from metalearn.errors import UserError, one_line
from metalearn.locks import NoLocksError, folder_locked
from metalearn.version import __version__

if TYPE_CHECKING:
    import torch

log = logging.getLogger("metalearn")

# What scripts outside this repository read from results.json.
RESULT_KEYS = (
    *("status", "error", "algorithm", "dataset", "backbone", "seed", "config_hash", "split", "task"),
    *("test", "val", "train", "environment"),
)
_CHECKPOINTS = ("last.pt", "previous.pt", "best.pt")
_GIT_SECONDS = 5  # more than any local checkout needs; a dead network drive must not hold up a run
_MIB = 2**20


def write_text(path: Path, text: str) -> None:
    """Writes `text` so that `path` holds the old content or the new, whenever the process or the machine dies."""
    atomic.write(path, text.encode())


def write_json(path: Path, obj: Any) -> None:
    """Writes `obj` atomically, keys in their order; NaN and infinity, which JSON has no word for, become null."""
    write_text(path, json.dumps(_without_nan(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    """Writes config.yaml atomically; PyYAML and OmegaConf read the same values from it."""
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))


def read_config(run_dir: Path) -> dict[str, Any]:
    """The run's configuration.

    Raises:
        UserError: there is no config.yaml, or it is not a mapping of plain values.
    """
    path = run_dir / "config.yaml"
    try:
        config = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
    return _mapping(path, config)


def saved_config(run_dir: Path) -> DictConfig:
    """The configuration in a run directory.

    Raises:
        UserError: there is none, naming the newest run below; or it holds interpolations, which a run does not write.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        below = sorted(run_dir.rglob("config.yaml"), key=lambda file: file.stat().st_mtime)
        hint = f"; the newest run below it is {below[-1].parent}" if below else ""
        raise UserError(f"'{run_dir}' {'has no config.yaml' if run_dir.is_dir() else 'is no directory'}{hint}")
    plain = read_config(run_dir)
    # Written resolved; what a stranger put there must not be looked up in this user's environment.
    for key, value in leaves(plain):
        if "${" in str(value):
            raise UserError(f"{path}: {key} is not a value but an interpolation")
    return OmegaConf.create(plain)


def make_directory(path: Path, named: bool) -> Path:
    """Makes a directory that no other run has; a name that nobody asked for gets -1, -2, ... where it is taken."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for candidate in itertools.chain([path], (path.with_name(f"{path.name}-{n}") for n in itertools.count(1))):
            try:
                candidate.mkdir()
            except FileExistsError:
                if named and (not path.is_dir() or any(path.iterdir())):
                    raise UserError(f"the run directory '{path}' exists already") from None
                if not named:
                    continue
            return candidate
    except OSError as error:
        raise UserError(f"the run directory '{path}' cannot be made: {error.strerror}") from error
    raise AssertionError("itertools.count ended")


def is_done(run_dir: Path) -> bool:
    """Whether the run has finished; a results.json that cannot be read says nothing."""
    try:
        return read_results(run_dir).get("status") == "done"
    except UserError:
        return False


@contextlib.contextmanager
def in_use(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of `run_dir`; the lock ends with this process, however that ends.

    Raises:
        UserError: another one is at work there.
    """
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(folder_locked(run_dir))
        except NoLocksError as error:
            log.debug("%s is not locked: %s", run_dir, error)
            held = True
        if not held:
            raise UserError(f"another process is at work in '{run_dir}'")
        yield


def clear(run_dir: Path, keep_checkpoints: bool) -> None:
    """Removes what must not stay when a run goes on: how it ended before, what a killed process left half written and, where there is nothing to go
    on from, all that the earlier attempt wrote but run.log.
    """
    atomic.remove_leftovers(run_dir)
    removed = {"results.json", "test_classes.json"} | (set() if keep_checkpoints else {"metrics.csv", *_CHECKPOINTS})
    for file in list(run_dir.iterdir()):
        if file.name in removed or (not keep_checkpoints and file.name.startswith("events.out.tfevents.")):
            file.unlink()


def write_results(run_dir: Path, results: dict[str, Any]) -> None:
    """Writes results.json atomically."""
    missing = [key for key in RESULT_KEYS if key not in results]
    assert not missing, f"results.json without {missing}"
    write_json(run_dir / "results.json", results)


def read_results(run_dir: Path) -> dict[str, Any]:
    """The run's results.

    Raises:
        UserError: there is no results.json, or it is not a mapping.
    """
    path = run_dir / "results.json"
    try:
        results = json.loads(_read_text(path))
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return _mapping(path, results)


def environment(device: str) -> dict[str, Any]:
    """What the numbers of a run may depend on outside its configuration: versions, device, platform, commit."""
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
        "platform": platform.platform(),
        "git": git_commit(Path(__file__).resolve().parent),
    }


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


def _without_nan(obj: Any) -> Any:
    if isinstance(obj, dict):
        return {key: _without_nan(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_without_nan(value) for value in obj]
    return None if isinstance(obj, float) and not math.isfinite(obj) else obj


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _mapping(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no mapping but {type(content).__name__}")
    return content


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
