"""parallel-metalearn 0.5.6 beside ours. Its package, too, is called `metalearn`, so it has an environment and a process of its own.

`scripts/rival_environment.py` makes the environment; `metalearn/bench/rival_worker.py` is the program there. The two processes take turns: while
one computes, the other waits for a line.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from metalearn.bench import rival_worker
from metalearn.bench.harness import Config
from metalearn.bench.rival_worker import Layers
from metalearn.data.base import Dataset
from metalearn.data.images import ImageClasses
from metalearn.errors import UserError
from metalearn.places import cache_dir
from metalearn.tasks import TaskBatch

NAME, VERSION = "parallel-metalearn", "0.5.6"
HOW_TO_MAKE = f"{NAME} {VERSION} is left out: python scripts/rival_environment.py makes its environment"
BACKENDS = ("vmap", "sequential")  # its two ways through the tasks of a step: all at once, one after another
# As keep_freed_memory has it in ours: the C library reads these when a process starts.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


def environment_dir() -> Path:
    """Where its environment is, or would be."""
    return (cache_dir() / f"{NAME}-{VERSION}").resolve()


def python() -> Path | None:
    """The interpreter of its environment; None where there is none."""
    found = environment_dir() / "bin" / "python"
    return found if found.exists() else None


class Worker:
    """The process that makes its steps. Several MAMLs live in it, by name.

    Raises:
        UserError: it ended; it has said why on stderr.
    """

    def __init__(self, interpreter: Path) -> None:
        self._process = subprocess.Popen(
            [str(interpreter), "-I", rival_worker.__file__],  # isolated: no PYTHONPATH that would lead to our package
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | _ALLOCATOR,
        )

    def ask(self, name: str, **request: Any) -> Any:
        """The answer to a request about the MAML of this name."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"name": name, **request}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(f"the process of {NAME} ended with code {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Worker:
        """Waits until it has started: importing torch keeps a core busy for seconds, and what is timed meanwhile would be wrong."""
        try:
            self.ask("", ready=True)
        except UserError:
            self._process.communicate()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Lets the process end, as it does where its standard input ends."""
        self._process.communicate()


class Rival:
    """One MAML in a worker's process, with the `step` and `data_seconds` of a side of `bench steps`.

    Args:
        start: the initial parameters, in the order of the layers.
        images: a file that `write_images` wrote, for the tasks of `step`; None: only given tasks.
    """

    def __init__(
        self,
        worker: Worker,
        name: str,
        config: Config,
        layers: Layers,
        start: list[torch.Tensor],
        images: dict[str, Any] | None,
        backend: str,
    ) -> None:
        self._worker, self._name = worker, name
        self.data_seconds = 0.0  # making tasks, of all steps
        settings, task = config["algorithm"], config["task"]["train"]
        make = {
            "layers": layers,
            "start": [parameter.flatten().tolist() for parameter in start],
            "inner_lr": settings["inner_lr"],
            "inner_steps": settings["inner_steps"],
            "lr": config["train"]["lr"],
            "tasks": config["train"]["meta_batch_size"],
            "backend": backend,
            **{key: task[key] for key in ("ways", "shots", "queries")},
            **(images or {}),
        }
        if start[0].dtype == torch.float64:
            make["double"] = True
        worker.ask(name, make=make, threads=torch.get_num_threads())

    def step(self) -> None:
        self.data_seconds = self._worker.ask(self._name, steps=1)["data_seconds"]

    def gradient(self, tasks: TaskBatch) -> list[torch.Tensor]:
        """The mean meta-gradient of these tasks, flat, in the order of `start`."""
        given = {
            side: {"x": examples.x.tolist(), "y": examples.y.tolist()}
            for side, examples in (("support", tasks.support), ("query", tasks.query))
        }
        answer = self._worker.ask(self._name, gradient=given)
        return [torch.tensor(numbers, dtype=tasks.support.x.dtype) for numbers in answer]


def write_images(dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Writes the training images into a file; returns what the worker needs to know of them."""
    assert isinstance(dataset, ImageClasses)
    upright = dataset.images.select(dataset.numbers("train"))
    file = folder / "images.npy"
    np.save(file, upright.images)
    labels = np.repeat(np.arange(len(upright.counts)), upright.counts).tolist()
    return {"images": str(file), "labels": labels, "turns": dataset.rotations["train"]}
