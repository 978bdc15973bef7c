"""What a network does with an example, step by step, where it passes it from layer to layer and does nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import fx, nn


def followed(network: nn.Module, whole: Callable[[nn.Module], bool]) -> list[fx.Node] | None:
    """The steps of `network`, by following a symbolic example through it; None unless each takes what the one before returns and nothing else.

    Args:
        whole: whether a module is one step; the others are looked into.
    """
    try:
        nodes = list(_Tracer(whole).trace(network).nodes)
    except Exception:  # whatever a forward method does that a symbolic input cannot follow
        return None
    for before, node in itertools.pairwise(nodes):
        if node.all_input_nodes != [before]:
            return None
    return nodes[1:-1] if nodes[0].op == "placeholder" and nodes[-1].op == "output" else None


class _Tracer(fx.Tracer):
    def __init__(self, whole: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._whole(m)
