"""An outer step's gradient recorded once as a CUDA graph and replayed: one launch in place of the thousands of small kernels of an inner loop.

Whatever Python computes while it is recorded is fixed from there on. Therefore only algorithms that say so (`Algorithm.repeats`) are recorded, and
the first replay is compared with the ordinary way, on other tasks than those recorded; where it differs, or cannot be recorded, nothing changes but
a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm, keep_buffers
from metalearn.errors import one_line, shortened
from metalearn.tasks import Examples, TaskBatch

log = logging.getLogger("metalearn")

Gradient = Callable[..., dict[str, Tensor]]  # train.meta_gradient, or what takes and returns the same
Work = Callable[[], list[Tensor]]
# -> (what replays it, the tensors that each replay fills)
Record = Callable[[Work], tuple[Callable[[], None], list[Tensor]]]

_WARM_UPS = 3  # ordinary steps before recording: libraries choose their kernels and workspaces in them
# Parts of the norm of the gradient: the order of sums differs from step to step.
_TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}


@dataclass
class _Recorded:
    tasks: TaskBatch  # where a replay reads
    replay: Callable[[], None]
    gradients: list[Tensor | None]  # where it writes, by parameter
    sums: dict[str, Tensor]
    checked: bool = False


class GraphedGradient:
    """`meta_gradient`, from its fifth call with tasks of one shape on replayed.

    Args:
        gradient: the ordinary way, into empty `.grad`s.
        record: how work is recorded; on a GPU `cuda_record`.
    """

    def __init__(self, gradient: Gradient, record: Record) -> None:
        self._gradient, self._record = gradient, record
        self._key: tuple[object, ...] | None = None
        self._calls = 0
        self._recorded: _Recorded | None = None
        self._given_up = False

    @property
    def replays(self) -> bool:
        """Whether a recorded step was found to be right and is in use."""
        return self._recorded is not None and self._recorded.checked

    def __call__(
        self, algorithm: Algorithm, tasks: TaskBatch, task_chunk: int, precision: str, of: int | None = None
    ) -> dict[str, Tensor]:
        def work(tasks: TaskBatch) -> dict[str, Tensor]:
            return self._gradient(algorithm, tasks, task_chunk, precision, of)

        if self._given_up or tasks.uneven or not algorithm.repeats:
            return work(tasks)
        key = (id(algorithm), task_chunk, precision, of, *(tensor.shape for tensor in _tensors(tasks)))
        if key != self._key:
            self._key, self._calls, self._recorded = key, 0, None
        self._calls += 1
        if self._calls <= _WARM_UPS:
            return work(tasks)
        if self._recorded is None:
            self._start(algorithm, tasks, work)
            return work(tasks)
        if self._recorded.checked:
            return self._replayed(algorithm, tasks, self._recorded)
        return self._checked(algorithm, tasks, self._recorded, work, _TOLERANCE[precision])

    def _start(self, algorithm: Algorithm, tasks: TaskBatch, work: Callable[[TaskBatch], dict[str, Tensor]]) -> None:
        read = _copy(tasks)
        tags: list[str] = []
        which: list[bool] = []

        def recorded() -> list[Tensor]:
            algorithm.zero_grad(set_to_none=True)
            sums = work(read)
            found = [parameter.grad for parameter in algorithm.parameters()]
            tags[:], which[:] = sums, [gradient is not None for gradient in found]
            return [*(gradient for gradient in found if gradient is not None), *sums.values()]

        put_back = keep_buffers(algorithm)
        try:
            replay, written = self._record(recorded)
        except RuntimeError as error:
            self._give_up(f"cannot be recorded: {shortened(one_line(error), 200)}")
        else:
            filled = iter(written)
            gradients = [next(filled) if has_one else None for has_one in which]
            self._recorded = _Recorded(read, replay, gradients, dict(zip(tags, filled, strict=True)))
        algorithm.zero_grad(set_to_none=True)
        put_back()

    def _checked(
        self,
        algorithm: Algorithm,
        tasks: TaskBatch,
        recorded: _Recorded,
        work: Callable[[TaskBatch], dict[str, Tensor]],
        tolerance: float,
    ) -> dict[str, Tensor]:
        """The ordinary way, and whether a replay comes to the same."""
        put_back = keep_buffers(algorithm)
        again = self._replayed(algorithm, tasks, recorded)
        replayed = [None if g is None else g.clone() for g in recorded.gradients]
        algorithm.zero_grad(set_to_none=True)
        put_back()
        sums = work(tasks)
        expected = [parameter.grad for parameter in algorithm.parameters()]
        if _alike(replayed, expected, tolerance) and _alike(list(again.values()), list(sums.values()), tolerance):
            recorded.checked = True
            log.info("the step is replayed as a CUDA graph")
        else:
            self._give_up("gives another gradient than the step itself")
        return sums

    @staticmethod
    def _replayed(algorithm: Algorithm, tasks: TaskBatch, recorded: _Recorded) -> dict[str, Tensor]:
        for read, given in zip(_tensors(recorded.tasks), _tensors(tasks), strict=True):
            read.copy_(given)
        recorded.replay()
        for parameter, gradient in zip(algorithm.parameters(), recorded.gradients, strict=True):
            parameter.grad = gradient
        return {tag: value.clone() for tag, value in recorded.sums.items()}  # kept while the next replay writes

    def _give_up(self, why: str) -> None:
        log.warning("train.cuda_graph: the recorded step %s; going on without it", why)
        self._given_up, self._recorded = True, None


def cuda_record(work: Work) -> tuple[Callable[[], None], list[Tensor]]:
    """Records `work` as a CUDA graph, without running it.

    Raises:
        RuntimeError: it cannot be recorded, as it waits for the device, say.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        written = work()
    return graph.replay, written


def _tensors(tasks: TaskBatch) -> list[Tensor]:
    described = tasks.support.descriptions
    always = [tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y, tasks.classes]
    return always if described is None else [*always, described]


def _copy(tasks: TaskBatch) -> TaskBatch:
    support, query = (
        Examples(examples.x.clone(), examples.y.clone(), examples.ways) for examples in (tasks.support, tasks.query)
    )
    if tasks.support.descriptions is not None:
        support = support._replace(descriptions=tasks.support.descriptions.clone())
    return TaskBatch(support, query, tasks.classes.clone())


def _alike(
    ours: list[Tensor | None] | list[Tensor], theirs: list[Tensor | None] | list[Tensor], tolerance: float
) -> bool:
    """Whether the same are there, and their difference has a small part of their norm."""
    if [each is None for each in ours] != [each is None for each in theirs]:
        return False
    flat = [torch.cat([each.double().flatten() for each in side if each is not None]) for side in (ours, theirs)]
    return bool((flat[0] - flat[1]).norm() <= tolerance * flat[1].norm())
