"""Meta-training steps exactly as `metalearn train` makes them, one at a time; and the images that benchmarks use."""

from __future__ import annotations

import time

import torch

from metalearn.bench.harness import Bench, Config, wait
from metalearn.engine.build import build_algorithm, build_dataset, choose_device
from metalearn.engine.chunk import choose_task_chunk
from metalearn.engine.loop import make_optimizer, make_schedule, meta_gradient, outer_gradient
from metalearn.errors import UserError
from metalearn.tasks import TaskBatch, TaskShape


class Ours:
    """The outer loop of one configuration, stopped between steps.

    Args:
        batch: the tasks of every step; None: those of the configuration, made anew for each.
    """

    def __init__(self, config: Config, batch: TaskBatch | None = None) -> None:
        self.config = config
        self.device = choose_device(config)
        self.source = build_dataset(config).source("train", config["seed"], self.device)
        self.algorithm = build_algorithm(config, build_dataset(config)).to(self.device)
        self.optimizer = make_optimizer(self.algorithm, config["train"])
        self.schedule = make_schedule(self.optimizer, config["train"])
        self.data_seconds = 0.0  # making tasks, of all steps
        self.steps = 0
        started = time.perf_counter()
        self.task_chunk = choose_task_chunk(config, self.algorithm, self.tasks(0), meta_gradient)
        wait(self.device)
        self.choice_seconds = time.perf_counter() - started
        self.algorithm.train()
        self._gradient = outer_gradient(config["train"], self.device)

    def tasks(self, step: int) -> TaskBatch:
        shape, count = TaskShape.of(self.config["task"]["train"]), self.config["train"]["meta_batch_size"]
        return self.source.tasks(step * count, count, shape)

    def gradient(self, tasks: TaskBatch) -> None:
        """The mean meta-gradient of `tasks`, in the parameters' `.grad`."""
        self.optimizer.zero_grad(set_to_none=True)
        self._gradient(self.algorithm, tasks, self.task_chunk, self.config["precision"])

    def step(self) -> None:
        self.algorithm.outer_step = self.steps
        started = time.perf_counter()
        tasks = self.tasks(self.steps)
        self.data_seconds += time.perf_counter() - started
        self.gradient(tasks)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1


def images(bench: Bench) -> tuple[str, ...]:
    """The overrides that choose the dataset: the real images where they lie, else those that the program draws."""
    real = ("dataset=omniglot", "dataset.download=false")
    if bench.quick:
        return ("dataset=glyphs",)
    try:
        build_dataset(bench.config(*real))
    except UserError as error:
        bench.say(f"drawn characters instead of Omniglot: {error}")
        return ("dataset=glyphs",)
    return real


def parameters(algorithm: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in algorithm.parameters())
