"""`train.average`: what is averaged, what is validated and saved, and that a resumed run goes on with both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.engine.average import average_of
from metalearn.engine.build import build_algorithm
from metalearn.engine.evaluate import evaluate
from metalearn.engine.interrupts import Interrupts
from metalearn.engine.loop import OuterLoop
from metalearn.errors import UserError
from metalearn.runs import checkpoint
from metalearn.runs.training import train
from tests.compose import SMALL, compose

Source = Callable[..., TaskSource]
State = dict[str, Tensor]


def loop_of(dataset: ImageClasses, source: Source, *overrides: str) -> OuterLoop:
    few = ("train.steps=6", "train.val_every=3", "train.log_every=3", "train.val_tasks=4", "train.task_chunk=2")
    config = compose(*SMALL, *few, *overrides)
    return OuterLoop(config, build_algorithm(config, dataset), source("train"), source("val"))


def copied(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_average_is_the_exponential_one_of_weights_and_running_statistics(
    easy: ImageClasses, source: Source
) -> None:
    plain, averaged = (loop_of(easy, source, f"train.average={decay}") for decay in ("null", "0.75"))
    expected: State = {}
    for reported in plain:
        now = copied(plain.algorithm)
        for name, value in now.items():
            first = reported.step == 1 or not value.is_floating_point()
            expected[name] = value if first else 0.75 * expected[name] + 0.25 * value
    for _ in averaged:
        pass
    state = averaged.state_dict()
    assert equal(state["trained"], plain.state_dict()["model"]), "training itself goes on as without an average"
    assert any("running_var" in name for name in expected)
    for name, value in state["model"].items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert not equal(state["model"], state["trained"])


def test_validation_looks_at_the_average_and_training_goes_on_from_the_weights(
    easy: ImageClasses, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[State] = []

    def watched(algorithm: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(copied(algorithm))
        return evaluate(algorithm, *args, **kwargs)

    monkeypatch.setattr("metalearn.engine.loop.evaluate", watched)
    loop = loop_of(easy, source, "train.average=0.9")
    validated = []
    for reported in loop:
        state = loop.state_dict()
        assert equal(copied(loop.algorithm), state["trained"])
        if reported.score is not None:
            validated.append({name: tensor.clone() for name, tensor in state["model"].items()})
    assert len(seen) == len(validated) == 2
    assert all(equal(*both) for both in zip(seen, validated, strict=True))


def test_a_resumed_run_ends_with_the_same_weights_and_the_same_average(easy: ImageClasses, source: Source) -> None:
    whole, first, second = (loop_of(easy, source, "train.average=0.9") for _ in range(3))
    for _ in whole:
        pass
    for reported in first:
        if reported.step == 4:
            break
    second.load_state_dict(first.state_dict())
    for _ in second:
        pass
    for part in ("model", "trained"):
        assert equal(second.state_dict()[part], whole.state_dict()[part])


def test_a_checkpoint_without_an_average_is_not_gone_on_with(easy: ImageClasses, source: Source) -> None:
    plain = loop_of(easy, source).state_dict()
    with pytest.raises(UserError, match="cannot be resumed"):
        loop_of(easy, source, "train.average=0.9").load_state_dict(plain)


def test_best_holds_the_average_alone(easy: ImageClasses, source: Source, tmp_path: Path) -> None:
    loop = loop_of(easy, source, "train.average=0.9")
    keeper = checkpoint.Keeper(tmp_path, {"config": loop.config, "train_classes": []}, 3)
    train(loop, keeper, Interrupts())
    best, last = (checkpoint.load(tmp_path / name, torch.device("cpu")) for name in ("best.pt", "last.pt"))
    assert "trained" in last
    assert "trained" not in best
    at_last = best["step"] == last["step"]
    assert equal(best["model"], last["model"]) == at_last


class Counting(nn.Module):
    """A weight, and a key that no float holds exactly."""

    key: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("key", torch.tensor(2**60 + 1))


def test_integers_are_the_models_own() -> None:
    model = Counting()
    average = average_of(model, 0.9)
    for _ in range(3):
        model.key += 1
        average.update()
    assert int(average.state_dict()["model"]["key"]) == 2**60 + 4


def test_what_is_chosen_while_the_average_is_in_place_stays_with_it() -> None:
    model = Counting()
    average = average_of(model, 0.5)
    average.update()
    model.weight.data += 1
    average.update()
    with average.in_place():
        assert model.weight.tolist() == [1.5, 1.5]
        model.key.fill_(7)
    assert model.weight.tolist() == [2, 2]
    assert int(model.key) == 2**60 + 1
    assert int(average.state_dict()["model"]["key"]) == 7
