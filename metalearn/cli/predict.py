"""`metalearn predict`: a finished run learns the user's classes from a few images of each and labels others."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.cli.arguments import parsed, positive, with_quoted_home
from metalearn.cli.single import is_first_rank
from metalearn.errors import RunFailed, UserError
from metalearn.garbage import collect_as_usual
from metalearn.sizes import count_text

if TYPE_CHECKING:
    from metalearn.runs.predict import Answer, Asked, Learned

_USAGE = "metalearn predict RUN_DIR --support DIR|--classes FILE --query FILE|DIR ...; or metalearn predict --adapted FILE QUERY ..."


def predict(argv: list[str]) -> None:
    """Prints a label and a probability for each image; of a run of numbers, the numbers of each row."""
    args = parsed(_parser(), argv)
    overrides, words = _sorted(args.words, args.query)
    _check(args, words)
    if not is_first_rank():  # of torchrun's processes one is enough
        return
    if of_numbers(args.adapted, words):
        from metalearn.cli.predict_numbers import predict_numbers

        predict_numbers(args, words, lambda saved: composed_config(saved, overrides, args.config_dir))
        return
    from metalearn.data.own.given import check_queries
    from metalearn.report import terminal
    from metalearn.runs.directory import check_target
    from metalearn.runs.predict import Asked, answers, covered, record

    queries = [*(words if args.adapted else words[1:]), *(args.query or [])]
    check_queries(queries)
    save, page = (
        None if path is None else check_target(path, flag)
        for path, flag in ((args.save, "--save"), (args.html, "--html"))
    )
    collect_as_usual()
    asked = Asked(
        args.coverage, args.abstain_below, not args.uncalibrated, args.tasks, args.invert or "auto", args.fit or "auto"
    )
    learned = _learned(args, words, overrides, asked)
    covered(learned.classifier, asked)
    if save is not None:
        learned.classifier.save(save)
    found = list(answers(learned.classifier, queries, asked, keep_pixels=page is not None, texts=args.text or ()))
    faults = [answer for answer in found if answer.fault]
    if found and len(faults) == len(found):
        more = f" (and {len(faults) - 1} more)" if faults[1:] else ""
        raise UserError(f"nothing to label: {faults[0].fault}{more}")
    made = record(learned, found, asked, args.top if args.json else None)
    _show(args, made)
    if page is not None:
        _write_page(page, made, learned, found, args.top)
    if save is not None and not (args.json or args.csv):
        terminal.say(f"saved: {save} (metalearn predict --adapted {save} QUERY ...)")
    for answer in faults:
        terminal.error_line(f"metalearn: error: {answer.fault}")
    if faults:
        raise RunFailed(f"{count_text(len(faults), 'file')} cannot be read")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    for flag in ("--support", "--classes", "--adapted", "--save", "--html", "--config-dir"):
        parser.add_argument(flag)
    parser.add_argument("--query", nargs="+", action="extend")
    parser.add_argument("--text", nargs="+", action="extend")
    parser.add_argument("--top", type=positive)
    parser.add_argument("--coverage", type=_share)
    parser.add_argument("--abstain-below", type=_share)
    parser.add_argument("--invert", choices=("auto", "yes", "no"))
    parser.add_argument("--fit", choices=("auto", "crop", "squash", "pad"))
    parser.add_argument("--tasks", type=positive)
    for flag in ("--uncalibrated", "--json", "--csv"):
        parser.add_argument(flag, action="store_true")
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not allowed (a number between 0 and 1)")
    return value


def _sorted(words: list[str], query: list[str] | None) -> tuple[list[str], list[str]]:
    """Overrides, and the other words; files behind --query may be followed by overrides."""
    overrides = []
    for group in (words, query or []):
        for word in [word for word in group if "=" in word and not Path(word).expanduser().exists()]:
            overrides.append(with_quoted_home(word))
            group.remove(word)
    return overrides, words


def _check(args: argparse.Namespace, words: list[str]) -> None:
    """Raises UserError where the words do not go together."""
    if args.json and args.csv:
        raise UserError("only one of --json and --csv can be given")
    if args.adapted:
        given = [
            f"--{name.replace('_', '-')}"
            for name in ("support", "classes", "save", "tasks", "uncalibrated", "invert", "fit")
            if getattr(args, name)
        ]
        if given:
            raise UserError(f"{given[0]} goes with a run directory: --adapted names a classifier that was made before")
        if not words and not args.query and not args.text:
            raise UserError(f"predict needs something to label: {_USAGE}")
        return
    if not words:
        raise UserError(f"predict needs a run directory: {_USAGE}")
    if args.support is None and args.classes is None:
        raise UserError(
            f"predict needs labelled images, --support DIR with a folder for each class, or --classes FILE that describes the classes: {_USAGE}"
        )
    if args.support is not None and args.classes is not None:
        raise UserError("only one of --support and --classes can be given")
    if not args.query and not args.text and not words[1:] and not args.save:
        raise UserError(
            f"predict needs something to label, --query FILE|DIR ... (of texts also --text TEXT ...), or --save FILE: {_USAGE}"
        )
    if args.uncalibrated and (args.coverage or args.tasks):
        raise UserError(f"--uncalibrated and --{'coverage' if args.coverage else 'tasks'} exclude each other")
    if args.tasks is not None and args.tasks < 10:
        raise UserError(f"--tasks {args.tasks} is not allowed (int >= 10)")


def of_numbers(adapted: str | None, words: list[str]) -> bool:
    """Whether the saved file or, without one, the run directory in `words` is of numbers."""
    if adapted:
        from metalearn.runs.classifier import read_saved
        from metalearn.runs.regressor import is_regressor

        return is_regressor(read_saved(Path(adapted).expanduser()))
    from metalearn.runs.loaded import predicts_numbers

    return predicts_numbers(Path(words[0]).expanduser())


def _learned(args: argparse.Namespace, words: list[str], overrides: list[str], asked: Asked) -> Learned:
    from metalearn.runs.directory import saved_config, stored_config

    if args.adapted:
        from metalearn.runs.classifier import load_classifier, read_saved
        from metalearn.runs.predict import Learned

        file = Path(args.adapted).expanduser()
        state = read_saved(file)
        config = composed_config(stored_config(file, state["config"]), overrides, args.config_dir)
        return Learned(load_classifier(file, state, config), None, None, ())
    run_dir = Path(words[0]).expanduser()
    config = composed_config(saved_config(run_dir), overrides, args.config_dir)
    from metalearn.runs.loaded import load_run, results_of
    from metalearn.runs.predict import learn

    run = load_run(run_dir, config, results_of(run_dir))
    if args.json or args.csv:
        return learn(run, args.support, asked, classes=args.classes)
    with Calibrating() as progress:
        return learn(run, args.support, asked, progress.update, args.classes)


def composed_config(
    saved: Any, overrides: list[str], config_dir: str | None, command: str = "predict"
) -> dict[str, Any]:
    """The run's configuration, on whichever device there is unless one is named."""
    from metalearn.compose.composer import composer, explained

    with explained(overrides, config_dir, None), composer(config_dir) as composing:
        config = composing.evaluation(saved, overrides, command)
    if not any(word.startswith("device=") for word in overrides):
        config["device"] = "auto"
    return config


