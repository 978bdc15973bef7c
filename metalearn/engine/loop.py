"""The outer loop: batches of tasks in, better initial parameters out. It writes no file and prints nothing: whoever iterates it does."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TaskSource
from metalearn.engine.average import average_of
from metalearn.engine.chunk import choose_task_chunk
from metalearn.engine.embedded import embedded_once
from metalearn.engine.evaluate import evaluate
from metalearn.engine.gradient import affordable_meta_gradient, meta_gradient, outer_gradient
from metalearn.engine.interrupts import Interrupts
from metalearn.engine.optimizer import make_optimizer, make_schedule
from metalearn.engine.precision import PRECISIONS, choose_precision, for_measuring
from metalearn.engine.progress import Outcome, Reported, Score, Window
from metalearn.engine.ranks import Ranks
from metalearn.engine.settings import Config, Settings
from metalearn.errors import Diverged, Interrupted, UserError, one_line, shortened
from metalearn.tasks import TaskBatch

log = logging.getLogger("metalearn")


class OuterLoop:
    """Trains `algorithm` in place. Iterating it makes outer steps up to `train.steps` and hands out what each of them reports.

    Args:
        config: the run's configuration.
        algorithm: on the device of the tasks.
        train_tasks: what it is trained on.
        val_tasks: what it is validated on.
        outcome: where the steps are counted.
        ranks: this process among several that share the tasks; all of them train, the first validates.
        interrupts: what may end training after any outer step.
        before_validating: called with this loop before every validation, which may fail.
    """

    def __init__(
        self,
        config: Config,
        algorithm: Algorithm,
        train_tasks: TaskSource,
        val_tasks: TaskSource,
        *,
        outcome: Outcome | None = None,
        ranks: Ranks | None = None,
        interrupts: Interrupts | None = None,
        before_validating: Callable[[OuterLoop], None] = lambda loop: None,
    ) -> None:
        self.config, self.settings = config, Settings.of(config)
        self.algorithm = algorithm.train()
        self.outcome = outcome or Outcome()
        self.optimizer = make_optimizer(algorithm, self.settings.train)
        self.schedule = make_schedule(self.optimizer, self.settings.train)
        self._average = average_of(algorithm, self.settings.train.average)
        # Where the backbone is frozen, in part or whole, tasks are of features from here on, and the learner is the part that takes them.
        self._learner, self._train_tasks = embedded_once(self.algorithm, train_tasks, self.settings.features, True)
        self._val_learner, self._val_tasks = embedded_once(self.algorithm, val_tasks, self.settings.features, True)
        if self._val_learner is not self.algorithm:
            log.info("features: the backbone is frozen, each image passes it once")
        elif self._learner is not self.algorithm:
            log.info("features: each training image passes the layers that stay as they are once")
        self.device = train_tasks.device
        self._ranks, self._interrupts = ranks or Ranks(), interrupts or Interrupts()
        self._before_validating = before_validating
        self._gradient = outer_gradient(self.settings.train.cuda_graph, self.device)
        self._window = Window(self.outcome, self.settings.train.max_loss)

    def __iter__(self) -> Iterator[Reported]:
        """One outer step after the other, from where the outcome stands. Where there are none, the model is validated as it is, at step 0.

        Raises:
            Diverged: a loss is no longer a number, or larger than `train.max_loss`, or validation tasks have no score.
            Interrupted: by a signal, after an outer step; several processes stop after the same one.
        """
        if self.outcome.steps == 0:
            self.fit()
        self.choose_task_chunk()
        if self.settings.train.steps == 0 and not self.outcome.best:
            yield self._report(0)
        while not self.finished:
            step = self.outcome.reported + 1
            if self.outcome.steps < step:  # not so where a resumed run was interrupted in a validation
                self.step()
            if self._ranks.count == 1:
                self._interrupts.check()
            reported = self._report(step)
            yield reported
            # To stop after the same step, several processes exchange a message, hence only where they report.
            if reported.values and (
                received := int(self._ranks.all_reduce_max(self._interrupts.received, self.device))
            ):
                raise Interrupted(received)
        if self.outcome.steps < self.settings.train.steps:
            count = self.outcome.validations_without_gain
            log.info("stopped early at step %d: %d validations without a better one", self.outcome.steps, count)

    @property
    def finished(self) -> bool:
        """Whether no outer step is left."""
        settings = self.settings.train
        stopped_early = settings.early_stop is not None and self.outcome.validations_without_gain >= settings.early_stop
        return stopped_early or self.outcome.reported >= settings.steps

    def choose_task_chunk(self) -> None:
        """Settles how many tasks share a backward pass, and the precision, unless that is settled already."""
        if not self.settings.train.steps:
            return
        if not self.outcome.task_chunk:
            config = self.config | {"precision": for_measuring(self.settings.precision, self.device)}
            chosen = choose_task_chunk(config, self._learner, self.tasks(0), meta_gradient)
            self.outcome.task_chunk = int(self._ranks.broadcast([chosen], self.device)[0])
        if not self.outcome.precision:
            size = self.outcome.task_chunk
            precision = choose_precision(self.config, self._learner, self.tasks(0), size, meta_gradient)
            number = self._ranks.broadcast([PRECISIONS.index(precision)], self.device)[0]
            self.outcome.precision = PRECISIONS[int(number)]

    def tasks(self, step: int) -> TaskBatch:
        """This process's share of the tasks of outer step `step`, counted from 0."""
        meta_batch_size = self.settings.train.meta_batch_size
        share = self._ranks.share(meta_batch_size)
        return self._train_tasks.tasks(step * meta_batch_size + share.start, len(share), self.settings.train_task)

    def gradient(self, tasks: TaskBatch) -> dict[str, Tensor]:
        """The mean meta-gradient over all processes' tasks, in the parameters' `.grad`; returns the means of losses and scores."""
        sums, self.outcome.task_chunk = affordable_meta_gradient(
            self._gradient,
            self._learner,
            tasks,
            self.outcome.task_chunk,
            self.outcome.precision or for_measuring(self.settings.precision, self.device),
            self.settings.train.meta_batch_size,
        )
        parameters = self.algorithm.parameters()
        self._ranks.add([p.grad for p in parameters if p.grad is not None] + list(sums.values()))
        self._ranks.average([buffer for buffer in self.algorithm.buffers() if buffer.is_floating_point()])
        return sums

    def step(self) -> None:
        """Makes one outer step."""
        started = time.perf_counter()
        self.algorithm.outer_step = self._learner.outer_step = self.outcome.steps
        tasks = self.tasks(self.outcome.steps)
        made = time.perf_counter()
        sums = self.gradient(tasks)
        clip_norm = self.settings.train.clip_norm
        if clip_norm is not None:
            sums["grad_norm"] = torch.nn.utils.clip_grad_norm_(self.algorithm.parameters(), clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self._average.update()
        self.outcome.steps += 1
        self._window.add(self.outcome.steps, sums, time.perf_counter() - started, made - started)

    @torch.no_grad()
    def fit(self) -> None:
        """Has the algorithm take from the training images what it takes without outer steps. Every process does, from the same images."""
        if not self.algorithm.fits:
            return
        if self.outcome.steps == 0:  # later on the time is part of a validation's
            log.info("looking at every training image once")
        self.algorithm.eval()
        with self._let_through():
            self._learner.fit(self._train_tasks.every_example())
        self.algorithm.train()

    @torch.no_grad()
    def tune(self) -> None:
        """Has the algorithm choose by validation tasks what it takes from nothing else. Every process does, from the same tasks."""
        if not (count := self._val_learner.tuning_tasks):
            return
        self.algorithm.eval()
        self._val_learner.eval()
        with self._let_through():
            chosen = self._val_learner.tune(self._val_tasks.tasks(0, count, self.settings.task))
        log.info("chosen by %d validation tasks: %s", count, chosen)
        self.algorithm.train()
        self._val_learner.train()

    def validate(self) -> Score:
        """Scores the validation tasks: the first process does, and gives the others its numbers."""
        settings, kind = self.settings, self._val_tasks.kind
        numbers = [0.0] * 4
        with self._let_through():
            if self._ranks.first:
                scores = evaluate(
                    self._val_learner,
                    self._val_tasks,
                    settings.task,
                    settings.train.validation_tasks,
                    settings.eval.task_chunk,
                    stepwise=False,
                    features=settings.features,
                )
                numbers = [scores.mean, scores.ci95, float(scores.loss.mean()), float(scores.not_finite)]
            value, ci95, loss, not_finite = self._ranks.broadcast(numbers, self.device)
        return Score(value, ci95, loss, int(not_finite), kind)

    def check(self) -> None:
        """Raises Diverged where a loss since the last report is no longer a number below the limit; waits for the device."""
        self._window.check()

    def state_dict(self) -> dict[str, Any]:
        """Everything that training needs to be resumed. Raises Diverged as `check` does: nothing is saved before the losses were looked at."""
        self.check()
        return {
            "step": self.outcome.steps,
            **self._average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "outcome": asdict(self.outcome),
            "window": self._window.state(),
            "generators": _generators(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from what `state_dict` returned; UserError where it is something else."""
        try:
            self._average.load_state_dict(state)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.outcome.restore(state["outcome"])
            self._window.restore(state["window"], self.device)
            _set_generators(state["generators"], self.device)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = shortened(one_line(error), 300)
            raise UserError(f"the checkpoint cannot be resumed: {type(error).__name__}: {what}") from error
        self.algorithm.outer_step = self._learner.outer_step = max(self.outcome.steps - 1, 0)

    def _let_through(self) -> contextlib.AbstractContextManager[object]:
        """What takes long ends at once when a signal comes; not with several processes, where the others would wait for the one that ended."""
        return self._interrupts.let_through() if self._ranks.count == 1 else contextlib.nullcontext()

    def _report(self, step: int) -> Reported:
        settings = self.settings.train
        if step == 0:
            score, is_best = self._validated(0)
            return Reported(0, score.values, score, is_best, is_last=True)
        validation_due = step % settings.val_every == 0 or step == settings.steps
        if not (validation_due or step % settings.log_every == 0):
            self.outcome.reported = step
            return Reported(step, {}, None, is_best=False, is_last=False)
        # Here, and where something is saved, the host waits for the device.
        values = {f"train/{tag}": value for tag, value in self._window.means().items()}
        values["train/lr"] = float(self.schedule.get_last_lr()[0])
        reached, is_best = self._validated(step) if validation_due else (None, False)
        values |= self._window.close(settings.meta_batch_size) | (reached.values if reached else {})
        self.outcome.reported = step
        return Reported(step, values, reached, is_best, self.finished)

    def _validated(self, step: int) -> tuple[Score, bool]:
        """The score, and whether it is the best so far."""
        self._before_validating(self)
        started = time.perf_counter()
        with self._average.in_place():
            if step:
                self.fit()
            self.tune()
            score = self.validate()
        self.outcome.validation_seconds += time.perf_counter() - started
        if score.not_finite:
            raise Diverged(
                step,
                f"{score.not_finite} of {self.settings.train.validation_tasks} validation tasks had outputs that are not finite",
            )
        kind, best = score.kind, self.outcome.best
        self.outcome.validations_without_gain += 1
        if not kind.better(score.value, best.get(kind.score, kind.worst)):
            return score, False
        self.outcome.best = {kind.score: score.value, "ci95": score.ci95, "step": step}
        self.outcome.validations_without_gain = 0
        return score, True


def _generators(device: torch.device) -> dict[str, Tensor]:
    """Nothing here draws from torch's own generators while it trains, but a user's network may, with torch's dropout, say."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    for kind, state in states.items():
        if kind == "cpu":
            torch.set_rng_state(state)
        elif kind == device.type:
            torch.cuda.set_rng_state(state, device)
