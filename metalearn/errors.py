"""Errors that are the user's to mend: one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user wrote or has not installed; the message names the key, the value and what is allowed."""


class Diverged(RuntimeError):
    """The training loss became NaN, infinite or larger than `train.max_loss`."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the training loss was {loss:g} at step {step}")
        self.step = step


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'maml'?` when one of `known` resembles `name`, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
