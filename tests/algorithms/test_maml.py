"""MAML against learn2learn's own loop, against finite differences, and against itself cut into chunks."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn import kinds
from metalearn.algorithms.inner_loop import Adapted
from metalearn.algorithms.maml import MAML
from metalearn.backbones import MLP, Conv4
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.nn.l2l import learn2learn
from metalearn.nn.task_gradients import TaskGradients
from metalearn.tasks import Examples, TaskBatch

WAYS, SHOTS, QUERIES, TASKS = 3, 2, 4, 5
SHAPE = (1, 16, 16)


def random_tasks(dtype: torch.dtype = torch.float32, ways: int = WAYS) -> TaskBatch:
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        x = torch.rand(TASKS, ways * each, *SHAPE, generator=generator, dtype=dtype)
        return Examples(x, torch.arange(ways).repeat_interleave(each).expand(TASKS, -1), ways)

    return TaskBatch(examples(SHOTS), examples(QUERIES), torch.zeros(TASKS, ways, dtype=torch.int64))


def maml(
    backbone: str = "conv",
    dtype: torch.dtype = torch.float32,
    steps: int = 2,
    first_order: bool = False,
    learn_rates: bool = False,
    multi_step_loss_until: int = 0,
    first_order_until: int = 0,
    checkpoint_inner: bool = False,
) -> MAML:
    torch.manual_seed(1)
    net: nn.Module
    if backbone == "conv":
        net = Conv4(SHAPE, filters=8, downsample="stride", norm="batch", running_stats=False, pool="mean")
    else:
        net = MLP(SHAPE, hidden=[6], norm="none", running_stats=False)
    return MAML(
        net,
        WAYS,
        inner_lr=0.4,
        inner_steps=steps,
        test_inner_steps=steps + 1,
        first_order=first_order,
        learn_rates=learn_rates,
        multi_step_loss_until=multi_step_loss_until,
        first_order_until=first_order_until,
        checkpoint_inner=checkpoint_inner,
        norm_parameters="adapted",
        head_parameters="adapted",
    ).to(dtype)


def gradients(algorithm: MAML, tasks: TaskBatch, task_chunk: int) -> tuple[float, list[Tensor]]:
    algorithm.zero_grad(set_to_none=True)
    loss = meta_gradient(algorithm, tasks, task_chunk, "fp32")["loss"]
    return float(loss), [p.grad.clone() for p in algorithm.parameters() if p.grad is not None]


def learn2learn_gradients(algorithm: MAML, tasks: TaskBatch, first_order: bool) -> tuple[float, list[Tensor]]:
    """The loop of learn2learn's own examples: one task at a time on its MAML around the plain network."""
    reference = learn2learn().algorithms.MAML(
        copy.deepcopy(algorithm.learner.module.module), lr=algorithm.learner.lr, first_order=first_order
    )
    total = torch.zeros((), dtype=tasks.support.x.dtype)
    for task in range(tasks.tasks):
        learner = reference.clone()
        for _ in range(algorithm.inner_steps):
            learner.adapt(F.cross_entropy(learner(tasks.support.x[task]), tasks.support.y[task]))
        total = total + F.cross_entropy(learner(tasks.query.x[task]), tasks.query.y[task])
    (total / tasks.tasks).backward()  # type: ignore[no-untyped-call]
    return float(total.detach()) / tasks.tasks, [p.grad for p in reference.parameters()]


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("backbone", ["conv", "mlp"])
@pytest.mark.parametrize("task_chunk", [1, TASKS])
def test_equals_learn2learns_own_loop(backbone: str, first_order: bool, task_chunk: int) -> None:
    tasks, algorithm = random_tasks(), maml(backbone, first_order=first_order)
    loss, ours = gradients(algorithm, tasks, task_chunk)
    expected_loss, theirs = learn2learn_gradients(algorithm, tasks, first_order)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-5, rtol=1e-4)


def test_equals_finite_differences_in_float64() -> None:
    check_finite_differences(maml("mlp", torch.float64))


