"""From a plain configuration to the objects it names: device, dataset, algorithm."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import torch

from metalearn.algorithms.base import Algorithm
from metalearn.backbones import Backbone
from metalearn.backbones.base import PretrainedOn
from metalearn.config.build import build, named
from metalearn.data.base import Dataset, TaskSource, TrainedOn
from metalearn.engine.able import able, learners, taken
from metalearn.engine.class_encoder import class_encoder_of, refuse_untrained, zero_shot_key
from metalearn.engine.device import choose_device
from metalearn.engine.embedded import backbone_of
from metalearn.engine.placement import Placement, placed
from metalearn.engine.settings import Settings
from metalearn.errors import UserError
from metalearn.tasks import VARYING, TaskShape, VaryingPoints, VaryingShape, shape_of

Config = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """The objects that a configuration names."""

    settings: Settings
    device: torch.device
    dataset: Dataset
    algorithm: Algorithm  # on the device
    placement: Placement | None = None  # of the data set's images; None: it has none

    @property
    def pretrained_on(self) -> PretrainedOn | None:
        """The data that the backbone's weights come from; None: from this run alone."""
        backbone = backbone_of(self.algorithm)
        return None if backbone is None else backbone.pretrained_on

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


def assemble(config: Config, trained_on: TrainedOn | None = None) -> Parts:
    """Builds what the configuration names; checks the shape of no task (`check_tasks` does).

    Args:
        trained_on: of the model that is evaluated: the data set is brought to it. None: the model is trained on the data set.

    Raises:
        UserError: a part cannot be built, or the data set cannot be brought to `trained_on`.
    """
    settings, device = Settings.of(config), choose_device(config)
    dataset, placement = placed(build_dataset(config), settings.images, device)
    if trained_on is not None:
        dataset = dataset.brought_to(trained_on)
    algorithm = build_algorithm(config, dataset, trained_on).to(device)
    return Parts(settings, device, left_to(algorithm, dataset), algorithm, placement)


def left_to(algorithm: Algorithm, dataset: Dataset) -> Dataset:
    """The data set; where the backbone normalises images by itself, one that does not."""
    backbone, form = backbone_of(algorithm), dataset.trained_on
    if backbone is None or not backbone.normalizes or form.normalize is None:
        return dataset
    return dataset.brought_to(form._replace(normalize=None))


def build_dataset(config: Config) -> Dataset:
    """The dataset; asked for again with the same settings, the same object."""
    return _dataset(json.dumps(config["dataset"], sort_keys=True))


@functools.lru_cache(maxsize=2)
def _dataset(node: str) -> Dataset:
    return _built(json.loads(node), "dataset")


def _built(node: Config, key: str) -> Dataset:
    """What a node names. One that is made of others, its `sources`, is given these built."""
    sources = node.get("sources")
    if isinstance(sources, dict):
        node = node | {"sources": {name: _source(of, f"{key}.sources.{name}") for name, of in sources.items()}}
    dataset = build(node, key, Dataset, "metalearn.data")
    assert isinstance(dataset, Dataset)
    return dataset


def _source(node: Config, key: str) -> Dataset:
    try:
        return _built(node, key)
    except UserError as error:
        raise error if str(error).startswith(key) else UserError(f"{key}: {error}") from error


def build_algorithm(config: Config, dataset: Dataset, trained_on: TrainedOn | None = None) -> Algorithm:
    """The algorithm around its backbone, on the CPU, with initial parameters that depend on `seed` alone.

    Args:
        trained_on: what it is trained on; None: `dataset`.

    Raises:
        UserError: there are outer steps and nothing that they could change, or one of the two cannot deal with the data set's tasks.
    """
    known = trained_on or dataset.trained_on
    # Before the backbone, which takes examples of any task: another backbone is no cure for a task that the algorithm does not learn.
    _refuse_other_tasks(config, dataset, named(config["algorithm"], "algorithm", Algorithm, "metalearn.algorithms"))
    # torch's initialisers know only the global generator: seed a copy of it and leave the original as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        backbone = build(
            config["backbone"],
            "backbone",
            Backbone,
            "metalearn.backbones",
            optional={
                "input_shape": dataset.input_shape,
                "image_shape": dataset.input_shape,
                "text_length": dataset.input_shape[0],
                "from_weights": trained_on is None,
            },
            check=functools.partial(_refuse_other_examples, config, dataset),
        )
        node = config["algorithm"]
        if "class_encoder" in node:
            node = node | {"class_encoder": class_encoder_of(config, dataset, backbone, trained_on)}
        algorithm = build(
            node,
            "algorithm",
            Algorithm,
            "metalearn.algorithms",
            optional={
                "backbone": backbone,
                "ways": known.outputs or most_ways(config, known.classes),
                "train_classes": known.classes,
            },
        )
    assert isinstance(algorithm, Algorithm)
    algorithm.kind = dataset.kind
    algorithm.check_examples(dataset.form)
    if config["train"]["steps"]:
        _refuse_outer_steps(config, algorithm)
        refuse_untrained(config, algorithm)
    return algorithm


