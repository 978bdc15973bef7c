"""`metalearn eval`: a finished run's checkpoint on test tasks."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from metalearn.algorithms.base import Algorithm
from metalearn.config.identity import compared
from metalearn.data.base import TrainedOn
from metalearn.data.features import FeatureMemory
from metalearn.engine.build import Parts, assemble, build_dataset, check_tasks
from metalearn.engine.device import choose_device
from metalearn.engine.ensemble import Pool
from metalearn.engine.evaluate import Scores, evaluate
from metalearn.engine.host_memory import keep_freed_memory
from metalearn.engine.ranks import launched
from metalearn.errors import NotFinite, RunFailed, UserError, one_line, shortened
from metalearn.garbage import collect_as_usual
from metalearn.report import results as shown
from metalearn.report import terminal
from metalearn.report.progress import TaskProgress
from metalearn.runs import checkpoint
from metalearn.runs import directory as files
from metalearn.runs.curves import function_records
from metalearn.runs.environment import environment
from metalearn.runs.per_task import write_tasks
from metalearn.runs.record import EvalResults
from metalearn.runs.seen import refuse_seen_classes, seen_in_pretraining
from metalearn.runs.snapshots import member_files, members
from metalearn.runs.tested import EnsembleRecord, TestRecord
from metalearn.status import Status
from metalearn.version import __version__


def evaluate_run(run_dir: Path, config: dict[str, Any], overrides: list[str], stepwise: bool = True) -> dict[str, Any]:
    """Scores a run's checkpoint on test tasks as `config` describes them, prints the result; beside it writes eval-<time>.json and -tasks.npz.

    Args:
        stepwise: also score the states before adaptation and after inner steps.

    Raises:
        UserError: no usable checkpoint, or the run was trained on classes that are test classes now.
        RunFailed: test tasks have no score, or the result cannot be written; the console said so.
    """
    if not launched().first:
        return {}  # the first of torchrun's processes does it all
    keep_freed_memory()
    collect_as_usual()
    return _publish(run_dir, Evaluator().test(run_dir, config, overrides, stepwise))


def _shown_alone(tasks: int) -> TaskProgress:
    return TaskProgress(tasks, "test")


@dataclass(frozen=True)
class Tested:
    """An evaluation: what its file is going to hold, and the scores of its tasks."""

    results: EvalResults
    scores: Scores


class Evaluator:
    """Tests checkpoints on test tasks; the checkpoint that was read last stays at hand for the next test.

    Args:
        memory: keeps the features of the last model's test images, where a next test may be of the same.
    """

    def __init__(self, memory: FeatureMemory | None = None) -> None:
        self._memory = memory
        self._read: tuple[Path, torch.device, dict[str, Any]] | None = None

    def test(
        self,
        run_dir: Path,
        config: dict[str, Any],
        overrides: list[str],
        stepwise: bool = True,
        progress: Callable[[int], TaskProgress] = _shown_alone,
    ) -> Tested:
        """Scores a run's checkpoint on test tasks as `config` describes them; writes nothing.

        Args:
            stepwise: also score the states before adaptation and after inner steps.
            progress: called with the number of tasks when the data are there and the test begins.

        Returns:
            Results that are failed where tasks have no score.

        Raises:
            UserError: no usable checkpoint, or the run was trained on classes that are test classes now.
        """
        started = time.perf_counter()
        dataset = build_dataset(config)
        state = self._state(run_dir / f"{config['eval']['checkpoint']}.pt", choose_device(config))
        # Texts for a model of images are no matter of how many ways there are: that would be the second thing to mend.
        check_tasks(dataset.brought_to(trained_on(state)), config["task"], "test")
        tested = tuple(map(str, dataset.classes("test")))
        seen = refuse_seen_classes(state["train_classes"], tested, config["eval"]["allow_seen"])
        parts = assemble(config, trained_on(state))
        settings = parts.settings
        states, which = [state], settings.eval.checkpoint
        if settings.eval.ensemble > 1:
            states = members(run_dir, which, settings.eval.ensemble, parts.dataset.kind, parts.device)
        memory = self._memory if len(states) == 1 else None  # an ensemble's members would take turns in it
        scores, means = _scored(run_dir, parts, states, stepwise, progress, memory)
        curves = []
        if len(states) == 1 and not scores.not_finite:
            curves = function_records(parts.algorithm, parts.source("test"), settings.task, settings.eval.pictures)
        results = EvalResults(
            status=Status.DONE,
            error=None,
            names=settings.names,
            seed=settings.seed,
            overrides=overrides,
            split=parts.dataset.split,
            kind=parts.dataset.kind,
            task=settings.task._asdict(),
            images=_fitted(dataset.input_shape, parts.dataset.input_shape),
            placement=parts.placement,
            test=None,
            seconds=time.perf_counter() - started,
            environment=environment(str(parts.device)),
            notes=parts.dataset.notes,
            conditions=conditions_of(run_dir, config),
            curves=curves,
        )
        try:
            record = TestRecord.of(
                scores,
                transductive=parts.algorithm.transductive,
                checkpoint=which,
                step=state["step"],
                seen_classes=seen,
                seen_in_pretraining=seen_in_pretraining(parts.pretrained_on, tested),
            )
            if len(states) > 1:
                ensemble = EnsembleRecord.of(scores, [int(one["step"]) for one in states], means)
                record = replace(record, ensemble=ensemble, further={})
            results = replace(results, test=record)
        except NotFinite as error:
            results = replace(results, status=Status.FAILED, error=str(error))
        return Tested(results, scores)

    def _state(self, path: Path, device: torch.device) -> dict[str, Any]:
        if self._read is None or self._read[:2] != (path, device):
            self._read = (path, device, checkpoint.load(path, device))
        return self._read[2]


def conditions_of(run_dir: Path, config: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits that say what an evaluation is of: the settings that its number depends on, and the checkpoint's content.

    Raises:
        UserError: there is no such checkpoint.
    """
    path = run_dir / f"{config['eval']['checkpoint']}.pt"
    content = hashlib.blake2b(digest_size=16)
    try:
        for file in [path, *(member_files(run_dir) if config["eval"]["ensemble"] > 1 else ())]:
            content.update(file.read_bytes())
    except OSError as error:
        raise UserError(f"no checkpoint {path}") from error
    settings = compared(config) | {"allow_seen": config["eval"]["allow_seen"], "places": _places(config["dataset"])}
    of = [__version__, settings, content.hexdigest()]
    return hashlib.blake2b(json.dumps(of, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def split_of(config: dict[str, Any]) -> str:
    """The checksum of the data set's split: which classes there are, and which of them are test classes."""
    return build_dataset(config).split.sha256


def _places(dataset: dict[str, Any]) -> list[str]:
    """Where the files of a data set lie: of a user's own images and tables this says which these are."""
    sources = dataset.get("sources")
    inner = list(sources.values()) if isinstance(sources, dict) else []
    found = [one.get(key) for one in (dataset, *inner) if isinstance(one, dict) for key in ("root", "file")]
    roots = [place for place in found if isinstance(place, str)]
    return [str(Path(root).expanduser().resolve()) for root in roots]


def _fitted(of_data: tuple[int, ...], of_model: tuple[int, ...]) -> dict[str, Any] | None:
    """The `images` entry, where the images were changed for the model: both shapes, (channels, height, width)."""
    return None if of_data == of_model else {"shape": list(of_data), "as": list(of_model)}


def trained_on(state: dict[str, Any]) -> TrainedOn:
    """What the model of a checkpoint was trained on; checkpoints of earlier versions do not say it, but name the data set."""
    if "trained_on" in state:
        return TrainedOn.of(state["trained_on"])
    return build_dataset(state["config"]).trained_on


def _scored(
    run_dir: Path,
    parts: Parts,
    states: list[dict[str, Any]],
    stepwise: bool,
    progress: Callable[[int], TaskProgress],
    memory: FeatureMemory | None,
) -> tuple[Scores, list[float]]:
    """The scores of a checkpoint's model or, of several, of their ensemble; and the mean score of each."""
    settings, algorithm, source = parts.settings, parts.algorithm, parts.source("test")
    tasks, chunk = settings.eval.tasks, settings.eval.task_chunk
    classes = bool(source.classes) and source.kind.classifies
    pool = Pool(len(states), source.kind, classes) if len(states) > 1 else None
    alone, means = None, []
    with contextlib.closing(source), progress(tasks * len(states)) as shown_progress:
        for number, state in enumerate(states):
            _load(algorithm, state["model"], run_dir)
            parts.be_transductive()
            if pool is not None and number:
                pool.next_member()
            scores = evaluate(
                algorithm,
                source,
                settings.task,
                tasks,
                chunk,
                stepwise=stepwise and not number,
                progress=functools.partial(_passed_on, shown_progress, number * tasks),
                answers=None if pool is None else pool.add,
                further=not number,
                features=settings.features,
                memory=memory,
            )
            alone = alone or scores
            means.append(scores.mean)
    assert alone is not None
    return (alone if pool is None else pool.scores(alone)), means


def _passed_on(progress: TaskProgress, before: int, done: int) -> None:
    progress.update(before + done)


def _load(algorithm: Algorithm, model: dict[str, Any], run_dir: Path) -> None:
    try:
        algorithm.load_state_dict(model)
    except RuntimeError as error:
        raise UserError(
            f"{run_dir}: the checkpoint does not fit this configuration: {shortened(one_line(error), 300)}"
        ) from error


def _publish(run_dir: Path, tested: Tested) -> dict[str, Any]:
    """Prints the result, then writes it and its tasks: what cannot be written must not be lost. Raises RunFailed after saying what went wrong."""
    results, file = tested.results, new_file(run_dir)
    record = results.to_json()
    if results.error is not None:
        terminal.error_line(f"failed: {results.error} ({run_dir})")
    else:
        shown.result_panel({**record, "run_dir": None})
    write_or_say(file, record)
    write_tasks(tasks_file(file), tested.scores)
    if results.error is None:
        shown.written(file)
    if results.error is not None:
        raise RunFailed(results.error)
    return record


def new_file(run_dir: Path) -> Path:
    """Where the next evaluation of a run is written."""
    return run_dir / f"eval-{datetime.now():%Y-%m-%d_%H-%M-%S-%f}.json"


def tasks_file(file: Path) -> Path:
    """Where the single tasks of an evaluation stand."""
    return file.with_name(f"{file.stem}-tasks.npz")


def write_or_say(file: Path, record: dict[str, Any]) -> None:
    """Writes what the console has shown already.

    Raises:
        RunFailed: it cannot be written; the console said so.
    """
    try:
        files.write_json(file, record)
    except OSError as error:
        terminal.error_line(f"{file} cannot be written: {error.strerror or error}")
        raise RunFailed(str(error)) from error
