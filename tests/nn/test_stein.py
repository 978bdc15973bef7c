"""Stein variational gradient descent beside a loop over particles in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from metalearn.nn.stein import stein_direction

Array = NDArray[np.float64]
TASKS = 3


def random_particles(count: int, size: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    particles, slopes = torch.randn(2, TASKS, count, size, generator=generator, dtype=torch.float64)
    return particles, slopes


def by_loop(particles: Array, slopes: Array, temperature: float) -> Array:
    """One task's directions [M, P]: Liu and Wang's Algorithm 1, written out."""
    count = len(particles)
    apart = [np.sum((particles[i] - particles[j]) ** 2) for i in range(count) for j in range(i)]
    h = np.median(apart) / np.log(count)
    directions = np.zeros_like(particles)
    for m in range(count):
        for j in range(count):
            kernel = np.exp(-np.sum((particles[j] - particles[m]) ** 2) / h)
            slope_of_kernel = -2 / h * (particles[j] - particles[m]) * kernel  # by particle j
            directions[m] += (kernel * slopes[j] + temperature * slope_of_kernel) / count
    return directions


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_directions_are_those_of_a_loop_over_pairs(count: int, temperature: float) -> None:
    particles, slopes = random_particles(count)
    ours = stein_direction(particles + 100, slopes, temperature)
    for task in range(TASKS):
        theirs = by_loop(particles[task].numpy(), slopes[task].numpy(), temperature)
        np.testing.assert_allclose(ours[task], theirs, atol=1e-10)


def test_a_single_particle_follows_its_own_slope() -> None:
    particles, slopes = random_particles(1)
    assert torch.equal(stein_direction(particles, slopes, 3.0), slopes)


def test_equal_particles_share_their_slopes() -> None:
    _, slopes = random_particles(3)
    ours = stein_direction(torch.ones_like(slopes), slopes)
    torch.testing.assert_close(ours, slopes.mean(1, keepdim=True).expand_as(slopes))


def test_particles_come_to_lie_as_the_density_does() -> None:
    """Of a normal distribution with mean 1 and standard deviation 2; without the repulsion they meet at its mean."""
    spread = {}
    for temperature in (0.0, 1.0):
        generator = torch.Generator().manual_seed(0)
        particles = torch.randn(1, 60, 1, generator=generator, dtype=torch.float64)
        for _ in range(1500):
            particles = particles + 0.3 * stein_direction(particles, -(particles - 1) / 4, temperature)
        assert float(particles.mean()) == pytest.approx(1, abs=0.05)
        spread[temperature] = float(particles.std())
    assert spread[0.0] < 0.2
    assert spread[1.0] == pytest.approx(2, abs=0.2)
