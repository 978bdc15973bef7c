"""`metalearn tensorboard`: TensorBoard over chosen runs."""

from __future__ import annotations

import argparse
import re
import signal
import time
from pathlib import Path
from types import FrameType

from metalearn.cli.arguments import parsed
from metalearn.cli.compare import json_text
from metalearn.errors import UserError

_LOOK = 10.0  # seconds between two looks for new runs
_IS_FILTER = re.compile(r"[\w.@/-]+(!=|<=|>=|=|<|>).*")


def tensorboard(argv: list[str]) -> None:
    """Starts the server, prints its address, and serves until it is stopped."""
    args = parsed(_parser(), argv)
    given = [word for word in args.words if _IS_FILTER.fullmatch(word) and not Path(word).exists()]
    paths = [word for word in args.words if word not in given] or ["outputs"]
    if paths == ["outputs"] and not Path("outputs").is_dir():
        raise UserError("there is no folder 'outputs' here: metalearn tensorboard PATH names another one")
    filters = [*given, *(text for group in args.filter or [] for text in group)]
    from metalearn.report import terminal
    from metalearn.runs.tensorboard import Board

    for name in ("SIGTERM", "SIGHUP"):  # the server must not stay behind
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _terminated)
    with Board(paths, filters, args.port) as board:
        if args.json:
            terminal.say(json_text(board.record()).rstrip("\n"))
        else:
            for run in board.shown:
                terminal.say(f"  {run.name}  {run.run.path}")
            if board.left_out:
                terminal.say(f"{len(board.left_out)} more without curves (not started, or unreadable)")
            terminal.say(f"TensorBoard: {board.address}  (Ctrl-C ends it)")
        while board.running:
            time.sleep(_LOOK)
            for run in board.refresh():
                if not args.json:
                    terminal.say(f"  new: {run.name}  {run.run.path}")


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--filter", action="append", nargs="+")
    parser.add_argument("--port", type=_port)
    parser.add_argument("--json", action="store_true")
    return parser


def _port(text: str) -> int:
    """A TCP port that a user may take."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return int(text)
