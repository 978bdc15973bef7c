"""One run, from a plain configuration to results.json: the program, top to bottom."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from metalearn.config.resume import refuse_changes
from metalearn.data.base import Split
from metalearn.engine.build import Parts, assemble
from metalearn.engine.device import choose_device
from metalearn.engine.host_memory import keep_freed_memory
from metalearn.engine.interrupts import Interrupts
from metalearn.engine.loop import OuterLoop
from metalearn.engine.placement import Placement
from metalearn.engine.precision import on_device
from metalearn.engine.progress import Outcome
from metalearn.engine.ranks import Ranks, joined, launched
from metalearn.engine.settings import Settings
from metalearn.errors import UserError
from metalearn.garbage import collect_as_usual
from metalearn.kinds import Scale
from metalearn.report import results as shown
from metalearn.report import terminal
from metalearn.report.progress import Progress
from metalearn.runs import checkpoint
from metalearn.runs import directory as files
from metalearn.runs.ending import error_text, no_results, report_failure, status_of, train_record, write_or_say
from metalearn.runs.final_test import check_best, final_test
from metalearn.runs.header import describe
from metalearn.runs.hparams import described, hparams
from metalearn.runs.initial import read_initial, start_from
from metalearn.runs.pictures import show_test
from metalearn.runs.progress import ProgressFile
from metalearn.runs.record import RunResults, is_done
from metalearn.runs.snapshots import Snapshots
from metalearn.runs.tested import TestRecord
from metalearn.runs.tracking import Tracker
from metalearn.runs.training import Counter, Listener, ShouldPrune, train
from metalearn.status import Status

log = logging.getLogger("metalearn")


@dataclass
class _Attempt:
    """What the parts of a run share while it goes on."""

    config: dict[str, Any]
    run_dir: Path
    ranks: Ranks
    state: dict[str, Any] | None  # of the checkpoint that is resumed
    interrupts: Interrupts = field(default_factory=Interrupts)
    outcome: Outcome = field(default_factory=Outcome)
    kind: Scale | None = None  # of the tasks, once they are known
    notes: tuple[str, ...] = ()  # of the data set
    placement: Placement | None = None  # likewise


def run(
    config: dict[str, Any], run_dir: Path, resume: bool = False, should_prune: ShouldPrune | None = None
) -> dict[str, Any]:
    """Trains, evaluates on test tasks and writes everything into `run_dir`, which is made where it is missing.

    Args:
        resume: continue from the newest intact checkpoint in `run_dir`; where there is none, start anew in place of what is there.
        should_prune: called after every validation; where it returns True, the run ends as pruned, without a test, and can be resumed.

    Returns:
        What results.json holds.

    Raises:
        UserError: `run_dir` holds another run, or a process is at work there; nothing was written.
        RunFailed: not even results.json could be written, as the console said.
        whatever else went wrong, after results.json, run.log and the console said so.
    """
    device, ranks = choose_device(config), launched()
    keep_freed_memory()
    collect_as_usual()
    if not ranks.first:
        state = checkpoint.newest(run_dir) if resume else None
        _train_along(_Attempt(config, run_dir, ranks, state), device)
        return {}
    run_dir.mkdir(parents=True, exist_ok=True)
    with files.in_use(run_dir):
        attempt = _Attempt(config, run_dir, ranks, _to_resume(config, run_dir, resume))
        results, failure = _attempted(attempt, device, resume, should_prune)
        record = results.to_json()
        if failure is None:  # before it is written: a disk that is full by now must not cost the number
            shown.result_panel({**record, "run_dir": str(run_dir)})
        write_or_say(run_dir, results, failure)
        if failure is not None:
            raise failure
        checkpoint.drop(run_dir, Settings.of(config).train.keep)
    return record


def _attempted(
    attempt: _Attempt, device: torch.device, resume: bool, should_prune: ShouldPrune | None
) -> tuple[RunResults, BaseException | None]:
    """The results of training and testing, and what ended them early, which the console and run.log have said."""
    config, run_dir, outcome = attempt.config, attempt.run_dir, attempt.outcome
    results, failure = no_results(config, device), None
    try:
        with attempt.interrupts.watched():
            if resume:
                files.clear(run_dir, keep_checkpoints=attempt.state is not None)
            files.write_config(run_dir, config)
            log.info("run directory: %s", run_dir.resolve())
            split, tested = _train_and_test(attempt, device, should_prune)
            results = replace(results, status=Status.DONE, split=split, test=tested)
    except BaseException as error:
        failure = error
        step = getattr(error, "step", outcome.steps)
        results = replace(results, status=status_of(error), error=error_text(error), step=step)
        report_failure(results, run_dir, error)
    val, trained = outcome.best or None, train_record(outcome, config, device)
    results = replace(results, kind=attempt.kind, placement=attempt.placement, notes=attempt.notes)
    return replace(results, val=val, train=trained), failure


def _to_resume(config: dict[str, Any], run_dir: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to resume, if any; UserError where `run_dir` holds another run."""
    if not resume:
        if (run_dir / "metrics.csv").exists() or (run_dir / "results.json").exists():
            raise UserError(f"'{run_dir}' holds another run's files already")
        return None
    if not os.access(run_dir, os.W_OK):
        raise UserError(f"'{run_dir}' cannot be written: it cannot be gone on with")
    state = checkpoint.newest(run_dir)
    if state is None:
        keep = Settings.of(files.read_config(run_dir)).train.keep if is_done(run_dir) else "all"
        if keep in ("best", "none"):
            raise UserError(f"'{run_dir}' is done and kept no last.pt (train.keep={keep}): it cannot be resumed")
        if checkpoint.is_there(run_dir):
            log.warning("no checkpoint in '%s' is intact: training begins anew, at step 1", run_dir)
        return None
    if "outcome" not in state:
        raise UserError(f"'{run_dir}' was written by an older metalearn: it can be evaluated, but not gone on with")
    refuse_changes(state["config"], config, f"the checkpoint in '{run_dir}'")
    if config["train"]["steps"] < state["step"]:
        raise UserError(f"train.steps={config['train']['steps']}: '{run_dir}' is at step {state['step']} already")
    return state


