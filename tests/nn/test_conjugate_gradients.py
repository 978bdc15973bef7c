"""Conjugate gradients beside torch's dense solver."""

from __future__ import annotations

import torch
from torch import Tensor

from metalearn.nn.conjugate_gradients import conjugate_gradients

TASKS, SIZE = 4, 6


def systems(least: float) -> tuple[Tensor, Tensor]:
    """Symmetric matrices whose eigenvalues go from `least` to 5, and right sides."""
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(TASKS, SIZE, SIZE, generator=generator, dtype=torch.float64))
    values = torch.linspace(least, 5, SIZE, dtype=torch.float64)
    return axes @ torch.diag(values) @ axes.mT, torch.randn(TASKS, SIZE, generator=generator, dtype=torch.float64)


def test_it_solves_every_task_in_as_many_steps_as_there_are_unknowns() -> None:
    matrices, right = systems(0.5)
    found = conjugate_gradients(lambda v: (matrices @ v.unsqueeze(-1)).squeeze(-1), right, SIZE)
    torch.testing.assert_close(found.x, torch.linalg.solve(matrices, right), atol=1e-10, rtol=1e-10)
    assert float(found.residual.max()) < 1e-10


def test_the_shape_of_the_unknowns_does_not_matter() -> None:
    matrices, right = systems(0.5)
    flat = conjugate_gradients(lambda v: (matrices @ v.unsqueeze(-1)).squeeze(-1), right, 3)
    square = conjugate_gradients(
        lambda v: (matrices @ v.flatten(1).unsqueeze(-1)).view(TASKS, 2, 3), right.view(TASKS, 2, 3), 3
    )
    torch.testing.assert_close(square.x.flatten(1), flat.x)
    left = right - (matrices @ flat.x.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(flat.residual, left.norm(dim=1))
    assert float(flat.residual.min()) > 1e-3, "three steps do not solve six equations"


def test_a_task_stops_by_itself_when_it_has_arrived_or_is_not_active() -> None:
    matrices, right = systems(0.5)
    products = []

    def product(v: Tensor) -> Tensor:
        products.append(v)
        return (matrices @ v.unsqueeze(-1)).squeeze(-1)

    tolerance = torch.tensor([1e9, 1e-9, 1e-9, 1e-9], dtype=torch.float64)
    active = torch.tensor([True, True, False, True])
    found = conjugate_gradients(product, right, 100, tolerance, active)
    assert not found.x[0].any()
    assert not found.x[2].any()
    torch.testing.assert_close(found.x[[1, 3]], torch.linalg.solve(matrices, right)[[1, 3]], atol=1e-7, rtol=1e-7)
    assert len(products) <= SIZE + 1


def test_a_direction_without_positive_curvature_is_not_taken() -> None:
    matrices, right = systems(0.5)
    matrices[0] = -matrices[0]
    matrices[1] = torch.diag(torch.tensor([3.0, -1, 1, 1, 1, 1], dtype=torch.float64))
    right[1] = torch.tensor([1.0, 0.1, 0, 0, 0, 0], dtype=torch.float64)  # the first direction still curves up
    found = conjugate_gradients(lambda v: (matrices @ v.unsqueeze(-1)).squeeze(-1), right, SIZE)
    assert not found.x[0].any()
    torch.testing.assert_close(found.x[1], right[1] * (right[1] @ right[1]) / (right[1] @ matrices[1] @ right[1]))
    torch.testing.assert_close(found.x[2:], torch.linalg.solve(matrices, right)[2:], atol=1e-9, rtol=1e-9)
