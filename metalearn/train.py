"""The outer loop: batches of tasks in, better initial parameters out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from metalearn import checkpoint
from metalearn.algorithms.base import Algorithm
from metalearn.data.source import TaskSource
from metalearn.errors import Diverged, UserError
from metalearn.evaluate import evaluate
from metalearn.task_chunk import choose_task_chunk
from metalearn.tasks import TaskBatch

log = logging.getLogger("metalearn")

Report = Callable[[int, dict[str, float]], None]  # (outer step, tag -> value)


@dataclass
class Outcome:
    """What training came to; filled as it goes, so that a failed run can still say how far it got."""

    steps: int = 0  # outer steps done
    seconds: float = 0.0  # without evaluation
    data_seconds: float = 0.0  # of these, making tasks
    task_chunk: int = 0
    best: dict[str, float] = field(default_factory=dict)  # accuracy, ci95, step of the best validation


def meta_gradient(algorithm: Algorithm, tasks: TaskBatch, task_chunk: int, precision: str) -> dict[str, Tensor]:
    """Adds the gradient of the mean meta-loss to the parameters' `.grad`, one backward pass per chunk; returns means, still on the device."""
    sums: dict[str, Tensor] = {}
    for chunk in tasks.chunks(task_chunk):
        with torch.autocast(chunk.classes.device.type, torch.bfloat16, enabled=precision == "bf16"):
            outcome = algorithm.meta_loss(chunk)
        (outcome.loss.sum() / tasks.tasks).backward()  # type: ignore[no-untyped-call]
        for tag, values in {"loss": outcome.loss.detach(), **outcome.metrics}.items():
            sums[tag] = sums.get(tag, 0) + values.sum() / tasks.tasks
    return sums


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
) -> None:
    """Trains `algorithm` in place for `train.steps` outer steps, writing last.pt and best.pt.

    Raises:
        Diverged: the loss is no longer a number, or larger than `train.max_loss`; last.pt holds the state before that.
    """
    settings, shape = config["train"], config["task"]["train"]
    meta_batch_size = settings["meta_batch_size"]
    optimizer = make_optimizer(algorithm, settings)
    schedule = make_schedule(optimizer, settings)

    def batch(step: int) -> TaskBatch:
        return train_tasks.tasks(
            step * meta_batch_size, meta_batch_size, shape["ways"], shape["shots"], shape["queries"]
        )

    def save(name: str) -> None:
        state = {
            "step": outcome.steps,
            "model": algorithm.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "best": outcome.best,
            "config": config,
            "train_classes": list(train_tasks.class_names),
        }
        checkpoint.save(run_dir / name, state)

    outcome.task_chunk = choose_task_chunk(config, algorithm, batch(0), meta_gradient)
    algorithm.train()
    window = _Window(meta_batch_size, settings["max_loss"])
    validations_without_gain = 0
    for step in range(1, settings["steps"] + 1):
        started = time.perf_counter()
        algorithm.outer_step = step - 1
        tasks = batch(step - 1)
        made = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        sums = meta_gradient(algorithm, tasks, outcome.task_chunk, config["precision"])
        if settings["clip_norm"] is not None:
            sums["grad_norm"] = torch.nn.utils.clip_grad_norm_(algorithm.parameters(), settings["clip_norm"])
        optimizer.step()
        schedule.step()
        window.add(step, sums, time.perf_counter() - started, made - started)

        is_last = step == settings["steps"]
        validate = step % settings["val_every"] == 0 or is_last
        keep = step % settings["checkpoint_every"] == 0 or is_last
        if not (validate or keep or step % settings["log_every"] == 0):
            continue
        # Here, and only here, the host waits for the device; nothing is saved before the losses since last time were looked at.
        values: dict[str, float] = {f"train/{tag}": value for tag, value in window.means().items()}
        values |= {"train/lr": float(schedule.get_last_lr()[0]), **window.times()}
        outcome.steps, outcome.seconds, outcome.data_seconds = step, window.seconds, window.data_seconds
        if validate:
            scores = evaluate(
                algorithm,
                val_tasks,
                config["task"],
                settings["val_tasks"],
                config["eval"]["task_chunk"],
                stepwise=False,
            )
            values |= {"val/accuracy": scores.mean, "val/ci95": scores.ci95, "val/loss": float(scores.loss.mean())}
            validations_without_gain += 1
            if scores.mean > outcome.best.get("accuracy", -1.0):
                outcome.best = {"accuracy": scores.mean, "ci95": scores.ci95, "step": step}
                validations_without_gain = 0
                save("best.pt")
        if keep:
            save("last.pt")
        report(step, values)
        if validate and validations_without_gain == settings["early_stop"]:
            log.info("stopping early at step %d: %d validations without a better one", step, validations_without_gain)
            save("last.pt")
            return


class _Window:
    """The steps since the last report, kept on the device until asked for."""

    def __init__(self, tasks_per_step: int, max_loss: float) -> None:
        self._tasks_per_step, self._max_loss = tasks_per_step, max_loss
        self._steps: list[tuple[int, dict[str, Tensor]]] = []
        self._window_seconds = 0.0
        self.seconds = 0.0
        self.data_seconds = 0.0

    def add(self, step: int, sums: dict[str, Tensor], seconds: float, data_seconds: float) -> None:
        self._steps.append((step, sums))
        self._window_seconds += seconds
        self.data_seconds += data_seconds

    def means(self) -> dict[str, float]:
        """Raises Diverged at the first step whose loss is not a number below the limit."""
        waited = time.perf_counter()
        losses = torch.stack([sums["loss"] for _, sums in self._steps]).tolist()
        self._window_seconds += time.perf_counter() - waited
        for (step, _), loss in zip(self._steps, losses, strict=True):
            if not math.isfinite(loss) or loss > self._max_loss:
                raise Diverged(step, loss)
        tags = self._steps[0][1]
        return {tag: float(torch.stack([sums[tag] for _, sums in self._steps]).mean()) for tag in tags}

    def times(self) -> dict[str, float]:
        """Also closes the window."""
        tasks_per_second = len(self._steps) * self._tasks_per_step / max(self._window_seconds, 1e-9)
        self.seconds += self._window_seconds
        self._steps, self._window_seconds = [], 0.0
        return {"time/tasks_per_second": tasks_per_second, "time/seconds": self.seconds}
