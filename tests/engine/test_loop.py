"""The outer loop: what it writes, when it stops, and that it is the same twice."""

from __future__ import annotations

import gc
import logging
import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.algorithms.base import MetaLoss
from metalearn.algorithms.protonet import ProtoNet
from metalearn.data.base import TaskSource
from metalearn.data.images import ImageClasses
from metalearn.engine.build import build_algorithm
from metalearn.engine.gradient import affordable_meta_gradient, meta_gradient
from metalearn.engine.interrupts import Interrupts
from metalearn.engine.loop import OuterLoop
from metalearn.engine.optimizer import check_schedule, make_optimizer, make_schedule
from metalearn.engine.progress import Outcome
from metalearn.engine.settings import TrainSettings
from metalearn.errors import Diverged, UserError
from metalearn.runs import checkpoint
from metalearn.runs.checkpoint import saving_due
from metalearn.runs.training import Listener, train
from metalearn.tasks import TaskBatch, TaskShape
from tests.compose import SMALL, compose

Source = Callable[..., TaskSource]
Rows = list[tuple[int, dict[str, float]]]

FEW = (
    "train.steps=12",
    "train.meta_batch_size=4",
    "train.log_every=3",
    "train.val_every=4",
    "train.val_tasks=8",
    "train.checkpoint_every=4",
    "train.task_chunk=2",
)


def settings(*overrides: str, algorithm: str = "protonet") -> dict[str, Any]:
    return compose(f"algorithm={algorithm}", *SMALL, *FEW, *overrides)


def run(
    config: dict[str, Any], dataset: ImageClasses, source: Source, run_dir: Path, **changes: Any
) -> tuple[Outcome, Rows, Any]:
    algorithm = changes.get("algorithm") or build_algorithm(config, dataset)
    outcome, rows = Outcome(), []
    train_kept(config, algorithm, source, run_dir, outcome, lambda step, values: rows.append((step, values)))
    return outcome, rows, algorithm


def train_kept(
    config: dict[str, Any], algorithm: Any, source: Source, run_dir: Path, outcome: Outcome, listen: Listener
) -> None:
    always = {"config": config, "train_classes": list(source("train").class_names)}
    keeper = checkpoint.Keeper(run_dir, always, config["train"]["checkpoint_every"])
    tasks = source("train"), source("val")
    loop = OuterLoop(config, algorithm, *tasks, outcome=outcome, before_validating=keeper.before_validating)
    train(loop, keeper, Interrupts(), [listen])


def train_settings(**changes: Any) -> TrainSettings:
    return TrainSettings.of(compose()["train"] | changes)


@pytest.mark.parametrize("algorithm", ["protonet", "maml"])
def test_two_runs_are_equal_to_the_bit(algorithm: str, easy: ImageClasses, source: Source, tmp_path: Path) -> None:
    logged, states = [], []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _, rows, trained = run(settings(algorithm=algorithm), easy, source, tmp_path / name)
        logged.append(
            [(step, {tag: v for tag, v in values.items() if not tag.startswith("time/")}) for step, values in rows]
        )
        states.append(trained.state_dict())
    assert logged[0] == logged[1]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_rows_come_when_they_should(easy: ImageClasses, source: Source, tmp_path: Path) -> None:
    outcome, rows, _ = run(settings(), easy, source, tmp_path)
    assert [step for step, _ in rows] == [3, 4, 6, 8, 9, 12]
    assert [step for step, values in rows if "val/accuracy" in values] == [4, 8, 12]
    assert {"train/loss", "train/accuracy", "train/lr", "time/tasks_per_second"} <= set(rows[0][1])
    assert outcome.steps == 12
    assert 0 < outcome.data_seconds < outcome.seconds


def test_best_is_the_best_and_last_is_the_last(easy: ImageClasses, source: Source, tmp_path: Path) -> None:
    outcome, rows, trained = run(settings(), easy, source, tmp_path)
    validations = {step: values["val/accuracy"] for step, values in rows if "val/accuracy" in values}
    best_step = max(validations, key=lambda step: (validations[step], -step))
    assert outcome.best["step"] == best_step
    assert outcome.best["accuracy"] == validations[best_step]
    best, last = (checkpoint.load(tmp_path / f"{name}.pt", torch.device("cpu")) for name in ("best", "last"))
    assert best["step"] == best_step
    assert last["step"] == 12
    assert all(torch.equal(last["model"][key], value) for key, value in trained.state_dict().items())
    assert last["train_classes"] == list(source("train").class_names)


