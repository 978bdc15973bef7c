"""The outer optimizers are torch's own, without the import of torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from metalearn.engine.optimizer import make_optimizer
from metalearn.engine.settings import TrainSettings
from tests.compose import compose


def settings(**changed: object) -> TrainSettings:
    """Those of the default run, some changed."""
    return TrainSettings.of(compose()["train"] | changed)


@pytest.mark.parametrize(
    ("name", "own", "theirs"),
    [
        ("adam", {"weight_decay": 0.01}, lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01)),
        ("adamw", {"weight_decay": 0.01}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01)),
        ("sgd", {"momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    ],
)
def test_an_optimizer_steps_and_stores_as_torchs(name: str, own: dict[str, object], theirs: object) -> None:
    networks = [nn.Linear(3, 2).double() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    optimizers = [
        make_optimizer(networks[0], settings(optimizer=name, lr=0.1, **own)),
        theirs(networks[1].parameters()),  # type: ignore[operator]
    ]
    x = torch.randn(5, 3, dtype=torch.float64)
    for _ in range(3):
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    for mine, reference in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=0)
        assert mine.requires_grad
        assert mine.is_leaf
    states = [optimizer.state_dict() for optimizer in optimizers]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    torch.testing.assert_close(states[0]["state"], states[1]["state"], rtol=0, atol=0)
    again = make_optimizer(networks[0], settings(optimizer=name, lr=0.5, **own))
    again.load_state_dict(states[1])
    assert again.param_groups[0]["lr"] == 0.1
    torch.testing.assert_close(again.state_dict()["state"], states[1]["state"], rtol=0, atol=0)


@pytest.mark.thorough
def test_a_step_of_an_optimizer_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch; from metalearn.engine.optimizer import _uncompiled;"
        "p = torch.nn.Parameter(torch.ones(2)); o = _uncompiled(torch.optim.Adam)([p], lr=0.1);"
        "o.zero_grad(); p.sum().backward(); o.step(); o.load_state_dict(o.state_dict());"
        "assert p.item() != 1 if p.numel() == 1 else bool((p != 1).all());"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
