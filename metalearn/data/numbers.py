"""Random numbers of a stream of tasks: those of task i are a pure function of (seed, split, purpose, i), the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metalearn.data.classes import SPLITS

_TO_UNIT = 2.0**-53  # a 64-bit word's upper 53 bits -> [0, 1)


class Stream:
    """Random 64-bit words by task."""

    def __init__(self, seed: int, split: str) -> None:
        self._key = np.array([seed, SPLITS.index(split)], dtype=np.uint64)

    def words(self, first: int, count: int, n: int, purpose: int) -> NDArray[np.uint64]:
        """n words of each of the tasks first .. first+count-1: uint64 [count, n]. Purposes have words of their own."""
        return np.stack([self._words_of(i, n, purpose) for i in range(first, first + count)])

    def _words_of(self, i: int, n: int, purpose: int) -> NDArray[np.uint64]:
        # Word 2 of the counter is the task's number, so tasks are 2**128 draws apart. random_raw's stream is fixed across numpy versions.
        counter = np.array([0, 0, i, purpose], dtype=np.uint64)
        words: NDArray[np.uint64] = np.random.Philox(key=self._key, counter=counter).random_raw(n)
        return words


def unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Each word as a number in [0, 1)."""
    numbers: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * _TO_UNIT
    return numbers
