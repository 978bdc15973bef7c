"""The line at the head of a run's log: what is trained on what, with which tasks."""

from __future__ import annotations

from typing import Any

from metalearn.engine.build import Parts


def describe(config: dict[str, Any], parts: Parts) -> str:
    """`maml with conv4 (111,936 parameters) on cpu; train: 5-way, 1 support + 15 query per class from ...`."""
    task, parameters = config["task"], sum(p.numel() for p in parts.algorithm.parameters())
    classes, train_task = len(parts.dataset.classes("train")), task["train"]
    kind, name = parts.dataset.kind, config["names"]["dataset"]
    origin = f"{classes} {kind.drawn} of {name}" if classes else name
    classes = classes if kind.classifies else 0

    together = config["train"]["meta_batch_size"]

    def ways(shape: dict[str, Any]) -> str:
        return f"{shape['ways']}-way, " if classes else ""

    training = (
        f"train: {ways(train_task)}{train_task['shots']} support + {train_task['queries']} query {'per class, ' if classes else ''}from "
        f"{origin}, {together} task{'' if together == 1 else 's'} a step"
        if config["train"]["steps"]
        else f"no outer steps, {origin}"
    )
    return (
        f"{config['names']['algorithm']} with {config['names']['backbone']} ({parameters:,} parameters) on {parts.device}; "
        f"{training}; test: {ways(task)}{task['shots']} + {task['queries']}"
    )
