"""`train.optimizer=muon`: which parameters Muon takes, that a step is torch's, and that it is resumed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from metalearn.engine.optimizer import check_schedule, make_optimizer, make_schedule
from metalearn.engine.settings import TrainSettings
from metalearn.errors import UserError
from tests.compose import compose

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings.of(compose()["train"] | {"optimizer": "muon", "lr": 0.01, "schedule": "constant"} | changes)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6, 4))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range, schedule: Any = None) -> None:
    for number in numbers:
        model.zero_grad()
        x = torch.rand(5, 2, 3, 3, generator=torch.Generator().manual_seed(number))
        model(x).square().sum().backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@needs_muon
def test_kernels_move_as_torchs_muon_moves_matrices_and_all_else_as_adamw() -> None:
    ours, by_hand = network(), network()
    steps(ours, make_optimizer(ours, settings(weight_decay=0.1)), range(3))
    matrices = [nn.Parameter(p.detach().flatten(1).clone()) for p in by_hand.parameters() if p.dim() > 1]
    others = [p for p in by_hand.parameters() if p.dim() == 1]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01, weight_decay=0.1)

    class Both:
        def step(self) -> None:
            kernels = [p for p in by_hand.parameters() if p.dim() > 1]
            for matrix, kernel in zip(matrices, kernels, strict=True):
                assert kernel.grad is not None
                matrix.grad = kernel.grad.flatten(1)
            muon.step()  # type: ignore[no-untyped-call]
            adamw.step()
            for matrix, kernel in zip(matrices, kernels, strict=True):
                kernel.data.copy_(matrix.data.view_as(kernel))

    steps(by_hand, Both(), range(3))  # type: ignore[arg-type]
    assert_equal(ours, by_hand)


@needs_muon
def test_the_schedule_reaches_both() -> None:
    model = network()
    optimizer = make_optimizer(model, settings(schedule="linear", steps=4))
    schedule = make_schedule(optimizer, settings(schedule="linear", steps=4))
    steps(model, optimizer, range(4), schedule)
    before = copy.deepcopy(model.state_dict())
    steps(model, optimizer, range(1))  # at a rate of 0
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@needs_muon
def test_a_resumed_muon_goes_on_as_it_would_have() -> None:
    asked = settings(schedule="cosine", steps=6)
    whole, model = network(), network()
    optimizer = make_optimizer(whole, asked)
    steps(whole, optimizer, range(6), make_schedule(optimizer, asked))

    optimizer = make_optimizer(model, asked)
    schedule = make_schedule(optimizer, asked)
    steps(model, optimizer, range(3), schedule)
    states = copy.deepcopy((model.state_dict(), optimizer.state_dict(), schedule.state_dict()))
    resumed = network(seed=1)
    optimizer = make_optimizer(resumed, asked)
    schedule = make_schedule(optimizer, asked)
    resumed.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    schedule.load_state_dict(states[2])
    steps(resumed, optimizer, range(3, 6), schedule)
    assert_equal(resumed, whole)


@needs_muon
@pytest.mark.parametrize("model", [nn.Linear(3, 2, bias=False), nn.BatchNorm1d(3)], ids=["matrices", "vectors"])
def test_a_model_may_have_matrices_alone_or_none(model: nn.Module) -> None:
    optimizer = make_optimizer(model, settings())
    before = [parameter.clone() for parameter in model.parameters()]
    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    assert any(not torch.equal(*both) for both in zip(before, model.parameters(), strict=True))


def test_an_older_torch_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(UserError, match=r"train\.optimizer=muon needs torch 2\.9 or later"):
        check_schedule(settings())
