"""The README's example of a new algorithm works as it stands there, and every choice is mentioned."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.base import Algorithm
from metalearn.backbones import Backbone, Conv4
from metalearn.config import choices
from metalearn.tasks import Examples

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_algorithm_learns_and_predicts() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = "\n".join(line.removeprefix("   ") for line in example.splitlines())
    names = {
        "Algorithm": Algorithm,
        "Backbone": Backbone,
        "Tensor": Tensor,
        "Examples": Examples,
        "torch": torch,
        "F": F,
    }
    exec(code, names)
    algorithm = names["NearestExample"](Conv4((1, 28, 28), 8, "stride", "batch", True, "flatten")).eval()
    support = Examples(torch.rand(2, 6, 1, 28, 28), torch.tensor([[0, 0, 1, 1, 2, 2]] * 2), 3)
    logits = algorithm.predict(algorithm.adapt(support), support.x)
    assert logits.shape == (2, 6, 3)
    assert torch.equal(logits.argmax(-1), support.y), "each support example is nearest to itself"


def test_every_choice_is_mentioned() -> None:
    for group in ("algorithm", "backbone", "dataset", "task", "experiment"):
        for name in choices(group):
            assert name in README, f"{group}={name}"
