"""The contract of a few-shot learner. T tasks, N ways, K shots, Q queries per class, D features.

An algorithm is what happens inside tasks, for T of them at once; the outer loop, devices, files and logs are not its business. It keeps no
state on itself between calls, so that adapting or predicting twice gives the same.

Its constructor is given the settings of its YAML file and, of the following, what it asks for by name: `backbone`; `ways`, of the training
tasks (in regression the numbers that are predicted for an example); `train_classes`, how many classes the training split has, rotations counted;
`class_encoder`, made of the setting of this name, or None.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_unflatten

from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION, Kind
from metalearn.nn.normals import Normals
from metalearn.tasks import Examples, TaskBatch


class MetaLoss(NamedTuple):
    """The losses and the metrics of a batch of training tasks."""

    loss: Tensor  # [T]; the gradient of its mean is the outer direction
    metrics: dict[str, Tensor]  # tag -> [T], detached; logged as train/<tag>


class TwoSteps(NamedTuple):
    """A learner taken apart."""

    embed: Callable[[Tensor], Tensor]  # [n, ...] -> [n, D]
    dim: int  # D
    learner: Algorithm  # of tasks whose examples are embedded already
    describe: Callable[[Tensor], Tensor] | None = (
        None  # descriptions of classes, [n, ...] -> [n, E], which the learner then takes; None: it takes them as they are
    )


class Algorithm(nn.Module, ABC):
    """Base of every algorithm; `self.training` tells training tasks from evaluation, as in any module."""

    kinds: ClassVar[tuple[Kind, ...]] = (CLASSIFICATION,)  # of task that it can learn
    uneven: ClassVar[bool] = (
        False  # whether it can learn tasks of uneven size: classes with other numbers of examples (tasks.py)
    )
    zero_shot: ClassVar[bool] = (
        False  # whether it can tell classes by their descriptions alone (`Examples.descriptions`), with a class encoder
    )
    trains: ClassVar[bool] = True  # whether outer steps can change it; else train.steps has to be 0
    kind: Kind = CLASSIFICATION  # of the tasks at hand, set by whoever builds it for a data set
    outer_step: int = 0  # outer steps done, set by the outer loop: for what a paper anneals while training

    @classmethod
    def learns(cls, kind: Kind) -> bool:
        """Whether it can learn tasks of a kind: one of `kinds`, or a kind of a plug-in that asks for the same answers, classes or numbers."""
        return kind in cls.kinds or (bool(kind.answers) and any(own.answers == kind.answers for own in cls.kinds))

    @abstractmethod
    def adapt(self, support: Examples) -> Any:
        """Whatever the paper learns from the support set, for each of the T tasks."""

    @abstractmethod
    def predict(self, adapted: Any, query_x: Tensor) -> Tensor:
        """Outputs for queries [T, N*Q, ...], never sees their labels: logits [T, N*Q, N], or numbers [T, Q, D] in regression."""

    def predict_distribution(self, adapted: Any, query_x: Tensor) -> Normals | None:
        """Of numbers: the distribution of each query's answer, whose mean is what `predict` returns; by default None: there is no more than that."""
        return None

    def meta_loss(self, tasks: TaskBatch) -> MetaLoss:
        """By default the loss of the queries after adaptation."""
        return self.query_loss(self.predict(self.adapt(tasks.support), tasks.query.x), tasks)

    def adapt_stepwise(self, support: Examples) -> Iterator[Any]:
        """What `adapt` yields before the first inner step and after each; by default only the end, for learners without steps."""
        yield self.adapt(support)

    def predict_each(self, states: Iterable[Any], query_x: Tensor) -> Iterator[Tensor]:
        """What `predict` returns for the same queries in each of several states, such as those of `adapt_stepwise`.

        A learner whose states have part of their work on the queries in common does that part once here.
        """
        for adapted in states:
            yield self.predict(adapted, query_x)

    def fit(self, images: Iterable[Tensor]) -> None:
        """Takes from the training images what needs no labels and no outer steps, such as their mean feature; by default nothing.

        It is called where `fits` says so: before the first outer step and, as outer steps may change the features, before every validation
        after one; where there are no outer steps, once. In evaluation mode and without gradients. What it keeps are buffers, which it changes
        in place: so they are in every checkpoint, and a test finds them there.

        Args:
            images: every image of the training split once, in chunks [n, ...] of any size, as the network sees them, unchanged by
                `train.augment`; embedded ones [n, D] where this is the learner of `in_two_steps`.
        """

    @property
    def fits(self) -> bool:
        """Whether `fit` takes anything from the training images."""
        return False

    def tune(self, tasks: TaskBatch) -> str:
        """Chooses by labelled tasks what neither outer steps nor `fit` can find, such as the step size of fine-tuning; by default nothing.

        It is called where `tuning_tasks` says so: before every validation, after `fit`, with the first validation tasks. In evaluation mode and
        without gradients. What it chooses is kept in buffers of whole numbers, changed in place: so it is in every checkpoint.

        Args:
            tasks: `tuning_tasks` of them, the same at each call.

        Returns:
            What was chosen, for the log: "algorithm.lr=0.001".
        """
        return ""

    @property
    def tuning_tasks(self) -> int:
        """How many validation tasks `tune` asks for."""
        return 0

    def further_scores(self, tasks: TaskBatch) -> dict[str, Tensor]:
        """What the paper reports of test tasks beside the accuracy of their queries: name -> [T]; by default nothing."""
        return {}

    def in_two_steps(self) -> TwoSteps | None:
        """For evaluation: the embedding of each example by itself, and what this learner does with embeddings.

        None where the embedding of an example depends on anything else, so that it cannot be computed once for all tasks. Where predictions are
        not transductive, what the learner of embeddings adapts serves this one's `predict` as well.
        """
        return None

    def behind_fixed_layers(self) -> TwoSteps | None:
        """For training tasks: the layers of the backbone that outer steps leave as they are, and this learner with the rest of the backbone.

        None where all of them change, or none, or where what an example becomes depends on anything else.
        """
        return None

    def embedding(self) -> nn.Module | None:
        """For export: the network that embeds each example by itself, [n, ...] -> [n, D]; None where no such part can be used alone."""
        return None

    def deployed(self, adapted: Any) -> nn.Module:
        """For export: what predicts the queries of one task, with all that was adapted to it inside: [n, ...] -> logits [n, N].

        By default this algorithm itself. Where `predict` does something that a traced program of any n cannot, or more than one task needs,
        a subclass returns a module that does the same. Only asked for in evaluation mode, and where predictions are not transductive.

        Args:
            adapted: what `adapt` returned for one task.

        Raises:
            UserError: what was adapted cannot be a module of its own.
        """
        return Deployed(self, adapted)

    def embed_examples(self, x: Tensor) -> Tensor | None:
        """What the learner compares examples by, for pictures: the examples of one task [n, ...] -> [n, D].

        None, as by default, where it compares none: a learner with an inner loop, say.
        """
        return None

    @property
    def repeats(self) -> bool:
        """Whether `meta_loss` will do the same with its tasks in every outer step from here on: then it can be recorded once for a GPU and replayed.

        Not where Python decides by `outer_step` or by values, or draws random numbers.
        """
        return False

    @property
    def masks(self) -> bool:
        """Of an `uneven` learner: whether it takes several tasks at once, padded, and leaves the padding out (`Examples.mask`).

        Else they come one by one, each at its own size.
        """
        return False

    @property
    def heavy(self) -> bool:
        """Whether adapting to a test task takes long even where its examples are embedded already: then fewer tasks are drawn to calibrate it."""
        return False

    def check_ways(self, ways: int) -> None:  # most serve any
        """Asked before a run begins, of the ways of its test tasks.

        Raises:
            UserError: it cannot serve tasks of so many ways.
        """

    def check_examples(self, form: str) -> None:  # most take what their backbone takes
        """Asked when it was built, of what the examples are: "images", "texts" or "numbers".

        Raises:
            UserError: a setting of its own is for others.
        """

    @property
    def transductive(self) -> bool:
        """Whether, in evaluation, the prediction for one query depends on the other queries."""
        return False

    def set_transductive(self, transductive: bool) -> None:
        """Makes evaluation transductive or not.

        Raises:
            UserError: this algorithm with this backbone cannot be evaluated so.
        """
        if transductive != self.transductive:
            raise UserError(
                f"eval.transductive={str(transductive).lower()}: this model normalises "
                + (
                    "with the statistics of the queries at hand (backbone.running_stats=false)"
                    if self.transductive
                    else "each query by itself"
                )
                + ", whatever is asked at evaluation"
            )

    def query_loss(self, outputs: Tensor, tasks: TaskBatch) -> MetaLoss:
        """Loss and score, by the kind of the tasks, of what `predict` returned for the queries."""
        score = tasks.query.by_task(self.kind.score_of, outputs.detach())
        return MetaLoss(tasks.query.by_task(self.kind.loss, outputs), {self.kind.score: score})

    def scored(self, outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The score of training tasks under its name, for the log: outputs [T, n, ...], y [T, n, ...] -> [T]."""
        return {self.kind.score: self.kind.score_of(outputs.detach(), y)}


class Deployed(nn.Module):
    """An algorithm and what it learned of one task: queries [n, ...] -> logits [n, N]. The tensors of that are buffers, `adapted_<name>`."""

    def __init__(self, algorithm: Algorithm, adapted: Any) -> None:
        super().__init__()
        self.algorithm = algorithm
        self._kept: list[Any] = []  # the parts of what was adapted, names of buffers in the place of tensors
        paths, self._form = tree_flatten_with_path(adapted)
        for path, part in paths:
            if isinstance(part, Tensor):
                name = re.sub(r"\W+", "_", f"adapted{keystr(path)}").strip("_")
                self.register_buffer(name, part.detach())
                part = _Buffer(name)
            self._kept.append(part)

    def forward(self, queries: Tensor) -> Tensor:
        parts = [getattr(self, part) if isinstance(part, _Buffer) else part for part in self._kept]
        return self.algorithm.predict(tree_unflatten(parts, self._form), queries.unsqueeze(0)).squeeze(0)


class _Buffer(str):
    """The name of a buffer."""


def keep_buffers(algorithm: Algorithm) -> Callable[[], None]:
    """Returns a function that restores the buffers to their present values, after a pass that must have no effect."""
    kept = [(buffer, buffer.clone()) for buffer in algorithm.buffers()]

    def put_back() -> None:
        for buffer, before in kept:
            buffer.copy_(before)

    return put_back
