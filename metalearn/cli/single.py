"""One run, from its composed configuration: checked, given a directory and a log, trained and tested."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalearn.errors import RunFailed, UserError


@dataclass(frozen=True)
class SingleRun:
    """A run to be started."""

    config: dict[str, Any]
    directory: Path
    named: bool  # by the user; else a name that is taken gets a number
    logging: dict[str, Any]  # the choice of hydra/job_logging


def start(wanted: SingleRun) -> Path | None:
    """Trains and tests; returns the run directory, or None in a process of torchrun's that only helps."""
    preflight([wanted.config])
    if not is_first_rank():  # it writes nothing, so it has no directory
        run_and_report(wanted.config, wanted.directory)
        return None
    from metalearn.runs.directory import make_directory
    from metalearn.runs.log import log_to

    run_dir = make_directory(wanted.directory, wanted.named).absolute()
    log_to(run_dir, settings=wanted.logging)
    run_and_report(wanted.config, run_dir)
    return run_dir


def preflight(configs: Iterable[dict[str, Any]]) -> None:
    """Checks what can be known to be wrong before a file is written.

    Raises:
        UserError: with one line about the first fault.
    """
    from metalearn.runs.preflight import preflight as check

    for config in configs:
        check(config)


def is_first_rank() -> bool:
    """Whether this process reports and writes; of several that torchrun started, one does."""
    from metalearn.engine.ranks import launched

    return launched().first


def run_and_report(config: dict[str, Any], run_dir: Path, **options: Any) -> dict[str, Any]:
    """Runs it.

    Raises:
        RunFailed: it failed, and has said so on the console and in results.json.
        whatever it raised before it could say so.
    """
    from metalearn.report import terminal
    from metalearn.runs.run import run

    before = _modified(run_dir / "results.json")
    try:
        return run(config, run_dir, **options)
    except (Exception, SystemExit) as error:
        if isinstance(error, RunFailed) or _modified(run_dir / "results.json") not in (None, before):
            raise RunFailed(f"{type(error).__name__}: {error}") from error
        if isinstance(error, UserError):
            raise
        terminal.file_log.error("failed: %s", error, exc_info=error)
        if isinstance(error, SystemExit):  # would end a whole sweep
            raise RuntimeError(f"the run called sys.exit({error.code})") from error
        raise


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
