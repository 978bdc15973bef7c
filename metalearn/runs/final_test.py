"""The test at the end of a run: the chosen checkpoint on the test tasks."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metalearn.engine.build import Parts
from metalearn.engine.classes import ClassCounts
from metalearn.engine.evaluate import Scores, evaluate
from metalearn.engine.progress import Outcome
from metalearn.errors import UserError
from metalearn.report.progress import TaskProgress
from metalearn.runs import checkpoint
from metalearn.runs import directory as files
from metalearn.runs.per_task import write_tasks
from metalearn.runs.seen import seen_classes, seen_in_pretraining
from metalearn.runs.tested import TestRecord

log = logging.getLogger("metalearn")


def final_test(
    run_dir: Path, outcome: Outcome, parts: Parts, tell: Callable[[int, int], None] = lambda done, tasks: None
) -> tuple[TestRecord, Scores]:
    """Tests the checkpoint that `eval.checkpoint` names, and writes the scores of single tasks and classes into `run_dir`.

    Test classes are touched here for the first time. `outcome.best` becomes what the best checkpoint says.

    Args:
        tell: called with the tasks done and all tasks, first when the test begins.

    Returns:
        What results.json says of the test, and the scores behind it.
    """
    settings, test_tasks = parts.settings, parts.source("test")
    chosen = checkpoint.load(run_dir / f"{settings.eval.checkpoint}.pt", parts.device)
    parts.algorithm.load_state_dict(chosen["model"])
    if settings.eval.checkpoint == "best":
        outcome.best = chosen["outcome"]["best"]  # also where the resumed checkpoint said otherwise
    parts.be_transductive()
    by_class = bool(test_tasks.classes) and test_tasks.kind.classifies
    counts = ClassCounts(test_tasks.class_names)
    started = time.perf_counter()
    with (
        contextlib.closing(test_tasks),
        TaskProgress(settings.eval.tasks, "test", settings.train.log_seconds) as progress,
    ):
        tell(0, settings.eval.tasks)

        def show(done: int) -> None:
            progress.update(done)
            tell(done, settings.eval.tasks)

        scores = evaluate(
            parts.algorithm,
            test_tasks,
            settings.task,
            settings.eval.tasks,
            settings.eval.task_chunk,
            stepwise=True,
            progress=show,
            answers=counts.add if by_class else None,
            features=settings.features,
        )
    record = TestRecord.of(
        scores,
        transductive=parts.algorithm.transductive,
        checkpoint=settings.eval.checkpoint,
        step=chosen["step"],
        seconds=time.perf_counter() - started,
        seen_classes=len(seen_classes(chosen["train_classes"], test_tasks.class_names)),
        seen_in_pretraining=seen_in_pretraining(parts.pretrained_on, test_tasks.class_names),
    )
    write_tasks(run_dir / "test_tasks.npz", scores)
    if by_class:
        files.write_json(run_dir / "test_classes.json", counts.record())
    return record, scores


def check_best(run_dir: Path, state: dict[str, Any]) -> None:
    """Forgets the best validation so far where its checkpoint is damaged or gone, so that another becomes the best."""
    if not state["outcome"]["best"]:
        return
    try:
        checkpoint.load(run_dir / "best.pt", torch.device("cpu"))
    except UserError as error:
        log.warning("%s; the best validation so far is forgotten", error)
        state["outcome"]["best"] = {}
