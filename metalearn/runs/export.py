"""`metalearn export`: a finished run, or what it learned of the user's classes, as files that need no metalearn, with a model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.data.classes import ClassId
from metalearn.data.own.given import Form
from metalearn.errors import UserError, one_line
from metalearn.report.model_card import CARD, model_card
from metalearn.runs.classifier import Classifier, load_classifier, read_saved
from metalearn.runs.directory import saved_config, stored_config, write_json, write_text
from metalearn.runs.loaded import LoadedRun, load_run, results_of
from metalearn.runs.predict import Asked, Learned, form_for, learn
from metalearn.runs.program_formats import FORMATS
from metalearn.runs.programs import CHECKED_AT, Embedder, ImageClassifier, Part, write
from metalearn.version import __version__

RECORD = "export.json"


@dataclass(frozen=True)
class Source:
    """What is exported: a run, what was learned of the user's classes, or both.

    Attributes:
        run: the run; None: a classifier that was saved earlier stands alone.
        learned: None: no classes were given.
        results: what the run's results.json holds; empty where there is none.
    """

    run: LoadedRun | None
    learned: Learned | None
    results: Mapping[str, Any]

    @property
    def algorithm(self) -> Algorithm:
        """Trained, in evaluation mode."""
        if self.learned is not None:
            return self.learned.classifier.algorithm
        assert self.run is not None
        return self.run.algorithm


def source_of(
    run_dir: Path | None,
    support: str | None,
    adapted: str | None,
    asked: Asked,
    composed: Callable[[DictConfig], dict[str, Any]],
    progress: Callable[[int, int], None],
) -> Source:
    """Loads the run, learns the classes at `support` or loads what was learned before, all on the CPU.

    Args:
        run_dir: None where `adapted` stands alone.
        support: as for `learn`.
        adapted: a file that `Classifier.save` wrote.
        composed: a stored configuration with the user's changes.
        progress: of the calibration: tasks done, and all.

    Raises:
        UserError: one of them cannot be used; the classifier was not made from the run's weights; predictions depend on the images that come
            together; or there is nothing to export.
    """
    run, results, learned = None, {}, None
    if run_dir is not None:
        results = results_of(run_dir)
        run = load_run(run_dir, composed(saved_config(run_dir)) | {"device": "cpu"}, results)
        check_exportable(run.algorithm, with_classes=bool(support or adapted))
    if adapted is not None:
        file = Path(adapted).expanduser()
        state = read_saved(file)
        config = composed(stored_config(file, state["config"])) | {"device": "cpu"}
        learned = Learned(load_classifier(file, state, config), None, None, ())
        check_exportable(learned.classifier.algorithm, with_classes=True)
    elif support is not None:
        assert run is not None
        learned = learn(run, support, asked, progress)
    if run is not None and adapted is not None and learned is not None:
        _check_same_weights(run, learned.classifier)
    return Source(run, learned, results)


def _check_same_weights(run: LoadedRun, classifier: Classifier) -> None:
    before, now = run.state["model"], classifier.algorithm.state_dict()
    if before.keys() != now.keys() or not all(torch.equal(before[name].cpu(), now[name].cpu()) for name in now):
        raise UserError(
            f"--adapted: this classifier was made from other weights than {run.directory} has now ({classifier.run}, outer step "
            f"{classifier.step}): leave one of the two out"
        )


def refuse_device(overrides: Sequence[str]) -> None:
    """Raises UserError where another device than the CPU is asked for."""
    if other := [word for word in overrides if word.startswith("device=") and word != "device=cpu"]:
        raise UserError(
            f"{other[0]}: export works on the CPU, and what it writes runs anywhere (metalearn predict {other[0]} --save FILE calibrates "
            "there; export --adapted FILE takes that)"
        )


def check_exportable(algorithm: Algorithm, with_classes: bool) -> None:
    """Raises UserError where predictions depend on the images that come together, or where there is nothing to export."""
    if algorithm.transductive:
        try:
            algorithm.set_transductive(False)
            reason = "eval.transductive=true was given: leave it out"
        except UserError as error:
            reason = one_line(error).removeprefix("eval.transductive=false: ")
        raise UserError(
            f"this model predicts images together, so it makes no program for single images, which would not depend on each other ({reason})"
        )
    if not with_classes and algorithm.embedding() is None:
        raise UserError(
            "this algorithm puts the classes of a task into its weights: without classes there is nothing to export. Give --support DIR, "
            "a folder for each class, or --adapted FILE, which metalearn predict --save wrote"
        )


def checked_target(out: str) -> Path:
    """The folder that will be written; UserError where it holds something, or cannot be made."""
    folder = Path(out).expanduser().absolute()
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--out {out} holds files already: name a new or an empty folder")
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir():
        raise UserError(f"--out {out} cannot be written: '{above}' is a file")
    if not os.access(above, os.W_OK):
        raise UserError(f"--out {out} cannot be written: you may not write to '{above}'")
    return folder


def export(source: Source, asked: Asked, out: Path, formats: tuple[str, ...] = FORMATS) -> dict[str, Any]:
    """Writes the programs, the weights, export.json and the model card; returns what export.json holds.

    Args:
        source: on the CPU, from `source_of`.
        asked: how files become images, where no classifier says it.
        out: from `checked_target`; it is there afterwards with all files, or as it was before.
        formats: some of FORMATS, in any order.

    Raises:
        UserError: a program cannot be made, or does not give what the model gives.
    """
    form, notes = _form(source, asked)
    images = _images(source, form)
    ordered = [kind for kind in FORMATS if kind in formats]

    def fill(folder: Path) -> tuple[dict[str, Any], str]:
        written = [file for part in parts_of(source, form) for file in write(part, images, ordered, folder)]
        made = _record(source, form, notes) | {"files": [file.record() for file in written]}
        return made, model_card(made)

    return in_new_folder(out, fill)


def in_new_folder(out: Path, fill: Callable[[Path], tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """Makes the folder `out`, all of it or nothing; returns what export.json holds.

    Args:
        fill: writes the programs into the folder that it is given; returns what export.json and the model card hold.

    Raises:
        UserError: it cannot be written, or what `fill` raises.
    """
    work = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        work.mkdir(parents=True)
        record, card = fill(work)
        write_text(work / CARD, card)
        write_json(work / RECORD, record)
        if out.exists():
            out.rmdir()
        work.rename(out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return record


def _form(source: Source, asked: Asked) -> tuple[Form, list[str]]:
    if source.learned is not None:
        form, notes = source.learned.classifier.form, list(source.learned.notes)
    else:
        assert source.run is not None
        form, notes = form_for(source.run, asked)
    if not isinstance(form, Form):
        raise UserError(
            f"export writes programs that take images, this run learned {form.noun}: predict --save keeps a classifier of them"
        )
    return form, notes


def parts_of(source: Source, form: Form) -> list[Part]:
    """What becomes programs: the embedding where there is one, and the classifier where classes are known."""
    algorithm, parts = source.algorithm, []
    if (network := algorithm.embedding()) is not None:
        steps = algorithm.in_two_steps()
        embed = network if steps is None else steps.embed

        @torch.no_grad()
        def embedded(images: Tensor) -> Tensor:
            vectors: Tensor = embed(form.prepared(images))
            return vectors

        parts.append(Part("embedding", "vectors", Embedder(form, network), embedded, _about(form)))
    if source.learned is not None:
        classifier = source.learned.classifier
        temperature = classifier.calibration.temperature if classifier.calibration else 1.0
        module = ImageClassifier(form, algorithm.deployed(classifier.adapted), len(classifier.classes), temperature)
        about = _about(form) | {"classes": list(classifier.classes)}
        parts.append(Part("classifier", "probabilities", module, lambda x: classifier.probabilities(x.numpy()), about))
    return parts


def _about(form: Form) -> dict[str, Any]:
    channels, height, width = form.shape
    size = max(height, width)
    return {"input": {"name": "images", "shape": ["n", channels, size, size], "dtype": "uint8"}}


def _images(source: Source, form: Form) -> Tensor:
    """What programs are compared on: every other one is a support image, where there are some, the rest are random; uint8 [n, c, size, size]."""
    channels, height, width = form.shape
    size, count = max(height, width), CHECKED_AT[-1]
    images = torch.randint(0, 256, (count, channels, size, size), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    if source.learned is not None and source.learned.support is not None:
        pixels = torch.from_numpy(source.learned.support.pixels)
        places = range(0, count, 2)
        images[::2] = pixels[[i * len(pixels) // count for i in places]]
    return images


def _record(source: Source, form: Form, notes: list[str]) -> dict[str, Any]:
    results, learned = source.results, source.learned
    made = learned.classifier if learned is not None else source.run
    assert made is not None
    state = source.run.state if source.run is not None else {}
    classes = sorted({str(ClassId.parse(name).upright) for name in state.get("train_classes", [])})
    calibration = learned.classifier.calibration if learned is not None else None
    steps = learned.classifier.step if learned is not None else state["step"]
    return {
        **described_run(made.config, steps, results, None if source.run is None else source.run.directory),
        "kind": results.get("kind"),
        "test": results.get("test"),
        "trained_classes": classes,
        "classes": None
        if learned is None
        else dict(zip(learned.classifier.classes, learned.classifier.counts, strict=True)),
        "support_check": learned and learned.checked and {"images": learned.checked[0], "right": learned.checked[1]},
        "calibration": calibration
        and {key: value for key, value in calibration.record().items() if key not in ("sets", "abstaining")},
        "images": {
            **_about(form)["input"],
            "range": [0, 255],
            "in_program": {"scale": 1 / 255, "shape": list(form.shape), "normalize": form.normalize},
            "before_program": {"fit": form.fit, "background": form.background, "paper": form.paper},
        },
        "parameters": sum(parameter.numel() for parameter in source.algorithm.parameters()),
        "notes": notes,
    }


def described_run(
    config: Mapping[str, Any], steps: int, results: Mapping[str, Any], run_dir: Path | None
) -> dict[str, Any]:
    """What export.json says first: by which version, when, and of which run."""
    names = config["names"]
    return {
        "metalearn": __version__,
        "torch": torch.__version__,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "run": {
            "directory": None if run_dir is None else run_dir.name,
            "algorithm": names["algorithm"],
            "backbone": names["backbone"],
            "dataset": names["dataset"],
            "seed": config["seed"],
            "steps": steps,
            "checkpoint": config["eval"]["checkpoint"],
            "config_hash": results.get("config_hash"),
            "split": results.get("split"),
            "task": results.get("task", config["task"]),
            "trained_with": (results.get("environment") or {}).get("metalearn"),
        },
    }
