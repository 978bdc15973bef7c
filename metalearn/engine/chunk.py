"""How many tasks share a backward pass: `train.task_chunk=auto` measures a few sizes that fit, once per machine and setting, in about two seconds."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from metalearn.algorithms.base import Algorithm
from metalearn.config.identity import config_hash
from metalearn.engine.memory import MIB, bytes_taken, fitting_tasks, free_bytes, is_out_of_memory
from metalearn.engine.remembered import Remembered
from metalearn.tasks import TaskBatch

log = logging.getLogger("metalearn")
# run.log alone, as metalearn.report.terminal says: few users ask for these numbers.
details = logging.getLogger("metalearn.file")

_ROUNDS = 3  # timed passes for each size, at most; the fastest counts, as noise only ever adds
_SECONDS = 1.5  # in which the passes have to be begun
_WORTH = 1.05  # times the fastest: a size that takes up to so long, and less memory, is as good
_HOPELESS = 1.3  # times the fastest: still larger chunks will not be faster

MetaGradient = Callable[[Algorithm, TaskBatch, int, str], object]


def choose_task_chunk(
    config: dict[str, Any], algorithm: Algorithm, tasks: TaskBatch, meta_gradient: MetaGradient
) -> int:
    """`train.task_chunk`, or, where it is auto, the smallest of those sizes that are about as fast as any, for this setting on this machine.

    A measured choice is remembered in the cache directory and taken again: sums of another grouping differ in rounding, so two runs with one
    seed are equal to the bit only if they cut their batches alike.
    """
    asked = config["train"]["task_chunk"]
    if asked != "auto":
        return min(int(asked), tasks.tasks)
    # A task of uneven size is a batch by itself, and the next one is of another size.
    if tasks.tasks == 1 or tasks.uneven:
        return 1
    most = min(tasks.tasks, _fitting(algorithm, tasks, config["precision"], meta_gradient))
    kept = Remembered(
        "task_chunk", measured_setting(config, tasks), lambda size: isinstance(size, int) and 1 <= size <= tasks.tasks
    )
    if (remembered := kept.read()) is not None:
        return int(remembered)
    log.info("measuring train.task_chunk: how many of %d tasks share a backward pass", tasks.tasks)
    sizes = sorted({size for size in (1, 4, 8, 16, most) if size <= most})
    seconds = _measure(algorithm, tasks, sizes, config["precision"], meta_gradient)
    worth = _WORTH * min(seconds.values())
    best = min(size for size in seconds if seconds[size] <= worth)  # a larger one would take more memory
    details.info(
        "task_chunk: %d of %d tasks per backward pass (ms per task: %s)",
        best,
        tasks.tasks,
        ", ".join(f"{size}: {1000 * s:.1f}" for size, s in seconds.items()),
    )
    return int(kept.write(best))


def _fitting(algorithm: Algorithm, tasks: TaskBatch, precision: str, meta_gradient: MetaGradient) -> int:
    """How many tasks the memory holds at once, judged by one; all of them where that cannot be known."""
    trial, device = copy.deepcopy(algorithm).train(), tasks.classes.device
    one = tasks.chunks(1)[0]
    per_task = bytes_taken(lambda: meta_gradient(trial, one, 1, precision), device)
    if per_task is None:
        return tasks.tasks
    free = free_bytes(device)
    fitting = fitting_tasks(per_task, free)
    if free is None or fitting is None:
        details.info("memory: %.1f MiB per task", per_task / MIB)
        return tasks.tasks
    details.info(
        "memory: %.1f MiB per task, %.0f MiB free: %d tasks at a time fit", per_task / MIB, free / MIB, fitting
    )
    return fitting


def _measure(
    algorithm: Algorithm, tasks: TaskBatch, sizes: list[int], precision: str, meta_gradient: MetaGradient
) -> dict[int, float]:
    """Seconds per task of one chunk for each size, on a copy, so that running statistics and gradients stay untouched.

    Only one chunk is computed for each size, not the whole batch. The sizes are tried from small to large: a size that is clearly slower, that
    runs out of memory or that would take longer than is left of `_SECONDS` ends the search. So a slow network, for which larger chunks pay
    little, costs a few tasks.
    """
    trial, device = copy.deepcopy(algorithm).train(), tasks.classes.device
    seconds: dict[int, float] = {}
    until = time.perf_counter() + _SECONDS
    for size in sizes:
        part = tasks.chunks(size)[0]
        fastest = min(seconds.values(), default=0.0)
        for timed in range(_ROUNDS + 1):
            now = time.perf_counter()
            if now + fastest * size > until and (timed > 1 or (timed == 0 and seconds)):
                break  # each size that is begun warms up once and is timed once
            try:
                meta_gradient(trial, part, size, precision)
                wait(device)
            except RuntimeError as error:
                if size == sizes[0] or not is_out_of_memory(error):
                    raise
                return seconds
            finally:
                trial.zero_grad(set_to_none=True)
            taken = (time.perf_counter() - now) / size
            # The first round warms up; a second one replaces it.
            seconds[size] = taken if timed <= 1 else min(seconds[size], taken)
        if size not in seconds or seconds[size] > _HOPELESS * min(seconds.values()):
            break
    return seconds


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured_setting(config: dict[str, Any], tasks: TaskBatch) -> str:
    """Names everything that a measurement of these tasks on this machine depends on."""
    device = tasks.classes.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu-{torch.get_num_threads()}"
    parts = {key: config[key] for key in ("algorithm", "backbone", "precision")} | {
        "task": config["task"]["train"],
        "image": list(tasks.support.x.shape[2:]),
        "tasks": tasks.tasks,
        "device": name,
        "torch": torch.__version__,
    }
    return config_hash(parts)