def test_a_later_worse_validation_does_not_replace_the_best(
    easy: ImageClasses, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalearn.engine.evaluate import Scores

    script = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(
        "metalearn.engine.loop.evaluate",
        lambda *a, **k: Scores(torch.full((1, 8), next(script)), [0], torch.zeros(8), {}),
    )
    outcome, _, _ = run(settings(), easy, source, tmp_path)
    assert outcome.best["step"] == 8
    assert checkpoint.load(tmp_path / "best.pt", torch.device("cpu"))["step"] == 8


def test_early_stop_counts_validations_without_gain(
    easy: ImageClasses, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalearn.engine.evaluate import Scores

    script = iter([0.5, 0.4, 0.6, 0.6, 0.5, 0.9])
    monkeypatch.setattr(
        "metalearn.engine.loop.evaluate",
        lambda *a, **k: Scores(torch.full((1, 8), next(script)), [0], torch.zeros(8), {}),
    )
    outcome, _, _ = run(settings("train.steps=40", "train.early_stop=2"), easy, source, tmp_path)
    assert outcome.steps == 20
    assert outcome.best["step"] == 12
    assert checkpoint.load(tmp_path / "last.pt", torch.device("cpu"))["step"] == 20


class Breaking(ProtoNet):
    """Its loss becomes `bad` in its sixth step."""

    def __init__(self, whole: ProtoNet, bad: float) -> None:
        super().__init__(whole.backbone)
        self.calls, self.bad = 0, bad

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        assert self.outer_step == self.calls // 2  # two chunks a step
        self.calls += 1
        outcome = super().meta_loss(tasks)
        worse: Tensor = outcome.loss * self.bad if self.calls > 10 else outcome.loss
        return MetaLoss(worse, outcome.metrics)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e9])
def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(
    easy: ImageClasses, source: Source, tmp_path: Path, bad: float
) -> None:
    config = settings()
    whole = build_algorithm(config, easy)
    assert isinstance(whole, ProtoNet)
    with pytest.raises(Diverged) as error:
        run(config, easy, source, tmp_path, algorithm=Breaking(whole, bad))
    assert error.value.step == 6
    last = checkpoint.load(tmp_path / "last.pt", torch.device("cpu"))
    assert last["step"] == 4
    assert all(bool(torch.isfinite(value).all()) for value in last["model"].values())


def test_checkpoints_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    # Read once when it starts, once for every step, and once more where something is due.
    clock = iter([100.0, 101.0, 129.9, 130.0, 130.0, 131.0, 159.9, 300.0, 300.0, 301.0])
    with monkeypatch.context() as patched:
        patched.setattr("metalearn.runs.checkpoint.time.monotonic", lambda: next(clock))
        due = saving_due("0.5min")
        assert [due(step) for step in range(7)] == [False, False, True, False, False, True, False]
    assert [step for step in range(1, 10) if saving_due(3)(step)] == [3, 6, 9]


def test_rows_do_not_depend_on_when_checkpoints_are_written(easy: ImageClasses, source: Source, tmp_path: Path) -> None:
    logged = []
    for every in (1, 5, "0.0001min", "100min"):
        (tmp_path / str(every)).mkdir()
        _, rows, _ = run(settings(f"train.checkpoint_every={every}"), easy, source, tmp_path / str(every))
        logged.append([(step, {t: v for t, v in values.items() if not t.startswith("time/")}) for step, values in rows])
        assert checkpoint.load(tmp_path / str(every) / "last.pt", torch.device("cpu"))["step"] == 12
    assert all(rows == logged[0] for rows in logged)


def test_schedules() -> None:
    def rates(**changes: Any) -> list[float]:
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.Adam([parameter], lr=2.0)
        settings = train_settings(**{"steps": 4, "lr": 2.0, "lr_final": 0.0, "schedule_every": 2, **changes})
        schedule = make_schedule(optimizer, settings)
        seen = []
        for _ in range(5):
            seen.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return seen

    assert rates(schedule="constant", lr_final=0.5) == [2, 2, 2, 2, 2]
    assert rates(schedule="step", lr_final=0.5) == [2, 2, 1, 1, 0.5]
    assert rates(schedule="linear") == pytest.approx([2, 1.5, 1, 0.5, 0])
    assert rates(schedule="linear", lr_final=0.4) == pytest.approx([2, 1.6, 1.2, 0.8, 0.4])
    assert rates(schedule="linear", lr_final=2.0) == [2, 2, 2, 2, 2]
    half = [(1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert rates(schedule="cosine") == pytest.approx([2 * share for share in half])
    assert rates(schedule="cosine", lr_final=0.4) == pytest.approx([0.4 + 1.6 * share for share in half])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "step"])
