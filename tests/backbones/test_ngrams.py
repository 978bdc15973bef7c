"""The network of n-grams: what a text becomes, and that it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metalearn.backbones.ngrams import Ngrams
from metalearn.data.texts import as_bytes
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.evaluate import evaluate
from metalearn.engine.gradient import meta_gradient
from metalearn.errors import UserError
from metalearn.nn.ngrams import hashed_ngrams
from metalearn.tasks import TaskShape
from tests.compose import compose

SHAPE = TaskShape(5, 1, 5)


def test_the_first_layer_is_the_sum_of_the_embeddings_of_the_n_grams() -> None:
    x = torch.from_numpy(as_bytes(["pay my bill", "", "a much longer text, as one sees"], 40))
    backbone = Ngrams(40, [3], 1, 50, [4], "none", True)
    layer = backbone.blocks[0]
    assert isinstance(layer, torch.nn.Linear)
    counts = hashed_ngrams(x, [3], 1, 50).float()
    sums = torch.stack(
        [sum((n * layer.weight[:, place] for place, n in enumerate(bag)), torch.zeros(4)) for bag in counts]
    )
    lengths = counts.norm(dim=1, keepdim=True).clamp_min(1e-12)
    expected = torch.relu(sums * 50**0.5 / lengths + layer.bias)
    torch.testing.assert_close(backbone(x), expected)
    assert torch.isfinite(backbone(x)).all(), "of an empty text too"


def test_no_n_grams_are_refused() -> None:
    with pytest.raises(UserError, match=r"backbone\.characters=null and backbone\.words=0 leave no n-grams"):
        Ngrams(10, None, 0, 50, [4], "none", True)


@pytest.mark.parametrize("name", ["maml", "protonet"])
def test_it_learns_new_classes_of_texts(name: str, texts_file: Path) -> None:
    small = ("dataset=text", f"dataset.root={texts_file}", "backbone.buckets=256", "backbone.hidden=[32]")
    config = compose(f"algorithm={name}", *small, "task.queries=5", "task.train.queries=5", "task.train.ways=5")
    dataset = build_dataset(config)
    algorithm = build_algorithm(config, dataset).train()
    source, test = (dataset.source(split, 0, torch.device("cpu")) for split in ("train", "test"))
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=3e-3)
    for step in range(30):
        optimizer.zero_grad(set_to_none=True)
        meta_gradient(algorithm, source.tasks(4 * step, 4, SHAPE), 4, "fp32")
        optimizer.step()
    scores = evaluate(algorithm, test, SHAPE, 50, 25, stepwise=False)
    assert scores.mean - scores.ci95 > 0.35, "chance is 0.2"
