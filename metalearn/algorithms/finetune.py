"""P>M>F: pre-train, meta-train, fine-tune (Hu, Li, Stuehmer, Kim and Hospedales 2022, https://arxiv.org/abs/2204.07305).

Meta-training is that of Prototypical Networks with scaled cosines: a class is the mean of its support features, a query belongs to it with the
softmax over `scale` times the cosines. In a test task all parameters of the backbone that training changes are fine-tuned by Adam on the support
set: in each step, support images that are changed at random are queries, and the prototypes are computed anew from the unchanged ones. As in the
authors' code (github.com/hushell/pmf_cvpr22: `models/protonet.py`, `models/deploy.py`, `test_meta_dataset.py`) the step size is one of 0, 1e-4, 1e-3
and 1e-2, the smallest of those that label the queries of 5 tasks best.

With `prototypes="learned"` and `entropy` above 0 it is transductive fine-tuning (Dhillon, Chaudhari, Ravichandran and Soatto 2020,
https://arxiv.org/abs/1909.02729): the class weights start from the support features and are fine-tuned together with the backbone, on the
cross-entropy of the support set plus the mean Shannon entropy of the predictions for the queries.

Departures from P>M>F: the 5 tasks are validation tasks of the run, theirs are of the test domain. What is drawn at random depends on the step alone,
so that adapting twice gives the same; shifts repeat the image's edge, theirs uncover the mean colour. The bias of their cosines, which cancels in
the softmax, is left out. Departures from Dhillon et al.: they start from a classifier of the training classes, on whose logits their new layer
stands, and use neither a learned scale nor changed images (`scale=1 augment=0`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metalearn.algorithms.base import MetaLoss, TwoSteps
from metalearn.algorithms.embedding import Embedded, EmbeddingLearner, MetricScale, class_means
from metalearn.backbones import Backbone
from metalearn.backbones.base import TwoParts
from metalearn.errors import UserError
from metalearn.nn.memory_format import channels_last
from metalearn.nn.random_changes import changed_at_random
from metalearn.nn.task_batched import with_parameters_of_first
from metalearn.tasks import Examples, TaskBatch

RATES = (0.0, 1e-4, 1e-3, 1e-2)  # among which `lr=auto` chooses
_TUNING_TASKS = 5
_TOGETHER = 32  # changed images that pass the fixed layers at a time: few are slow, many need memory
_DEVIATION = 0.225  # of pre-trained networks' images, where these come from 0 to 1


class Adapted(NamedTuple):
    # Of the backbone, name -> [T, ...]: those that were fine-tuned; empty where none were.
    parameters: dict[str, Tensor]
    prototypes: Tensor  # [T, N, D]
    support: Examples | None = None  # where fine-tuning has to wait for the queries


class _Task(NamedTuple):
    """One task, and what stays the same while it is fine-tuned."""

    support: Examples
    x: Tensor  # [n, ...], the support examples as the fixed layers pass them on
    queries: Tensor | None  # the queries too, where their entropy counts


class FineTune(EmbeddingLearner):
    """Prototypical Networks with cosines, whose backbone is fine-tuned to each test task.

    Args:
        backbone: [n, ...] -> [n, D].
        scale: factor of the cosines.
        learn_scale: whether outer steps change it, from `scale` on.
        steps: of fine-tuning, each with the whole support set.
        lr: step size of Adam; "auto" for one of `RATES`, chosen by `tune`; until then 0, which leaves the prototypes of the backbone as it is.
        prototypes: "recomputed" in each step from the support set, or "learned": parameters, which start as the means.
        augment: probability that the images of a step are changed at random.
        entropy: weight of the queries' entropy beside the cross-entropy of the support set; above 0 evaluation is transductive.

    Raises:
        UserError: nothing could be fine-tuned.
    """

    chosen: Tensor  # which of RATES, []

    def __init__(
        self,
        backbone: Backbone,
        scale: float,
        learn_scale: bool,
        steps: int,
        lr: float | str,
        prototypes: str,
        augment: float,
        entropy: float,
    ) -> None:
        super().__init__(backbone)
        self.scale = MetricScale(scale, learn_scale, scale)
        self.steps, self.lr = steps, lr
        self.prototypes, self.augment, self.entropy = prototypes, augment, entropy
        self.tuned = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
        if backbone.frozen and prototypes == "recomputed":
            raise UserError(
                "backbone.train=none leaves nothing to fine-tune: backbone.train=last_block or all (with train.steps=0, test tasks alone "
                "change it), backbone.lora_rank above 0, or algorithm.prototypes=learned"
            )
        self.register_buffer("chosen", torch.tensor(0))

    @property
    def rate(self) -> float:
        """The step size."""
        return RATES[int(self.chosen)] if self.lr == "auto" else float(self.lr)

    @property
    def tuning_tasks(self) -> int:
        return _TUNING_TASKS if self.lr == "auto" else 0

    def tune(self, tasks: TaskBatch) -> str:
        scores: list[list[Tensor]] = [[] for _ in RATES]
        for task in tasks.chunks(1):
            for of_rate, adapted in zip(scores, self._at_each_rate(task), strict=True):
                outputs = self.predict(adapted, task.query.x)
                of_rate.append(task.query.by_task(self.kind.score_of, outputs))
        best, best_score = 0, -1.0
        for number, of_rate in enumerate(scores):
            score = float(torch.cat(of_rate).mean())
            if score > best_score:
                best, best_score = number, score
        self.chosen.fill_(best)
        return f"algorithm.lr={self.rate:g}"

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        support, queries = self.embed_together(tasks)
        logits = self._logits(class_means(support, tasks.support), queries)
        return self.scale.logged_with(self.query_loss(logits, tasks))

    def adapt(self, support: Examples) -> Adapted:
        if not self._fine_tunes:
            return self._untouched(support)
        if self.entropy:
            return Adapted({}, support.x.new_empty(len(support.x), support.ways, 0), support)
        return _joined([self._tuned(self._prepared(task, None)) for task in _one_by_one(support)])

    def adapt_stepwise(self, support: Examples) -> Iterator[Adapted]:
        if not self._fine_tunes or self.entropy:
            yield self.adapt(support)
            return
        prepared = [self._prepared(task, None) for task in _one_by_one(support)]
        for states in zip(*(self._descend(task, self.rate, self._changed(task)) for task in prepared), strict=True):
            yield _joined(list(states))

    def predict(self, adapted: Adapted, query_x: Tensor) -> Tensor:
        (outputs,) = self.predict_each([adapted], query_x)
        return outputs

    def predict_each(self, states: Iterable[Adapted], query_x: Tensor) -> Iterator[Tensor]:
        flat = self._before(query_x.flatten(0, 1))
        queries = flat.view(*query_x.shape[:2], *flat.shape[1:])
        for adapted in states:
            if adapted.support is not None:
                tasks = zip(_one_by_one(adapted.support), queries, strict=True)
                adapted = _joined([self._tuned(self._prepared(task, own)) for task, own in tasks])
            features = [
                self._features({name: values[task] for name, values in adapted.parameters.items()}, own)[0]
                for task, own in enumerate(queries)
            ]
            yield self._logits(adapted.prototypes, torch.stack(features))

    def deployed(self, adapted: Adapted) -> nn.Module:
        backbone = with_parameters_of_first(self.backbone, adapted.parameters).eval()
        return _Classifier(backbone, adapted.prototypes[0].detach(), float(self.scale(torch.ones(())).detach()))

    def check_examples(self, form: str) -> None:
        if self.augment and form != "images":
            raise UserError(f"algorithm.augment={self.augment} changes images, these examples are {form} (allowed: 0)")

    def in_two_steps(self) -> TwoSteps | None:
        """Where images stay as they are: the layers that are fixed, and those that are fine-tuned."""
        if self.augment:
            return None
        if self.backbone.frozen:
            return super().in_two_steps()
        return self.behind_fixed_layers()

    @property
    def heavy(self) -> bool:
        return self._fine_tunes

    def embedding(self) -> nn.Module | None:
        return super().embedding() if self.backbone.frozen else None

    @property
    def masks(self) -> bool:
        return self.training and not self.backbone.uses_batch_statistics

    @property
    def repeats(self) -> bool:
        return True

    @property
    def transductive(self) -> bool:
        return bool(self.entropy) or super().transductive

    def set_transductive(self, transductive: bool) -> None:
        if self.entropy and not transductive:
            raise UserError(
                f"eval.transductive=false: algorithm.entropy={self.entropy} fine-tunes on the queries of a task, all together; "
                "algorithm.entropy=0 does not"
            )
        super().set_transductive(transductive)

    @property
    def _fine_tunes(self) -> bool:
        return not self.training and self.rate > 0

    def _untouched(self, support: Examples) -> Adapted:
        return Adapted({}, class_means(self.embed(support.x, support.mask), support))

    def _at_each_rate(self, task: TaskBatch) -> Iterator[Adapted]:
        """What is learned of one task with each of RATES, at once: they have the fixed layers' part in common."""
        yield self._untouched(task.support)
        queries = self._before(task.query.x[0]) if self.entropy else None
        prepared = self._prepared(task.support, queries)
        draws = itertools.tee(self._changed(prepared), len(RATES) - 1)
        descents = [self._descend(prepared, rate, own) for rate, own in zip(RATES[1:], draws, strict=True)]
        for states in zip(*descents, strict=True):
            last = states
        yield from last

    def _in_parts(self) -> TwoParts:
        """The backbone's fixed layers, and those that are fine-tuned."""
        if self.backbone.frozen:
            return TwoParts(self.backbone, self.backbone.feature_dim, Embedded(self.backbone))
        return self.backbone.in_two_parts() or TwoParts(nn.Identity(), 0, self.backbone)

    def _before(self, x: Tensor) -> Tensor:
        """What the fixed layers make of examples: [n, ...] -> [n, ...]."""
        return self._in_parts().fixed(x)

    def _prepared(self, support: Examples, queries: Tensor | None) -> _Task:
        return _Task(support, self._before(support.x[0]), queries)

    def _changed(self, task: _Task) -> Iterator[Tensor]:
        """For each step the support examples as they are changed at random, as the fixed layers pass them on; `task.x` where nothing changes."""
        deviation = _DEVIATION if self.backbone.normalizes else 1.0
        images, together = task.support.x[0], max(1, _TOGETHER // len(task.support.x[0]))
        for first in range(0, self.steps, together):
            steps = range(first, min(first + together, self.steps))
            changed = [changed_at_random(images, step, self.augment, deviation) for step in steps]
            new = [draw for draw in changed if draw is not images]
            passed = iter(torch.split(self._before(torch.cat(new)), len(images)) if new else ())
            for draw in changed:
                yield task.x if draw is images else next(passed)

    def _tuned(self, task: _Task) -> Adapted:
        """After the last step."""
        for state in self._descend(task, self.rate, self._changed(task)):
            last = state
        return last

    def _descend(self, task: _Task, rate: float, draws: Iterable[Tensor]) -> Iterator[Adapted]:
        """What is learned of one task: before the first step and after each. The next step changes it in place."""
        own = dict(self.backbone.named_parameters())
        leaves = {name: own[name].detach().clone().requires_grad_() for name in self.tuned}
        parameters = {name: leaf.detach()[None] for name, leaf in leaves.items()}
        weights = None
        if self.prototypes == "learned":
            # Of length 1, so that one step size suits every backbone.
            weights = F.normalize(self._means(leaves, task), dim=-1).requires_grad_()
        learned = [*leaves.values(), *([] if weights is None else [weights])]
        optimizer = torch.optim.Adam(learned, lr=rate)
        for changed in draws:
            with torch.enable_grad():
                prototypes, loss = self._loss(leaves, weights, task, changed)
                gradients = torch.autograd.grad(loss, learned, allow_unused=True)
            yield Adapted(parameters, prototypes.detach())
            for leaf, gradient in zip(learned, gradients, strict=True):
                leaf.grad = gradient
            optimizer.step()
        yield Adapted(parameters, self._means(leaves, task) if weights is None else weights.detach())

    def _loss(
        self, leaves: dict[str, Tensor], weights: Tensor | None, task: _Task, changed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The prototypes, [1, N, D], and the loss of a step."""
        whole = changed is task.x  # then they pass once
        others = [
            *([] if weights is not None or whole else [task.x]),
            *([] if task.queries is None else [task.queries]),
        ]
        features, *rest = self._features(leaves, changed, *others)
        prototypes = weights
        if prototypes is None:
            prototypes = class_means((features if whole else rest[0])[None], task.support)
        loss = F.cross_entropy(self._logits(prototypes, features[None])[0], task.support.y[0])
        if task.queries is not None:
            log_p = self._logits(prototypes, rest[-1][None])[0].log_softmax(-1)
            loss = loss - self.entropy * (log_p.exp() * log_p).sum(-1).mean()
        return prototypes, loss

    @torch.no_grad()
    def _means(self, leaves: dict[str, Tensor], task: _Task) -> Tensor:
        """[1, N, D]"""
        return class_means(self._features(leaves, task.x)[0][None], task.support)

    def _features(self, parameters: dict[str, Tensor], *groups: Tensor) -> list[Tensor]:
        """One task's examples, in groups that the fixed layers passed on: each [n, ...] -> [n, D]."""
        layers = self._in_parts().behind

        def passed(x: Tensor) -> Tensor:
            features: Tensor = functional_call(layers, parameters, (channels_last(x),))
            return features

        if layers.uses_batch_statistics:
            return [passed(group) for group in groups]
        return list(torch.split(passed(torch.cat(groups)), [len(group) for group in groups]))

    def _logits(self, prototypes: Tensor, queries: Tensor) -> Tensor:
        """[T, N, D], [T, n, D] -> [T, n, N]"""
        logits: Tensor = self.scale(F.normalize(queries, dim=-1) @ F.normalize(prototypes, dim=-1).mT)
        return logits


class _Classifier(nn.Module):
    """A backbone and prototypes of its task's classes: [n, ...] -> [n, N]."""

    prototypes: Tensor

    def __init__(self, backbone: nn.Module, prototypes: Tensor, scale: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("prototypes", scale * F.normalize(prototypes, dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.backbone(x), dim=-1) @ self.prototypes.mT


def _one_by_one(support: Examples) -> list[Examples]:
    return [support.slice(task, task + 1) for task in range(len(support.x))]


def _joined(tasks: list[Adapted]) -> Adapted:
    parameters = {name: torch.cat([task.parameters[name] for task in tasks]) for name in tasks[0].parameters}
    return Adapted(parameters, torch.cat([task.prototypes for task in tasks]))
