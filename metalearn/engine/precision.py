"""What `precision` stands for on this machine: `auto` takes the numbers of lower precision that make a step faster here, else fp32."""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

import torch

from metalearn.algorithms.base import Algorithm
from metalearn.engine.chunk import MetaGradient, measured_setting, wait
from metalearn.engine.machine import bf16_instructions
from metalearn.engine.memory import is_out_of_memory
from metalearn.engine.remembered import Remembered
from metalearn.tasks import TaskBatch

log = logging.getLogger("metalearn")

PRECISIONS = ("fp32", "tf32", "bf16")

_ROUNDS = 3  # timed passes with each of the two, at most; the fastest counts
_SECONDS = 2.0  # in which they have to be begun
_WORTH = 1.1  # times as long takes fp32 where bf16 is worth what it rounds away


def on_device(precision: str, device: torch.device) -> str:
    """`precision`; where it is auto, what the device alone decides: tf32 on NVIDIA GPUs that have it, auto on a CPU, else fp32."""
    if precision != "auto" or device.type == "cpu":
        return precision
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32" if has_tf32 else "fp32"


def for_measuring(precision: str, device: torch.device) -> str:
    """With which of PRECISIONS steps are measured before `auto` is settled."""
    found = on_device(precision, device)
    return "fp32" if found == "auto" else found


def choose_precision(
    config: dict[str, Any], algorithm: Algorithm, tasks: TaskBatch, task_chunk: int, meta_gradient: MetaGradient
) -> str:
    """`precision` of a run, one of PRECISIONS. Where it is auto, one log line says what was chosen and why.

    On a CPU, auto is bf16 where the processor has instructions for it and a measured step is clearly faster with it than with fp32. The
    measurement is remembered for this machine and setting.

    Args:
        tasks: of one outer step.
        task_chunk: how many of them share a backward pass.
    """
    asked, device = config["precision"], tasks.classes.device
    if asked != "auto":
        return str(asked)
    if device.type != "cpu":
        chosen = on_device(asked, device)
        log.info("precision=auto: %s, %s", chosen, "the GPU has it" if chosen == "tf32" else f"on {device.type}")
        return chosen
    if (instructions := bf16_instructions()) is None:
        log.info("precision=auto: fp32, as the processor has no instructions for bf16 (avx512_bf16, amx_bf16)")
        return "fp32"
    kept = Remembered("precision", measured_setting(config, tasks), _are_seconds)
    seconds = kept.read()
    if seconds is None:
        seconds = kept.write(_measure(algorithm, tasks, task_chunk, meta_gradient))
    fp32, bf16 = seconds["fp32"], seconds["bf16"]
    faster = bf16 is not None and fp32 >= _WORTH * bf16
    log.info(
        "precision=auto: %s, as %s took %.0f ms with fp32 and %s with bf16 (%s)",
        "bf16" if faster else "fp32",
        "1 task" if task_chunk == 1 else f"{task_chunk} tasks",
        1000 * fp32,
        "did not work" if bf16 is None else f"{1000 * bf16:.0f} ms",
        instructions,
    )
    return "bf16" if faster else "fp32"


def _are_seconds(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("fp32"), float)
        and isinstance(value.get("bf16", ""), float | None)
    )


def _measure(
    algorithm: Algorithm, tasks: TaskBatch, task_chunk: int, meta_gradient: MetaGradient
) -> dict[str, float | None]:
    """Seconds of one chunk with each, in turns, on a copy; None for bf16 where an operator of the network does not know it."""
    trial, part = copy.deepcopy(algorithm).train(), tasks.chunks(task_chunk)[0]
    seconds: dict[str, float | None] = {}
    until = time.perf_counter() + _SECONDS
    for timed in range(_ROUNDS + 1):
        if timed > 1 and time.perf_counter() > until:
            break  # both warm up once and are timed once
        for precision in ("fp32", "bf16"):
            if timed and seconds[precision] is None:
                continue
            began = time.perf_counter()
            try:
                meta_gradient(trial, part, task_chunk, precision)
                wait(tasks.classes.device)
            except RuntimeError as error:
                if precision == "fp32" or is_out_of_memory(error):
                    raise
                seconds[precision] = None
                continue
            finally:
                trial.zero_grad(set_to_none=True)
            taken = time.perf_counter() - began
            # The first round warms up; the second replaces it.
            before = seconds.get(precision)
            seconds[precision] = taken if timed <= 1 or before is None else min(before, taken)
    return seconds
