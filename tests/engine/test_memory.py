"""Memory that tasks take: counted, not guessed."""

from __future__ import annotations

import pytest
import torch

from metalearn.engine.memory import bytes_taken, fitting_tasks, free_bytes, is_out_of_memory

CPU = torch.device("cpu")


def test_what_autograd_keeps_is_counted_once_and_at_its_highest() -> None:
    x = torch.rand(1000, requires_grad=True)

    def compute() -> None:
        for _ in range(3):  # one graph after another: never two at a time
            y = x.exp()  # keeps its result
            z = y.sin()  # keeps y, which is kept already
            z.square().sum().backward()  # keeps z

    assert bytes_taken(compute, CPU) == 2 * 4000


def test_nothing_is_kept_without_gradients() -> None:
    with torch.no_grad():
        assert bytes_taken(lambda: torch.rand(1000).exp(), CPU) == 0


def test_nothing_is_known_if_torch_refuses_to_count() -> None:
    def compute() -> None:
        with torch.autograd.graph.disable_saved_tensors_hooks("transforms don't support saved tensor hooks"):
            torch.rand(1000).exp()

    assert bytes_taken(compute, CPU) is None
    assert fitting_tasks(None, 100) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_all_that_is_allocated_counts() -> None:
    device = torch.device("cuda")
    assert bytes_taken(lambda: torch.zeros(2**20, dtype=torch.uint8, device=device), device) >= 2**20


def test_how_many_fit() -> None:
    assert fitting_tasks(10, 100) == 9
    assert fitting_tasks(1000, 100) == 1, "one is always tried"
    assert fitting_tasks(10, None) is None
    free = free_bytes(CPU)
    assert free is None or free > 2**20


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
