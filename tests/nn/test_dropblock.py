"""DropBlock: what it drops, how much of it, and what that depends on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.nn.dropblock import DropBlock


def drop_block(rate: float = 0.3, size: int = 3, ramp: int = 1, seed: int = 0) -> DropBlock:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DropBlock(rate, size, ramp)


def dropped(drop: DropBlock, *shape: int) -> Tensor:
    """bool, where ones became zeros."""
    return drop(torch.ones(shape)) == 0


def expected_share(rate: float, size: int, side: int) -> float:
    """Of a square map: a point is kept where none of the centres whose region reaches it was drawn."""
    gamma = rate / size**2 * side**2 / (side - size + 1) ** 2
    reach = [min(i, size - 1, side - size, side - 1 - i) + 1 for i in range(side)]  # centres per axis
    return 1 - sum((1 - gamma) ** (a * b) for a in reach for b in reach) / side**2


@pytest.mark.parametrize(("size", "side"), [(1, 6), (3, 8), (5, 10), (5, 5)])
def test_the_share_that_is_dropped_is_the_one_expected(size: int, side: int) -> None:
    share = float(dropped(drop_block(0.2, size), 100, 64, side, side).float().mean())
    # Up to size**2 points fall together, which is what the number of independent ones is divided by.
    error = (0.2 * 0.8 / (100 * 64 * side**2 / size**2)) ** 0.5
    assert share == pytest.approx(expected_share(0.2, size, side), abs=4 * error)
    assert 0.1 < share <= 0.2 + 4 * error


def test_whole_squares_are_dropped_and_channels_differ() -> None:
    holes = dropped(drop_block(0.3, 3), 4, 8, 9, 9).float()
    inside = -F.max_pool2d(-holes, 3, stride=1)  # 1 where a whole square is dropped
    assert torch.equal(F.max_pool2d(F.pad(inside, (2, 2, 2, 2)), 3, stride=1), holes)
    assert 0 < float(inside.mean()) < 1
    assert len({tuple(channel.flatten().tolist()) for channel in holes.flatten(0, 1)}) > 16


def test_what_is_kept_makes_up_for_what_is_dropped() -> None:
    x = torch.rand(8, 4, 6, 6) + 0.5
    out = drop_block()(x)
    kept = out != 0
    torch.testing.assert_close(out[kept], x[kept] * kept.numel() / kept.sum())
    assert drop_block()(torch.ones(4, 3, 5, 5)).sum() == pytest.approx(4 * 3 * 5 * 5)


@pytest.mark.parametrize("side", [1, 3])
def test_a_map_smaller_than_the_region_is_dropped_whole(side: int) -> None:
    holes = dropped(drop_block(0.25, size=5), 40, 50, side, side).flatten(2)
    assert torch.equal(holes.all(2), holes.any(2))
    assert float(holes.float().mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 2000) ** 0.5)


def test_everything_dropped_is_no_division_by_zero() -> None:
    drop = drop_block(0.99, size=1)
    assert all(torch.isfinite(drop(torch.ones(1, 1, 1, 1))).all() for _ in range(20))


def test_the_share_rises_over_the_ramp() -> None:
    drop = drop_block(0.4, size=1, ramp=4)
    shares = [float(dropped(drop, 50, 50, 4, 4).float().mean()) for _ in range(6)]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4], abs=0.01)


def test_evaluation_and_rate_zero_change_nothing() -> None:
    x = torch.rand(2, 3, 6, 6)
    for drop in (drop_block().eval(), drop_block(rate=0.0).train()):
        before = copy.deepcopy(drop.state_dict())
        assert torch.equal(drop(x), x)
        assert all(torch.equal(before[name], value) for name, value in drop.state_dict().items())


def test_passes_and_keys_drop_differently_and_states_saved_go_on_alike() -> None:
    drop, shape = drop_block(), (2, 3, 6, 6)
    first = dropped(drop, *shape)
    saved = copy.deepcopy(drop.state_dict())
    second = dropped(drop, *shape)
    assert not torch.equal(first, second)
    assert not torch.equal(first, dropped(drop_block(seed=1), *shape))
    resumed = drop_block(seed=2)
    resumed.load_state_dict(saved)
    assert torch.equal(dropped(resumed, *shape), second)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    outcomes = []
    for seed in (0, 1):
        drop = drop_block()
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        outcomes.append(dropped(drop, 2, 3, 6, 6))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(*outcomes)


def test_the_bits_look_random() -> None:
    drop, count = drop_block(), 2**16
    rows = []
    for _ in range(4):
        drop.passes += 1
        rows.append(drop._bits(count))
    bits = torch.stack(rows)
    assert 0 <= int(bits.min()) < int(bits.max()) < 2**32
    for shift in range(0, 32, 8):  # the chi-square of each byte has 255 degrees of freedom: mean 255, deviation 22.6
        seen = torch.bincount((bits.flatten() >> shift) & 255, minlength=256)
        even = 4 * count / 256
        assert 150 < float(((seen - even) ** 2 / even).sum()) < 360
    unit = bits / 2**32 - 0.5
    neighbours, passes = (unit[:, 1:] * unit[:, :-1]).mean(), (unit[1:] * unit[:-1]).mean()
    assert max(abs(float(neighbours)), abs(float(passes))) < 4 / 12 / (3 * count) ** 0.5
