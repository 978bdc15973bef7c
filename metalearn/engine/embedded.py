"""Evaluation of learners that embed each example by itself: every example of the split passes the backbone once, not once for each of its tasks."""

from __future__ import annotations

from metalearn.algorithms.base import Algorithm
from metalearn.data.base import TaskSource

_MOST = 2**28  # numbers that the embeddings of a split may have, 1 GiB


def embedded_once(algorithm: Algorithm, source: TaskSource, wanted: int) -> tuple[Algorithm, TaskSource]:
    """A learner and tasks that come to the same scores, up to rounding, in less time; those given where there is nothing to gain.

    Args:
        algorithm: in evaluation mode.
        wanted: how many examples all tasks have together.
    """
    parts, examples = algorithm.in_two_steps(), source.examples
    if parts is None or examples is None or examples >= wanted or examples * parts.dim > _MOST:
        return algorithm, source
    return parts.learner, source.embedded(parts.embed)
