"""The meta-gradient of a batch of tasks: in chunks that the memory can hold, on a GPU replayed where it repeats."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm, keep_buffers
from metalearn.engine.cuda_graph import Gradient, GraphedGradient, cuda_record
from metalearn.engine.memory import is_out_of_memory
from metalearn.tasks import TaskBatch

log = logging.getLogger("metalearn")


def meta_gradient(
    algorithm: Algorithm, tasks: TaskBatch, task_chunk: int, precision: str, of: int | None = None
) -> dict[str, Tensor]:
    """Adds the gradient of the mean meta-loss to the parameters' `.grad`, one backward pass per chunk; returns means, still on the device.

    Args:
        of: how many tasks the means are over, where `tasks` is a part of them; then the results of all parts have to be added.
    """
    of = of or tasks.tasks
    sums: dict[str, Tensor] = {}
    for chunk in tasks.chunks(together(algorithm, tasks, task_chunk)):
        with torch.autocast(chunk.classes.device.type, torch.bfloat16, enabled=precision == "bf16"):
            outcome = algorithm.meta_loss(chunk)
        (outcome.loss.sum() / of).backward()  # type: ignore[no-untyped-call]
        for tag, values in {"loss": outcome.loss.detach(), **outcome.metrics}.items():
            sums[tag] = sums.get(tag, 0) + values.sum() / of
    return sums


def together(algorithm: Algorithm, tasks: TaskBatch, task_chunk: int) -> int:
    """How many of these tasks pass the algorithm at once: `task_chunk`; uneven ones one by one, where it does not mask the padding."""
    return 1 if tasks.uneven and not algorithm.masks else task_chunk


def affordable_meta_gradient(
    gradient: Gradient, algorithm: Algorithm, tasks: TaskBatch, task_chunk: int, precision: str, of: int
) -> tuple[dict[str, Tensor], int]:
    """`gradient` into empty `.grad`s, in chunks of `task_chunk` tasks; where the memory runs out, of half as many, and so on.

    Returns:
        The means, and the size of the chunks that fitted.

    Raises:
        RuntimeError: not even one task at a time fits.
    """
    put_back = keep_buffers(algorithm)
    while True:
        algorithm.zero_grad(set_to_none=True)
        try:
            return gradient(algorithm, tasks, task_chunk, precision, of), task_chunk
        except (RuntimeError, MemoryError) as error:
            if task_chunk == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler, which would keep what the failed attempt had allocated.
        put_back()  # a part of the chunks may have moved them
        log.warning("out of memory with %d tasks at a time: going on with %d", task_chunk, task_chunk // 2)
        task_chunk //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def outer_gradient(cuda_graph: bool, device: torch.device) -> Gradient:
    """`meta_gradient`; on a GPU, with `train.cuda_graph`, the object that replays it."""
    if device.type == "cuda" and cuda_graph:
        return GraphedGradient(meta_gradient, cuda_record)
    return meta_gradient
