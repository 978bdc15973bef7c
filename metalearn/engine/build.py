"""From a plain configuration to the objects it names: device, dataset, algorithm."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import torch

from metalearn.algorithms.base import Algorithm
from metalearn.backbones import Backbone
from metalearn.config.build import build
from metalearn.data.base import Dataset, TaskSource
from metalearn.engine.settings import Settings
from metalearn.errors import UserError
from metalearn.tasks import TaskShape

Config = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """The objects that a configuration names."""

    settings: Settings
    device: torch.device
    dataset: Dataset
    algorithm: Algorithm  # on the device

    def source(self, split: str) -> TaskSource:
        """The tasks of a split: those of training depend on `seed`, the others on `eval.seed`."""
        settings = self.settings
        if split == "train":
            return self.dataset.source(split, settings.seed, self.device, settings.train.augment)
        return self.dataset.source(split, settings.eval.seed, self.device)

    def be_transductive(self) -> None:
        """Makes evaluation what `eval.transductive` says; UserError where this algorithm cannot."""
        if self.settings.eval.transductive is not None:
            self.algorithm.set_transductive(self.settings.eval.transductive)


def assemble(config: Config) -> Parts:
    """Builds what the configuration names; checks the shape of no task (`check_tasks` does)."""
    device, dataset = choose_device(config), build_dataset(config)
    return Parts(Settings.of(config), device, dataset, build_algorithm(config, dataset).to(device))


def choose_device(config: Config) -> torch.device:
    """Raises UserError when a GPU is asked for and there is none."""
    asked = config["device"]
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch sees no CUDA device here (allowed: auto, cpu)")
    return torch.device("cuda" if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()) else "cpu")


def build_dataset(config: Config) -> Dataset:
    """The dataset; asked for again with the same settings, the same object."""
    return _dataset(json.dumps(config["dataset"], sort_keys=True))


@functools.lru_cache(maxsize=2)
def _dataset(node: str) -> Dataset:
    dataset = build(json.loads(node), "dataset", Dataset, "metalearn.data")
    assert isinstance(dataset, Dataset)
    return dataset


def build_algorithm(config: Config, dataset: Dataset) -> Algorithm:
    """The algorithm around its backbone, on the CPU, with initial parameters that depend on `seed` alone.

    Raises:
        UserError: neither has a parameter.
    """
    # torch's initialisers know only the global generator: seed a copy of it and leave the original as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        backbone = build(
            config["backbone"], "backbone", Backbone, "metalearn.backbones", image_shape=dataset.input_shape
        )
        algorithm = build(
            config["algorithm"],
            "algorithm",
            Algorithm,
            "metalearn.algorithms",
            optional={
                "backbone": backbone,
                "ways": config["task"]["train"]["ways"],
                "train_classes": len(dataset.classes("train")),
            },
        )
    assert isinstance(algorithm, Algorithm)
    if not list(algorithm.parameters()):
        names = config["names"]
        raise UserError(
            f"backbone={names['backbone']} has no parameters and algorithm={names['algorithm']} none of its own: nothing to learn"
        )
    return algorithm


def check_tasks(dataset: Dataset, task: Config, *splits: str) -> None:
    """Raises UserError where one of `splits` cannot serve its tasks; training tasks may have a shape of their own."""
    for split in splits:
        dataset.check(split, TaskShape.of(task["train"] if split == "train" else task))
