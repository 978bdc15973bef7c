"""`metalearn predict`: a finished run learns the user's classes from a few images of each and labels others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metalearn.data.base import TEXTS
from metalearn.data.descriptions import Descriptions, read_descriptions
from metalearn.data.own.given import Form, Given, Query, Support
from metalearn.data.own.given_texts import TextForm
from metalearn.errors import UserError
from metalearn.runs.calibrate import calibrate, paper_of_run, why_not
from metalearn.runs.calibration import Covered, in_set
from metalearn.runs.classifier import Classifier, check, form_shape
from metalearn.runs.loaded import LoadedRun

CLASSES = "--classes"
_TOGETHER = 256  # images in memory at a time


@dataclass(frozen=True)
class Asked:
    """What the user wants of predictions.

    Attributes:
        coverage: of prediction sets, in (0, 1); None: no sets.
        abstain_below: no label is given where the largest probability is below it.
        calibrated: whether a temperature is fitted; sets need it.
        tasks: validation tasks for that; None: as many as the algorithm affords.
        invert: "auto", "yes" or "no".
        fit: "crop", "squash", "pad", or "auto": as the run's data set does; drawings are padded.
    """

    coverage: float | None = None
    abstain_below: float | None = None
    calibrated: bool = True
    tasks: int | None = None
    invert: str = "auto"
    fit: str = "auto"


@dataclass(frozen=True)
class Answer:
    """What is predicted for one image.

    Attributes:
        image: its path; of a text that stood in no file of its own, the text.
        label: the most probable class; None where it abstains or the file cannot be read.
        probabilities: [N]; empty where the file cannot be read.
        members: the prediction set, the most probable first; None where none was asked for.
        abstained: whether the largest probability is below `Asked.abstain_below`.
        fault: why the file cannot be read.
        folder: the class whose name the image's folder has; empty where it has none.
        pixels: what the model saw, uint8 [c, size, size], of a text [length]; None unless they were asked for.
    """

    image: str
    label: str | None
    probabilities: tuple[float, ...]
    members: tuple[str, ...] | None = None
    abstained: bool = False
    fault: str = ""
    folder: str = ""
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Learned:
    """A classifier and how it came about.

    Attributes:
        classifier: ready to label.
        support: the images it learned from, none of classes that were described; None: it was saved by an earlier call.
        checked: support images predicted from the others, and how many of them right; None where no class has two.
        notes: what the user has to know.
    """

    classifier: Classifier
    support: Support | None
    checked: tuple[int, int] | None
    notes: tuple[str, ...]


def learn(
    run: LoadedRun,
    support: str | None,
    asked: Asked,
    progress: Callable[[int, int], None] = lambda done, total: None,
    classes: str | None = None,
) -> Learned:
    """Adapts the run's algorithm to the labelled images at `support`, or to the classes that a file describes, and calibrates its probabilities.

    Args:
        support: a folder or archive with a folder for each class, or a CSV file of paths and labels; None: `classes` is given.
        classes: a CSV file of classes and what describes them (`metalearn/data/descriptions.py`), in the place of `support`.
        progress: of the calibration: tasks done, and all.

    Raises:
        UserError: the images or the file cannot be used, the run tells classes by examples alone, or sets are asked for and the run's data set is
            not here.
    """
    described = None if classes is None else described_classes(run, classes)
    form, notes = form_for(run, asked)
    if described is None:
        assert support is not None
        images, descriptions = form.read_support(support), None
    else:
        images, descriptions = form.nothing(tuple(described.of_class)), described.of_names()
    classifier = Classifier.of(run, images.classes, images.counts, images.pixels, form, descriptions)
    notes += [f"support: {note}" for note in images.notes]
    if not run.algorithm.uneven and len(set(images.counts)) > 1:
        notes.append(
            f"{run.settings.names.algorithm} takes classes of one size: {form.noun} of smaller ones are repeated to {max(images.counts)}"
        )
    if classifier.algorithm.transductive:
        notes.append(
            f"this model predicts {form.noun} together: what it says of one depends on the others of the same call"
        )
    if asked.calibrated:
        try:
            found = calibrate(run, images.counts, asked.coverage, asked.tasks, progress)
            classifier = classifier.with_calibration(found)
        except UserError as error:
            if asked.coverage is not None:
                raise UserError(f"--coverage needs validation tasks of the run's data set: {error}") from error
            notes.append(why_not(error))
    return Learned(classifier, images, check(classifier), tuple(notes))


def described_classes(run: LoadedRun, path: str) -> Descriptions:
    """What the file that `--classes` names says of the user's classes.

    Raises:
        UserError: it is no such file, it describes one class, or the run's algorithm cannot use what it says.
    """
    found, encoder = read_descriptions(path, CLASSES), getattr(run.algorithm, "class_encoder", None)
    if not run.algorithm.zero_shot or encoder is None:
        raise UserError(
            f"{CLASSES} {path}: algorithm={run.settings.names.algorithm} of this run tells classes by support examples (--support DIR): it has no "
            "class encoder, which task.shots=0 in training gives it"
        )
    trained = run.trained_on.descriptions
    if not found.form.alike(trained):
        raise UserError(
            f"{CLASSES} {path}: {found.form.describing} the classes; the run's class encoder takes {trained}"
        )
    if len(found.of_class) < 2:
        raise UserError(f"{CLASSES} {path} has one class, '{next(iter(found.of_class))}': two or more are needed")
    return found


def form_for(run: LoadedRun, asked: Asked) -> tuple[Given, list[str]]:
    """How the user's files become what the run's model sees, and what there is to say about it."""
    if run.trained_on.form == TEXTS:
        if (asked.invert, asked.fit) != ("auto", "auto"):
            raise UserError("--invert and --fit are for images, this run learned texts")
        return TextForm.of_length(run.trained_on.shape[0]), []
    notes, paper = [], None
    shape = form_shape(run.trained_on)
    if asked.invert == "auto":
        try:
            paper = paper_of_run(run)
        except UserError:
            notes.append(
                "whether the run's images are light ink on dark paper is not known without its data set: if they are, and yours "
                "are dark on light, use --invert yes"
            )
    settings = run.config["dataset"]
    fit = asked.fit if asked.fit != "auto" else settings.get("fit", "pad" if paper else "squash")
    background = 0 if settings.get("background") == "black" else 255
    return Form(shape, run.trained_on.normalize, fit, background, paper, asked.invert), notes


def answers(
    classifier: Classifier, queries: list[str], asked: Asked, keep_pixels: bool = False, texts: Sequence[str] = ()
) -> Iterator[Answer]:
    """What is predicted for each of `texts`, and for each image or text that `queries` name, in their order.

    Raises:
        UserError: a path is not there, holds no image, or sets are asked for that the classifier was not calibrated for.
    """
    limit = covered(classifier, asked)
    everything = classifier.algorithm.transductive
    for part in _parts(classifier.form.read_queries(queries, texts), None if everything else _TOGETHER):
        readable = [query.pixels for query in part if query.pixels is not None]
        found = iter(classifier.probabilities(np.stack(readable)) if readable else ())
        for query in part:
            if query.pixels is None:
                yield Answer(query.name, None, (), fault=query.fault)
            else:
                yield _answer(query, next(found), classifier.classes, limit, asked, keep_pixels)


def covered(classifier: Classifier, asked: Asked) -> Covered | None:
    """The sets that are asked for; UserError where the classifier has none of this coverage."""
    if asked.coverage is None:
        return None
    found = classifier.calibration and classifier.calibration.at(asked.coverage)
    if not found:
        raise UserError(
            f"--coverage {asked.coverage}: this classifier was saved without sets of this coverage (0.5 to 0.99 in steps of 0.01)"
        )
    return found


def _answer(
    query: Query, p: Tensor, classes: tuple[str, ...], limit: Covered | None, asked: Asked, keep_pixels: bool
) -> Answer:
    best = int(p.argmax())
    abstained = asked.abstain_below is not None and float(p[best]) < asked.abstain_below
    members = None
    if limit is not None:
        inside = in_set(p, limit.threshold)
        members = tuple(classes[i] for i in p.argsort(descending=True).tolist() if inside[i])
    return Answer(
        query.name,
        None if abstained else classes[best],
        tuple(p.tolist()),
        members,
        abstained,
        folder=query.folder if query.folder in classes else "",
        pixels=query.pixels if keep_pixels else None,
    )


def _parts(queries: Iterable[Query], size: int | None) -> Iterator[list[Query]]:
    part: list[Query] = []
    for query in queries:
        part.append(query)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def record(learned: Learned, found: list[Answer], asked: Asked, top: int | None) -> dict[str, Any]:
    """All of it as plain values: what --json prints.

    Args:
        top: how many labels of each image; None: all.
    """
    classifier = learned.classifier
    calibration = classifier.calibration
    limit = covered(classifier, asked)
    below = asked.abstain_below
    abstaining = calibration.abstaining_below(below) if calibration and below is not None else None
    right = [answer.label == answer.folder for answer in found if answer.folder and answer.label is not None]
    return {
        "run": classifier.run,
        "step": classifier.step,
        "classes": dict(zip(classifier.classes, classifier.counts, strict=True)),
        "examples": classifier.form.noun,
        "images": classifier.form.text,
        "transductive": classifier.algorithm.transductive,
        "notes": list(learned.notes),
        "support_check": learned.checked and {"images": learned.checked[0], "right": learned.checked[1]},
        "calibration": calibration
        and {key: value for key, value in calibration.record().items() if key not in ("sets", "abstaining")},
        "sets": limit and vars(limit),
        "abstaining": abstaining and {"asked": below, **vars(abstaining)},
        "folders": {"images": len(right), "right": sum(right)} if right else None,
        "predictions": [_record(answer, classifier.classes, top) for answer in found],
    }


def _record(answer: Answer, classes: tuple[str, ...], top: int | None) -> dict[str, Any]:
    ranked = sorted(zip(classes, answer.probabilities, strict=False), key=lambda pair: -pair[1])[:top]
    return {
        "image": answer.image,
        "label": answer.label,
        "probability": max(answer.probabilities, default=None),
        "probabilities": dict(ranked),
        **({} if answer.members is None else {"set": list(answer.members)}),
        **({"abstained": True} if answer.abstained else {}),
        **({"error": answer.fault} if answer.fault else {}),
    }
