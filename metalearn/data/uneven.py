"""Tasks of uneven size: ways drawn for each task, shots for each of its classes.

After Meta-Dataset (Triantafillou et al. 2020, https://arxiv.org/abs/1903.03096, section 3.2). Departure: the classes are drawn evenly from the
whole split, theirs follow ImageNet's hierarchy and Omniglot's alphabets.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metalearn.data.numbers import Stream, unit
from metalearn.tasks import VaryingShape

_SIZES, _IMAGES = 2, 3  # a task's random words for either purpose, apart from those of tasks of one size
_FEW = 16  # of so many times as many images, a class's are found without ordering all of them


class UnevenTask(NamedTuple):
    """What one task is made of."""

    classes: NDArray[np.int64]  # [N], without repetition; the position is the label
    shots: NDArray[np.int64]  # [N], support examples of each class, at least 1; 0 where all have none
    queries: int  # query examples of each class
    support: NDArray[np.int64]  # [sum of shots], image numbers within their class, by label
    query: NDArray[np.int64]  # [N * queries], likewise; no image is in both

    @property
    def labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of support and query examples."""
        ways = np.arange(len(self.classes))
        return ways.repeat(self.shots), ways.repeat(self.queries)

    @property
    def images(self) -> NDArray[np.int64]:
        """Image numbers of the support examples, then of the query examples."""
        return np.concatenate([self.support, self.query])


def draw_task(stream: Stream, number: int, shape: VaryingShape, counts: NDArray[np.int64]) -> UnevenTask:
    """Task `number` of a stream, a function of it, of the shape and of how many images each of the split's classes has, [C]."""
    most = min(shape.most_ways, len(counts))
    numbers = unit(stream.words(number, 1, 2 + most + len(counts), _SIZES)[0])
    ways = _ways(float(numbers[0]), shape, len(counts))
    classes = np.argsort(numbers[2 + most :], kind="stable")[:ways]
    available = counts[classes]
    queries = _queries(shape, int(available.min()))
    shots = _shots(shape, available, queries, float(numbers[1]), numbers[2 : 2 + ways])
    support, query = _images(stream, number, available, shots, queries)
    return UnevenTask(classes, shots, queries, support, query)


def _ways(number: float, shape: VaryingShape, classes: int) -> int:
    """Evenly from min_ways to max_ways, as far as there are classes and support examples for them."""
    if not isinstance(shape.ways, str):
        return shape.ways
    shots = 1 if isinstance(shape.shots, str) else shape.shots
    most = min(shape.max_ways, classes, shape.max_support // max(shots, 1))
    return shape.min_ways + int(number * (most - shape.min_ways + 1))


def _queries(shape: VaryingShape, smallest: int) -> int:
    """As many of every class: what the shots leave of the smallest one, where these vary half of it, at most max_queries."""
    if not isinstance(shape.queries, str):
        return shape.queries
    left = smallest // 2 if isinstance(shape.shots, str) else smallest - shape.shots
    return min(shape.max_queries, left)


def _shots(
    shape: VaryingShape,
    available: NDArray[np.int64],
    queries: int,
    beta: float,
    alpha: NDArray[np.float64],
) -> NDArray[np.int64]:
    """The size of the support set, then each class's part of it. `beta` and `alpha` [N] lie in [0, 1)."""
    if not isinstance(shape.shots, str):
        return np.full(len(available), shape.shots, dtype=np.int64)
    left = available - queries
    size = min(int(np.floor(beta * np.minimum(shape.max_shots, left) + 1).sum()), shape.max_support)
    weights = available * np.exp((2 * alpha - 1) * math.log(shape.imbalance))
    wanted = 1 + np.floor(weights / weights.sum() * (size - len(available))).astype(np.int64)
    smaller: NDArray[np.int64] = np.minimum(wanted, left)
    return smaller


def _images(
    stream: Stream, number: int, available: NDArray[np.int64], shots: NDArray[np.int64], queries: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of support and of query images within their classes."""
    each = shots + queries
    words = [_words_for(int(n), int(k)) for n, k in zip(available, each, strict=True)]
    numbers = np.split(unit(stream.words(number, 1, sum(words), _IMAGES)[0]), np.cumsum(words)[:-1])
    drawn = [_distinct(part, int(n), int(k)) for part, n, k in zip(numbers, available, each, strict=True)]
    support = [images[:k] for images, k in zip(drawn, shots, strict=True)]
    query = [images[k:] for images, k in zip(drawn, shots, strict=True)]
    return np.concatenate(support), np.concatenate(query)


def _words_for(n: int, k: int) -> int:
    """How many random numbers `_distinct` takes to draw k of n."""
    return n if n <= _FEW * (k + 4) else 4 * (k + 4)


def _distinct(numbers: NDArray[np.float64], n: int, k: int) -> NDArray[np.int64]:
    """k different numbers of 0 .. n-1 in random order, from numbers in [0, 1)."""
    if len(numbers) == n:
        return np.argsort(numbers, kind="stable")[:k]
    # Four times as many as are needed, of a large class: that fewer than k of them differ does not happen (1 in 10^20 for k = 2, less for others).
    picks = (numbers * n).astype(np.int64)
    firsts = np.sort(np.unique(picks, return_index=True)[1])
    assert len(firsts) >= k
    return picks[firsts[:k]]
