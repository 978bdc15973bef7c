"""Several processes on one run: `torchrun --nproc-per-node=N -m metalearn train ...`, one process for each GPU or group of cores.

Every process ("rank") draws its share of an outer step's tasks, by index, and computes that share's part of the meta-gradient; the parts are added
once per step, so that all take the same step. Rank 0 alone validates, tests and writes. Nothing is wrapped, and one process is the case of one share.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from metalearn.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, tasks: int) -> range:
        """Which of an outer step's tasks are this rank's: the shares differ by one task at most."""
        return range(tasks * self.rank // self.count, tasks * (self.rank + 1) // self.count)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replaces every tensor by its sum over the ranks; one message for each type of number."""
        if self.count == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            by_type[tensor.dtype].append(tensor)
        for of_type in by_type.values():
            message = torch.cat([tensor.detach().flatten() for tensor in of_type])
            dist.all_reduce(message)
            parts = torch.split(message, [tensor.numel() for tensor in of_type])
            for tensor, part in zip(of_type, parts, strict=True):
                tensor.detach().copy_(part.view_as(tensor))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces every tensor by its mean over the ranks."""
        self.add(tensors)
        if self.count > 1:
            for tensor in tensors:
                tensor.detach().div_(self.count)

    def broadcast(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Returns rank 0's numbers on every rank. The other ranks pass as many numbers; their values do not matter."""
        if self.count == 1:
            return list(numbers)
        message = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.broadcast(message, src=0)
        return [float(number) for number in message.tolist()]

    def all_reduce_max(self, number: float, device: torch.device) -> float:
        """The largest of all ranks' numbers."""
        if self.count == 1:
            return number
        message = torch.tensor(number, dtype=torch.float64, device=device)
        dist.all_reduce(message, op=dist.ReduceOp.MAX)
        return float(message)


def launched() -> Ranks:
    """Reads the ranks from torchrun's environment; a single process without it.

    Raises:
        UserError: the environment is not torchrun's.
    """
    try:
        ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        raise UserError(f"RANK and WORLD_SIZE, as torchrun sets them, must be numbers: {error}") from error
    if not 0 <= ranks.rank < ranks.count:
        raise UserError(f"RANK={ranks.rank} with WORLD_SIZE={ranks.count}: torchrun numbers its processes from 0 on")
    return ranks


@contextlib.contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Connects the ranks: by NCCL, each on the GPU of its number on this machine, or by gloo on CPUs."""
    if ranks.count == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def check_share(ranks: Ranks, meta_batch_size: int) -> None:
    """Raises UserError where a rank would have no task."""
    if ranks.count > meta_batch_size:
        raise UserError(
            f"train.meta_batch_size={meta_batch_size} is less than the {ranks.count} processes that torchrun started: "
            "each needs a task"
        )
