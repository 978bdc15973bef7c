"""From labelled examples of any number of classes, each with any number, to the probabilities of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.tasks import Examples

QUERIES_AT_ONCE = 256


def support_of(x: Tensor, counts: Sequence[int], takes_uneven: bool, descriptions: Tensor | None = None) -> Examples:
    """One task's support set.

    Args:
        x: [n, ...], class by class.
        counts: [N], examples of each class.
        takes_uneven: whether the algorithm takes classes with different numbers of examples. Else the examples of smaller classes are repeated.
        descriptions: of the classes, [N, ...]; None: there are none.
    """
    rows = torch.tensor(rows_of(counts, takes_uneven), dtype=torch.int64, device=x.device)
    each = counts if takes_uneven else [max(counts)] * len(counts)
    y = torch.arange(len(counts), device=x.device).repeat_interleave(torch.tensor(each, device=x.device))
    made = examples_of(x[rows][None], y[None], len(counts), counts, takes_uneven)
    return made._replace(descriptions=None if descriptions is None else descriptions[None])


def rows_of(counts: Sequence[int], takes_uneven: bool, held: int | None = None) -> list[int]:
    """Which example each place of the support set has.

    Args:
        counts: [N], examples of each class that are used.
        takes_uneven: as for `support_of`.
        held: examples of each class that there are, the first of which are used; None: as many as are used.
    """
    starts = [sum(counts[:n]) if held is None else n * held for n in range(len(counts))]
    places = [count if takes_uneven else max(counts) for count in counts]
    return [start + i % count for start, count, place in zip(starts, counts, places, strict=True) for i in range(place)]


def examples_of(x: Tensor, y: Tensor, ways: int, counts: Sequence[int], takes_uneven: bool) -> Examples:
    """The support sets [T, n, ...] of T tasks that have all the same number of examples of each class, `counts` [N]."""
    if len(set(counts)) == 1 or not takes_uneven:
        return Examples(x, y, ways)
    tasks, n = y.shape
    return Examples(x, y, ways, (n,) * tasks, (ways,) * tasks)


@torch.no_grad()
def outputs_of(algorithm: Algorithm, adapted: Any, query: Tensor, ways: int, device: torch.device) -> Tensor:
    """Logits [Q, N] on the CPU, of queries [Q, ...]; together where they depend on each other, else some at a time.

    Args:
        device: of the algorithm, which may have no parameters that would tell.
    """
    parts = [query] if algorithm.transductive else list(torch.split(query, QUERIES_AT_ONCE))
    found = [algorithm.predict(adapted, part[None].to(device))[0, :, :ways].float().cpu() for part in parts]
    return torch.cat(found)
