"""A finished run as an object: its settings, its trained algorithm and, where its files are here, its data set."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import Dataset, TaskSource, TrainedOn
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.device import choose_device
from metalearn.engine.placement import placed
from metalearn.engine.settings import Settings
from metalearn.errors import UserError, one_line
from metalearn.kinds import CLASSIFICATION, Kind, scale_of
from metalearn.runs import checkpoint
from metalearn.runs.record import read_results
from metalearn.tasks import Shape


@dataclass(frozen=True)
class LoadedRun:
    """A run's trained algorithm, ready for tasks of any classes.

    Attributes:
        directory: the run directory.
        config: the configuration, changes of the user included.
        settings: the same, typed.
        state: what the checkpoint holds.
        trained_on: the form of the examples.
        algorithm: trained, in evaluation mode, on `device`.
        device: where it is.
    """

    directory: Path
    config: dict[str, Any]
    settings: Settings
    state: dict[str, Any]
    trained_on: TrainedOn
    algorithm: Algorithm
    device: torch.device

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The run's data set, its examples in the form that the model knows.

        Raises:
            UserError: its files are not here.
        """
        dataset, _ = placed(build_dataset(self.config), self.settings.images, self.device)
        return dataset.brought_to(self.trained_on)

    @property
    def name(self) -> str:
        """What the run is, for one line: `maml, omniglot 5w1s`."""
        task, names = self.config["task"], self.settings.names
        return f"{names.algorithm}, {names.dataset} {task['ways']}w{task['shots']}s"


def load_run(run_dir: Path, config: dict[str, Any], results: Mapping[str, Any]) -> LoadedRun:
    """Loads the checkpoint that `eval.checkpoint` names onto the device that `device` names, whichever it was trained on.

    Each query is predicted by itself where the algorithm can do that, unless `eval.transductive` says otherwise: what is predicted for an image
    then does not depend on the others.

    Args:
        results: what results.json holds.

    Raises:
        UserError: the run is not one of classes, has no usable checkpoint, or the checkpoint does not fit.
    """
    if config["eval"]["ensemble"] > 1:
        raise UserError(
            f"eval.ensemble={config['eval']['ensemble']} is for metalearn eval: labels come from one checkpoint"
        )
    scale = scale_of(results)
    if scale.name != CLASSIFICATION.name:
        raise UserError(f"{run_dir} is a {scale.name} run: it has no classes to predict")
    device = choose_device(config)
    state = checkpoint.load(run_dir / f"{config['eval']['checkpoint']}.pt", device)
    trained_on = form_of(state, config)
    algorithm = algorithm_of(config, trained_on, state["model"], device, str(run_dir))
    return LoadedRun(run_dir, config, Settings.of(config), state, trained_on, algorithm, device)


def results_of(run_dir: Path) -> dict[str, Any]:
    """What results.json holds; nothing where a run was stopped before it wrote one: its checkpoint can be used all the same."""
    return read_results(run_dir) if (run_dir / "results.json").exists() else {}


def form_of(state: Mapping[str, Any], config: dict[str, Any]) -> TrainedOn:
    """What the model of a checkpoint was trained on. Checkpoints of earlier versions do not say it: then the data set does."""
    if "trained_on" in state:
        return TrainedOn.of(state["trained_on"])
    try:
        return build_dataset(config).trained_on
    except UserError as error:
        raise UserError(
            f"this run of an earlier version does not store the form of its images, so its data set is needed: {one_line(error)}"
        ) from error


def algorithm_of(
    config: dict[str, Any], trained_on: TrainedOn, model: Mapping[str, Any], device: torch.device, where: str
) -> Algorithm:
    """The trained algorithm, without its data set.

    Args:
        where: it comes from, for messages.

    Raises:
        UserError: the weights do not fit the configuration.
    """
    stand_in = _Form(config["names"]["dataset"], CLASSIFICATION, trained_on)
    algorithm = build_algorithm(config, stand_in, trained_on).to(device)
    try:
        algorithm.load_state_dict(dict(model))
    except RuntimeError as error:
        raise UserError(f"{where}: the checkpoint does not fit this configuration: {one_line(error)[:300]}") from error
    asked = config["eval"]["transductive"]
    try:
        algorithm.set_transductive(bool(asked))
    except UserError:
        if asked is not None:
            raise
    return algorithm.eval()


class _Form(Dataset):
    """Stands in for a data set whose files nobody needs: examples of a form and a shape."""

    def __init__(self, name: str, kind: Kind, trained_on: TrainedOn) -> None:
        self.name, self.kind, self.input_shape, self._form = name, kind, trained_on.shape, trained_on.form

    @property
    def form(self) -> str:
        return self._form

    def check(self, split: str, shape: Shape) -> None:
        raise NotImplementedError

    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> TaskSource:
        raise NotImplementedError
