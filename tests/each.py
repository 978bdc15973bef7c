"""The algorithms that a test goes through: all of them, of which `make check` takes the five best known alone."""

from __future__ import annotations

from typing import Any

import pytest

from metalearn.engine.able import learners
from metalearn.kinds import CLASSIFICATION

_BEST_KNOWN = ("maml", "mann", "matching", "protonet", "reptile")


def learners_of_classes() -> list[Any]:
    """The values of a parameter: every algorithm that learns classes; a test of one that is not among the best known is `thorough`."""
    thorough = pytest.mark.thorough
    return [
        pytest.param(name, marks=() if name in _BEST_KNOWN else thorough, id=name) for name in learners(CLASSIFICATION)
    ]
