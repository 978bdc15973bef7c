"""`metalearn predict` of a run that predicts numbers: points in CSV files instead of images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.errors import UserError

if TYPE_CHECKING:
    from metalearn.runs.predict_numbers import Learned

_OF_CLASSES = ("classes", "top", "coverage", "abstain_below", "invert", "fit", "tasks", "uncalibrated")


def predict_numbers(args: argparse.Namespace, words: Sequence[str], composed: Callable[[Any], dict[str, Any]]) -> None:
    """Prints what is predicted for each row.

    Args:
        words: the run directory, unless `--adapted` was given, and files of queries.
        composed: a stored configuration with the user's changes.

    Raises:
        UserError: a flag is for images, or a file cannot be used.
    """
    given = next((name for name in _OF_CLASSES if getattr(args, name)), None)
    if given is not None:
        raise UserError(f"--{given.replace('_', '-')} goes with a run that predicts classes, this one predicts numbers")
    if args.text:
        raise UserError("--text is for a run of texts, this one predicts numbers (--query FILE of rows)")
    from metalearn.report import terminal
    from metalearn.runs.directory import check_target
    from metalearn.runs.predict_numbers import queries_of, record

    save, html = (
        None if path is None else check_target(path, flag)
        for path, flag in ((args.save, "--save"), (args.html, "--html"))
    )
    learned = _learned(args, words, composed)
    files = [*(words if args.adapted else words[1:]), *(args.query or [])]
    made = record(learned, queries_of(files, learned.regressor.columns))
    if save is not None:
        learned.regressor.save(save)
    _show(args, made)
    if html is not None:
        from metalearn.cli.pages import write_page
        from metalearn.report.predicted_numbers_page import page

        write_page(html, page(made, learned.support))
    if save is not None and not (args.json or args.csv):
        terminal.say(f"saved: {save} (metalearn predict --adapted {save} QUERY.csv ...)")


def _learned(args: argparse.Namespace, words: Sequence[str], composed: Callable[[Any], dict[str, Any]]) -> Learned:
    from metalearn.runs.directory import saved_config, stored_config
    from metalearn.runs.predict_numbers import Learned, learn, notes_of

    if args.adapted:
        from metalearn.runs.classifier import read_saved
        from metalearn.runs.regressor import load_regressor

        file = Path(args.adapted).expanduser()
        state = read_saved(file)
        regressor = load_regressor(file, state, composed(stored_config(file, state["config"])))
        return Learned(regressor, None, notes_of(regressor))
    from metalearn.runs.loaded import load_run, results_of

    run_dir = Path(words[0]).expanduser()
    run = load_run(run_dir, composed(saved_config(run_dir)), results_of(run_dir), numbers=True)
    return learn(run, args.support)


def _show(args: argparse.Namespace, made: dict[str, Any]) -> None:
    from metalearn.report import predicted_numbers, terminal

    if args.json:
        terminal.say(json.dumps(made, indent=2, ensure_ascii=False))
        return
    for line in predicted_numbers.summary(made):
        (terminal.error_line if args.csv else terminal.say)(line)
    if args.csv:  # stdout is the file
        terminal.say(predicted_numbers.as_csv(made).rstrip("\n"))
    elif made["predictions"]:
        terminal.say("")
        terminal.table(*predicted_numbers.columns(made))
