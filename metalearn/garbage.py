"""When Python looks for garbage: objects that refer to each other, and nothing to them.

It looks whenever it has made some hundred objects more than it dropped. Importing torch makes two hundred thousand that all stay, and Python goes
through them again and again: an eighth of the time from the command to the first outer step.
"""

from __future__ import annotations

import gc

_RARELY = 100_000  # objects; the imports of a run make about twice as many
_usual: tuple[int, int, int] | None = None  # Python's own thresholds, while they are not in force


def collect_rarely() -> None:
    """For the start of a program."""
    global _usual
    if _usual is None:
        _usual = gc.get_threshold()
        gc.set_threshold(_RARELY, *_usual[1:])


def collect_as_usual() -> None:
    """From when tensors are made, which garbage might hold. What is there by then is never looked at again."""
    global _usual
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)
        _usual = None
