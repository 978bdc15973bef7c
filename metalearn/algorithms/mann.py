"""Memory-Augmented Neural Networks (Santoro, Bartunov, Botvinick, Wierstra and Lillicrap 2016, https://arxiv.org/abs/1605.06065).

A task is one sequence: at step t the network sees an example x_t and the label y_{t-1} of the example before (section 2.1), and predicts y_t.
Nothing is adapted but the state of an LSTM and of an external memory that it reads and writes. The memory is addressed by content and written
where it was last read or least used (LRUA, section 3.2), or as in Neural Turing Machines (Graves, Wayne and Danihelka 2014,
https://arxiv.org/abs/1410.5401). The loss is the mean of the cross-entropies of all steps (the paper's sum, divided by the number of steps).

Where the paper leaves it open: every read head has its own key and write gate, while all share the least used slots; the memory is written before
it is read, as the indices of the equations have it; memory, weights and usage start at zero. To score a query after a support set, the support
set is presented with its labels and the query as the one next step, from the state there; no query's writing is seen by another.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn import objective
from metalearn.algorithms.base import Algorithm, MetaLoss
from metalearn.backbones import Backbone, embed_tasks
from metalearn.errors import UserError
from metalearn.tasks import Examples, TaskBatch

_EPSILON = 1e-8  # of squared norms: an empty slot has the cosine 0 with every key
_QUERIES_AT_ONCE = 25  # of one task: each has a copy of the memory for its one step
_ORDER, _UNITS = 1, 2  # what is drawn for a task


class State(NamedTuple):
    hidden: Tensor  # [T, C], h_t of the LSTM
    cell: Tensor  # [T, C]
    read: Tensor  # [T, R*W], r_t
    memory: tuple[Tensor, ...]  # what the addressing keeps: the first is M_t [T, M, W]


class Adapted(NamedTuple):
    state: State  # after the support set
    last_label: Tensor  # [T], still to be presented
    ways: int


class MANN(Algorithm):
    """C units of the controller, M memory slots of width W, R read heads, L label units, S steps.

    Args:
        backbone: [n, c, H, W] -> [n, D].
        ways: N, of the training tasks.
        label_units: L, the length of a one-hot label and the largest number of ways; a training task's classes take N of them at random.
        controller_size: C.
        memory_slots: M.
        memory_width: W.
        read_heads: R.
        usage_decay: gamma, of addressing="lrua".
        addressing: "lrua" or "ntm".
        instances: at most so many examples of each class make a training sequence.

    Raises:
        UserError: fewer label units than ways.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        label_units: int,
        controller_size: int,
        memory_slots: int,
        memory_width: int,
        read_heads: int,
        usage_decay: float,
        addressing: str,
        instances: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.label_units = label_units
        self.instances = instances
        self._refuse_too_many(ways)
        shape = (memory_slots, memory_width, read_heads)
        self.addressing: Addressing = NTM(*shape) if addressing == "ntm" else LRUA(*shape, usage_decay)
        output_size = controller_size + read_heads * memory_width
        self.inputs = nn.Linear(backbone.feature_dim + label_units, 4 * controller_size)
        self.recurrent = nn.Linear(output_size, 4 * controller_size, bias=False)
        self.heads = nn.Linear(controller_size, self.addressing.head_size)
        self.outputs = nn.Linear(output_size, label_units)
        with torch.no_grad():
            self.inputs.bias[:controller_size] += 1  # of the forget gates: remember, to begin with

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        """The mean cross-entropy of the sequence. `accuracy` is that of all instances but each class's first, which can only be guessed."""
        logits, y = self._sequence_logits(tasks)
        scores = instance_accuracy(logits.detach(), y)  # [T, I]
        shown = {f"instance_{i}": scores[:, i - 1] for i in (1, 2, 5, 10) if i <= scores.shape[1]}
        return MetaLoss(objective.cross_entropy(logits, y), {"accuracy": scores[:, 1:].mean(1), **shown})

    def adapt(self, support: Examples) -> Adapted:
        self._refuse_too_many(support.ways)
        order = shuffled(support.y[:1, :1], support.y.shape[1], _ORDER)[
            0
        ]  # y starts with 0: the same order for every task
        x, y = support.x[:, order], support.y[:, order]
        features = embed_tasks(self.backbone, x, self.training)
        _, state = self._unroll(features, self._offset(y), self._start(y.shape[0]))
        return Adapted(state, y[:, -1], support.ways)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        features = embed_tasks(self.backbone, query_x, self.training)  # [T, n, D]
        previous = F.one_hot(adapted.last_label, self.label_units).to(features.dtype)  # [T, L]
        logits = []
        for part in features.split(_QUERIES_AT_ONCE, dim=1):
            tasks, queries, _ = part.shape
            hidden, cell, read, *memory = (
                tensor.repeat_interleave(queries, 0) for tensor in (*adapted.state[:3], *adapted.state.memory)
            )
            outputs, _ = self._unroll(
                part.flatten(0, 1).unsqueeze(1),
                previous.repeat_interleave(queries, 0).unsqueeze(1),
                State(hidden, cell, read, tuple(memory)),
            )
            logits.append(self.outputs(outputs).view(tasks, queries, -1)[..., : adapted.ways])
        return torch.cat(logits, dim=1)

    def further_scores(self, tasks: TaskBatch) -> dict[str, Tensor]:
        """Table 1: the accuracy at each class's 1st, 2nd, ... instance in a sequence like those of training."""
        scores = instance_accuracy(*self._sequence_logits(tasks))
        return {f"instance_{i}": scores[:, i - 1] for i in (1, 2, 3, 4, 5, 10) if i <= scores.shape[1]}

    @property
    def transductive(self) -> bool:
        return self.backbone.uses_batch_statistics

    def _sequence_logits(self, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
        """Logits [T, S, N] and labels [T, S] of the whole task as one sequence."""
        ways = tasks.support.ways
        self._refuse_too_many(ways)
        x, y = self._sequence(tasks)
        # Which label unit stands for which label: a random choice for every task, so that all units are trained.
        units = shuffled(tasks.classes, self.label_units, _UNITS)[:, :ways]  # [T, N]
        features = embed_tasks(self.backbone, x, self.training)
        outputs, _ = self._unroll(features, self._offset(units.gather(1, y)), self._start(y.shape[0]))
        logits: Tensor = self.outputs(outputs)  # [T, S, L]
        return logits.gather(2, units.unsqueeze(1).expand(-1, y.shape[1], -1)), y

    def _sequence(self, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
        """The first `instances` examples of each class, support before query, in an order of each task's own: [T, S, ...], [T, S]."""
        ways = tasks.support.ways

        def by_class(support: Tensor, query: Tensor) -> Tensor:
            blocks = [part.unflatten(1, (ways, -1)) for part in (support, query)]
            return torch.cat(blocks, dim=2)[:, :, : self.instances].flatten(1, 2)

        x, y = by_class(tasks.support.x, tasks.query.x), by_class(tasks.support.y, tasks.query.y)
        order = shuffled(tasks.classes, y.shape[1], _ORDER)
        rows = torch.arange(y.shape[0], device=y.device).unsqueeze(1)
        return x[rows, order], y[rows, order]

    def _offset(self, units: Tensor) -> Tensor:
        """Section 2.1: the one-hot label of the step before, and nothing at the first: [T, S] -> [T, S, L]."""
        one_hot = F.one_hot(units, self.label_units)
        return F.pad(one_hot[:, :-1], (0, 0, 1, 0)).to(self.outputs.weight.dtype)

    def _start(self, tasks: int) -> State:
        like = self.outputs.weight
        controller_size = self.heads.in_features
        read_size = self.outputs.in_features - controller_size
        hidden, cell, read = (like.new_zeros(tasks, size) for size in (controller_size, controller_size, read_size))
        return State(hidden, cell, read, self.addressing.start(like, tasks))

    def _unroll(self, features: Tensor, previous: Tensor, state: State) -> tuple[Tensor, State]:
        """(h_t, r_t) [T, S, C + R*W] of all steps and the state after the last, from x_t [T, S, D] and y_{t-1} [T, S, L]."""
        dtype = self.recurrent.weight.dtype
        read_inputs: list[Tensor] = []
        head_inputs: list[Tensor] = []
        # What does not depend on the state, for all steps at once.
        gate_terms = self.inputs(torch.cat([features, previous.to(features.dtype)], dim=-1)).to(dtype)
        head_terms = self.heads.bias.expand(*features.shape[:2], -1)
        gate_terms = _DeferredGradient.apply(gate_terms, self.recurrent.weight, read_inputs)
        head_terms = _DeferredGradient.apply(head_terms, self.heads.weight, head_inputs)
        recurrent, heads = self.recurrent.weight.detach().t(), self.heads.weight.detach().t()
        hidden, cell, read, memory = state
        carried = torch.cat([hidden, read], dim=1)
        outputs = []
        for gate_term, head_term in zip(gate_terms.unbind(1), head_terms.unbind(1), strict=True):
            read_inputs.append(carried.detach())
            sigmoids, candidate = torch.addmm(gate_term, carried, recurrent).split(
                [3 * cell.shape[1], cell.shape[1]], dim=1
            )
            forget, write, show = sigmoids.sigmoid().chunk(3, dim=1)
            cell = forget * cell + write * candidate.tanh()
            hidden = show * cell.tanh()
            head_inputs.append(hidden.detach())
            read, memory = self.addressing.step(torch.addmm(head_term, hidden, heads).to(dtype), memory)
            carried = torch.cat([hidden, read], dim=1)
            outputs.append(carried)
        return torch.stack(outputs, dim=1), State(hidden, cell, read, memory)

    def _refuse_too_many(self, ways: int) -> None:
        if ways > self.label_units:
            raise UserError(
                f"algorithm.label_units={self.label_units}: a task of {ways} ways needs a label unit for each; "
                f"train with algorithm.label_units={ways} or more"
            )


class Addressing(Protocol):
    """How a memory is accessed: R read vectors and a new memory for each step."""

    head_size: int  # what a step needs of the controller

    def start(self, like: Tensor, tasks: int) -> tuple[Tensor, ...]:
        """The memory before the first step, of the dtype and device of `like`."""

    def step(self, heads: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """heads [T, head_size] -> r_t [T, R*W] and the memory after the step."""


class LRUA:
    """Section 3.2, least recently used access. The memory: M_t [T, M, W], w^r_t [T, R, M], w^u_t [T, M]."""

    def __init__(self, slots: int, width: int, heads: int, decay: float) -> None:
        self.slots, self.width, self.heads, self.decay = slots, width, heads, decay
        self.head_size = heads * (width + 1)

    def start(self, like: Tensor, tasks: int) -> tuple[Tensor, ...]:
        return (
            like.new_zeros(tasks, self.slots, self.width),
            like.new_zeros(tasks, self.heads, self.slots),
            like.new_zeros(tasks, self.slots),
        )

    def step(self, heads: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        content, read_weights, usage = memory
        keys, gates = heads.split([self.heads * self.width, self.heads], dim=1)
        keys = keys.tanh().unflatten(1, (self.heads, self.width))
        # w^lu, eq. 6: one at the n = R least used slots, zero elsewhere. No gradient passes through it, so usage needs none.
        least = usage.topk(self.heads, largest=False).indices
        least_used = torch.zeros_like(usage).scatter_(1, least, 1.0).unsqueeze(1)
        # w^w, eq. 7
        write_weights = torch.lerp(least_used.expand_as(read_weights), read_weights, gates.sigmoid().unsqueeze(-1))
        # M_t, eq. 8: the least used slot is set to zero before.
        kept = torch.ones_like(usage).scatter_(1, least[:, :1], 0.0).unsqueeze(-1)
        content = (content * kept).baddbmm_(write_weights.transpose(1, 2), keys)
        # w^r and r_t, eq. 2 to 4
        read_weights = cosines(keys, content).softmax(-1)
        read = read_weights @ content
        with torch.no_grad():  # w^u, eq. 5
            usage = self.decay * usage + (read_weights + write_weights).sum(1)
        return read.flatten(1), (content, read_weights, usage)


def cosines(keys: Tensor, content: Tensor) -> Tensor:
    """[T, n, W], [T, M, W] -> [T, n, M]."""
    lengths = [(vectors.square().sum(-1) + _EPSILON).rsqrt() for vectors in (keys, content)]
    return (keys @ content.transpose(1, 2)) * lengths[0].unsqueeze(2) * lengths[1].unsqueeze(1)


class NTM:
    """Graves et al. 2014, section 3: R read heads and one write head. The memory: M_t [T, M, W], w_t [T, R+1, M], the write head last.

    A step reads M_{t-1} and then writes. The weights start on the first slot.
    """

    def __init__(self, slots: int, width: int, heads: int) -> None:
        self.slots, self.width, self.heads = slots, width, heads
        self.parts = [(heads + 1) * size for size in (width, 1, 1, 3, 1)] + [width, width]
        self.head_size = sum(self.parts)

    def start(self, like: Tensor, tasks: int) -> tuple[Tensor, ...]:
        weights = like.new_zeros(tasks, self.heads + 1, self.slots)
        weights[:, :, 0] = 1
        return like.new_zeros(tasks, self.slots, self.width), weights

    def step(self, heads: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        content, weights = memory
        keys, strengths, gates, shifts, exponents, erase, add = heads.split(self.parts, dim=1)
        strengths, gates, exponents = (part.unsqueeze(-1) for part in (strengths, gates, exponents))
        keys = keys.tanh().unflatten(1, (-1, self.width))
        by_content = (F.softplus(strengths) * cosines(keys, content)).softmax(-1)  # eq. 5 and 6
        gated = torch.lerp(weights, by_content, gates.sigmoid())  # eq. 7
        back, stay, forth = shifts.unflatten(1, (-1, 3)).softmax(-1).split(1, dim=-1)
        shifted = back * gated.roll(-1, -1) + stay * gated + forth * gated.roll(1, -1)  # eq. 8
        weights = ((1 + F.softplus(exponents)) * (shifted + _EPSILON).log()).softmax(-1)  # eq. 9
        read = weights[:, :-1] @ content  # eq. 2
        where = weights[:, -1:].transpose(1, 2)  # [T, M, 1]
        content = content * (1 - where * erase.sigmoid().unsqueeze(1)) + where * add.tanh().unsqueeze(1)  # eq. 3 and 4
        return read.flatten(1), (content, weights)


class _DeferredGradient(torch.autograd.Function):
    """Terms [T, S, n] of a recurrence whose step adds `input_t @ weight.T` with the weight detached: gives the weight its gradient.

    In one product for all steps, from the `inputs` [T, m] collected on the way: a third of the time of S small ones.
    """

    @staticmethod
    def forward(ctx: Any, terms: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs = inputs
        return terms.view_as(terms)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        inputs = torch.stack(ctx.inputs, dim=1).to(gradient.dtype)  # [T, S, m]
        return gradient, gradient.flatten(0, 1).t() @ inputs.flatten(0, 1), None


def instance_accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """The share of classes recognised at their 1st, 2nd, ... instance: logits [T, S, N], y [T, S] with S = N*I -> [T, I]."""
    by_class = y.argsort(dim=1, stable=True)  # each class's steps in their order
    right = (logits.argmax(-1) == y).float().gather(1, by_class)
    return right.unflatten(1, (logits.shape[2], -1)).mean(1)


def shuffled(seeds: Tensor, n: int, draw: int) -> Tensor:
    """Permutations of 0..n-1 that are functions of integers alone, made on their device: seeds [T, m] -> [T, n].

    Every draw is another one.
    """

    def mixed(x: Tensor) -> Tensor:
        for _ in range(
            2
        ):  # an integer hash: shifts and odd multipliers spread every bit; 32 bits, so that products stay within 63
            x = ((x >> 16) ^ x) * 0x45D9F3B & 0xFFFFFFFF
        return (x >> 16) ^ x

    def numbered(count: int) -> Tensor:
        return torch.arange(1, count + 1, device=seeds.device)

    task = (
        mixed(mixed(seeds + 0x10001 * draw) ^ mixed(numbered(seeds.shape[1]) << 16)).sum(1, keepdim=True) & 0xFFFFFFFF
    )
    return mixed(mixed(task) ^ mixed(numbered(n))).argsort(dim=1, stable=True)
