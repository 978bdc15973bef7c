"""Hashes in place of generators: alike where the content is alike, unlike elsewhere."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from metalearn.nn import hashed_numbers
from metalearn.nn.hashed_numbers import content_key, hash_32, normals, standard_normal, uniforms


def test_hashes_are_32_bits_and_one_to_one() -> None:
    hashed = hash_32(torch.arange(100_000))
    assert hashed.min() >= 0
    assert hashed.max() < 2**32
    assert hashed.unique().numel() == 100_000


def test_every_bit_is_as_often_one_as_zero() -> None:
    hashed = hash_32(torch.arange(100_000))
    for bit in range(32):
        assert 0.49 < float((hashed >> bit & 1).float().mean()) < 0.51, bit


def test_a_key_belongs_to_the_content_alone() -> None:
    x = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0))
    keys = content_key(x)
    assert keys.unique().numel() == 5
    assert torch.equal(content_key(x.flip(0)), keys.flip(0))
    assert torch.equal(content_key(x.double()), keys)
    changed = x.clone()
    changed[2, 1, 1] = torch.nextafter(x[2, 1, 1], torch.tensor(2.0))
    assert (content_key(changed) != keys).tolist() == [False, False, True, False, False]
    swapped = x.clone()
    swapped[0, 0, 0], swapped[0, 0, 1] = x[0, 0, 1], x[0, 0, 0]
    assert content_key(swapped)[0] != keys[0], "the order within a task counts"


def test_normal_numbers_are_standard_normal_and_functions_of_the_key_alone() -> None:
    numbers = standard_normal(content_key(torch.rand(500, 3, generator=torch.Generator().manual_seed(0))), 40)
    assert stats.kstest(numbers.numpy().ravel(), "norm").pvalue > 1e-3
    assert float(numbers.T.corrcoef().fill_diagonal_(0).abs().max()) < 0.25  # of 500 pairs
    torch.testing.assert_close(standard_normal(torch.tensor([7, 9]), 3)[1:], standard_normal(torch.tensor([9]), 3))
    assert bool(standard_normal(torch.arange(2**17), 8).isfinite().all())


def test_uniforms_and_normals_are_spread_as_their_names_say() -> None:
    seeds = torch.arange(100)
    for draw in (0, 1, -1):
        numbers = uniforms(seeds, 1000, draw)
        assert 0 < float(numbers.min()) < float(numbers.max()) < 1
        assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3
        assert stats.kstest(normals(seeds, 1000, draw).flatten().numpy(), "norm").pvalue > 1e-3


def test_the_largest_and_the_smallest_hash_give_finite_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for extreme in (0, 2**32 - 1):
        monkeypatch.setattr(hashed_numbers, "hash_32", lambda x, value=extreme: torch.full_like(x, value))
        assert bool(normals(torch.zeros(1, dtype=torch.int64), 3, 0).isfinite().all())


def test_draws_and_seeds_have_nothing_in_common() -> None:
    seeds = torch.tensor([3, 4])
    rows = torch.cat([normals(seeds, 2000, draw) for draw in (0, 1, 2)])
    assert float((torch.corrcoef(rows) - torch.eye(6)).abs().max()) < 0.1
    assert torch.equal(normals(seeds, 2000, 1), rows[2:4])
