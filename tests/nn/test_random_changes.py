"""Images changed at random, by a counter."""

from __future__ import annotations

import torch

from metalearn.nn.random_changes import changed_at_random


def images(size: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.rand(6, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_a_counter_gives_the_same_each_time_and_another_one_something_else() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (changed_at_random(images(), counter, 1.0, 1.0) for counter in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_probability_counts() -> None:
    changed = [
        not torch.equal(changed_at_random(images(8, 1), counter, 0.3, 1.0), images(8, 1)) for counter in range(200)
    ]
    assert 0.2 < sum(changed) / 200 < 0.4
    assert torch.equal(changed_at_random(images(), 0, 0.0, 1.0), images())


def test_images_are_moved_by_an_eighth_at_most_and_edges_are_repeated() -> None:
    """A ramp tells where each pixel came from: after undoing the colours, steps between neighbours are 0 (repeated) or one size."""
    ramp = torch.arange(16.0).expand(4, 1, 16, 16)
    seen = set()
    for counter in range(30):
        moved = changed_at_random(ramp, counter, 1.0, 1.0)
        step = moved.diff(dim=-1)
        size = step.abs().amax((1, 2, 3), keepdim=True)
        assert ((step.abs() < 1e-4) | ((step.abs() - size).abs() < 1e-4)).all()
        repeated = (step.abs() < 1e-4)[:, 0, 0].sum(-1)
        seen |= set(repeated.tolist())
        assert size.min() >= 0.5 - 1e-4  # contrast, between one half and three halves
        assert size.max() <= 1.5 + 1e-4
    assert seen == {0, 1, 2}


def test_half_of_the_changes_are_mirrored() -> None:
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    mirrored = [bool(changed_at_random(ramp, counter, 1.0, 1.0)[0, 0, 0].diff().sum() < 0) for counter in range(100)]
    assert 35 < sum(mirrored) < 65


def test_brightness_moves_by_half_a_deviation_at_most() -> None:
    for deviation in (1.0, 0.2):
        flat = torch.full((50, 1, 4, 4), 0.5)
        moved = changed_at_random(flat, 0, 1.0, deviation) - 0.5
        assert moved.abs().max() <= deviation / 2
        assert moved.max() > 0.3 * deviation
        assert moved.min() < -0.3 * deviation


def test_what_are_no_images_stay_as_they_are() -> None:
    vectors = torch.rand(3, 5)
    assert changed_at_random(vectors, 1, 1.0, 1.0) is vectors
