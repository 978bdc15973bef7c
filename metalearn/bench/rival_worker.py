"""MAML steps of parallel-metalearn 0.5.6, made on request, in an environment where that package is what `import metalearn` finds.

`metalearn/bench/rival.py` runs this file by its path, in a process of its own, and asks by one line of JSON on standard input at a time; each
is answered by one line on standard output. So this file imports nothing of the project's own. parallel-metalearn is called as its page on
PyPI shows: `MAML_Model` around a torch network, `InnerSGD`, `CrossEntropy`, `LabelEncoder`, and tasks from `MetaTaskDataset` in a `DataLoader`.
Normalisation is its own `BatchNorm`, as in its networks: torch's would give its vmap backend wrong second derivatives (metalearn/bench/functorch.py).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Layers = list[list[Any]]


def network(layers: Layers, norm: Callable[..., nn.Module] | None = None) -> nn.Sequential:
    """Layers of torch's own. Normalisation is by the statistics of the examples at hand, which `torch.func.vmap` needs.

    Args:
        layers: each one's kind and sizes: ["linear", in, out], ["conv", in, out, stride, padding], ["norm1d", D], ["norm2d", channels],
            ["relu"], ["max_pool"] (2x2), ["mean"] (over an image) or ["flatten"].
        norm: makes the normalisation of so many features; None: torch's.
    """
    return nn.Sequential(*(_layer(norm, kind, *sizes) for kind, *sizes in layers))


def _layer(norm: Callable[..., nn.Module] | None, kind: str, *sizes: int) -> nn.Module:
    if kind == "conv":
        before, after, stride, padding = sizes
        return nn.Conv2d(before, after, 3, stride=stride, padding=padding)
    if kind == "mean":
        return nn.AdaptiveAvgPool2d(1)
    if kind == "max_pool":
        return nn.MaxPool2d(2)
    if kind in ("norm1d", "norm2d"):
        of_torch = nn.BatchNorm1d if kind == "norm1d" else nn.BatchNorm2d
        return (norm or of_torch)(sizes[0], track_running_stats=False)
    if kind == "linear":
        return nn.Linear(sizes[0], sizes[1])
    return nn.ReLU() if kind == "relu" else nn.Flatten()


class _Plain(nn.Module):
    """A network that ignores what parallel-metalearn tells its modules beside the input: which inner step it is, and whether it trains."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, **_: object) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _Timed(nn.Module):
    """Adds up the seconds in which `LabelEncoder` numbers the classes of each task anew: that, too, is making tasks."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.seconds = encoder, 0.0

    def forward(self, support: Tensor, query: Tensor) -> Any:
        started = time.perf_counter()
        encoded = self.encoder(support, query)
        self.seconds += time.perf_counter() - started
        return encoded


class Rival:
    """One MAML of parallel-metalearn, stopped between steps.

    Args:
        asked: "layers" (see `network`; the last one is the head), "start" (each parameter's numbers, in order), "inner_lr", "inner_steps", "lr",
            "backend" ("vmap" or "sequential"), "tasks" of a step and, where it makes its tasks itself, "images" (a file of uint8 [M, c, H, W]),
            "labels" (of each image), "turns" (of each class, which are classes of their own), "ways", "shots" and "queries".
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        def part(module: str) -> Any:
            return importlib.import_module(f"metalearn.{module}")

        layers = network(asked["layers"], part("nn_models.basic_layers.BatchNormalization").BatchNorm)
        self.parameters = [*layers[:-1].parameters(), *layers[-1].parameters()]
        if "double" in asked:
            layers.double()
        with torch.no_grad():
            for parameter, numbers in zip(self.parameters, asked["start"], strict=True):
                parameter.copy_(torch.tensor(numbers, dtype=parameter.dtype).view_as(parameter))
        model = part("model_wrappers").MAML_Model(backbone=_Plain(layers[:-1]), head=_Plain(layers[-1]))
        loss = part("loss")
        self.encoder: _Timed | None = None
        self.tasks: Any = None
        if "images" in asked:
            self.tasks, classes = _tasks(part("dataset"), asked)
            self.encoder = _Timed(loss.LabelEncoder(num_classes=classes, max_n_way=asked["ways"]))
        self.maml = part("algorithms").MAML(
            model=model,
            optimizer=torch.optim.Adam(self.parameters, lr=asked["lr"]),
            inner_optimizer=part("inner_optimizers").InnerSGD(
                initial_fast_weights=model.get_fast_weights(), inner_lr=asked["inner_lr"], learn_lr=False
            ),
            support_loss_fn=loss.CrossEntropy(metric_fn=loss.CategoricalAccuracy()),
            encoder=self.encoder,
            inner_steps=asked["inner_steps"],
            chunk_size=asked["tasks"],
            backend=asked["backend"],
            device=torch.device("cpu"),
        )
        self.data_seconds = 0.0

    def __next__(self) -> Any:
        started = time.perf_counter()
        made = next(self.tasks)
        self.data_seconds += time.perf_counter() - started
        return made

    def steps(self, count: int) -> dict[str, float]:
        """Makes so many outer steps; returns the seconds of making their tasks."""
        for _ in range(count):
            self.maml.step(self)
        encoding = 0.0 if self.encoder is None else self.encoder.seconds
        return {"data_seconds": self.data_seconds + encoding}

    def gradient(self, tasks: dict[str, Any]) -> list[list[float]]:
        """The mean meta-gradient of given tasks, "support" and "query" of "x" and "y", as the numbers of each parameter, in order."""
        sides = [(torch.tensor(tasks[side]["x"]), torch.tensor(tasks[side]["y"])) for side in ("support", "query")]
        (support_x, support_y), (query_x, query_y) = sides
        dtype = self.parameters[0].dtype
        batch = (support_x.to(dtype), {"labels": support_y}, query_x.to(dtype), {"labels": query_y})
        self.maml.step(iter([batch]))
        return [parameter.grad.flatten().tolist() for parameter in self.parameters if parameter.grad is not None]


def _tasks(dataset: Any, asked: dict[str, Any]) -> tuple[Any, int]:
    """An endless iterator over meta-batches of the package's own sampler, and the number of classes."""
    upright, labels, turns = np.load(asked["images"]), np.array(asked["labels"]), asked["turns"]
    classes = len(set(asked["labels"]))
    images = np.concatenate([np.rot90(upright, turn * 4 // turns, (-2, -1)) for turn in range(turns)])
    names = {label: str(label) for label in range(turns * classes)}
    sampler = dataset.FewShotSampler(
        images.astype(np.float32) / 255, np.concatenate([labels + turn * classes for turn in range(turns)]), names
    )
    of_tasks = dataset.MetaTaskDataset(
        sampler, asked["ways"], asked["shots"], asked["queries"], max_classes=turns * classes
    )
    return iter(torch.utils.data.DataLoader(of_tasks, batch_size=asked["tasks"])), turns * classes


def main() -> None:
    """Answers requests, {"ready": true}, {"make": ...}, {"steps": N} or {"gradient": ...}, until standard input ends."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # what the package prints is no answer
    made: dict[str, Rival] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["name"]
        if "ready" in request:
            answer: Any = {}
        elif "make" in request:
            torch.set_num_threads(request["threads"])
            made[name] = Rival(request["make"])
            answer = {}
        elif "steps" in request:
            answer = made[name].steps(request["steps"])
        else:
            answer = made[name].gradient(request["gradient"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
