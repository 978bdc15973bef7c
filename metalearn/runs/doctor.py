"""What the program needs of this machine and of this Python, and the command that mends what is wrong.

Only the standard library is imported at the top, so that the checks also run where a dependency is missing. torch and learn2learn are imported
in a process of their own: a broken build may end it without an exception.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from metalearn.errors import UserError, nearest, one_line
from metalearn.nn.l2l import INSTALL
from metalearn.places import cache_dir, data_dir
from metalearn.version import __version__

_DISTRIBUTION = "metalearn-runner"
_PACKAGE = Path(__file__).resolve().parents[1]
_VARIABLES = ("METALEARN_DATA", "METALEARN_CACHE", "METALEARN_PLUGINS", "METALEARN_DEBUG")
# What each extra is for; one that is not named here belongs to the data set of its name, and that of learn2learn has a check of its own.
_USES = {
    "slurm": "sweeps on Slurm",
    "ray": "sweeps on a Ray cluster",
    "optuna": "searches (sweep.search)",
    "export": "metalearn export",
    "timm": "backbone=timm",
}
_GB = 1e9
_FAULT_GB, _WARNING_GB = 0.2, 5.0  # free on a disk: a run with its checkpoints; the larger data sets, converted
_SECONDS = 120  # for the import of torch and learn2learn from a cold network disk
_PROBE = """
import json, sys
def told(**found): print(json.dumps(found), flush=True)
sys.path[:0] = [sys.argv[1]]
try:
    import torch
    cuda = torch.cuda.is_available()
    told(torch=torch.__version__, built=torch.version.cuda, cuda=[
        [torch.cuda.get_device_name(i), torch.cuda.get_device_properties(i).total_memory] for i in range(torch.cuda.device_count() if cuda else 0)
    ], mps=torch.backends.mps.is_available(), threads=torch.get_num_threads())
except BaseException as error:
    told(torch_error=f"{type(error).__name__}: {error}")
else:
    from metalearn.nn.l2l import learn2learn
    try:
        learn2learn()
        told(learn2learn=True)
    except BaseException as error:
        told(learn2learn_error=f"{type(error).__name__}: {error.__cause__ or error}")