def check_finite_differences(algorithm: MAML) -> None:
    tasks = random_tasks(torch.float64)
    _, analytic = gradients(algorithm, tasks, TASKS)

    def loss() -> float:
        return float(algorithm.meta_loss(tasks).loss.detach().mean())

    step = 1e-5
    for parameter, gradient in zip(algorithm.parameters(), analytic, strict=True):
        flat, flat_gradient = parameter.data.view(-1), gradient.view(-1)
        for i in range(0, flat.numel(), max(1, flat.numel() // 7)):
            before = float(flat[i])
            flat[i] = before + step
            up = loss()
            flat[i] = before - step
            down = loss()
            flat[i] = before
            assert (up - down) / (2 * step) == pytest.approx(float(flat_gradient[i]), abs=1e-8, rel=1e-6)


@pytest.mark.parametrize("backbone", ["conv", "mlp"])
@pytest.mark.parametrize("first_order", [False, True])
def test_without_options_it_is_learn2learns_adapt_to_rounding(backbone: str, first_order: bool) -> None:
    tasks, algorithm = random_tasks(), maml(backbone, first_order=first_order)
    assert not [name for name, _ in algorithm.named_parameters() if not name.startswith("learner.")]
    loss, ours = gradients(algorithm, tasks, TASKS)
    algorithm.zero_grad(set_to_none=True)
    learner = algorithm.learner.clone()
    learner.module.expand(TASKS)
    for _ in range(2):
        learner.adapt(kinds.cross_entropy(learner(tasks.support.x), tasks.support.y).sum())
    parameters = dict(learner.module.module.named_parameters())
    losses = algorithm.queries_loss(Adapted(parameters, tasks.support.x), tasks).loss
    (losses.sum() / TASKS).backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(float(losses.detach().sum() / TASKS), rel=1e-5)
    for our, parameter in zip(ours, algorithm.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(our, parameter.grad, rtol=1e-4, atol=1e-5)


def test_first_order_differs_from_second() -> None:
    tasks = random_tasks(torch.float64)
    _, second = gradients(maml("mlp", torch.float64), tasks, TASKS)
    _, first = gradients(maml("mlp", torch.float64, first_order=True), tasks, TASKS)
    assert max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) > 1e-3


@pytest.mark.parametrize("task_chunk", [1, 2, 3, 4])
def test_chunked_equals_whole(task_chunk: int) -> None:
    tasks, algorithm = random_tasks(torch.float64), maml("conv", torch.float64)
    whole_loss, whole = gradients(algorithm, tasks, TASKS)
    loss, chunked = gradients(algorithm, tasks, task_chunk)
    assert loss == pytest.approx(whole_loss, abs=1e-12)
    for a, b in zip(chunked, whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-9)


def test_each_task_adapts_by_itself() -> None:
    tasks, algorithm = random_tasks(), maml()
    together = algorithm.adapt(tasks.support)
    alone = algorithm.adapt(tasks.support.slice(2, 3))
    for name, parameter in alone.parameters.items():
        torch.testing.assert_close(together.parameters[name][2:3], parameter, atol=1e-5, rtol=1e-4)


def test_evaluation_takes_its_own_number_of_steps() -> None:
    tasks, algorithm = random_tasks(), maml(steps=2)
    assert len(list(algorithm.train().adapt_stepwise(tasks.support))) == 3
    assert len(list(algorithm.eval().adapt_stepwise(tasks.support))) == 4


def test_before_the_first_step_nothing_is_adapted() -> None:
    tasks, algorithm = random_tasks(), maml()
    first = next(algorithm.eval().adapt_stepwise(tasks.support))
    for (name, parameter), start in zip(
        first.parameters.items(), algorithm.learner.module.module.parameters(), strict=True
    ):
        assert torch.equal(parameter, start.expand_as(parameter)), name


def test_without_transduction_a_query_sees_only_the_support_set() -> None:
    tasks, algorithm = random_tasks(), maml().eval()
    assert algorithm.transductive
    algorithm.set_transductive(False)
    assert not algorithm.transductive
    adapted = algorithm.adapt(tasks.support)
    whole = algorithm.predict(adapted, tasks.query.x)
    torch.testing.assert_close(algorithm.predict(adapted, tasks.query.x[:, :1]), whole[:, :1], atol=1e-5, rtol=1e-4)
    # By hand: the query as the last of a batch that is otherwise the support set.
    network, task, query = algorithm.learner.module.module, 1, 5
    batch = torch.cat([tasks.support.x[task], tasks.query.x[task, query : query + 1]])
    parameters = {name: parameter[task] for name, parameter in adapted.parameters.items()}
    by_hand = torch.func.functional_call(network, parameters, (batch,))[-1]
    torch.testing.assert_close(whole[task, query], by_hand, atol=1e-5, rtol=1e-4)
    algorithm.set_transductive(True)
    assert not torch.allclose(algorithm.predict(adapted, tasks.query.x), whole, atol=1e-3)


def test_without_batch_statistics_transduction_is_refused() -> None:
    algorithm = maml("mlp")
    assert not algorithm.transductive
    algorithm.set_transductive(False)
    with pytest.raises(UserError, match=r"eval\.transductive=true"):
        algorithm.set_transductive(True)


def test_other_numbers_of_ways_start_from_the_mean_row() -> None:
    tasks, algorithm = random_tasks(ways=7), maml().eval()
    states = list(algorithm.adapt_stepwise(tasks.support))
    before, after = (algorithm.predict(state, tasks.query.x) for state in (states[0], states[-1]))
    assert after.shape == (TASKS, 7 * QUERIES, 7)
    torch.testing.assert_close(before, before[..., :1].expand_as(before), atol=1e-5, rtol=0)
    assert not torch.allclose(after, after[..., :1].expand_as(after), atol=1e-2)


def test_running_statistics_are_refused() -> None:
    backbone = Conv4(SHAPE, filters=8, downsample="stride", norm="batch", running_stats=True, pool="mean")
    with pytest.raises(UserError, match=r"backbone\.running_stats"):
        MAML(backbone, WAYS, 0.4, 1, 1, False, False, 0, 0, False, "adapted", "adapted")


def test_adaptation_errors_are_raised_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """learn2learn prints a RuntimeError of autograd and goes on; here it must surface as itself."""
    algorithm = maml("mlp")
    learner = algorithm.learner.clone()
    with pytest.raises(RuntimeError, match="does not require grad"):
        learner.adapt(torch.zeros(()))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("learn_rates", [False, True])
@pytest.mark.parametrize("backbone", ["conv", "mlp"])
def test_inner_steps_taken_twice_have_the_gradient_of_those_that_are_kept(backbone: str, learn_rates: bool) -> None:
    tasks = random_tasks(torch.float64)
    kept, again = (
        gradients(
            maml(backbone, steps=3, dtype=torch.float64, learn_rates=learn_rates, checkpoint_inner=checkpointed),
            tasks,
            TASKS,
        )
        for checkpointed in (False, True)
    )
    assert kept[0] == again[0]
    assert len(kept[1]) == len(again[1])
    for theirs, ours in zip(kept[1], again[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="vmap of torch 2.4 refuses hooks on saved tensors")
def test_inner_steps_taken_twice_leave_little_more_than_their_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that each further inner step keeps until the backward pass."""
    # Where gradients are written out, the maps that are kept are no saved tensors of autograd.
    monkeypatch.setattr(TaskGradients, "differentiable", lambda self, x: None)
    tasks = random_tasks()

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def kept(steps: int, checkpointed: bool) -> int:
        algorithm, alive = maml("conv", steps=steps, checkpoint_inner=checkpointed), weakref.WeakSet[Saved]()

        def note(tensor: Tensor) -> Saved:
            alive.add(saved := Saved(tensor))
            return saved

        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved.tensor):
            outcome = algorithm.meta_loss(tasks)
        storages = [saved.tensor.untyped_storage() for saved in alive]
        assert outcome.loss.requires_grad, "its graph, and with it what it keeps, is still there"
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    parameters = 4 * TASKS * sum(p.numel() for p in maml("conv").parameters())
    assert kept(6, checkpointed=True) - kept(2, checkpointed=True) <= 4 * 1.5 * parameters
    assert kept(6, checkpointed=False) - kept(2, checkpointed=False) >= 4 * 5 * parameters
