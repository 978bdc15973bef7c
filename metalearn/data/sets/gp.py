"""Functions drawn from Gaussian processes (as neural processes are tested: Kim et al. 2019, https://arxiv.org/abs/1901.05761, section 4.1).

A task is a draw from a Gaussian process with mean 0: its kernel is one of those that are listed, its length scale, its scale, its noise and, of a
periodic kernel, its period are drawn evenly. Its examples are points of the draw with noise, x drawn evenly. Training, validation and test tasks
come from the same distribution. Letters: T tasks, n points.

With length scale l, scale s, period p and distance d of two x (Rasmussen and Williams 2006, http://gaussianprocess.org/gpml, chapter 4):

    rbf         s^2 exp(-d^2 / (2 l^2))                            eq. 4.9
    matern32    s^2 (1 + a) exp(-a), a = sqrt(3) d / l             eq. 4.17
    matern52    s^2 (1 + a + a^2 / 3) exp(-a), a = sqrt(5) d / l   eq. 4.17
    periodic    rbf of the chord d = (p / pi) sin(pi d / p) of a circle with circumference p: as eq. 4.31, with a length scale in units of x
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from metalearn.data.base import TaskSource
from metalearn.data.files.published import About
from metalearn.data.functions import Functions, FunctionTasks, Numbers, interval
from metalearn.errors import UserError

ABOUT = About("draws from Gaussian processes", "https://arxiv.org/abs/1901.05761", "MIT, as the program")

_JITTER = 1e-8  # of the scale's square, added to the diagonal: without noise a kernel matrix of close points is singular up to rounding


class Processes(NamedTuple):
    """The Gaussian processes of T tasks."""

    kernel: NDArray[np.int64]  # [T], the place in `kernels`
    length_scale: Numbers  # [T, 1, 1], in units of x; all others likewise
    scale: Numbers  # standard deviation of the function
    noise: Numbers  # standard deviation of what is added to each point
    period: Numbers  # in units of x
    kernels: tuple[str, ...]

    def covariance(self, one: Numbers, other: Numbers) -> Numbers:
        """Of function values at x [T, n] and at x [T, m]: [T, n, m]."""
        distance = np.abs(one[:, :, None] - other[:, None, :])
        found = np.empty_like(distance)
        for place, name in enumerate(self.kernels):
            of = self.kernel == place
            found[of] = _KERNELS[name](distance[of], self.length_scale[of], self.period[of])
        covariance: Numbers = self.scale**2 * found
        return covariance

    def noisy(self, x: Numbers) -> Numbers:
        """The covariance of points with noise at x [T, n]: [T, n, n]."""
        diagonal: Numbers = (self.noise**2 + _JITTER * self.scale**2) * np.eye(x.shape[1])
        return self.covariance(x, x) + diagonal

    def posterior(self, x: Numbers, y: Numbers, at: Numbers) -> tuple[Numbers, Numbers]:
        """Means and standard deviations, [T, m] each, of points with noise at `at` [T, m], given points x, y [T, n] (eq. 2.22 to 2.24).

        Who knows the process can do no better: it is the bound of every learner.
        """
        cross = self.covariance(x, at)  # [T, n, m]
        solved = np.linalg.solve(self.noisy(x), np.concatenate([y[..., None], cross], axis=-1))  # [T, n, 1 + m]
        mean: Numbers = (cross * solved[..., :1]).sum(1)
        left = (self.scale**2 * (1 + _JITTER) + self.noise**2)[..., 0] - (cross * solved[..., 1:]).sum(1)
        return mean, np.sqrt(np.maximum(left, _JITTER * self.scale[..., 0] ** 2))


class GaussianProcesses(Functions):
    """Draws from Gaussian processes.

    Args:
        kernels: names of kernels, one of which is drawn for each task.
        length_scale, period: lowest and highest, in units of x.
        scale: lowest and highest standard deviation of a function.
        noise: lowest and highest standard deviation of the noise of each point.
        x: lowest and highest.

    Raises:
        UserError: an interval is none, or there is no such kernel.
    """

    own_numbers: ClassVar[int] = 5  # kernel, length scale, scale, noise, period

    def __init__(
        self,
        kernels: Sequence[str],
        length_scale: Sequence[float],
        scale: Sequence[float],
        noise: Sequence[float],
        period: Sequence[float],
        x: Sequence[float],
    ) -> None:
        if not kernels or len(set(kernels)) < len(kernels) or not set(kernels) <= set(_KERNELS):
            raise UserError(f"dataset.kernels={list(kernels)} is not allowed (some of: {', '.join(_KERNELS)})")
        self.kernels = tuple(kernels)
        self.length_scale = interval("length_scale", length_scale, may_be_one=True)
        self.scale = interval("scale", scale, may_be_one=True)
        self.noise = interval("noise", noise, may_be_one=True)
        self.period = interval("period", period, may_be_one=True)
        of_x = interval("x", x)
        super().__init__("gp", of_x, [self.kernels, self.length_scale, self.scale, self.noise, self.period, of_x])

    def processes(self, numbers: Numbers) -> Processes:
        """The processes of numbers [T, 5] in [0, 1)."""
        kernel = (numbers[:, 0] * len(self.kernels)).astype(np.int64)
        ends = (self.length_scale, self.scale, self.noise, self.period)
        length_scale, scale, noise, period = (of.at(numbers[:, i, None, None]) for i, of in enumerate(ends, start=1))
        return Processes(kernel, length_scale, scale, noise, period, self.kernels)

    def values(self, numbers: Numbers, x: Numbers, further: Callable[[int], Numbers]) -> Numbers:
        """See Functions: y = L z, where L L^T is the covariance and z are standard normal numbers."""
        root = np.linalg.cholesky(self.processes(numbers).noisy(x))
        normal = ndtri(further(x.shape[1]) + 2.0**-54)  # the middle of each step of 2**-53: never minus infinity
        y: Numbers = (root @ normal[..., None])[..., 0]
        return y

    def about(self, numbers: Numbers) -> Mapping[str, tuple[Any, ...]]:
        """See Functions: the kernel, where there are several."""
        if len(self.kernels) == 1:
            return {}
        return {"kernel": tuple(self.kernels[place] for place in self.processes(numbers).kernel)}

    def exact(self, source: TaskSource, first: int, count: int) -> Processes:
        """The processes that tasks first .. first+count-1 of a source of this data set were drawn from."""
        assert isinstance(source, FunctionTasks)
        return self.processes(source.numbers(first, count))


def _rbf(distance: Numbers, length_scale: Numbers, period: Numbers) -> Numbers:
    covariance: Numbers = np.exp(-0.5 * (distance / length_scale) ** 2)
    return covariance


def _matern32(distance: Numbers, length_scale: Numbers, period: Numbers) -> Numbers:
    a = math.sqrt(3) * distance / length_scale
    covariance: Numbers = (1 + a) * np.exp(-a)
    return covariance


def _matern52(distance: Numbers, length_scale: Numbers, period: Numbers) -> Numbers:
    a = math.sqrt(5) * distance / length_scale
    covariance: Numbers = (1 + a + a**2 / 3) * np.exp(-a)
    return covariance


def _periodic(distance: Numbers, length_scale: Numbers, period: Numbers) -> Numbers:
    return _rbf(period / math.pi * np.sin(math.pi * distance / period), length_scale, period)


_KERNELS: dict[str, Callable[[Numbers, Numbers, Numbers], Numbers]] = {
    "rbf": _rbf,
    "matern32": _matern32,
    "matern52": _matern52,
    "periodic": _periodic,
}
