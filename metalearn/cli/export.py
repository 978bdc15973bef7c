"""`metalearn export`: a finished run, or the classifier that it became, as files that need no metalearn."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.cli.arguments import parsed, positive, with_quoted_home
from metalearn.cli.predict import Calibrating, composed_config, of_numbers
from metalearn.cli.single import is_first_rank
from metalearn.errors import UserError

if TYPE_CHECKING:
    from metalearn.runs.export import Source
    from metalearn.runs.predict import Asked

_USAGE = "metalearn export RUN_DIR [--support DIR] --out DIR; or metalearn export --adapted FILE --out DIR"


def export(argv: list[str]) -> None:
    """Writes the files and prints how each was checked."""
    args = parsed(_parser(), argv)
    overrides = [with_quoted_home(word) for word in args.words if _is_setting(word)]
    words = [word for word in args.words if not _is_setting(word)]
    _check(args, words)
    if not is_first_rank():  # of torchrun's processes one is enough
        return
    from metalearn.report import terminal
    from metalearn.runs.export import checked_target
    from metalearn.runs.export import export as written
    from metalearn.runs.predict import Asked
    from metalearn.runs.program_formats import formats_of, require

    formats = formats_of(args.formats)
    require(formats)
    out = checked_target(args.out)
    asked = Asked(None, None, not args.uncalibrated, args.tasks, args.invert or "auto", args.fit or "auto")
    if of_numbers(args.adapted, words):
        record = _of_numbers(args, words, overrides, out, formats)
    else:
        record = written(_source(args, words, overrides, asked), asked, out, formats)
    if args.json:
        terminal.say(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        _show(record, args.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    for flag in ("--support", "--adapted", "--out", "--formats", "--config-dir"):
        parser.add_argument(flag)
    parser.add_argument("--invert", choices=("auto", "yes", "no"))
    parser.add_argument("--fit", choices=("auto", "crop", "squash", "pad"))
    parser.add_argument("--tasks", type=positive)
    for flag in ("--uncalibrated", "--json"):
        parser.add_argument(flag, action="store_true")
    return parser


def _is_setting(word: str) -> bool:
    return "=" in word and not Path(word).expanduser().exists()


def _check(args: argparse.Namespace, words: list[str]) -> None:
    """Raises UserError where the words do not go together."""
    if args.out is None:
        raise UserError(f"export needs a folder to write, --out DIR: {_USAGE}")
    if len(words) > 1:
        raise UserError(f"export takes one run directory, '{words[1]}' is one word too many: {_USAGE}")
    if not words and args.adapted is None:
        raise UserError(f"export needs a run directory, or --adapted FILE: {_USAGE}")
    if args.adapted and args.support:
        raise UserError("only one of --support and --adapted can be given")
    for name, needs in (("tasks", "support"), ("uncalibrated", "support")):
        if getattr(args, name) and getattr(args, needs) is None:
            raise UserError(f"--{name} goes with --{needs}: it is about what is learned of your classes")
    if args.adapted and (args.invert or args.fit):
        raise UserError(
            f"--{'invert' if args.invert else 'fit'} goes with a run directory: the classifier in --adapted says it"
        )
    if args.tasks is not None and args.tasks < 10:
        raise UserError(f"--tasks {args.tasks} is not allowed (int >= 10)")


def _source(args: argparse.Namespace, words: list[str], overrides: list[str], asked: Asked) -> Source:
    from metalearn.runs.export import refuse_device, source_of

    refuse_device(overrides)
    run_dir = Path(words[0]).expanduser() if words else None

    def composed(saved: Any) -> dict[str, Any]:
        return composed_config(saved, overrides, args.config_dir, "export")

    if args.json:
        return source_of(run_dir, args.support, args.adapted, asked, composed, lambda done, total: None)
    with Calibrating() as progress:
        return source_of(run_dir, args.support, args.adapted, asked, composed, progress.update)


def _of_numbers(
    args: argparse.Namespace, words: list[str], overrides: list[str], out: Path, formats: tuple[str, ...]
) -> dict[str, Any]:
    from metalearn.runs.export import refuse_device
    from metalearn.runs.export_numbers import export_numbers, source_of

    given = next((name for name in ("tasks", "uncalibrated", "invert", "fit") if getattr(args, name)), None)
    if given is not None:
        raise UserError(f"--{given} goes with a run that predicts classes, this one predicts numbers")
    refuse_device(overrides)

    def composed(saved: Any) -> dict[str, Any]:
        return composed_config(saved, overrides, args.config_dir, "export")

    run_dir = Path(words[0]).expanduser() if words else None
    return export_numbers(source_of(run_dir, args.support, args.adapted, composed), out, formats)


def _show(record: dict[str, Any], out: str) -> None:
    from metalearn.report import terminal
    from metalearn.report.model_card import CARD, check_text
    from metalearn.sizes import bytes_text

    rows = [
        [file["file"], bytes_text(file["bytes"]), f"{file['seconds']:.1f} s", check_text(file)]
        for file in record["files"]
    ]
    terminal.table(["file", "size", "took", "largest difference from the model"], rows)
    for note in record["notes"]:
        terminal.say(f"note: {note}")
    terminal.say(f"written to: {out} (how to load the files: {Path(out) / CARD})")
