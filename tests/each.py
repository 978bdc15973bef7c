"""The algorithms that a test goes through: all of them, of which `make check` takes the five best known, or two of them, alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from metalearn.engine.able import learners
from metalearn.kinds import CLASSIFICATION

_BEST_KNOWN = ("maml", "mann", "matching", "protonet", "reptile")
TWO = ("maml", "protonet")  # one that adapts a network and one that compares: for tests that take seconds


def learners_of_classes(fast: Sequence[str] = _BEST_KNOWN) -> list[Any]:
    """The values of a parameter: every algorithm that learns classes; a test of one that is not among `fast` is `thorough`."""
    thorough = pytest.mark.thorough
    return [pytest.param(name, marks=() if name in fast else thorough, id=name) for name in learners(CLASSIFICATION)]
