"""Without what only POSIX has, every module is imported and a run trains, as on Windows as far as that can be simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import metalearn

ROOT = Path(metalearn.__file__).parents[1]

WINDOWS = """
import os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # importing it raises ImportError
import torch, numpy, multiprocessing, asyncio, subprocess  # those of Linux, which use what is taken away now
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGSTOP", "SIGCHLD", "SIGALRM"):
    delattr(signal, name)
for name in ("sched_getaffinity", "sysconf", "fork", "getuid", "getpgid", "uname"):
    delattr(os, name)
opened = os.open
def open_no_directories(path, *arguments, **settings):
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied")
    return opened(path, *arguments, **settings)
os.open = open_no_directories
"""

IMPORT_ALL = """
import importlib, pkgutil, metalearn
for module in pkgutil.walk_packages(metalearn.__path__, "metalearn."):
    if module.name not in ("metalearn.__main__", "metalearn.sweeps.search"):
        importlib.import_module(module.name)
"""

TINY = ["dataset.classes=40", "dataset.val_classes=10", "dataset.test_classes=10", "dataset.size=16"]
TINY += [
    "task.train.ways=5",
    "backbone.filters=4",
    "train.steps=4",
    "train.val_tasks=4",
    "eval.tasks=4",
    "eval.task_chunk=2",
]


def start(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", WINDOWS + code], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_every_module_is_imported(tmp_path: Path) -> None:
    done = start(IMPORT_ALL, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.thorough
def test_a_run_trains_and_resumes_and_a_sweep_runs(tmp_path: Path) -> None:
    train = ["train", *TINY, "hydra.run.dir=run", "train.schedule=constant"]
    resume = ["train", "--resume", "run", "train.steps=6"]
    sweep = ["train", *TINY, "seed=0,1", "-m", "sweep_name=two"]
    code = f"from metalearn.cli.main import main\nfor argv in {[train, resume, sweep]}: main(argv)\n"
    done = start(code, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "results.json").is_file()
    assert len(list((tmp_path / "outputs/multirun/two").glob("seed=*/results.json"))) == 2