"""

State = Literal["ok", "warning", "fault"]


class Check(NamedTuple):
    """One line of the report; `mend` is a command, or an empty text where there is nothing to mend."""

    name: str
    state: State
    found: str
    mend: str = ""


def checks() -> list[Check]:
    """All checks, in the order in which they are reported. Takes as long as torch's import does."""
    command = [sys.executable, "-P", "-W", "ignore", "-c", _PROBE, str(_PACKAGE.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as probe:
        quick = [_python(), *_versions(), *_extras(), *_namesakes(), *_variables(), *_places()]
        try:
            output, _ = probe.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            probe.kill()
            output, _ = probe.communicate()
    told: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith("{"):
            told |= json.loads(line)
    return [quick[0], *_torch(told, probe.returncode), *quick[1:]]


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()}, {sys.executable}; metalearn {__version__}, {_PACKAGE}")


def _torch(told: dict[str, Any], exit_code: int) -> Iterator[Check]:
    """What the other process said of torch, the GPU and learn2learn."""
    if "torch" not in told:
        said = told.get("torch_error", f"its import ended the process (exit code {exit_code})")
        yield Check(
            "torch", "fault", f"cannot be imported: {one_line(ValueError(said))}", _install("torch torchvision")
        )
        return
    yield Check("torch", "ok", f"{told['torch']}, {told['threads']} threads")
    yield _gpu(told)
    if "learn2learn" in told:
        yield Check("learn2learn", "ok", _version("learn2learn") or "there")
    elif _version("learn2learn") is None:
        yield Check("learn2learn", "warning", "not installed; algorithms built on it do not run", INSTALL)
    else:
        said = told.get("learn2learn_error", f"its import ended the process (exit code {exit_code})")
        yield Check("learn2learn", "warning", f"cannot be imported: {one_line(ValueError(said))}", INSTALL)


def _gpu(told: dict[str, Any]) -> Check:
    if told["cuda"]:
        names = ", ".join(f"{name} ({memory / 2**30:.0f} GiB)" for name, memory in told["cuda"])
        return Check("GPU", "ok", f"{names}; CUDA {told['built']}")
    if told["mps"]:
        return Check("GPU", "ok", "Apple's (device=mps; device=auto takes the CPU)")
    if shutil.which("nvidia-smi") is None:
        return Check("GPU", "ok", "none: runs use the CPU")
    if told["built"] is None:
        new = _install("--force-reinstall torch torchvision")
        return Check("GPU", "warning", "this torch is built for the CPU alone, but there is an NVIDIA driver", new)
    return Check(
        "GPU", "warning", f"torch is built for CUDA {told['built']} but sees no GPU: compare driver", "nvidia-smi"
    )


def _versions() -> Iterator[Check]:
    """Each dependency against the bounds that the package states."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Check("packaging", "fault", "not installed; the other versions cannot be compared", _install("packaging"))
        return
    right = []
    for requirement in map(Requirement, _requirements()[0]):
        version = _version(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        if version is None:
            yield Check(requirement.name, "fault", "not installed", _install(shlex.quote(wanted)))
        elif not requirement.specifier.contains(version, prereleases=True):
            found = f"{version}; needed: {requirement.specifier}"
            yield Check(requirement.name, "fault", found, _install(shlex.quote(wanted)))
        else:
            right.append(f"{requirement.name} {version}")
    if right:
        yield Check("packages", "ok", ", ".join(right))


def _extras() -> Iterator[Check]:
    """What may be missing: `ok`, with the command that brings it."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return
    for extra, requirements in _requirements()[1].items():
        use = _USES.get(extra, f"dataset={extra} and what is drawn like it")
        for requirement in map(Requirement, requirements if extra != "l2l" else []):
            version, bring = (
                _version(requirement.name),
                _install(shlex.quote(f"{requirement.name}{requirement.specifier}")),
            )
            if version is None:
                yield Check(requirement.name, "ok", f"not installed; only for {use}", bring)
            elif not requirement.specifier.contains(version, prereleases=True):
                yield Check(requirement.name, "warning", f"{version}; for {use}: {requirement.specifier}", bring)
            else:
                yield Check(requirement.name, "ok", f"{version}, for {use}")


def _namesakes() -> Iterator[Check]:
    """Other packages and programs called metalearn, which may be run or imported instead of this one."""
    if (version := _version("metalearn")) is not None:
        yield Check(
            "namesake",
            "fault",
            f"the distribution 'metalearn' {version} is another project's; its files lie among this one's",
            f"{_pip('uninstall')} metalearn, then install {_DISTRIBUTION} again",
        )
    for folder in dict.fromkeys(Path(entry or ".").resolve() for entry in sys.path):
        for file in (folder / "metalearn" / "__init__.py", folder / "metalearn.py"):
            if file.is_file() and file != _PACKAGE / "__init__.py":
                rename = f"mv {shlex.quote(str(folder / 'metalearn'))} OTHER_NAME"
                uninstall = "remove it from PYTHONPATH or uninstall it"
                mend = rename if folder == Path.cwd() else uninstall
                yield Check("namesake", "warning", f"another metalearn is importable: {file}", mend)
    program = shutil.which("metalearn")
    if program and Path(program).parent.resolve() != Path(sys.executable).parent.resolve():
        activate = Path(sys.executable).parent / "activate"
        mend = f". {shlex.quote(str(activate))}" if activate.is_file() else f"{sys.executable} -m metalearn ..."
        yield Check("program", "warning", f"the shell's 'metalearn' is {program}, of another Python", mend)


def _variables() -> Iterator[Check]:
    """Environment variables that look like this program's and that it does not read."""
    for name in sorted(os.environ):
        if name.startswith("METALEARN_") and name not in _VARIABLES:
            found = f"is not read{nearest(name, _VARIABLES)} ({', '.join(_VARIABLES)} are)"
            yield Check(name, "warning", found, f"unset {shlex.quote(name)}")


def _places() -> Iterator[Check]:
    """Where the program writes: whether it may, and how much is free there."""
    yield _place("outputs", Path.cwd(), "cd to a directory of your own")
    for name, place, variable in (("cache", cache_dir, "METALEARN_CACHE"), ("data", _data_root, "METALEARN_DATA")):
        mend = f"export {variable}=DIR"
        try:
            yield _place(name, place(), mend)
        except UserError as error:
            yield Check(name, "fault", one_line(error), mend)


def _data_root() -> Path:
    return data_dir("any").parent


def _place(name: str, folder: Path, mend: str) -> Check:
    there = next(parent for parent in [folder, *folder.absolute().parents] if os.path.lexists(parent))
    made = f"{folder}" if there == folder else f"{folder} (made when needed)"
    if not there.is_dir():
        return Check(name, "fault", f"{made}: {there} is no directory", mend)
    if not os.access(there, os.W_OK | os.X_OK):
        # Files that somebody else put there can be read all the same.
        state: State = "warning" if name == "data" else "fault"
        return Check(name, state, f"{made}: {there} cannot be written to", mend)
    free = shutil.disk_usage(there).free / _GB
    state = "fault" if free < _FAULT_GB else "warning" if free < _WARNING_GB else "ok"
    return Check(name, state, f"{made}, {free:.1f} GB free", "" if state == "ok" else f"free some space, or {mend}")


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The requirements of the package and of each extra: of the checkout, else of the installed package."""
    file = _PACKAGE.parent / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == _DISTRIBUTION:
            return project["dependencies"], project["optional-dependencies"]
    try:
        stated = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        stated = []
    plain: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in stated:
        text, _, marker = (part.strip() for part in line.partition(";"))
        name = marker.partition("extra == ")[2].strip("'\"")
        (extras.setdefault(name, []) if name else plain).append(text)
    return plain, extras


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pip(action: str) -> str:
    """The installer of this very Python; an environment that uv made has no pip of its own."""
    python = shlex.quote(sys.executable)
    return f"{python} -m pip {action}" if importlib.util.find_spec("pip") else f"uv pip {action} --python {python}"


def _install(what: str) -> str:
    return f"{_pip('install')} {what}"
