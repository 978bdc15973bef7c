"""What is done with a finished run: `evaluate`, `evaluate_grid`, `predict` and `export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalearn.api.composing import errors_name_wishes, settings_composer, written
from metalearn.errors import UserError
from metalearn.runs.directory import saved_config


def evaluate(
    run_dir: str | Path, *overrides: str, config_dir: str | None = None, plugins: tuple[str, ...] = (), **settings: Any
) -> dict[str, Any]:
    """Tests a finished run again, as `metalearn eval` does; returns what the file eval-<time>.json holds. Arguments and errors as for `train`."""
    asked = [*overrides, *written(settings)]
    with settings_composer(asked, config_dir, plugins) as composing:
        config = composing.evaluation(saved_config(Path(run_dir)), asked)
    from metalearn.runs.evaluation import evaluate_run

    with errors_name_wishes():
        return evaluate_run(Path(run_dir), config, asked)


def evaluate_grid(
    run_dirs: str | Path | Sequence[str | Path],
    *overrides: str,
    fresh: bool = False,
    config_dir: str | None = None,
    plugins: tuple[str, ...] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Tests runs again under every combination of the values, as `metalearn eval` does with several values; prints nothing.

    A list or tuple of values is varied: `evaluate_grid(run, **{"task.ways": [5, 20], "task.shots": [1, 5]})`.

    Args:
        run_dirs: of one or more finished runs.
        fresh: compute also the cells that an earlier call has computed.

    Returns:
        What the grid's file holds (docs/evaluation.md), and `written`, that file. A cell that cannot be done has an `error`.

    Raises:
        UserError: a run is not there, or no run can take a combination of settings.
    """
    from metalearn.sweeps.evaluations import asked_cells

    runs = [Path(one) for one in ([run_dirs] if isinstance(run_dirs, str | Path) else run_dirs)]
    if not runs:
        raise UserError("evaluate_grid needs a run directory")
    asked = [*overrides, *written(settings, varied=True)]
    with settings_composer(asked, config_dir, plugins) as composing:
        cells = asked_cells(composing, runs, asked)
    from metalearn.runs.evaluation_grid import evaluate_grid as evaluated

    with errors_name_wishes():
        return evaluated(cells, asked, fresh)


