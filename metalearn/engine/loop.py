"""The outer loop: batches of tasks in, better initial parameters out."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from metalearn.algorithms.base import Algorithm, keep_buffers
from metalearn.config.limits import minutes
from metalearn.data.base import TaskSource
from metalearn.engine.chunk import choose_task_chunk
from metalearn.engine.cuda_graph import Gradient, GraphedGradient, cuda_record
from metalearn.engine.evaluate import evaluate
from metalearn.engine.interrupts import Interrupts
from metalearn.engine.memory import is_out_of_memory
from metalearn.engine.ranks import Ranks
from metalearn.errors import Diverged, Interrupted, Pruned, UserError, one_line
from metalearn.runs import checkpoint
from metalearn.tasks import TaskBatch, TaskShape

log = logging.getLogger("metalearn")

Report = Callable[[int, dict[str, float]], None]  # (outer step, tag -> value)
Hopeless = Callable[[int, float], bool]  # (outer step, validation accuracy) -> whether to stop here


@dataclass
class Outcome:
    """What training came to; filled as it goes, so that a failed run can still say how far it got, and saved in every checkpoint."""

    steps: int = 0  # outer steps done
    reported: int = 0  # of these, validated and logged too, where that was due
    seconds: float = 0.0  # without evaluation
    data_seconds: float = 0.0  # of these, making tasks
    task_chunk: int = 0
    best: dict[str, float] = field(default_factory=dict)  # accuracy, ci95, step of the best validation
    validations_without_gain: int = 0


def meta_gradient(
    algorithm: Algorithm, tasks: TaskBatch, task_chunk: int, precision: str, of: int | None = None
) -> dict[str, Tensor]:
    """Adds the gradient of the mean meta-loss to the parameters' `.grad`, one backward pass per chunk; returns means, still on the device.

    Args:
        of: how many tasks the means are over, where `tasks` is a part of them; then what comes of all parts has to be added.
    """
    of = of or tasks.tasks
    sums: dict[str, Tensor] = {}
    for chunk in tasks.chunks(task_chunk):
        with torch.autocast(chunk.classes.device.type, torch.bfloat16, enabled=precision == "bf16"):
            outcome = algorithm.meta_loss(chunk)
        (outcome.loss.sum() / of).backward()  # type: ignore[no-untyped-call]
        for tag, values in {"loss": outcome.loss.detach(), **outcome.metrics}.items():
            sums[tag] = sums.get(tag, 0) + values.sum() / of
    return sums


def affordable_meta_gradient(
    gradient: Gradient, algorithm: Algorithm, tasks: TaskBatch, task_chunk: int, precision: str, of: int
) -> tuple[dict[str, Tensor], int]:
    """`gradient` into empty `.grad`s, in chunks of `task_chunk` or, where the memory runs out, of half as many, and so on; and how many it was.

    Raises:
        RuntimeError: not even one task at a time fits.
    """
    put_back = keep_buffers(algorithm)
    while True:
        algorithm.zero_grad(set_to_none=True)
        try:
            return gradient(algorithm, tasks, task_chunk, precision, of), task_chunk
        except (RuntimeError, MemoryError) as error:
            if task_chunk == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler, which would keep what the failed attempt had allocated.
        put_back()  # a part of the chunks may have moved them
        log.warning("out of memory with %d tasks at a time: going on with %d", task_chunk, task_chunk // 2)
        task_chunk //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def outer_gradient(settings: dict[str, Any], device: torch.device) -> Gradient:
    """`meta_gradient`, or on a GPU, with `train.cuda_graph`, what replays it."""
    if device.type == "cuda" and settings.get("cuda_graph", True):  # a run may be older than the setting
        return GraphedGradient(meta_gradient, cuda_record)
    return meta_gradient


def make_optimizer(algorithm: Algorithm, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """`train.optimizer`, the outer one."""
    if settings["optimizer"] == "sgd":
        return torch.optim.SGD(algorithm.parameters(), lr=settings["lr"])
    return torch.optim.Adam(algorithm.parameters(), lr=settings["lr"])


def check_schedule(settings: dict[str, Any]) -> None:
    """Raises UserError where `train.schedule` would raise the rate."""
    if settings["schedule"] in ("cosine", "linear") and settings["lr_final"] > settings["lr"]:
        raise UserError(
            f"train.lr_final={settings['lr_final']} is more than train.lr={settings['lr']}: "
            f"train.schedule={settings['schedule']} goes from train.lr down to train.lr_final"
        )


def make_schedule(optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> LRScheduler:
    """`train.schedule`, stepped once per outer step."""
    schedulers = torch.optim.lr_scheduler
    if settings["schedule"] == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, T_max=settings["steps"], eta_min=settings["lr_final"])
    if settings["schedule"] == "linear":
        end_factor = settings["lr_final"] / settings["lr"]
        return schedulers.LinearLR(optimizer, start_factor=1.0, end_factor=end_factor, total_iters=settings["steps"])
    if settings["schedule"] == "step":
        return schedulers.StepLR(optimizer, settings["schedule_every"], settings["schedule_gamma"])
    return schedulers.ConstantLR(optimizer, factor=1.0)


def train(
    config: dict[str, Any],
    algorithm: Algorithm,
    train_tasks: TaskSource,
    val_tasks: TaskSource,
    run_dir: Path,
    outcome: Outcome,
    report: Report,
    *,
    state: dict[str, Any] | None = None,
    before_saving: Callable[[], None] = lambda: None,
    interrupts: Interrupts | None = None,
    ranks: Ranks | None = None,
    hopeless: Hopeless | None = None,
) -> None:
    """Trains `algorithm` in place up to `train.steps` outer steps, writing last.pt and best.pt.

    Args:
        state: what last.pt held, to go on from there.
        before_saving: puts what was reported on the disk, so that last.pt is never ahead of it.
        interrupts: what may end training after any outer step.
        ranks: this process among several that share the tasks; all of them train, the first reports, validates and saves.
        hopeless: asked after every validation, before anything is saved.

    Raises:
        Diverged: the loss is no longer a number, or larger than `train.max_loss`; last.pt holds the state before that.
        Interrupted: by a signal; last.pt holds the state after the last outer step.
        Pruned: `hopeless` said so before the last outer step; last.pt holds the state there.
    """
    settings, shape = config["train"], TaskShape.of(config["task"]["train"])
    meta_batch_size = settings["meta_batch_size"]
    interrupts, ranks = interrupts or Interrupts(), ranks or Ranks()
    device, share = train_tasks.device, ranks.share(meta_batch_size)
    optimizer = make_optimizer(algorithm, settings)
    schedule = make_schedule(optimizer, settings)
    gradient = outer_gradient(settings, device)
    window = _Window(outcome, settings["max_loss"])
    if state is not None:
        _restore(state, algorithm, optimizer, schedule, outcome, window)

    def batch(step: int) -> TaskBatch:
        first = step * meta_batch_size + share.start
        return train_tasks.tasks(first, len(share), shape)

    def update(step: int) -> None:
        started = time.perf_counter()
        algorithm.outer_step = step - 1
        tasks = batch(step - 1)
        made = time.perf_counter()
        sums, outcome.task_chunk = affordable_meta_gradient(
            gradient, algorithm, tasks, outcome.task_chunk, config["precision"], meta_batch_size
        )
        ranks.add([p.grad for p in algorithm.parameters() if p.grad is not None] + list(sums.values()))
        ranks.average([buffer for buffer in algorithm.buffers() if buffer.is_floating_point()])
        if settings["clip_norm"] is not None:
            sums["grad_norm"] = torch.nn.utils.clip_grad_norm_(algorithm.parameters(), settings["clip_norm"])
        optimizer.step()
        schedule.step()
        outcome.steps = step
        window.add(step, sums, time.perf_counter() - started, made - started)

    def current() -> dict[str, Any]:
        window.check()  # nothing is saved before the losses were looked at
        return {
            "step": outcome.steps,
            "model": algorithm.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "outcome": asdict(outcome),
            "window": window.state(),
            "generators": _generators(train_tasks.device),
            "config": config,
            "train_classes": list(train_tasks.class_names),
        }

    def save_last() -> None:
        checkpoint_state = current()
        if not ranks.first:
            return
        before_saving()
        checkpoint.save_last(run_dir, checkpoint_state)

    def scores() -> list[float]:
        """Accuracy, half the width of its interval, loss."""
        if not ranks.first:
            return [0.0, 0.0, 0.0]
        of_tasks = evaluate(
            algorithm, val_tasks, config["task"], settings["val_tasks"], config["eval"]["task_chunk"], stepwise=False
        )
        return [of_tasks.mean, of_tasks.ci95, float(of_tasks.loss.mean())]

    def validate(step: int) -> dict[str, float]:
        # Of several processes, the others would wait for the one that was interrupted.
        with interrupts.let_through() if ranks.count == 1 else contextlib.nullcontext():
            accuracy, ci95, loss = ranks.told_by_first(scores(), device)
        outcome.validations_without_gain += 1
        if accuracy > outcome.best.get("accuracy", -1.0):
            outcome.best = {"accuracy": accuracy, "ci95": ci95, "step": step}
            outcome.validations_without_gain = 0
            if ranks.first:
                checkpoint.save(run_dir / "best.pt", current())
        return {"val/accuracy": accuracy, "val/ci95": ci95, "val/loss": loss}

    if not outcome.task_chunk:
        chosen = choose_task_chunk(config, algorithm, batch(0), meta_gradient)
        outcome.task_chunk = int(ranks.told_by_first([chosen], device)[0])
    algorithm.train()
    is_due = saving_due(settings["checkpoint_every"])
    try:
        with interrupts.held():
            while outcome.reported < settings["steps"] and not _stopped_early(outcome, settings):
                step = outcome.reported + 1
                if outcome.steps < step:  # not so where a run goes on that was interrupted in a validation
                    update(step)
                if ranks.count == 1:
                    interrupts.check()
                is_last = step == settings["steps"]
                received = 0
                validation_due = step % settings["val_every"] == 0 or is_last
                validation: dict[str, float] = {}
                if validation_due or step % settings["log_every"] == 0:
                    # Here, and where something is saved, the host waits for the device.
                    values = {f"train/{tag}": value for tag, value in window.means().items()}
                    values["train/lr"] = float(schedule.get_last_lr()[0])
                    if validation_due:
                        validation = validate(step)
                    report(step, values | window.close(meta_batch_size) | validation)
                    # Several processes have to stop after the same step; asking the others takes a message, hence here only.
                    received = int(ranks.largest(interrupts.received, device))
                outcome.reported = step
                if received:
                    raise Interrupted(received)
                # Asked first: what was saved has been told, so that a run that goes on from there leaves nothing out.
                pruned = hopeless is not None and validation_due and hopeless(step, validation["val/accuracy"])
                if is_due(step) or is_last or pruned or _stopped_early(outcome, settings):
                    save_last()
                if pruned and not is_last:
                    raise Pruned(step)
    except Interrupted:
        with interrupts.held():
            save_last()
        raise
    if outcome.steps < settings["steps"]:
        count = outcome.validations_without_gain
        log.info("stopped early at step %d: %d validations without a better one", outcome.steps, count)


def _restore(
    state: dict[str, Any],
    algorithm: Algorithm,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    outcome: Outcome,
    window: _Window,
) -> None:
    """Puts everything in the state that a checkpoint holds; UserError where it holds something else."""
    device = next(algorithm.parameters()).device
    try:
        algorithm.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        for entry in fields(Outcome):
            setattr(outcome, entry.name, state["outcome"][entry.name])
        window.restore(state["window"], device)
        for kind, generator_state in state["generators"].items():
            if kind == "cpu":
                torch.set_rng_state(generator_state)
            elif kind == device.type:
                torch.cuda.set_rng_state(generator_state, device)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        told = one_line(error)[:300]
        raise UserError(f"the checkpoint cannot be gone on from: {type(error).__name__}: {told}") from error
    algorithm.outer_step = max(outcome.steps - 1, 0)


def _generators(device: torch.device) -> dict[str, Tensor]:
    """Nothing here draws from torch's own generators while it trains, but a user's network may, with torch's dropout, say."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def saving_due(every: int | str) -> Callable[[int], bool]:
    """`train.checkpoint_every`: whether last.pt is to be written after this outer step."""
    if isinstance(every, int):
        return lambda step: step % every == 0
    seconds, since = 60 * minutes(every), time.monotonic()

    def due(step: int) -> bool:
        nonlocal since
        if time.monotonic() - since < seconds:
            return False
        since = time.monotonic()
        return True

    return due


