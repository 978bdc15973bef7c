"""Writes docs/images/run.svg: what a terminal shows of `metalearn train`. A real run, about a minute.

python scripts/picture_of_a_run.py [key=value ...]
"""

from __future__ import annotations

import codecs
import contextlib
import os
import pty
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "run.svg"
SETTINGS = [
    "train.steps=200",
    "train.val_every=50",
    "backbone.filters=16",
    "task.train.ways=5",
    "hydra.run.dir=outputs/first",
]
WIDTH = 118
_UP, _CLEAR, _OTHER = re.compile(r"\x1b\[(\d*)A"), re.compile(r"\x1b\[2K"), re.compile(r"\x1b\[\?\d+[hl]")
_PIECE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+")


def output_of(command: list[str]) -> str:
    """What the command writes to a terminal, control codes included."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(COLUMNS=str(WIDTH), LINES="60", TERM="xterm-256color")
        os.execv(command[0], command)
    decoder, text = codecs.getincrementaldecoder("utf-8")(), ""
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed
        while data := os.read(terminal, 65536):
            text += decoder.decode(data)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the run failed:\n{text}")
    return text


def screen(text: str) -> str:
    """The lines that stand on the screen at the end: each redrawing of the live view replaces the one before."""
    lines, row = [""], 0
    for piece in _PIECE.findall(text):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif up := _UP.fullmatch(piece):
            row = max(0, row - int(up[1] or 1))
        elif _CLEAR.fullmatch(piece):
            lines[row] = ""
        elif piece != "\r" and not _OTHER.fullmatch(piece):
            lines[row] += piece
    return "\n".join(lines).strip("\n")


def main(overrides: list[str]) -> None:
    settings = [*SETTINGS[:-1], *overrides, SETTINGS[-1]]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("PYTHONPATH", str(PICTURE.parents[2]))
        os.chdir(folder)
        shown = screen(output_of([sys.executable, "-m", "metalearn", "train", *settings]))
        shown = shown.replace(str(Path(folder).resolve()), "~")
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    console.print(Text.from_ansi("$ metalearn train " + " ".join(settings[:-1]) + "\n" + shown))
    PICTURE.parent.mkdir(exist_ok=True)
    console.save_svg(str(PICTURE), title="metalearn")


if __name__ == "__main__":
    main(sys.argv[1:])
