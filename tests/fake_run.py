"""Stands in for the checks and the run of metalearn.runs in tests of sweeps: a run whose seed says how it ends, here or in a worker."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from metalearn.errors import Pruned, UserError

FAILS_SILENTLY, FAILS, EXITS, INTERRUPTED, KILLED, CRASHES, HANGS = 112, 113, 114, 115, 116, 117, 118

LISTENING = "listening"  # the file that a hanging run makes once a signal can end it


class Stopped(KeyboardInterrupt):
    pass


def preflight(config: dict[str, Any]) -> None:
    if config["seed"] == 99:
        raise UserError("99 is too large")


def run(
    config: dict[str, Any],
    run_dir: Path,
    resume: bool = False,
    should_prune: Callable[[int, float], bool] | None = None,
) -> dict[str, Any]:
    """With a `should_prune`, a trial of a search: the learning rate is its validation accuracy, at outer steps 5 and 10."""
    seed = config["seed"]
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    gpu, threads = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")
    call = {"job": run_dir.name, "resume": resume, "gpu": gpu, "threads": threads, "begun": time.monotonic()}
    endings: dict[int, Any] = {
        FAILS: lambda: _raise(RuntimeError("boom")),
        EXITS: lambda: sys.exit(3),
        INTERRUPTED: lambda: _raise(Stopped()),
        KILLED: lambda: os.kill(os.getpid(), signal.SIGKILL),
        CRASHES: lambda: os.kill(os.getpid(), signal.SIGSEGV),
        HANGS: lambda: _hang(run_dir),
    }
    ending = None if resume and seed in (INTERRUPTED, KILLED, HANGS) else endings.get(seed)
    if seed == FAILS_SILENTLY:
        _told(call, run_dir)
        raise RuntimeError("before the run could say anything")
    results: dict[str, Any] = {"status": "done", "seed": seed, "error": None, "val": None}
    results |= {"train": {"steps": 10, "seconds": 1.0}, "test": None}
    try:
        if ending:
            ending()
        for step in (5, 10) if should_prune else ():
            results["val"] = {"accuracy": config["train"]["lr"], "step": step}
            if should_prune and should_prune(step, config["train"]["lr"]):
                raise Pruned(step)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        results["test"] = {"accuracy": 0.5 + seed / 100, "ci95": 0.01, "seconds": 0.5}
    except BaseException as error:
        results["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if isinstance(error, Pruned):
            results["status"] = "pruned"
        results["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        (run_dir / "results.json").write_text(json.dumps(results))
        _told(call, run_dir)
    return results


def _told(call: dict[str, Any], run_dir: Path) -> None:
    with (run_dir.parent / "calls").open("a") as file:
        file.write(json.dumps(call | {"ended": time.monotonic()}) + "\n")


def _raise(error: BaseException) -> None:
    raise error


def _hang(run_dir: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: _raise(Stopped("SIGTERM")))
    (run_dir / LISTENING).touch()
    time.sleep(60)


def modules() -> dict[str, ModuleType]:
    """What stands in for which modules: import name -> module."""
    made = {f"metalearn.runs.{name}": ModuleType(f"metalearn.runs.{name}") for name in ("preflight", "run")}
    made["metalearn.runs.preflight"].preflight = preflight  # type: ignore[attr-defined]
    made["metalearn.runs.run"].run = run  # type: ignore[attr-defined]
    return made


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts them in place for one test."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def calls(sweep_dir: Path) -> list[dict[str, Any]]:
    file = sweep_dir / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


if __name__ == "__main__":
    # A worker of a parallel sweep, without torch.
    import runpy

    sys.modules.update(modules())
    runpy.run_module("metalearn.sweeps.job", run_name="__main__")
