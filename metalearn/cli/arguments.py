"""What stands on the command line: flags, and `key=value` overrides in any order."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from metalearn.errors import UserError, nearest

_PATHS = re.compile(r"(dataset\.root|hydra\.run\.dir|hydra\.sweep\.dir)=(~(?:/.*)?)")


@dataclass(frozen=True)
class Where:
    """Where configurations are composed from."""

    config_dir: str | None = None
    config_name: str | None = None


@dataclass(frozen=True)
class Training:
    """`metalearn train`: one run or a sweep."""

    overrides: list[str]
    where: Where
    multirun: bool
    flags: list[str]
    argv: list[str]
    command: str = "train"  # the one that runs it and continues it


@dataclass(frozen=True)
class Resumption:
    """`metalearn train --resume RUN_DIR`."""

    run_dir: Path
    overrides: list[str]
    where: Where


@dataclass(frozen=True)
class Explanation:
    """`metalearn train --cfg` or `--info`: shows the configuration, runs nothing."""

    overrides: list[str]
    where: Where
    flags: list[str]


def understood(argv: list[str]) -> Training | Resumption | Explanation:
    """What `metalearn train` is to do."""
    args = hydra_arguments(argv)
    explains = bool(args.cfg or args.info or args.hydra_help)
    where = Where(args.config_dir, args.config_name)
    # Hydra's own parser does not take flags between overrides.
    flags = [word for word in argv if word not in args.given]
    if args.resume is not None:
        if args.multirun or explains:
            raise UserError("--resume resumes one run: it takes train.steps=... and the like, and --config-dir")
        return Resumption(Path(args.resume), args.overrides, where)
    if explains:
        return Explanation(args.overrides, where, flags)
    return Training(args.overrides, where, args.multirun, flags, argv)


def hydra_arguments(argv: list[str]) -> argparse.Namespace:
    """Hydra's flags and ours, and the overrides: `given` as they stand there, `overrides` with quotes around paths that begin with `~`."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.add_argument("--resume", metavar="RUN_DIR")
    args = parsed(parser, argv)
    if args.config_path or args.experimental_rerun:
        raise UserError(
            "--config-path and --experimental-rerun are not supported; --config-dir DIR adds your own files"
        )
    if sum([args.run, args.multirun, bool(args.cfg), bool(args.info)]) > 1:
        raise UserError("only one of --run, --multirun, --cfg and --info can be given")
    if args.resolve and not args.cfg:
        raise UserError("--resolve goes with --cfg")
    args.given, args.overrides = args.overrides, [with_quoted_home(text) for text in args.overrides]
    return args


def with_quoted_home(override: str) -> str:
    """`dataset.root='~/data'` of `dataset.root=~/data`, which Hydra's grammar does not take."""
    found = _PATHS.fullmatch(override)
    return f"{found[1]}='{found[2]}'" if found and "'" not in found[2] else override


def parsed(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """What the parser makes of the words; UserError with one line where it cannot."""
    parser.exit_on_error = False
    try:
        args, unknown = parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"no flag named '{unknown[0]}'{_hint(unknown[0], flags)}")
    return args


def _hint(flag: str, flags: list[str]) -> str:
    """What was meant by an unknown flag: another flag, or a setting written as one."""
    name = flag.partition("=")[0]
    if name == "--dry-run":
        return "; --cfg job shows the configuration and runs nothing"
    if close := nearest(name, flags, cutoff=0.75):
        return close
    from metalearn.compose.composer import composer
    from metalearn.compose.mistakes import similar_setting

    with composer() as composing:
        found = similar_setting(name.lstrip("-").replace("-", "_"), composing.known_keys([]))
    return f"; did you mean '{found}=...'?" if found else ""


def positive(text: str) -> int:
    """A number of one or more, for a flag."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not allowed (int >= 1)")
    return int(text)


def natural(text: str) -> int:
    """A number of 0 or more, for a flag."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not allowed (int >= 0)")
    return int(text)


def config_dir_of(argv: list[str]) -> str | None:
    """The value of --config-dir, for a help text."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word.startswith("--config-dir="):
            return word.partition("=")[2]
        if word in ("--config-dir", "-cd"):
            return following
    return None
