"""Reptile against a plain loop: one task at a time, with torch's own optimizers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms import reptile as module
from metalearn.algorithms.reptile import Reptile, mini_batches
from metalearn.backbones import MLP, Backbone, Conv4
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch

WAYS, SHOTS, QUERIES, TASKS = 3, 4, 2, 3
SHAPE = (1, 16, 16)


def random_tasks(dtype: torch.dtype = torch.float64, ways: int = WAYS) -> TaskBatch:
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        x = torch.rand(TASKS, ways * each, *SHAPE, generator=generator, dtype=dtype)
        return Examples(x, torch.arange(ways).repeat_interleave(each).expand(TASKS, -1), ways)

    return TaskBatch(examples(SHOTS), examples(QUERIES), torch.zeros(TASKS, ways, dtype=torch.int64))


def reptile(optimizer: str = "adam", backbone: str = "mlp", dtype: torch.dtype = torch.float64) -> Reptile:
    torch.manual_seed(1)
    net: Backbone
    if backbone == "conv":
        net = Conv4(SHAPE, filters=8, downsample="stride", norm="batch", running_stats=False, pool="mean")
    else:
        net = MLP(SHAPE, hidden=[6], norm="batch" if backbone == "mlp_norm" else "none", running_stats=False)
    rate = 0.01 if optimizer == "adam" else 0.3
    return Reptile(
        net, WAYS, optimizer, inner_lr=rate, inner_steps=4, inner_batch=5, test_inner_steps=6, test_inner_batch=3
    ).to(dtype)


def plain_loop(algorithm: Reptile, tasks: TaskBatch, task: int) -> list[Tensor]:
    """theta' of one task."""
    return plain_loop_and_moments(algorithm, tasks, task)[0]


