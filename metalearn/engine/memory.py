"""How much memory the gradient of one task needs, how many tasks fit, and which errors mean that memory ran out."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from metalearn.engine.machine import available_memory

MIB = 2**20
_SPARE = 0.9  # of the free memory: allocators leave gaps


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or on the host; torch has an error type for the device alone."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def bytes_taken(compute: Callable[[], object], device: torch.device) -> int | None:
    """The most that `compute` has in memory at once: on a GPU all of it, on a CPU what autograd keeps for backward passes.

    None if torch cannot count it: vmap of torch 2.4 refuses hooks on the tensors that autograd keeps. `compute` then stops early.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        compute()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    kept = _Kept()
    try:
        with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda saved: saved.tensor):
            compute()
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        return None
    return kept.most


def free_bytes(device: torch.device) -> int | None:
    """Free bytes of the device or, for the CPU, of the machine; None if the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return available_memory()


def fitting_tasks(per_task: int | None, free: int | None) -> int | None:
    """How many tasks of so many bytes fit, at least one; None if one of the two numbers is unknown."""
    return None if per_task is None or free is None else max(1, int(free * _SPARE) // max(per_task, 1))


class _Saved:
    """Stands for a tensor that autograd keeps; gone when autograd lets go of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Kept:
    """Counts the bytes of the storages that autograd keeps, each once."""

    def __init__(self) -> None:
        self._users: Counter[int] = Counter()
        self._now = 0
        self.most = 0

    def keep(self, tensor: Tensor) -> _Saved:
        saved, storage = _Saved(tensor), tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if not self._users[address]:
            self._now += size
            self.most = max(self.most, self._now)
        self._users[address] += 1
        weakref.finalize(saved, self._let_go, address, size)
        return saved

    def _let_go(self, address: int, size: int) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            self._now -= size