def _refuse_outer_steps(config: Config, algorithm: Algorithm) -> None:
    """Raises UserError where there is nothing that they could change."""
    names, asked = config["names"], f"train.steps={config['train']['steps']}"
    if not algorithm.trains:
        raise UserError(
            f"{asked}: algorithm={names['algorithm']} does not train (allowed: 0, with a backbone that is trained already)"
        )
    if not any(parameter.requires_grad for parameter in algorithm.parameters()):
        raise UserError(
            f"{asked}: backbone={names['backbone']} has no parameters to train and algorithm={names['algorithm']} none of its own: "
            "nothing to learn (allowed: 0)"
        )


def _refuse_other_examples(config: Config, dataset: Dataset, backbone: Any) -> None:
    """Raises UserError where `backbone`, a class, asks by its parameters for other examples than the data set has."""
    if dataset.form not in taken(backbone):
        names, needed = config["names"], " or ".join(taken(backbone))
        can = ", ".join(able("backbone", lambda made: dataset.form in taken(made)))
        raise UserError(
            f"backbone={names['backbone']} needs {needed}; the examples of dataset={names['dataset']} are {dataset.form} of the shape "
            f"{list(dataset.input_shape)}; those that take them: {can}"
        )


def most_ways(config: Config, classes: int) -> int:
    """The largest number of ways of training tasks, of so many training classes."""
    ways = shape_of(config["task"]["train"], "task.train").most_ways
    return min(ways, classes or ways) if uneven_key(config, "train") else ways


def uneven_key(config: Config, *splits: str) -> str | None:
    """`task.ways`, or what else varies from task to task in one of these splits; None where all tasks are of one size."""
    for split in splits:
        node, key = (config["task"]["train"], "task.train") if split == "train" else (config["task"], "task")
        if not isinstance(shape_of(node, key), TaskShape):
            return f"{key}.{next(name for name in ('ways', 'shots', 'queries') if node[name] == VARYING)}"
    return None


def _refuse_other_tasks(config: Config, dataset: Dataset, algorithm: Any) -> None:
    """Raises UserError where `algorithm`, a class, cannot learn the data set's kind of task, or tasks of uneven size that are asked for."""
    uneven = uneven_key(config, "train", "test")
    if uneven and not algorithm.uneven:
        can = ", ".join(able("algorithm", lambda made: made.uneven)) or "none"
        raise UserError(
            f"algorithm={config['names']['algorithm']} cannot learn tasks of uneven size ({uneven}={VARYING}); those that can: {can}"
        )
    zero_shot = zero_shot_key(config["task"], "test", "train")
    if zero_shot and not algorithm.zero_shot:
        can = ", ".join(able("algorithm", lambda made: made.zero_shot)) or "none"
        raise UserError(
            f"algorithm={config['names']['algorithm']} cannot learn without support examples ({zero_shot}); those that can: {can}"
        )
    if not algorithm.learns(dataset.kind):
        names, can = (
            config["names"],
            ", ".join(learners(dataset.kind)) or "none",
        )
        raise UserError(
            f"algorithm={names['algorithm']} cannot learn {dataset.kind.name} tasks (dataset={names['dataset']}); those that can: {can}"
        )


def check_tasks(dataset: Dataset, task: Config, *splits: str) -> None:
    """Raises UserError where one of `splits` cannot serve its tasks; training tasks may have a shape of their own."""
    for split in splits:
        shape = shape_of(task["train"], "task.train") if split == "train" else shape_of(task)
        if isinstance(shape, VaryingShape) and not dataset.uneven:
            raise UserError(f"{dataset.name} cannot serve the {split} tasks: it has none of uneven size (task=varying)")
        if isinstance(shape, VaryingPoints) and not dataset.varying_points:
            raise UserError(
                f"{dataset.name} cannot serve the {split} tasks: they are no functions whose number of points varies "
                "(task=varying_regression)"
            )
        if shape.shots == 0 and dataset.described_by is None:
            raise UserError(
                f"task{'.train' if split == 'train' else ''}.shots=0: {dataset.name} has no descriptions of its classes (allowed: 1 or more)"
            )
        dataset.check(split, shape)