def plain_loop_and_moments(
    algorithm: Reptile, tasks: TaskBatch, task: int, moments: list[Tensor] | None = None, done: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """theta' of one task and the second moments it ends with, from those of `done` inner steps before."""
    network = copy.deepcopy(algorithm.network)
    optimizer: torch.optim.Optimizer
    if algorithm.inner_optimizer == "adam":
        optimizer = torch.optim.Adam(network.parameters(), lr=algorithm.inner_lr, betas=(0.0, 0.999))
    else:
        optimizer = torch.optim.SGD(network.parameters(), lr=algorithm.inner_lr)
    for parameter, moment in zip(network.parameters(), moments or [], strict=False):
        optimizer.state[parameter] = {
            "step": torch.tensor(float(done)),
            "exp_avg": torch.zeros_like(moment),
            "exp_avg_sq": moment.clone(),
        }
    batches = mini_batches(tasks.support.x, algorithm.inner_batch, algorithm.inner_steps)[task]
    for step, batch in enumerate(batches, start=done + 1):
        # The authors' epsilon (TensorFlow's) counts before the bias correction, torch's after it.
        optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999**step) ** 0.5
        optimizer.zero_grad()
        F.cross_entropy(network(tasks.support.x[task, batch]), tasks.support.y[task, batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    ends = [parameter.detach() for parameter in network.parameters()]
    return ends, [optimizer.state[parameter].get("exp_avg_sq", torch.zeros(())) for parameter in network.parameters()]


@pytest.mark.parametrize("task_chunk", [1, TASKS])
@pytest.mark.parametrize("backbone", ["mlp", "mlp_norm"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_gradient_is_the_way_back_from_where_the_tasks_end(optimizer: str, backbone: str, task_chunk: int) -> None:
    tasks, algorithm = random_tasks(), reptile(optimizer, backbone).train()
    meta_gradient(algorithm, tasks, task_chunk, "fp32")
    ends = zip(*(plain_loop(algorithm, tasks, task) for task in range(TASKS)), strict=True)
    for (name, theta), theta_prime in zip(algorithm.named_parameters(), ends, strict=True):
        expected = theta.detach() - torch.stack(theta_prime).mean(0)
        assert theta.grad is not None, name
        torch.testing.assert_close(theta.grad, expected, atol=1e-9, rtol=0)
        if (name, backbone) != ("network.backbone.blocks.1.bias", "mlp_norm"):  # batch norm takes it out again
            assert float(expected.abs().max()) > 1e-4, name


@pytest.mark.parametrize("images", [1, 10, 50])  # of mini-batches of 5: one task, two, all of them at a time
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_with_and_without_autograd_the_same_comes_out(
    optimizer: str, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IMAGES", images)
    tasks = random_tasks()
    by_hand, by_autograd = (reptile(optimizer, "conv").train() for _ in range(2))
    assert by_hand._chain is not None
    by_autograd._chain = None
    outcomes = []
    for algorithm in (by_hand, by_autograd):
        for algorithm.outer_step in range(2):
            sums = meta_gradient(algorithm, tasks, TASKS, "fp32")
        gradient = {name: parameter.grad for name, parameter in algorithm.named_parameters()}
        states = list(algorithm.eval().adapt_stepwise(tasks.support))
        ended = algorithm.adapt(tasks.support)
        for name, parameter in ended.parameters.items():
            torch.testing.assert_close(states[-1].parameters[name], parameter)
        outputs = [algorithm.predict(state, tasks.query.x) for state in states]
        outcomes.append([sums, gradient, outputs, dict(algorithm.named_buffers())])
    assert len({float(outputs[0, 0, 0]) for outputs in outcomes[0][2]}) == 7, (
        "a state does not change when the next is made"
    )
    torch.testing.assert_close(outcomes[0], outcomes[1], atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("task_chunk", [1, 2, TASKS])
def test_second_moments_go_on_from_outer_step_to_outer_step(task_chunk: int) -> None:
    tasks, algorithm = random_tasks(), reptile().train()
    moments: list[Tensor] | None = None
    for outer_step in range(3):
        algorithm.outer_step = outer_step
        algorithm.zero_grad()
        meta_gradient(algorithm, tasks, task_chunk, "fp32")
        done = outer_step * algorithm.inner_steps
        plain = [plain_loop_and_moments(algorithm, tasks, task, moments, done) for task in range(TASKS)]
        moments = [torch.stack(of_tasks).mean(0) for of_tasks in zip(*(ends[1] for ends in plain), strict=True)]
        thetas = zip(algorithm.parameters(), *(ends[0] for ends in plain), strict=True)
        for theta, *theta_prime in thetas:
            assert theta.grad is not None
            expected = theta.detach() - torch.stack(theta_prime).mean(0)
            torch.testing.assert_close(theta.grad, expected, atol=1e-9, rtol=0)


def test_a_copy_from_the_state_goes_on_with_the_same_moments() -> None:
    tasks, algorithm, gradients = random_tasks(), reptile().train(), []
    meta_gradient(algorithm, tasks, TASKS, "fp32")
    again = reptile().train()
    again.load_state_dict(algorithm.state_dict())
    for one in (algorithm, again):
        one.outer_step = 1
        one.zero_grad()
        meta_gradient(one, tasks, TASKS, "fp32")
        gradients.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)
    fresh = reptile().train()
    meta_gradient(fresh, tasks, TASKS, "fp32")
    assert not torch.allclose(
        gradients[0], torch.cat([p.grad.flatten() for p in fresh.parameters() if p.grad is not None])
    )


def test_where_an_easy_task_starts_well_the_moments_keep_its_steps_short() -> None:
    """The gradients are small there, which moments that start afresh would not show."""
    tasks, algorithm = random_tasks(), reptile().train()
    hard = algorithm.adapt(tasks.support)
    algorithm.second_moments.fill_(1.0)
    algorithm.moment_steps.fill_(1000.0)
    after_hard_ones = algorithm.adapt(tasks.support)
    for name, theta in algorithm.network.named_parameters():
        assert (after_hard_ones.parameters[name] - theta).abs().max() < 0.5 * (
            hard.parameters[name] - theta
        ).abs().max()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_sgd_step_at_rate_one_goes_to_the_mean_of_the_tasks(optimizer: str) -> None:
    tasks, algorithm = random_tasks(), reptile(optimizer).train()
    adapted = algorithm.adapt(tasks.support)
    outer = torch.optim.SGD(algorithm.parameters(), lr=1.0)
    meta_gradient(algorithm, tasks, TASKS, "fp32")
    outer.step()
    for name, parameter in algorithm.network.named_parameters():
        torch.testing.assert_close(parameter.detach(), adapted.parameters[name].mean(0), atol=1e-12, rtol=0)


def test_the_logged_loss_and_accuracy_are_those_of_the_queries_after_adaptation() -> None:
    tasks, algorithm = random_tasks(), reptile().train()
    outcome = algorithm.meta_loss(tasks)
    for task in range(TASKS):
        network = copy.deepcopy(algorithm.network)
        for parameter, end in zip(network.parameters(), plain_loop(algorithm, tasks, task), strict=True):
            parameter.data = end
        logits = network(tasks.query.x[task])
        torch.testing.assert_close(outcome.loss[task], F.cross_entropy(logits, tasks.query.y[task]))
        accuracy = (logits.argmax(-1) == tasks.query.y[task]).float().mean()
        torch.testing.assert_close(outcome.metrics["accuracy"][task], accuracy)


def test_queries_do_not_enter_the_gradient() -> None:
    tasks, gradients = random_tasks(), []
    for query in (tasks.query, tasks.query._replace(x=1 - tasks.query.x)):
        algorithm = reptile().train()
        meta_gradient(algorithm, tasks._replace(query=query), TASKS, "fp32")
        gradients.append([parameter.grad for parameter in algorithm.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def test_each_task_adapts_by_itself() -> None:
    tasks, algorithm = random_tasks(), reptile()
    together = algorithm.adapt(tasks.support)
    alone = algorithm.adapt(tasks.support.slice(2, 3))
    for name, parameter in alone.parameters.items():
        torch.testing.assert_close(together.parameters[name][2:3], parameter, atol=1e-10, rtol=0)


def test_evaluation_has_its_own_steps_and_mini_batches() -> None:
    tasks, algorithm = random_tasks(), reptile()
    states = list(algorithm.train().adapt_stepwise(tasks.support))
    assert len(states) == 5
    in_evaluation = list(algorithm.eval().adapt_stepwise(tasks.support))
    assert len(in_evaluation) == 7
    for name, theta in algorithm.network.named_parameters():
        assert torch.equal(states[0].parameters[name], theta.detach().expand(TASKS, *theta.shape))
        assert not in_evaluation[-1].parameters[name].requires_grad
    assert not torch.equal(states[1].parameters["head.weight"], in_evaluation[1].parameters["head.weight"])


def test_mini_batches_take_every_example_before_any_twice() -> None:
    support = torch.rand(4, 7, *SHAPE, generator=torch.Generator().manual_seed(0))
    batches = mini_batches(support, size=3, steps=7)
    assert batches.shape == (4, 7, 3)
    rounds = batches.view(4 * 3, 7)
    assert all(sorted(one.tolist()) == list(range(7)) for one in rounds)
    assert len({tuple(one.tolist()) for one in rounds}) == 12, "each round of each task is in an order of its own"
    assert torch.equal(batches, mini_batches(support, size=3, steps=7))
    assert torch.equal(batches[:, :2], mini_batches(support, size=3, steps=2))
    assert torch.equal(batches[1:3], mini_batches(support[1:3], size=3, steps=7)), "whatever tasks are beside it"


def test_mini_batches_are_in_random_order() -> None:
    """Every example comes first about as often, in the first round and in the second."""
    support = torch.rand(2000, 5, 3, generator=torch.Generator().manual_seed(0))
    first_of_rounds = mini_batches(support, size=5, steps=2)[:, :, 0]
    for first in first_of_rounds.unbind(1):
        counts = first.bincount(minlength=5)
        assert counts.min() > 320, counts  # 400 expected, with a deviation of 18
        assert counts.max() < 480, counts


def test_mini_batches_larger_than_the_support_set_count_examples_twice() -> None:
    support = torch.rand(1, 5, 3)
    assert sorted(mini_batches(support, size=10, steps=1)[0, 0].tolist()) == sorted(2 * list(range(5)))
    assert mini_batches(support, size=2, steps=0).shape == (1, 0, 2)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    tasks, algorithm, ends = random_tasks(), reptile(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        ends.append(algorithm.adapt(tasks.support).parameters["head.weight"])
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(*ends)


def test_without_transduction_a_query_sees_only_the_support_set() -> None:
    tasks, algorithm = random_tasks(), reptile(backbone="conv").eval()
    assert algorithm.transductive
    algorithm.set_transductive(False)
    assert not algorithm.transductive
    adapted = algorithm.adapt(tasks.support)
    whole = algorithm.predict(adapted, tasks.query.x)
    torch.testing.assert_close(algorithm.predict(adapted, tasks.query.x[:, :1]), whole[:, :1])
    # By hand: the query as the last of a batch that is otherwise the support set.
    task, query = 1, 4
    batch = torch.cat([tasks.support.x[task], tasks.query.x[task, query : query + 1]])
    parameters = {name: parameter[task] for name, parameter in adapted.parameters.items()}
    by_hand = torch.func.functional_call(algorithm.network, parameters, (batch,))[-1]
    torch.testing.assert_close(whole[task, query], by_hand)
    algorithm.set_transductive(True)
    assert not torch.allclose(algorithm.predict(adapted, tasks.query.x), whole, atol=1e-3)


def test_without_batch_statistics_transduction_is_refused() -> None:
    algorithm = reptile()
    assert not algorithm.transductive
    algorithm.set_transductive(False)
    with pytest.raises(UserError, match=r"eval\.transductive=true"):
        algorithm.set_transductive(True)


def test_other_numbers_of_ways_start_from_the_mean_row() -> None:
    tasks, algorithm = random_tasks(ways=7), reptile().eval()
    states = list(algorithm.adapt_stepwise(tasks.support))
    before, after = (algorithm.predict(state, tasks.query.x) for state in (states[0], states[-1]))
    assert after.shape == (TASKS, 7 * QUERIES, 7)
    torch.testing.assert_close(before, before[..., :1].expand_as(before))
    assert not torch.allclose(after, after[..., :1].expand_as(after), atol=1e-3)


def test_running_statistics_are_refused() -> None:
    backbone = Conv4(SHAPE, filters=8, downsample="stride", norm="batch", running_stats=True, pool="mean")
    with pytest.raises(UserError, match=r"backbone\.running_stats"):
        Reptile(backbone, WAYS, "sgd", 0.1, 1, 5, 1, 5)