class Calibrating:
    """A bar over the tasks of the calibration, from the first of them on."""

    def __enter__(self) -> Calibrating:
        self._bar: Any = None
        return self

    def update(self, done: int, total: int) -> None:
        from metalearn.report.progress import TaskProgress

        if self._bar is None:
            self._bar = TaskProgress(total, "calibration").__enter__()
        self._bar.update(done)

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)


def _show(args: argparse.Namespace, made: dict[str, Any]) -> None:
    from metalearn.report import predictions, terminal

    if args.json:
        terminal.say(json.dumps(made, indent=2, ensure_ascii=False))
        return
    lines = predictions.summary(made)
    if args.csv:  # stdout is the file
        for line in lines:
            terminal.error_line(line)
        terminal.say(predictions.as_csv(made, args.top).rstrip("\n"))
        return
    for line in lines:
        terminal.say(line)
    if made["predictions"]:
        terminal.say("")
        terminal.table(*predictions.columns(made, args.top))


def _write_page(file: Path, made: dict[str, Any], learned: Learned, found: list[Answer], top: int | None) -> None:
    from metalearn.cli.pages import write_page
    from metalearn.report.predictions_page import page

    support, form = dict[str, list[Any]](), learned.classifier.form
    if learned.support is not None:
        for label, image in zip(learned.support.labels.tolist(), learned.support.pixels, strict=True):
            support.setdefault(learned.support.classes[label], []).append(form.shown(image))
    shown = [None if answer.pixels is None else form.shown(answer.pixels) for answer in found]
    write_page(file, page(made, shown, support, top))