def _train_and_test(
    attempt: _Attempt, device: torch.device, should_prune: ShouldPrune | None
) -> tuple[Split, TestRecord]:
    config, outcome, state = attempt.config, attempt.outcome, attempt.state
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # of the jobs before this one in a sweep
    parts = _assembled(config)
    attempt.kind, attempt.placement, attempt.notes = parts.dataset.kind, parts.placement, parts.dataset.notes
    log.info(describe(config, parts))
    if parts.placement is not None:
        (terminal.file_log if parts.placement.place == "device" else log).info("%s", parts.placement)
    reported = state["outcome"]["reported"] if state else None
    if state is not None:
        log.info("going on after step %d", state["step"])
        check_best(attempt.run_dir, state)
    with (
        Tracker(attempt.run_dir, hparams(config), reported, parts.dataset.kind.score, described(config)) as tracker,
        ProgressFile(attempt.run_dir, parts.settings.train.steps, reported or 0, parts.dataset.kind) as told,
    ):
        _train(attempt, parts, tracker, told, should_prune)
        tested, scores = final_test(attempt.run_dir, outcome, parts, told.tested)
        tracker.log(outcome.steps, tested.tags)
        show_test(attempt.run_dir, tracker, outcome.steps, parts, scores)
    times = [f"{name} {seconds:.1f} s" for name, seconds in _times(outcome, tested).items()]
    log.info("time: %s", ", ".join(times))
    return parts.dataset.split, tested


def _train(
    attempt: _Attempt, parts: Parts, tracker: Tracker, told: ProgressFile, should_prune: ShouldPrune | None
) -> None:
    names, done = parts.settings.names, attempt.state["outcome"]["reported"] if attempt.state else 0
    with (
        Progress(
            parts.settings.train.steps,
            f"{names.algorithm} on {names.dataset}",
            done=done,
            log_seconds=parts.settings.train.log_seconds,
            ways=(parts.settings.train_task.ways, parts.settings.task.ways),
            kind=parts.dataset.kind,
        ) as progress,
        joined(attempt.ranks, parts.device),
    ):
        listeners: list[Listener] = [tracker.log, told.reported, progress.update]
        _iterate(attempt, parts, tracker.sync, listeners, should_prune, [progress.passed, told.passed])


def _train_along(attempt: _Attempt, device: torch.device) -> None:
    """Trains along with rank 0, which does the rest."""
    with joined(attempt.ranks, device), attempt.interrupts.watched():
        _iterate(attempt, _assembled(attempt.config), lambda: None, [], None)


def _iterate(
    attempt: _Attempt,
    parts: Parts,
    before_saving: Callable[[], None],
    listeners: list[Listener],
    should_prune: ShouldPrune | None,
    counters: Sequence[Counter] = (),
) -> None:
    train_tasks, val_tasks = parts.source("train"), parts.source("val")
    keeper = checkpoint.Keeper(
        attempt.run_dir,
        {
            "config": attempt.config,
            "train_classes": _trained_classes(attempt, parts, train_tasks.class_names),
            "trained_on": parts.dataset.trained_on.record(),
        },
        parts.settings.train.checkpoint_every,
        writes=attempt.ranks.first,
        snapshots=_snapshots(attempt, parts),
        before_saving=before_saving,
    )
    loop = OuterLoop(
        attempt.config,
        parts.algorithm,
        train_tasks,
        val_tasks,
        outcome=attempt.outcome,
        ranks=attempt.ranks,
        interrupts=attempt.interrupts,
        before_validating=keeper.before_validating,
    )
    if attempt.state is not None:
        loop.load_state_dict(attempt.state)
    with contextlib.closing(train_tasks), contextlib.closing(val_tasks):
        train(loop, keeper, attempt.interrupts, listeners, should_prune, counters)


def _snapshots(attempt: _Attempt, parts: Parts) -> Snapshots | None:
    keep = parts.settings.train.snapshots
    if not keep or not attempt.ranks.first:
        return None
    step = None if attempt.state is None else int(attempt.state["step"])
    return Snapshots(attempt.run_dir, keep, parts.dataset.kind, step)


def _trained_classes(attempt: _Attempt, parts: Parts, classes: tuple[str, ...]) -> list[str]:
    """The training classes and, with `train.init`, from whose weights this starts, those of the earlier run."""
    init = parts.settings.train.init
    if attempt.state is not None:
        return list(dict.fromkeys([*classes, *attempt.state["train_classes"]]))
    if init is None:
        return list(classes)
    earlier = read_initial(init)
    log.info("%s", start_from(parts.algorithm, attempt.config["algorithm"], earlier, init))
    return list(dict.fromkeys([*classes, *earlier["train_classes"]]))


def _assembled(config: dict[str, Any]) -> Parts:
    _set_precision(on_device(config["precision"], choose_device(config)))
    return assemble(config)


def _times(outcome: Outcome, tested: TestRecord) -> dict[str, float]:
    seconds = {"training": outcome.seconds, "validation": outcome.validation_seconds}
    return seconds if tested.seconds is None else seconds | {"test": tested.seconds}


def _set_precision(precision: str) -> None:
    # tf32 concerns products of float32 matrices and convolutions on NVIDIA GPUs; elsewhere torch ignores it.
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
