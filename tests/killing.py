"""Runs in processes of their own, to be killed: forked from a server that has imported everything, so that one costs no start of Python."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

from metalearn.nn.l2l import learn2learn
from metalearn.runs.run import run

ROOT = Path(__file__).parent.parent
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.killing"])
if "learn2learn" not in sys.modules and multiprocessing.parent_process() is None:
    learn2learn()

Before = Callable[[], None]


def start_server() -> None:
    """The server takes neither this process's sys.path nor its directory; what it forks does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def attempt(config: dict[str, Any], run_dir: Path, seconds: float | None = None, before: Before | None = None) -> int:
    """Starts the run or goes on with it, kills it with SIGKILL after so many seconds, and returns its exit code: 0 when it was done before.

    Args:
        before: called first in the process.
    """
    process = _CONTEXT.Process(target=_run, args=(config, run_dir, before))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(config: dict[str, Any], run_dir: Path, before: Before | None) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    if before is not None:
        before()
    run(config, run_dir, resume=True)