def predict(
    run_dir: str | Path,
    support: str | Path | None,
    queries: str | Path | Sequence[str | Path] = (),
    *overrides: str,
    coverage: float | None = None,
    abstain_below: float | None = None,
    calibrated: bool = True,
    tasks: int | None = None,
    invert: str = "auto",
    fit: str = "auto",
    save: str | Path | None = None,
    classes: str | Path | None = None,
    texts: Sequence[str] = (),
    plugins: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Labels images or texts, or predicts the numbers of rows, as `metalearn predict` does; returns what `--json` prints.

    Args:
        run_dir: of a finished run.
        support: a folder with a folder for each class, an archive of such, or a CSV file of paths and labels; of a run of numbers, a CSV file with
            the columns of inputs and targets. None: `classes` describes them.
        queries: images, folders, archives; of a run of numbers, CSV files. What follows but `save` and `plugins` is for images.
        overrides: as for `evaluate`; without `device=...` the GPU where there is one, else the CPU.
        coverage: of prediction sets, in (0, 1); None: no sets.
        abstain_below: no label is given where the largest probability is below it.
        calibrated: whether a temperature is fitted; sets need it.
        tasks: validation tasks for that, 10 or more; None: as many as the algorithm affords.
        invert: "auto", "yes" or "no": whether ink and paper change places.
        fit: "auto", "crop", "squash" or "pad".
        save: where the adapted classifier is kept.
        classes: a CSV file of classes and their descriptions; in the place of `support`, with a run of `task.shots=0`.
        texts: of a run of texts, further queries: the texts themselves. Its `support` is a CSV file of text and label, or a folder of .txt files for
            each class; its `queries` are .txt and CSV files, and folders.
        plugins: packages of your own to trust.

    Raises:
        UserError: the run or the images cannot be used.
    """
    from metalearn.data.own.given import check_queries
    from metalearn.runs import predict_numbers
    from metalearn.runs.directory import check_target
    from metalearn.runs.loaded import load_run, predicts_numbers, results_of
    from metalearn.runs.predict import Asked, answers, learn, record

    if (support is None) == (classes is None):
        raise UserError(
            "predict takes either support or classes=: labelled images, or a file that describes the classes"
        )
    words = [str(one) for one in ([queries] if isinstance(queries, str | Path) else queries)]
    numbers = predicts_numbers(Path(run_dir))
    if not numbers:
        check_queries(words)
    file = None if save is None else check_target(str(save), "save")
    with settings_composer(list(overrides), None, plugins) as composing:
        config = composing.evaluation(saved_config(Path(run_dir)), list(overrides), "predict")
    if not any(word.startswith("device=") for word in overrides):
        config["device"] = "auto"
    if numbers:
        if coverage is not None or abstain_below is not None:
            raise UserError("coverage and abstain_below go with a run that predicts classes, this one predicts numbers")
        if classes is not None:
            raise UserError("classes goes with a run that predicts classes, this one predicts numbers")
        if texts:
            raise UserError("texts goes with a run of texts, this one predicts numbers")
        run = load_run(Path(run_dir), config, results_of(Path(run_dir)), numbers=True)
        points = predict_numbers.learn(run, str(support))
        if file is not None:
            points.regressor.save(file)
        return predict_numbers.record(points, predict_numbers.queries_of(words, points.regressor.columns))
    asked = Asked(coverage, abstain_below, calibrated, tasks, invert, fit)
    labelled, told = (None if one is None else str(one) for one in (support, classes))
    learned = learn(load_run(Path(run_dir), config, results_of(Path(run_dir))), labelled, asked, classes=told)
    if file is not None:
        learned.classifier.save(file)
    return record(learned, list(answers(learned.classifier, words, asked, texts=texts)), asked, None)


def export(
    run_dir: str | Path | None,
    out: str | Path,
    *overrides: str,
    support: str | Path | None = None,
    adapted: str | Path | None = None,
    formats: Sequence[str] = ("pt2", "onnx", "safetensors"),
    calibrated: bool = True,
    tasks: int | None = None,
    invert: str = "auto",
    fit: str = "auto",
    plugins: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Writes a finished run as files that need no metalearn, as `metalearn export` does; returns what export.json holds.

    Args:
        run_dir: of a finished run; None where `adapted` stands alone.
        out: a new or an empty folder.
        overrides: as for `predict`.
        support: as for `predict`: the classes that the classifier is to know, or the points of one function.
        adapted: a classifier that `predict(save=...)` wrote; instead of `support`.
        formats: which files.
        calibrated, tasks, invert, fit, plugins: as for `predict`.

    Raises:
        UserError: the run or the images cannot be used, a package is missing, the model cannot be exported, or a program does not give what the
            model gives; then nothing was written.
    """
    from metalearn.runs import export_numbers
    from metalearn.runs.classifier import read_saved
    from metalearn.runs.export import checked_target, refuse_device, source_of
    from metalearn.runs.export import export as written
    from metalearn.runs.loaded import predicts_numbers
    from metalearn.runs.predict import Asked
    from metalearn.runs.program_formats import formats_of, require
    from metalearn.runs.regressor import is_regressor

    if (run_dir is None and adapted is None) or (support is not None and (run_dir is None or adapted is not None)):
        raise UserError("export takes a run directory, one with support=, or adapted= with or without a run directory")
    wanted = formats_of(",".join(formats))
    require(wanted)
    folder = checked_target(str(out))
    refuse_device(overrides)

    def composed(saved: Any) -> dict[str, Any]:
        with settings_composer(list(overrides), None, plugins) as composing:
            return composing.evaluation(saved, list(overrides), "export")

    if is_regressor(read_saved(Path(adapted))) if adapted is not None else predicts_numbers(Path(run_dir or "")):
        of_run = None if run_dir is None else Path(run_dir)
        points, file = (None if one is None else str(one) for one in (support, adapted))
        return export_numbers.export_numbers(export_numbers.source_of(of_run, points, file, composed), folder, wanted)
    asked = Asked(None, None, calibrated, tasks, invert, fit)
    place = None if run_dir is None else Path(run_dir)
    labelled, kept = (None if one is None else str(one) for one in (support, adapted))
    source = source_of(place, labelled, kept, asked, composed, lambda done, total: None)
    return written(source, asked, folder, wanted)
