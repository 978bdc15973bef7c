"""95 % intervals of means: over tasks, over the classes that these are made of, over seeds. docs/statistics.md says how often they hold.

Letters: T tasks, N classes in each of them, C different classes in all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_LEAST_CLASSES = 10  # fewer say too little about how much classes differ
_LEAST_FREEDOM = 4.0  # fewer are estimated too loosely to be taken at their word; scripts/coverage.py decided


class Spread(NamedTuple):
    """How uncertain a mean is: the variance of its estimate, and the degrees of freedom with which that is known."""

    variance: float
    freedom: float

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval, by Student's t."""
        return 0.0 if self.variance == 0 else t95(self.freedom) * math.sqrt(self.variance)


def added(spreads: Sequence[Spread]) -> Spread:
    """The spread of a sum of independent estimates; the degrees of freedom are Satterthwaite's (1946)."""
    variance = sum(spread.variance for spread in spreads)
    below = sum(spread.variance**2 / spread.freedom for spread in spreads)
    return Spread(variance, variance**2 / below if below > 0 else max(spread.freedom for spread in spreads))


def spread_of_mean(values: ArrayLike) -> Spread:
    """The spread of the mean of two or more independent values [n]."""
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    return Spread(float(x.var(ddof=1)) / x.size, x.size - 1)


def t95(degrees_of_freedom: float) -> float:
    """The 97.5 % point of Student's t: so many standard errors are half the width of a 95 % interval."""
    from scipy.special import stdtrit  # late: only who has results needs scipy

    return float(stdtrit(degrees_of_freedom, 0.975))


def interval95(values: ArrayLike) -> float:
    """Half the width of the interval of the mean of independent values [n], by Student's t; NaN for a single value, which has none."""
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    return math.nan if x.size < 2 else spread_of_mean(x).half_width


def interval95_of_classes(scores: ArrayLike, classes: ArrayLike) -> float:
    """Half the width of the interval of the mean score, where other classes might have been drawn for the test, and other tasks of them.

    Scores of two tasks are not independent where they share classes. The variance of their mean is the variance of independent scores, s^2 / T, and
    the mean covariance of two different tasks. That covariance is modelled as proportional to the number of classes that the two share: the effects
    of single classes, the first term of Hoeffding's decomposition. Its size follows from two quadratic forms of the scores, MINQUE(0)
    (Rao 1971; Hartley, Rao and LaMotte 1978). Student's t has Satterthwaite's (1946) degrees of freedom, at least 4 and at most C - 1.

    Args:
        scores: [T].
        classes: [T, N] integers; a class may be twice in a task, as one that is turned may. Tasks of fewer than N classes have -1 for the rest: the
            effect of a class in a task of n classes counts for 1 / n of it.

    Returns:
        NaN where there is no such interval: fewer than 10 classes, tasks that hold more than half of them, or tasks too few to share any.
    """
    shared = SharedClasses.of(classes)
    return math.nan if shared is None else shared.interval95(scores)


class SharedClasses:
    """Which tasks share which classes: what `interval95_of_classes` needs beside the scores, computed once for many runs on the same tasks.

    X [T, C] counts a task's classes, K = X X' [T, T] what two tasks share, M takes a mean off.

    Where tasks have different numbers of classes, each class of a task counts for less than 1 where it has many, for more where it has few.
    """

    @classmethod
    def of(cls, classes: ArrayLike) -> SharedClasses | None:
        """The classes [T, N] of T tasks, as for `interval95_of_classes`; None where there is no interval."""
        import numpy as np

        of_tasks = np.asarray(classes)
        there = of_tasks >= 0
        rows, _ = np.nonzero(there)
        found, columns = np.unique(of_tasks[there], return_inverse=True)
        tasks, ways = of_tasks.shape
        if len(found) < max(_LEAST_CLASSES, 2 * ways) or tasks < 3:
            return None
        each = there.sum(1)  # [T], classes
        weights = np.ones(len(rows)) if there.all() else (each.mean() / each)[rows]
        return cls(rows, columns.ravel(), weights, (tasks, len(found)))

    def __init__(
        self, rows: NDArray[Any], columns: NDArray[Any], weights: NDArray[Any], shape: tuple[int, int]
    ) -> None:
        import numpy as np
        from scipy.sparse import csr_matrix

        self._tasks, self._classes = tasks, _ = shape
        self._counts = csr_matrix((weights, (rows, columns)), shape=shape)  # X
        self._counts.sum_duplicates()
        self._each = np.asarray(self._counts.sum(0)).ravel()  # [C], in how many tasks each class is
        own = float(np.square(self._counts.data).sum())
        self._mean_shared = (float(self._each @ self._each) - own) / (tasks * (tasks - 1))  # by two different tasks

    def interval95(self, scores: ArrayLike) -> float:
        """Half the width of the interval of the mean of scores [T]; NaN where there is none."""
        spread = self.spread(scores)
        return math.nan if spread is None else spread.half_width

    def spread(self, scores: ArrayLike) -> Spread | None:
        """The spread of the mean of scores [T] over tasks and classes; None where there is none."""
        import numpy as np

        y = np.asarray(scores, dtype=np.float64)
        degrees, n = self._tasks - 1, self._tasks
        powers = self._powers
        one, two = powers[1], powers[2]
        determinant = degrees * two - one * one
        if determinant <= 1e-9 * degrees * two:  # every pair of tasks shares as much as every other
            return None
        centred = y - y.mean()
        squares = float(centred @ centred)
        by_class = float(np.square(self._counts.T @ centred).sum())
        # E[squares] = one * class + degrees * rest, E[by_class] = two * class + one * rest
        class_variance = max((degrees * by_class - one * squares) / determinant, 0.0)
        rest = max((squares - one * class_variance) / degrees, 0.0)
        variance = squares / (degrees * n) + class_variance * self._mean_shared
        if variance == 0:
            return Spread(0.0, self._classes - 1)
        # The estimate is a quadratic form, weights[0] * squares + weights[1] * by_class; its variance, if effects are normal, gives its freedom.
        slope = self._mean_shared * degrees / determinant
        weights, variances = [1 / (degrees * n) - slope * one / degrees, slope], [rest, class_variance]
        spectrum = np.convolve(np.convolve(weights, weights), np.convolve(variances, variances))
        freedom = variance**2 / float(spectrum @ powers)
        return Spread(variance, min(max(freedom, _LEAST_FREEDOM), self._classes - 1))

    @functools.cached_property
    def _powers(self) -> NDArray[np.float64]:
        """The traces of (M K M)^p for p = 0 .. 4, p = 0 without the mean's dimension; found in the smaller Gram matrix."""
        import numpy as np

        if self._classes <= self._tasks:
            gram = (self._counts.T @ self._counts).toarray() - np.outer(self._each, self._each) / self._tasks
        else:
            centred = self._counts.toarray() - self._each / self._tasks
            gram = centred @ centred.T
        square = gram @ gram
        traces = [gram.trace(), square.trace(), np.vdot(gram, square), np.vdot(square, square)]
        return np.array([self._tasks - 1, *traces])
