"""The README is short and mentions every choice; the example of a new algorithm in CONTRIBUTING.md works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from metalearn.algorithms.base import Algorithm
from metalearn.backbones import Backbone, Conv4
from metalearn.config.files import choices
from metalearn.tasks import Examples

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
REPRODUCTIONS = (ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8")


def test_the_example_algorithm_learns_and_predicts() -> None:
    (example,) = re.findall(r"```python\n(class NearestExample.*?)```", CONTRIBUTING, re.DOTALL)
    names = {
        "Algorithm": Algorithm,
        "Backbone": Backbone,
        "Tensor": Tensor,
        "Examples": Examples,
        "torch": torch,
        "F": F,
    }
    exec(example, names)
    algorithm = names["NearestExample"](Conv4((1, 28, 28), 8, "stride", "batch", True, "flatten")).eval()
    support = Examples(torch.rand(2, 6, 1, 28, 28), torch.tensor([[0, 0, 1, 1, 2, 2]] * 2), 3)
    logits = algorithm.predict(algorithm.adapt(support), support.x)
    assert logits.shape == (2, 6, 3)
    assert torch.equal(logits.argmax(-1), support.y), "each support example is nearest to itself"


def test_every_choice_is_mentioned() -> None:
    for group in ("algorithm", "backbone", "dataset", "task"):
        for name in choices(group):
            assert name in README, f"{group}={name}"


def test_every_choice_in_the_table_is_one() -> None:
    rows = re.findall(r"^\| `(\w+)=`.*?\| (.*) \|$", README, re.MULTILINE)
    assert {group for group, _ in rows} == {"algorithm", "dataset", "backbone", "task"}
    for group, named in rows:
        names = set(re.findall(r"`([^`]+)`", named))
        splits = {"vinyals", "lake", "random"}
        unknown = {name for name in names if "=" not in name} - set(choices(group)) - splits
        assert not unknown, f"{group}={min(unknown)}"


def test_every_experiment_is_in_the_table_and_its_paper_above_it() -> None:
    papers = REPRODUCTIONS.partition("<!-- reproduction:begin -->")[0]
    for name in choices("experiment"):
        folder = name.partition("/")[0]
        assert f"[`{name}`]" in REPRODUCTIONS, f"experiment={name}"
        assert re.search(rf"`{folder}[`/]", papers), f"experiment={name}"


def test_the_readme_is_short() -> None:
    before, _, table = README.partition("<!-- reproduction:begin -->")
    assert len((before + table.partition("<!-- reproduction:end -->")[2]).splitlines()) <= 105
