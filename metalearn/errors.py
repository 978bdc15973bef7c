"""Errors that are the user's to mend: one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user wrote or has not installed; the message names the key, the value and what is allowed."""


class Diverged(RuntimeError):
    """The training loss became NaN, infinite or larger than `train.max_loss`, or validation tasks have no score."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} at step {step}")
        self.step = step


class NotFinite(RuntimeError):
    """Some test tasks have no score, as an output or the loss is NaN or infinite; a mean over the others would mislead."""

    def __init__(self, tasks: int, of: int) -> None:
        super().__init__(f"{tasks} of {of} test tasks are not finite: outputs or losses are NaN or infinite")


class Pruned(RuntimeError):
    """A search stopped one of its trials, which had no prospects."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped by the search at step {step}: other trials had validated better by then")
        self.step = step


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        # As shells count the two signals that end a program; a batch system's warning stands for the second.
        self.exit_code = 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


class RunFailed(RuntimeError):
    """A run failed and has said so itself: on the console and, where they could be written, in run.log and results.json."""


def one_line(error: BaseException) -> str:
    """The error's message without line breaks."""
    return " ".join(str(error).split())


def shortened(text: str, most: int) -> str:
    """The text, where it has more than `most` characters up to the end of its last whole sentence, or of its last whole word and ` ...`.

    A text whose first word alone is longer is cut inside it.
    """
    if len(text) <= most:
        return text
    ends = [end.end() for end in re.finditer(r"[.!?](?= )", text[: most + 1])]
    if ends and ends[-1] >= most // 2:  # a sentence that leaves out most of what could be said says too little
        return text[: ends[-1]]
    # One character more than there is room for: a space there says that the word before it is whole.
    room = text[: most - 3]
    return f"{room.rpartition(' ')[0].rstrip(' ,;:(') or room[:-1]} ..."


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean 'maml'?` when one of `known`, not `name` itself, resembles it; else an empty string."""
    close = difflib.get_close_matches(name, [other for other in known if other != name], n=1, cutoff=cutoff)
    return f"; did you mean '{close[0]}'?" if close else ""
