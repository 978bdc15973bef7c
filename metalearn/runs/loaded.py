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
from metalearn.data.descriptions import DescriptionForm
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.device import choose_device
from metalearn.engine.placement import placed
from metalearn.engine.settings import Settings
from metalearn.errors import UserError, one_line, shortened
from metalearn.kinds import CLASSIFICATION, REGRESSION, Kind, scale_of
from metalearn.runs import checkpoint
from metalearn.runs.directory import read_config
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
        size = f"{task['ways']}w{task['shots']}s" if self.algorithm.kind.classifies else f"{task['shots']}-shot"
        return f"{names.algorithm}, {names.dataset} {size}"


def load_run(run_dir: Path, config: dict[str, Any], results: Mapping[str, Any], numbers: bool = False) -> LoadedRun:
    """Loads the checkpoint that `eval.checkpoint` names onto the device that `device` names, whichever it was trained on.

    Each query is predicted by itself where the algorithm can do that, unless `eval.transductive` says otherwise: what is predicted for an image
    then does not depend on the others.

    Args:
        results: what results.json holds.
        numbers: whether a run that predicts numbers is wanted, and not one of classes.

    Raises:
        UserError: the run is one of the other kind, has no usable checkpoint, or the checkpoint does not fit.
    """
    if config["eval"]["ensemble"] > 1:
        raise UserError(
            f"eval.ensemble={config['eval']['ensemble']} is for metalearn eval: labels come from one checkpoint"
        )
    name = scale_of(results).name if results or not numbers else REGRESSION.name
    if (name == CLASSIFICATION.name) is numbers:
        raise UserError(f"{run_dir} is a {name} run: it has no {'numbers' if numbers else 'classes'} to predict")
    kind = kind_named(name, config)
    device = choose_device(config)
    state = checkpoint.load(run_dir / f"{config['eval']['checkpoint']}.pt", device)
    trained_on = form_of(state, config)
    algorithm = algorithm_of(config, trained_on, state["model"], device, str(run_dir), kind)
    return LoadedRun(run_dir, config, Settings.of(config), state, trained_on, algorithm, device)


def results_of(run_dir: Path) -> dict[str, Any]:
    """What results.json holds; nothing where a run was stopped before it wrote one: its checkpoint can be used all the same."""
    return read_results(run_dir) if (run_dir / "results.json").exists() else {}


def predicts_numbers(run_dir: Path) -> bool:
    """Whether a run is one of numbers, as far as its files tell without a look into the checkpoint."""
    if results := results_of(run_dir):
        return scale_of(results).name != CLASSIFICATION.name
    if not (run_dir / "config.yaml").exists():
        return False
    # It was stopped before it wrote results. Classes come in twos.
    return bool((read_config(run_dir).get("task") or {}).get("ways") == 1)


def kind_named(name: str, config: dict[str, Any]) -> Kind:
    """The kind of a run's tasks: one of metalearn's own, else the one that its data set brings.

    Raises:
        UserError: the data set's files are not here.
    """
    own = next((kind for kind in (CLASSIFICATION, REGRESSION) if kind.name == name), None)
    return own or build_dataset(config).kind


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
    config: dict[str, Any],
    trained_on: TrainedOn,
    model: Mapping[str, Any],
    device: torch.device,
    where: str,
    kind: Kind = CLASSIFICATION,
) -> Algorithm:
    """The trained algorithm, without its data set.

    Args:
        where: it comes from, for messages.
        kind: of the tasks.

    Raises:
        UserError: the weights do not fit the configuration.
    """
    stand_in = _Form(config["names"]["dataset"], kind, trained_on)
    algorithm = build_algorithm(config, stand_in, trained_on).to(device)
    try:
        algorithm.load_state_dict(dict(model))
    except RuntimeError as error:
        raise UserError(
            f"{where}: the checkpoint does not fit this configuration: {shortened(one_line(error), 300)}"
        ) from error
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
        self.name, self.kind, self.input_shape = name, kind, trained_on.shape
        self._form, self._descriptions = trained_on.form, trained_on.descriptions

    @property
    def form(self) -> str:
        return self._form

    @property
    def described_by(self) -> DescriptionForm | None:
        return self._descriptions

    def check(self, split: str, shape: Shape) -> None:
        raise NotImplementedError

    def source(
        self, split: str, seed: int, device: torch.device, augment: Mapping[str, float] | None = None
    ) -> TaskSource:
        raise NotImplementedError
