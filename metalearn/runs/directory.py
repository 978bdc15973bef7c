"""A run directory: its path, its lock, its config.yaml, and how files are written there, always whole."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from metalearn import atomic
from metalearn.config.tree import leaves
from metalearn.config.yaml_text import from_yaml
from metalearn.errors import UserError, one_line
from metalearn.locks import NoLocksError, folder_locked

log = logging.getLogger("metalearn")

# What TensorBoard's projector reads: the file that names the others, points, their classes, small images.
PROJECTOR = ("projector_config.pbtxt", "embeddings.tsv", "embeddings_classes.tsv", "embeddings.png")
_BEGINNINGS = ("events.out.tfevents.", "snapshot-")  # of files of which there are several
_CHECKPOINTS = ("last.pt", "previous.pt", "best.pt")
# What no other command may overwrite: nothing can make it again.
_RUN_FILES = re.compile(
    r"(config\.yaml|results\.json|metrics\.csv|test_tasks\.npz|test_classes\.json|run\.log|label\.txt|(best|last|previous)\.pt|"
    r"events\.out\.tfevents\..*|(eval|grid)-.*\.(json|npz))"
)


def write_text(path: Path, text: str) -> None:
    """Writes `text` so that `path` holds the old content or the new, whenever the process or the machine dies."""
    atomic.write(path, text.encode())


def write_json(path: Path, obj: Any) -> None:
    """Writes `obj` atomically, keys in their order; NaN and infinity, which JSON has no word for, become null."""
    write_text(path, json.dumps(without_nan(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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
        config = from_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
    return mapping(path, config)


def saved_config(run_dir: Path) -> DictConfig:
    """The configuration in a run directory.

    Raises:
        UserError: there is none, naming the newest run below; or it holds interpolations, which a run does not write.
    """
    path = run_dir / "config.yaml"
    try:
        there = path.is_file()
    except OSError as error:  # of a folder that may not be entered
        raise UserError(f"'{run_dir}' cannot be read: {error.strerror}") from error
    if not there:
        below = sorted(run_dir.rglob("config.yaml"), key=lambda file: file.stat().st_mtime)
        hint = f"; the newest run below it is {below[-1].parent}" if below else ""
        raise UserError(f"'{run_dir}' {'has no config.yaml' if run_dir.is_dir() else 'is no directory'}{hint}")
    return stored_config(path, read_config(run_dir))


def stored_config(path: Path, plain: dict[str, Any]) -> DictConfig:
    """A run's configuration that the file `path` holds; UserError where it is another's, or a value is an interpolation."""
    missing = [
        group for group in ("algorithm", "backbone", "dataset", "task") if not isinstance(plain.get(group), dict)
    ]
    if missing:
        raise UserError(f"{path} is not the configuration of a run of metalearn: it has no {missing[0]}")
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


def refuse_run_file(file: Path, flag: str) -> None:
    """Raises UserError where `file`, which a command is asked to write, is one that a run keeps its state or its results in."""
    if _RUN_FILES.fullmatch(file.name) and file.exists() and (file.parent / "config.yaml").is_file():
        raise UserError(f"{flag} {file} is a file of the run in '{file.parent}': it is not overwritten")


def check_target(path: str, flag: str) -> Path:
    """Where a command is to write a file; folders above it that are not there will be made when it is written.

    Raises:
        UserError: nothing can be written there, said before anything is computed; or it is a file of a run.
    """
    file = Path(path).expanduser()
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if file.is_dir():
        raise UserError(f"{flag} {path} is a folder: name a file")
    if not above.is_dir():
        raise UserError(f"{flag} {path} cannot be written: '{above}' is a file")
    if not os.access(above, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written: you may not write to '{above}'")
    refuse_run_file(file, flag)
    return file


def clear(run_dir: Path, keep_checkpoints: bool) -> None:
    """Removes what must not stay when a run goes on: how it ended before, what a killed process left half written and, where there is nothing to go
    on from, all that the earlier attempt wrote but run.log.
    """
    atomic.remove_leftovers(run_dir)
    removed = {"results.json", "test_classes.json", "test_tasks.npz", *PROJECTOR} | (
        set() if keep_checkpoints else {"metrics.csv", *_CHECKPOINTS}
    )
    for file in list(run_dir.iterdir()):
        if file.name in removed or (not keep_checkpoints and file.name.startswith(_BEGINNINGS)):
            file.unlink()


def without_nan(obj: Any) -> Any:
    """Nested lists and mappings with None for NaN and infinity."""
    if isinstance(obj, dict):
        return {key: without_nan(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [without_nan(value) for value in obj]
    return None if isinstance(obj, float) and not math.isfinite(obj) else obj


def read_text(path: Path) -> str:
    """The text in `path`; UserError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def mapping(path: Path, content: Any) -> dict[str, Any]:
    """`content`, read from `path`; UserError where it is not a mapping."""
    if not isinstance(content, dict):
        held = "is empty" if content is None else f"holds no mapping but {type(content).__name__}"
        raise UserError(f"{path} {held}")
    return content