def test_a_warm_up_leads_to_every_schedule_and_is_resumed(schedule: str) -> None:
    def rates(warmup: int, resumed_after: int = 0) -> list[float]:
        settings = train_settings(schedule=schedule, steps=9, lr=2.0, schedule_every=2, warmup=warmup)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        made, seen = make_schedule(optimizer, settings), []
        for step in range(9):
            if resumed_after and step == resumed_after:
                states = optimizer.state_dict(), made.state_dict()
                optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
                made = make_schedule(optimizer, settings)
                optimizer.load_state_dict(states[0])
                made.load_state_dict(states[1])
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            made.step()
        return seen

    expected = [rate * min(1, (step + 1) / 4) for step, rate in enumerate(rates(0))]
    assert rates(4) == pytest.approx(expected)
    assert rates(4, resumed_after=2) == rates(4, resumed_after=6) == rates(4)


def test_settings_of_the_optimizer_without_effect_are_refused() -> None:
    check_schedule(train_settings(momentum=0.9, optimizer="sgd"))
    with pytest.raises(UserError, match=r"train\.momentum=0\.9 goes with train\.optimizer=sgd, not adam"):
        check_schedule(train_settings(momentum=0.9))
    with pytest.raises(UserError, match=r"train\.warmup=9 must be less than train\.steps=9"):
        check_schedule(train_settings(warmup=9, steps=9))


def test_momentum_and_decay_reach_the_optimizer() -> None:
    network = torch.nn.Linear(2, 2)
    for name in ("adam", "adamw", "sgd"):
        group = make_optimizer(network, train_settings(optimizer=name, weight_decay=0.1, momentum=0.5)).param_groups[0]
        assert group["weight_decay"] == 0.1
        assert group.get("momentum") in (None, 0.5)


@pytest.mark.parametrize(
    ("steps", "every", "tasks", "validated"),
    [(1000, 200, 4, 80), (5000, 500, 16, 200), (20, 10, 4, 20), (20, 99, 99, 198)],
)
def test_automatic_validation_tasks_follow_from_the_settings(
    steps: int, every: int, tasks: int, validated: int
) -> None:
    settings = train_settings(steps=steps, val_every=every, meta_batch_size=tasks, val_tasks="auto")
    assert settings.validation_tasks == validated
    assert train_settings(val_tasks=7).validation_tasks == 7


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_that_would_rise_is_refused(schedule: str) -> None:
    settings = {"schedule": schedule, "lr": 0.5, "lr_final": 0.5}
    check_schedule(train_settings(**settings))
    with pytest.raises(UserError, match=r"train\.lr_final=0\.6 is more than train\.lr=0\.5"):
        check_schedule(train_settings(**settings | {"lr_final": 0.6}))


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_schedules_without_a_final_rate_do_not_look_at_it(schedule: str) -> None:
    check_schedule(train_settings(schedule=schedule, lr=0.5, lr_final=0.6))


def test_the_last_linear_step_is_small_and_none_would_follow() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = make_schedule(optimizer, train_settings(schedule="linear", steps=1000, lr=2.0, lr_final=0.0))
    for _ in range(999):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(0.002)
    schedule.step()
    assert schedule.get_last_lr()[0] == 0


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_outer_optimizers(name: str, kind: type[torch.optim.Optimizer], easy: ImageClasses) -> None:
    config = settings(f"train.optimizer={name}", "train.lr=0.25")
    optimizer = make_optimizer(build_algorithm(config, easy), TrainSettings.of(config["train"]))
    assert isinstance(optimizer, kind)
    assert type(optimizer).__name__ == kind.__name__
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_sgd_takes_plain_steps_at_the_scheduled_rate(easy: ImageClasses, source: Source, tmp_path: Path) -> None:
    config = settings("train.optimizer=sgd", "train.schedule=linear", "train.lr=0.5", "train.steps=2")
    _, rows, trained = run(config, easy, source, tmp_path)
    by_hand = build_algorithm(config, easy).train()
    shape = config["task"]["train"]
    for step, rate in enumerate((0.5, 0.25)):
        by_hand.zero_grad()
        tasks = source("train").tasks(4 * step, 4, TaskShape.of(shape))
        meta_gradient(by_hand, tasks, 2, "fp32")
        with torch.no_grad():
            for parameter in by_hand.parameters():
                assert parameter.grad is not None
                parameter -= rate * parameter.grad
    for ours, expected in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)
    assert rows[-1][1]["train/lr"] == 0


def test_clipping_bounds_the_gradient_and_logs_its_norm(easy: ImageClasses, source: Source, tmp_path: Path) -> None:
    _, rows, trained = run(settings("train.clip_norm=1e-3"), easy, source, tmp_path)
    assert all(values["train/grad_norm"] > 1e-3 for _, values in rows)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in trained.parameters() if p.grad is not None))
    assert norm == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["protonet", pytest.param("maml", marks=pytest.mark.slow)])
