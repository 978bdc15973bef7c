"""Meta-training steps exactly as `metalearn train` makes them, one at a time; and the images that benchmarks use."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from metalearn.algorithms.base import Algorithm
from metalearn.bench.harness import Bench, Config, wait
from metalearn.engine.build import assemble, build_dataset
from metalearn.engine.loop import OuterLoop
from metalearn.errors import UserError


class Ours:
    """The outer loop of one configuration, stopped between steps.

    Args:
        change: what is done to the algorithm before its optimizer is made.
    """

    def __init__(self, config: Config, change: Callable[[Algorithm], None] | None = None) -> None:
        parts = assemble(config)
        if change is not None:
            change(parts.algorithm)
        self.config, self.device, self.algorithm = config, parts.device, parts.algorithm
        self.loop = OuterLoop(config, parts.algorithm, parts.source("train"), parts.source("val"))
        self.optimizer = self.loop.optimizer
        self.tasks, self.step = self.loop.tasks, self.loop.step
        started = time.perf_counter()
        self.loop.choose_task_chunk()
        wait(self.device)
        self.choice_seconds = time.perf_counter() - started

    @property
    def task_chunk(self) -> int:
        return self.loop.outcome.task_chunk

    @property
    def data_seconds(self) -> float:
        """Making tasks, of all steps."""
        return self.loop.outcome.data_seconds


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
