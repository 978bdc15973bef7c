"""How far a run or a job of a sweep has got; the words that results.json and the tables use."""

from __future__ import annotations

import enum


class Status(enum.StrEnum):
    """Compares equal to its word, so that what was read from a file can be compared as it is."""

    PENDING = "pending"  # a job that nobody has begun
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # begun, and nobody runs it: it can be resumed
    DONE = "done"
    PRUNED = "pruned"  # a search gave the trial up
    FAILED = "failed"
    DIVERGED = "diverged"  # the loss was no longer a number, or too large

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, unless a failed job is to be tried once more."""
        return self in (Status.DONE, Status.PRUNED, Status.FAILED, Status.DIVERGED)
