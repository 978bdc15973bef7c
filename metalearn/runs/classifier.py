"""A model that has learned the user's classes: what `metalearn predict --save` writes, and labels images without the support images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TEXTS, TrainedOn
from metalearn.data.own.given import Form, Given
from metalearn.data.own.given_texts import TextForm
from metalearn.engine.device import choose_device
from metalearn.errors import UserError
from metalearn.runs import checkpoint
from metalearn.runs.adapt import outputs_of, support_of
from metalearn.runs.calibration import Calibration, probabilities
from metalearn.runs.loaded import LoadedRun, algorithm_of
from metalearn.runs.stored import built, modules_of, save_adapted

_CHECKED = 60  # support images that `check` holds out at most


class Passed(NamedTuple):
    """Support examples as far as each passes a network by itself, and the learner that takes them so: they pass it once, whatever is adapted to."""

    learner: Algorithm
    x: Tensor  # [n, ...]

    @classmethod
    def of(cls, algorithm: Algorithm, x: Tensor) -> Passed:
        """Of examples as the whole algorithm takes them."""
        # What learns from queries too keeps support examples until these come: they have to be as the whole algorithm takes them.
        parts = algorithm.in_two_steps() if len(x) and not algorithm.transductive else None
        if parts is None:
            return cls(algorithm, x)
        with torch.no_grad():
            return cls(parts.learner, parts.embed(x))


@dataclass(frozen=True)
class Classifier:
    """A trained algorithm, adapted to labelled images.

    Attributes:
        run: what the algorithm is from, in words.
        step: outer steps that it was trained for.
        config: of the run.
        trained_on: the form of its examples.
        algorithm: in evaluation mode.
        adapted: what `Algorithm.adapt` returned.
        classes: [N].
        counts: [N], support images of each class; 0 of each where descriptions tell them.
        form: how files become what the model sees.
        calibration: None where there is none.
        passed: the support examples, for `check`; None where it was read from a file.
    """

    run: str
    step: int
    config: dict[str, Any]
    trained_on: TrainedOn
    algorithm: Algorithm
    adapted: Any
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    form: Given
    calibration: Calibration | None = None
    passed: Passed | None = None

    @classmethod
    def of(
        cls,
        run: LoadedRun,
        classes: Sequence[str],
        counts: Sequence[int],
        pixels: NDArray[np.uint8],
        form: Given,
        descriptions: Tensor | None = None,
    ) -> Classifier:
        """Adapts the run's algorithm to images uint8 [n, c, size, size] or texts uint8 [n, length], class by class, `counts` [N] of each; or to
        descriptions [N, ...].

        Raises:
            UserError: the algorithm cannot learn so many classes.
        """
        described = None if descriptions is None else descriptions.to(run.device)
        passed = Passed.of(run.algorithm, form.values(pixels).to(run.device))
        adapted = adapted_to(passed.learner, passed.x, counts, described)
        run_text = f"{run.directory}: {run.name}"
        return cls(
            run_text,
            run.state["step"],
            run.config,
            run.trained_on,
            run.algorithm,
            adapted,
            tuple(classes),
            tuple(counts),
            form,
            passed=passed,
        )

    def with_calibration(self, calibration: Calibration | None) -> Classifier:
        """The same, whose probabilities are calibrated."""
        return replace(self, calibration=calibration)

    def probabilities(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Of images uint8 [n, c, size, size], or texts uint8 [n, length]: float64 [n, N]."""
        temperature = self.calibration.temperature if self.calibration else 1.0
        outputs = outputs_of(
            self.algorithm, self.adapted, self.form.values(pixels), len(self.classes), choose_device(self.config)
        )
        return probabilities(outputs, temperature)

    def save(self, path: Path) -> None:
        """Writes a file of tensors and plain values: the weights, what was adapted, classes, form and calibration.

        Raises:
            UserError: it cannot be written, or the algorithm keeps what such a file cannot hold.
        """
        own = {
            "step": self.step,
            "trained_on": self.trained_on.record(),
            "run": self.run,
            "classes": list(self.classes),
            "counts": list(self.counts),
            "form": self.form.record(),
            "calibration": self.calibration and self.calibration.record(),
        }
        save_adapted(path, self.algorithm, self.adapted, self.config, own)


def load_classifier(path: Path, state: dict[str, Any], config: dict[str, Any]) -> Classifier:
    """What `Classifier.save` wrote.

    Args:
        state: from `read_saved`.
        config: the configuration in it, checked.

    Raises:
        UserError: it does not fit this version.
    """
    device = choose_device(config)
    trained_on = TrainedOn.of(state["trained_on"])
    algorithm = algorithm_of(config, trained_on, state["model"], device, str(path))
    try:
        adapted = built(state["adapted"], modules_of(algorithm), device)
        calibration = state["calibration"] and Calibration.of_record(state["calibration"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} was written by another version of metalearn: save the classifier again") from error
    form = form_like(trained_on, state["form"])
    return Classifier(
        state["run"],
        state["step"],
        config,
        trained_on,
        algorithm,
        adapted,
        tuple(state["classes"]),
        tuple(state["counts"]),
        form,
        calibration,
    )


def read_saved(path: Path) -> dict[str, Any]:
    """The content of a file that `Classifier.save` wrote, on the CPU.

    Raises:
        UserError: it is none.
    """
    state = checkpoint.load(path, torch.device("cpu"))
    if "adapted" not in state:
        raise UserError(
            f"{path} is a checkpoint of a run, not a classifier that --save wrote: give its run directory and --support"
        )
    return state


def form_like(trained_on: TrainedOn, record: dict[str, Any]) -> Given:
    """What `Given.record` was made of."""
    if trained_on.form == TEXTS:
        return TextForm(**record)
    return Form(form_shape(trained_on), trained_on.normalize, **record)


def form_shape(trained_on: TrainedOn) -> tuple[int, int, int]:
    """(channels, height, width); UserError where the examples are no images of one or three channels."""
    shape = trained_on.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(
            f"this run learned examples of the shape {list(shape)}: predict needs a run of grey or RGB images"
        )
    return shape


def adapted_to(algorithm: Algorithm, x: Tensor, counts: Sequence[int], descriptions: Tensor | None = None) -> Any:
    """What the algorithm learns from examples x [n, ...], class by class, `counts` [N] of each, and from descriptions [N, ...], if there are any."""
    with torch.no_grad():
        return algorithm.adapt(support_of(x, counts, algorithm.uneven, descriptions))


def check(classifier: Classifier) -> tuple[int, int] | None:
    """Predicts support images of `Classifier.of` from the others: (how many, how many of them right); None where no class has two."""
    if classifier.passed is None:
        return None
    (algorithm, x), counts = classifier.passed, list(classifier.counts)
    device = choose_device(classifier.config)
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    held = [i for i, label in enumerate(labels) if counts[label] > 1]
    if not held:
        return None
    held = [
        held[round(i * (len(held) - 1) / max(1, min(len(held), _CHECKED) - 1))] for i in range(min(len(held), _CHECKED))
    ]
    right = 0
    for i in held:
        left = [count - (label == labels[i]) for label, count in enumerate(counts)]
        rest = torch.cat([x[:i], x[i + 1 :]])
        outputs = outputs_of(algorithm, adapted_to(algorithm, rest, left), x[i : i + 1], len(counts), device)
        right += int(outputs.argmax()) == labels[i]
    return len(held), right