def test_memory_does_not_grow(algorithm: str, easy: ImageClasses, source: Source, tmp_path: Path) -> None:
    """From step 50 to step 500: neither tensors that live on nor the process."""
    small = (
        "backbone.filters=4",
        "task.train.queries=1",
        "task.train.ways=2",
        "train.meta_batch_size=1",
        "train.val_tasks=2",
    )
    every = ("train.steps=500", "train.val_every=500", "train.checkpoint_every=500", "train.log_every=50")
    config = settings(*small, *every, algorithm=algorithm)
    seen: dict[int, tuple[int, int]] = {}

    def report(step: int, values: dict[str, float]) -> None:
        gc.collect()
        tensors = sum(1 for item in gc.get_objects() if issubclass(type(item), Tensor))
        seen[step] = tensors, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    train_kept(config, build_algorithm(config, easy), source, tmp_path, Outcome(), report)
    assert seen[450][0] <= seen[50][0]
    assert seen[450][1] - seen[50][1] < 16, "MiB"


class SmallMemory(ProtoNet):
    """A learner that more than two tasks at a time are too much for; what it lost on the way there must not count."""

    @staticmethod
    def of(algorithm: ProtoNet) -> SmallMemory:
        algorithm.__class__ = SmallMemory
        algorithm.register_buffer("seen", torch.zeros(()))
        assert isinstance(algorithm, SmallMemory)
        return algorithm

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        self.seen += tasks.tasks
        outcome = super().meta_loss(tasks)
        if tasks.tasks > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return outcome


def test_out_of_memory_halves_the_chunk_says_so_and_goes_on(
    easy: ImageClasses, source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # No running statistics: two tasks at a time round them otherwise than one.
    config = settings("train.meta_batch_size=8", "train.task_chunk=8", "backbone.norm=none")
    with caplog.at_level("WARNING", "metalearn"):
        outcome, rows, algorithm = run(
            config, easy, source, tmp_path, algorithm=SmallMemory.of(build_algorithm(config, easy))
        )
    told = [record.message for record in caplog.records if "out of memory" in record.message]
    assert told == [f"out of memory with {n} tasks at a time: going on with {n // 2}" for n in (8, 4)]
    assert outcome.task_chunk == 2
    assert float(algorithm.seen) == 12 * 8, "each step's tasks counted once"
    config["train"]["task_chunk"] = 2
    (tmp_path / "roomy").mkdir()
    _, expected, _ = run(config, easy, source, tmp_path / "roomy")
    for (step, ours), (same_step, theirs) in zip(rows, expected, strict=True):
        assert step == same_step
        assert ours["train/loss"] == theirs["train/loss"]


def test_one_task_that_does_not_fit_ends_the_run(easy: ImageClasses, source: Source) -> None:
    class TooLarge(ProtoNet):
        def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
            raise torch.OutOfMemoryError("CUDA out of memory")

    algorithm = build_algorithm(settings(), easy)
    algorithm.__class__ = TooLarge
    with pytest.raises(torch.OutOfMemoryError):
        affordable_meta_gradient(
            meta_gradient, algorithm, source("train").tasks(0, 4, TaskShape(5, 1, 5)), 4, "fp32", of=4
        )


def test_gradients_of_parts_add_up(easy: ImageClasses, source: Source) -> None:
    tasks = source("train").tasks(0, 6, TaskShape(5, 1, 5))
    whole, parts = (build_algorithm(settings(algorithm="maml"), easy).double() for _ in range(2))
    tasks = TaskBatch(*(part._replace(x=part.x.double()) for part in tasks[:2]), tasks.classes)
    sums = meta_gradient(whole, tasks, 6, "fp32")
    of_parts = [meta_gradient(parts, part, 2, "fp32", of=6) for part in tasks.chunks(4)]
    torch.testing.assert_close(sums["loss"], sum(part["loss"] for part in of_parts))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


class Tuned(ProtoNet):
    """Counts the tasks that it was to choose by, and the calls."""

    seen: Tensor

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))

    @property
    def tuning_tasks(self) -> int:
        return 3

    def tune(self, tasks: TaskBatch) -> str:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen += torch.tensor([tasks.tasks, 1])
        return "what is best"


def test_an_algorithm_chooses_by_validation_tasks_before_every_validation(
    easy: ImageClasses, source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="metalearn")
    config = settings()
    tuned = Tuned(build_algorithm(config, easy).backbone)
    run(config, easy, source, tmp_path, algorithm=tuned)
    assert tuned.seen.tolist() == [9, 3]  # after 4, 8 and 12 steps
    assert tuned.training
    assert "chosen by 3 validation tasks: what is best" in caplog.messages
    stored = checkpoint.load(tmp_path / "last.pt", torch.device("cpu"))
    assert stored["model"]["seen"].tolist() == [9, 3]
