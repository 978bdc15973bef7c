"""Memory-Augmented Neural Networks (Santoro, Bartunov, Botvinick, Wierstra and Lillicrap 2016, https://arxiv.org/abs/1605.06065).

A task is one sequence: at step t the network sees an example x_t and the label y_{t-1} of the example before (section 2), and predicts y_t.
Nothing is adapted but the state of an LSTM and of an external memory that it writes and reads. The memory is addressed by content and written
where it was last read or least used (LRUA, section 3.2), or addressed as in Neural Turing Machines (Graves, Wayne and Danihelka 2014,
https://arxiv.org/abs/1410.5401). To score queries after a support set, the support set is presented with its labels, and each query as the one
next step from the state there.

A step writes into the memory and then reads what is there now, as the indices of eq. 2 to 8 say; runs of earlier versions read first
(`order=read_first`).

Departures: a head writes a vector of its own, where eq. 8 writes the read key k_t (`write_vectors=key`); public re-implementations do so too.
A slot that holds next to nothing counts as empty (`empty_length`); by eq. 2 alone it is as like a key as any other.
The cosine is multiplied by a learned strength, as in Neural Turing Machines, before the softmax, which over 128 slots is otherwise
nearly flat (`key_strength=null` is the paper). The loss is the mean of the cross-entropies of all steps, the paper's is their sum. Where the
paper leaves it open: every head has its own key and write gate, all share the least used slots; memory, weights and usage start at zero;
keys start as projections of the image at hand (`initial`).
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metalearn import kinds
from metalearn.algorithms.base import Algorithm, MetaLoss, TwoSteps
from metalearn.algorithms.embedding import two_steps
from metalearn.backbones import Backbone, embed_tasks
from metalearn.errors import UserError
from metalearn.nn.addressing import LRUA, NTM, Addressing, Memory
from metalearn.nn.hashed_numbers import shuffled
from metalearn.tasks import Examples, TaskBatch

_ORDER, _UNITS = 1, 2  # what is drawn for a task


class State(NamedTuple):
    carried: Tensor  # [T, C + R*W], h_t of the LSTM and r_t
    cell: Tensor  # [T, C]
    memory: Memory  # what the addressing keeps: M_t [T, M, W] and more

    @property
    def copies_at_once(self) -> int:
        """How many copies of every task's state take up about 64 MB."""
        return max(1, 2**24 // self.memory[0].numel())

    def copies(self, count: int) -> State:
        """`count` copies of every task's state, one after another: [T*count, ...]."""

        def copied(part: Tensor) -> Tensor:
            return part.repeat_interleave(count, dim=0)

        return State(copied(self.carried), copied(self.cell), tuple(copied(part) for part in self.memory))


class Adapted(NamedTuple):
    state: State  # after the support set
    last_label: Tensor  # [T, 1], to be presented with the next example
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
        key_strength: what the cosine of key and slot is multiplied with at first, learned from there; None for the cosine itself.
        empty_length: a slot whose vector is much shorter than this counts as empty: no key is like it.
        usage_decay: gamma, of addressing="lrua".
        addressing: "lrua" or "ntm".
        order: "write_first": a step writes into the memory, then reads it; "read_first": it reads what the step before left, then writes.
        write_vectors: of addressing="lrua": "own": each head writes a vector of its own; "key": it writes its read key.
        initial: "images": keys are projections of the image at hand at first; "plain": torch's initial weights, and forget gates that remember.
        instances: at most so many examples of each class make a training sequence.

    Raises:
        UserError: fewer label units than ways.
    """

    uneven: ClassVar[bool] = True

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        label_units: int,
        controller_size: int,
        memory_slots: int,
        memory_width: int,
        read_heads: int,
        key_strength: float | None,
        empty_length: float,
        usage_decay: float,
        addressing: str,
        order: str,
        write_vectors: str,
        initial: str,
        instances: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.label_units = label_units
        self.instances = instances
        self.check_ways(ways)
        shape = (memory_slots, memory_width, read_heads, key_strength, empty_length)
        write_first = order == "write_first"
        self.addressing: Addressing = (
            NTM(*shape, write_first)
            if addressing == "ntm"
            else LRUA(*shape, usage_decay, write_first, write_vectors == "own")
        )
        output_size = controller_size + read_heads * memory_width
        self.inputs = nn.Linear(backbone.feature_dim + label_units, 4 * controller_size)
        self.recurrent = nn.Linear(output_size, 4 * controller_size, bias=False)
        self.heads = nn.Linear(controller_size, self.addressing.head_size)
        self.outputs = nn.Linear(output_size, label_units)
        with torch.no_grad():
            if initial == "images":
                self._see_images_first()
            else:
                self.inputs.bias[:controller_size] += 1  # of the forget gates: remember, to begin with

    def _see_images_first(self) -> None:
        """Sets initial weights with which images of a class find each other in the memory before anything is learned.

        Keys follow the image at hand, as the cell forgets the images before and no bias is common to all; they are long enough for a slot to
        count as written; and what is written is the key. The paper says nothing of initial weights.
        """
        keys = self.addressing.similarity.sizes[0]
        self.inputs.bias[: self.heads.in_features] -= 2  # of the forget gates
        self.inputs.weight *= 2
        self.heads.weight[:keys] *= 6
        self.heads.bias[:keys] = 0
        self.addressing.start_with_images(self.heads.weight, self.heads.bias)

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        """The mean cross-entropy of the sequence. `accuracy` is that of all instances but each class's first, which can only be guessed."""
        logits, y = self._sequence_logits(tasks)
        if tasks.uneven:  # not as many instances of every class
            return MetaLoss(kinds.cross_entropy(logits, y), {"accuracy": later_accuracy(logits.detach(), y)})
        scores = instance_accuracy(logits.detach(), y)  # [T, I]
        shown = {f"instance_{i}": scores[:, i - 1] for i in (1, 2, 5, 10) if i <= scores.shape[1]}
        return MetaLoss(kinds.cross_entropy(logits, y), {"accuracy": scores[:, 1:].mean(1), **shown})

    def adapt(self, support: Examples) -> Adapted:
        self.check_ways(support.ways)
        # Every y starts with 0: the same order for every task.
        order = shuffled(support.y[:1, :1], support.y.shape[1], _ORDER)[0]
        x, y = support.x[:, order], support.y[:, order]
        _, state = self._unroll(self._gate_terms(x, self._offset(y)))
        return Adapted(state, y[:, -1:], support.ways)

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        """Every query is the step after the support set, from a copy of the state of its own: it reads what it has just written, no other does."""
        state, weights = adapted.state, (self.recurrent.weight.t(), self.heads.weight.t())
        last_label = F.one_hot(adapted.last_label, self.label_units).expand(-1, query_x.shape[1], -1)
        outputs, of_all = [], self._gate_terms(query_x, last_label)
        # A program that is exported has no number of queries: it takes them all at once.
        parts = (of_all,) if torch.compiler.is_compiling() else torch.split(of_all, state.copies_at_once, dim=1)
        for terms in parts:  # [T, q, 4C]
            head_terms = self.heads.bias.expand(terms.shape[0] * terms.shape[1], -1)
            after = self._step(terms.flatten(0, 1), head_terms, weights, state.copies(terms.shape[1]))
            outputs.append(torch.unflatten(after.carried, 0, terms.shape[:2]))
        logits: Tensor = self.outputs(torch.cat(outputs, dim=1))
        return logits[..., : adapted.ways]

    def further_scores(self, tasks: TaskBatch) -> dict[str, Tensor]:
        """Table 1: the accuracy at each class's 1st, 2nd, ... instance in a sequence like those of training; not of tasks of uneven size."""
        if tasks.uneven:
            return {}
        scores = instance_accuracy(*self._sequence_logits(tasks))
        return {f"instance_{i}": scores[:, i - 1] for i in (1, 2, 3, 4, 5, 10) if i <= scores.shape[1]}

    @property
    def transductive(self) -> bool:
        return self.backbone.uses_batch_statistics

    def in_two_steps(self) -> TwoSteps | None:
        return None if self.backbone.uses_batch_statistics else two_steps(self, self.backbone)

    def _sequence_logits(self, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
        """Logits [T, S, N] and labels [T, S] of the whole task as one sequence."""
        ways = tasks.support.ways
        self.check_ways(ways)
        x, y = self._sequence(tasks)
        # Which label unit stands for which label: a random choice for every task, so that all units are trained.
        units = shuffled(tasks.classes, self.label_units, _UNITS)[:, :ways]  # [T, N]
        outputs, _ = self._unroll(self._gate_terms(x, self._offset(units.gather(1, y))))
        logits: Tensor = self.outputs(outputs)  # [T, S, L]
        return logits.gather(2, units.unsqueeze(1).expand(-1, y.shape[1], -1)), y

    def _sequence(self, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
        """The first `instances` examples of each class, support before query, in an order of each task's own: [T, S, ...], [T, S]."""
        ways = tasks.support.ways

        def by_class(support: Tensor, query: Tensor) -> Tensor:
            blocks = [torch.unflatten(part, 1, (ways, -1)) for part in (support, query)]
            return torch.cat(blocks, dim=2)[:, :, : self.instances].flatten(1, 2)

        if tasks.uneven:
            x = torch.cat([tasks.support.x, tasks.query.x], dim=1)
            y = torch.cat([tasks.support.y, tasks.query.y], dim=1)
            first = (instances_before(y) < self.instances)[0]
            x, y = x[:, first], y[:, first]
        else:
            x, y = by_class(tasks.support.x, tasks.query.x), by_class(tasks.support.y, tasks.query.y)
        order = shuffled(tasks.classes, y.shape[1], _ORDER)
        rows = torch.arange(y.shape[0], device=y.device).unsqueeze(1)
        return x[rows, order], y[rows, order]

    def _offset(self, units: Tensor) -> Tensor:
        """Section 2: the one-hot label of the step before, and nothing at the first: [T, S] -> [T, S, L]."""
        return F.pad(F.one_hot(units, self.label_units)[:, :-1], (0, 0, 1, 0))

    def _gate_terms(self, x: Tensor, labels: Tensor) -> Tensor:
        """The input to the LSTM's gates: images [T, n, ...] and one-hot labels [T, n, L] -> [T, n, 4C]."""
        features = embed_tasks(self.backbone, x, self.training)
        terms: Tensor = self.inputs(torch.cat([features, labels.to(features.dtype)], dim=-1))
        return terms.to(self.inputs.weight.dtype)

    def _unroll(self, gate_terms: Tensor) -> tuple[Tensor, State]:
        """From [T, S, 4C]: (h_t, r_t) [T, S, C + R*W] of all steps, and the state after the last."""
        tasks, steps, _ = gate_terms.shape
        before: list[Tensor] = []
        hidden_states: list[Tensor] = []
        gate_terms = _DeferredGradient.apply(gate_terms, self.recurrent.weight, before)
        head_terms = _DeferredGradient.apply(self.heads.bias.expand(tasks, steps, -1), self.heads.weight, hidden_states)
        weights = self.recurrent.weight.detach().t(), self.heads.weight.detach().t()
        zeros = gate_terms.new_zeros(tasks, self.outputs.in_features)
        state = State(zeros, zeros[:, : self.heads.in_features], self.addressing.start(gate_terms))
        outputs = []
        for gate_term, head_term in zip(gate_terms.unbind(1), head_terms.unbind(1), strict=True):
            before.append(state.carried.detach())
            state = self._step(gate_term, head_term, weights, state)
            hidden_states.append(state.carried[:, : self.heads.in_features].detach())
            outputs.append(state.carried)
        return torch.stack(outputs, dim=1), state

    def _step(self, gate_term: Tensor, head_term: Tensor, weights: tuple[Tensor, Tensor], state: State) -> State:
        """The next state: terms [T, 4C] and [T, head_size] of gates and heads, to which the `weights` of (h, r)_{t-1} and of h_t are applied."""
        recurrent, heads = weights
        hidden, cell = lstm_step(torch.addmm(gate_term, state.carried, recurrent), state.cell)
        interface = torch.addmm(head_term, hidden, heads).to(cell.dtype)  # the memory is kept in full precision
        read, memory = self.addressing.step(interface, state.memory)
        return State(torch.cat([hidden, read], dim=1), cell, memory)

    def check_ways(self, ways: int) -> None:
        if ways > self.label_units:
            raise UserError(
                f"algorithm.label_units={self.label_units}: a task of {ways} ways needs a label unit for each; "
                f"{ways} or more, set before training, allow it"
            )


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """[..., 4C], c_{t-1} [..., C] -> h_t, c_t [..., C]."""
    size = cell.shape[-1]
    sigmoids, candidate = torch.split(gates, [3 * size, size], dim=-1)
    forget, write, show = sigmoids.sigmoid().chunk(3, dim=-1)
    cell = forget * cell + write * candidate.tanh()
    return show * cell.tanh(), cell


class _DeferredGradient(torch.autograd.Function):
    """Terms [T, S, n] of a recurrence whose step adds `input_t @ weight.T` with the weight detached: gives the weight its gradient.

    In one product for all steps, from the `inputs` [T, m] collected on the way; S small ones take twice as long, a tenth of the whole step.
    """

    @staticmethod
    def forward(ctx: Any, terms: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs = inputs
        return terms.view_as(terms)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs = torch.stack(ctx.inputs, dim=1).to(gradient.dtype)  # [T, S, m]
        return gradient, gradient.flatten(0, 1).t() @ inputs.flatten(0, 1), None


def instances_before(y: Tensor) -> Tensor:
    """How many examples of the same class stand before each: y [T, S] -> [T, S]."""
    seen = F.one_hot(y).cumsum(1)  # [T, S, N]
    return seen.gather(2, y.unsqueeze(2)).squeeze(2) - 1


def later_accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """The accuracy of all but each class's first instance: logits [T, S, N], y [T, S] -> [T]."""
    later = instances_before(y) > 0
    return ((logits.argmax(-1) == y) & later).sum(1) / later.sum(1)


def instance_accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """The share of classes recognised at their 1st, 2nd, ... instance: logits [T, S, N], y [T, S] with S = N*I -> [T, I]."""
    by_class = y.argsort(dim=1, stable=True)  # each class's steps in their order
    right = (logits.argmax(-1) == y).float().gather(1, by_class)
    return torch.unflatten(right, 1, (logits.shape[2], -1)).mean(1)