def _stopped_early(outcome: Outcome, settings: dict[str, Any]) -> bool:
    return settings["early_stop"] is not None and outcome.validations_without_gain >= settings["early_stop"]


class _Window:
    """The steps since the last report, kept on the device until asked for."""

    def __init__(self, outcome: Outcome, max_loss: float) -> None:
        self._outcome, self._max_loss = outcome, max_loss
        self._steps: list[tuple[int, dict[str, Tensor]]] = []
        self._seconds = 0.0

    def add(self, step: int, sums: dict[str, Tensor], seconds: float, data_seconds: float) -> None:
        self._steps.append((step, sums))
        self._pass(seconds)
        self._outcome.data_seconds += data_seconds

    def check(self) -> None:
        """Raises Diverged at the first step whose loss is not a number below the limit."""
        if not self._steps:
            return
        waited = time.perf_counter()
        losses = torch.stack([sums["loss"] for _, sums in self._steps]).tolist()
        self._pass(time.perf_counter() - waited)
        for (step, _), loss in zip(self._steps, losses, strict=True):
            if not math.isfinite(loss) or loss > self._max_loss:
                raise Diverged(step, loss)

    def means(self) -> dict[str, float]:
        self.check()
        return {tag: float(values.mean()) for tag, values in self._stacked().items()}

    def close(self, tasks_per_step: int) -> dict[str, float]:
        """The times of this window; the next one begins."""
        tasks_per_second = len(self._steps) * tasks_per_step / max(self._seconds, 1e-9)
        self._steps, self._seconds = [], 0.0
        return {"time/tasks_per_second": tasks_per_second, "time/seconds": self._outcome.seconds}

    def state(self) -> dict[str, Any]:
        """A checkpoint may fall between two reports."""
        return {"steps": [step for step, _ in self._steps], "sums": self._stacked(), "seconds": self._seconds}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        sums = {tag: values.to(device).unbind() for tag, values in state["sums"].items()}
        self._steps = [(step, {tag: sums[tag][i] for tag in sums}) for i, step in enumerate(state["steps"])]
        self._seconds = state["seconds"]

    def _stacked(self) -> dict[str, Tensor]:
        """tag -> [steps]"""
        tags = self._steps[0][1] if self._steps else ()
        return {tag: torch.stack([sums[tag] for _, sums in self._steps]) for tag in tags}

    def _pass(self, seconds: float) -> None:
        self._seconds += seconds
        self._outcome.seconds += seconds
