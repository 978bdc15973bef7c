"""How a run ended: what its results say of training, and what the console and run.log say of a failure."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from metalearn.config.identity import compared, config_hash
from metalearn.config.plugins import with_plugins
from metalearn.engine.progress import Outcome
from metalearn.engine.settings import Names
from metalearn.errors import Diverged, Pruned, RunFailed
from metalearn.report import terminal
from metalearn.runs import checkpoint
from metalearn.runs.environment import environment, peak_memory_mib
from metalearn.runs.record import RunResults, TrainRecord, write_results
from metalearn.status import Status
from metalearn.tasks import shape_of

log = logging.getLogger("metalearn")


def no_results(config: dict[str, Any], device: torch.device) -> RunResults:
    """The results of a run that has not begun."""
    task = {**shape_of(config["task"])._asdict(), "train": config["task"]["train"]}
    return RunResults(
        status=Status.FAILED,
        error=None,
        names=Names.of(config["names"]),
        seed=config["seed"],
        config_hash=config_hash(compared(config)),
        split=None,
        kind=None,
        task=task,
        test=None,
        environment=environment(str(device)),
    )


def train_record(outcome: Outcome, config: dict[str, Any], device: torch.device) -> TrainRecord:
    """What results.json says of training: steps, seconds, tasks a second, memory."""
    tasks = outcome.steps * config["train"]["meta_batch_size"]
    return TrainRecord(
        steps=outcome.steps,
        seconds=outcome.seconds,
        validation_seconds=outcome.validation_seconds,
        tasks_per_second=tasks / outcome.seconds if outcome.seconds else 0.0,
        data_wait_fraction=outcome.data_seconds / outcome.seconds if outcome.seconds else 0.0,
        task_chunk=outcome.task_chunk,
        peak_memory_mib=peak_memory_mib(device),
        precision=(outcome.precision or None) if config["precision"] == "auto" else None,
    )


def write_or_say(run_dir: Path, results: RunResults, failure: BaseException | None) -> None:
    """Writes results.json; where that fails, the console says so.

    Raises:
        RunFailed: it cannot be written, and no signal ended the run.
    """
    try:
        write_results(run_dir, results)
    except OSError as error:
        terminal.error_line(f"{results.status}, and results.json cannot be written: {error} ({run_dir})")
        if failure is None or isinstance(failure, Exception):
            raise RunFailed(str(failure or error)) from (failure or error)


def report_failure(results: RunResults, run_dir: Path, error: BaseException) -> None:
    """Says on the console and in run.log what ended the run early; run.log gets the traceback of a failure."""
    where = f"{results.status} at step {results.step}: {results.error} ({run_dir})"
    if isinstance(error, KeyboardInterrupt):
        log.info("%s", where)
        log.info("to go on: %s", _resumption(run_dir))
    elif isinstance(error, Pruned):
        log.info("%s", where)
    else:
        terminal.file_log.error("%s: %s", results.status, results.error, exc_info=error)
        terminal.error_line(where)
        if isinstance(error, OSError) and checkpoint.is_there(run_dir):
            # A full disk, a directory that became read-only: the cause lies outside the run, which can go on without it.
            terminal.error_line(f"once that is mended, to go on from the last checkpoint: {_resumption(run_dir)}")


def _resumption(run_dir: Path) -> str:
    return with_plugins(["metalearn", "train", "--resume", str(run_dir)])


def error_text(error: BaseException) -> str:
    """What results.json says of it: `ValueError: ...`, or the words of a stop that was asked for."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "stopped at once"
    if isinstance(error, Pruned):
        return str(error)
    return f"{type(error).__name__}: {error}"


def status_of(error: BaseException) -> Status:
    """How a run ended that `error` ended."""
    if isinstance(error, Diverged):
        return Status.DIVERGED
    if isinstance(error, Pruned):
        return Status.PRUNED
    return Status.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Status.FAILED
