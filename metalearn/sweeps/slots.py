"""Where jobs are run on this machine: how many at once, on which GPUs, with how many threads."""

from __future__ import annotations

import os
from typing import NamedTuple

from metalearn.engine.machine import usable_cores
from metalearn.errors import UserError


class Slot(NamedTuple):
    """Where one job at a time is run."""

    gpu: str | None
    threads: int


def slots(jobs: int | None, jobs_per_gpu: int, gpus: list[str]) -> list[Slot]:
    """As many slots as jobs may run at once: GPUs in turn, the cores' threads divided.

    Args:
        jobs: None for as many as the GPUs take, one without a GPU.

    Raises:
        UserError: the GPUs do not take so many.
    """
    most = len(gpus) * jobs_per_gpu
    count = jobs or most or 1
    if gpus and count > most:
        raise UserError(
            f"sweep.jobs={count} is more than {len(gpus)} GPUs take with sweep.jobs_per_gpu={jobs_per_gpu} (allowed: up to {most})"
        )
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, usable_cores() // count))
    return [Slot(gpus[i % len(gpus)] if gpus else None, threads) for i in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
