"""A finished run as an object: its settings and parts, and predictions from tensors."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metalearn.api.composing import settings_composer
from metalearn.errors import UserError
from metalearn.runs.directory import saved_config
from metalearn.runs.record import read_results

if TYPE_CHECKING:
    from torch import Tensor

    from metalearn.algorithms.base import Algorithm
    from metalearn.data.base import Dataset
    from metalearn.engine.build import Parts
    from metalearn.engine.settings import Settings


class Prediction(NamedTuple):
    """Of Q query examples: the predicted labels [Q], and the probability [Q, N] of each of `classes` [N]."""

    labels: Tensor
    probabilities: Tensor
    classes: Tensor


class Regressed(NamedTuple):
    """Of Q query examples: the predicted numbers float64 [Q, D], the names of the D targets and, where the algorithm predicts distributions, their
    standard deviations float64 [Q, D]."""

    values: Tensor
    targets: tuple[str, ...]
    deviations: Tensor | None


class Run:
    """A finished run. Its parts are built when they are first used.

    Attributes:
        directory: the run directory.
        config: the configuration as a nested mapping, like config.yaml.
        results: what results.json holds.
    """

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.config = config
        self.results = read_results(directory)

    def __repr__(self) -> str:
        return f"Run('{self.directory}', {self.results['status']})"

    @property
    def settings(self) -> Settings:
        """The settings as typed objects: `run.settings.train.lr`."""
        return self._parts.settings

    @property
    def dataset(self) -> Dataset:
        """The dataset that the run was trained on."""
        return self._parts.dataset

    @property
    def algorithm(self) -> Algorithm:
        """The trained algorithm, from the checkpoint that `eval.checkpoint` names, in evaluation mode.

        Raises:
            UserError: there is no such checkpoint, or it is damaged.
        """
        return self._trained

    @functools.cached_property
    def _parts(self) -> Parts:
        from metalearn.engine.build import assemble

        return assemble(self.config)

    @functools.cached_property
    def _trained(self) -> Algorithm:
        from metalearn.runs import checkpoint

        parts = self._parts
        state = checkpoint.load(self.directory / f"{parts.settings.eval.checkpoint}.pt", parts.device)
        parts.algorithm.load_state_dict(state["model"])
        parts.be_transductive()
        return parts.algorithm.eval()

    def predict(self, support_x: Any, support_y: Any, query_x: Any) -> Prediction | Regressed:
        """Adapts to labelled examples and labels others, or predicts their numbers where the run is one of numbers.

        Args:
            support_x: [n, ...], N classes with one or more examples each, shaped and scaled like the dataset's examples (images: float in 0..1,
                ink is 1); of texts, n of them or their bytes, uint8 [n, length]. Where the algorithm takes classes of one size only, examples of
                smaller ones are repeated.
            support_y: [n] integers; any N different values. Of numbers: [n, D], or [n] where D is 1.
            query_x: [Q, ...].

        Numbers are in the units of the run's table, in and out, where it learned from one.

        Raises:
            UserError: the shapes do not fit the run's dataset or each other.
        """
        import torch

        from metalearn.runs.adapt import outputs_of, support_of

        if not self.dataset.kind.classifies:
            return self._regressed(support_x, support_y, query_x)
        device, (x, query), shape = self._parts.device, *self._as_examples(support_x, query_x)
        y = torch.as_tensor(support_y).to(device)
        for name, value in (("support_x", x), ("query_x", query)):
            if tuple(value.shape[1:]) != shape:
                raise UserError(
                    f"{name} has the shape {list(value.shape)}; needed: [examples, {str(list(shape))[1:-1]}]"
                )
        if y.shape != x.shape[:1] or not len(y) or y.is_floating_point():
            raise UserError(
                f"support_y has the shape {list(y.shape)}; needed: {len(x)} whole numbers, one for each example"
            )
        classes, labels, counts = torch.unique(y, return_inverse=True, return_counts=True)
        order = labels.argsort(stable=True)  # class by class, as the tasks that the run was trained on
        algorithm = self.algorithm
        adapted = algorithm.adapt(support_of(x[order], counts.tolist(), algorithm.uneven))
        probabilities = outputs_of(algorithm, adapted, query, len(classes), device).softmax(-1)
        classes = classes.cpu()
        return Prediction(classes[probabilities.argmax(-1)], probabilities, classes)

    def _as_examples(self, *given: Any) -> tuple[list[Tensor], tuple[int, ...]]:
        """Images as float32, texts as bytes; and the shape that one of them has to have."""
        import torch

        from metalearn.data.base import TEXTS
        from metalearn.data.texts import as_bytes, longest

        device = self._parts.device
        if self.dataset.form != TEXTS:
            return [torch.as_tensor(value).to(device, torch.float32) for value in given], tuple(
                self.dataset.input_shape
            )
        named = [[str(text) for text in value] if isinstance(value, list | tuple) else None for value in given]
        length = max([longest(texts) for texts in named if texts is not None], default=0)
        bytes_ = [
            torch.as_tensor(value) if texts is None else torch.from_numpy(as_bytes(texts, length))
            for texts, value in zip(named, given, strict=True)
        ]
        return [value.to(device, torch.uint8) for value in bytes_], tuple(bytes_[0].shape[1:])

    def _regressed(self, support_x: Any, support_y: Any, query_x: Any) -> Regressed:
        import torch

        from metalearn.runs.regressor import adapted_to, columns_of, predicted

        columns, device = columns_of(self.dataset.trained_on), self._parts.device
        x, y, query = (
            torch.as_tensor(value).detach().cpu().double().numpy() for value in (support_x, support_y, query_x)
        )
        y = y[:, None] if y.ndim == 1 else y
        d, targets = len(columns.inputs), len(columns.targets)
        for name, value, width in (("support_x", x, d), ("support_y", y, targets), ("query_x", query, d)):
            rows = len(x) if name == "support_y" else len(value)
            if value.shape != (rows, width) or not rows:
                raise UserError(f"{name} has the shape {list(value.shape)}; needed: [{rows or 'examples'}, {width}]")
        adapted = adapted_to(self.algorithm, columns, x, y, device)
        found = predicted(self.algorithm, adapted, columns, query, device)
        return Regressed(found.values, columns.targets, found.deviations)


def load(run_dir: str | Path, plugins: tuple[str, ...] = ()) -> Run:
    """A finished run from its directory.

    Raises:
        UserError: there is no run, or it needs a plug-in that is not named.
    """
    with settings_composer([], None, plugins) as composing:
        config = composing.evaluation(saved_config(Path(run_dir)), [])
    return Run(Path(run_dir), config)
