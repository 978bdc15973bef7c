"""Which parts of a network training changes: none, its last block, or all."""

from __future__ import annotations

from torch import nn


def choose_changing(body: nn.Module, train: str) -> list[nn.Module]:
    """Makes the parameters that `train` names the only ones that change; returns the modules that hold them."""
    chosen = {"none": [], "last_block": last_block(body), "all": [body]}[train]
    body.requires_grad_(False)
    for module in chosen:
        module.requires_grad_(True)
    return chosen


def last_block(body: nn.Module) -> list[nn.Module]:
    """The last of the blocks that a network is a sequence of, and the layers behind it.

    The sequence is a Sequential or ModuleList of two blocks or more; of several the one that is least deep, and of those the last. A network that
    has none among its own parts, but more than three parts with matrices, is itself the sequence.
    """
    sequences = [
        (name.count("."), -number, name)
        for number, (name, module) in enumerate(body.named_modules())
        if isinstance(module, nn.Sequential | nn.ModuleList) and len(_blocks(module)) > 1
    ]
    depth, _, sequence = min(sequences, default=(1, 0, ""))
    if depth > 0 and len(_blocks(body)) > 3:
        sequence = ""
    blocks = _blocks(body.get_submodule(sequence))
    if not blocks:
        return [body]
    found, way = [], f"{sequence}.{blocks[-1]}".lstrip(".").split(".")
    for level, own in enumerate(way):  # at each level above the block: what stands behind it
        parent = body.get_submodule(".".join(way[:level]))
        names = [name for name, _ in parent.named_children()]
        found += [parent.get_submodule(name) for name in names[names.index(own) + 1 :]]
    return [body.get_submodule(".".join(way)), *found]


def _blocks(module: nn.Module) -> list[str]:
    """The names of the parts that hold matrices."""
    return [name for name, part in module.named_children() if any(weight.dim() > 1 for weight in part.parameters())]
