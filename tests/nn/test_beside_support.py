"""Prediction without transduction."""

from __future__ import annotations

import pytest
import torch

from metalearn.nn import beside_support
from tests.nn.networks import TASKS, images, network, parameters_of


@pytest.mark.parametrize("kind", ["max_pool", "stride", "mlp"])
def test_each_query_is_normalised_with_the_support_set_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside_support, "_IMAGES_AT_ONCE", 20)  # one query a pass for one task, the rest in portions
    module, (support, _), (queries, _) = network(kind).eval(), images(6), images(5)
    parameters = {name: value.detach() for name, value in parameters_of(module).items()}
    found = beside_support.forward_one_by_one(module, parameters, support, queries)
    for task in range(TASKS):
        of_task = {name: value[task] for name, value in parameters.items()}
        for query in range(5):
            together = torch.cat([support[task], queries[task, query : query + 1]])
            alone = torch.func.functional_call(module, of_task, (together,))[-1]
            torch.testing.assert_close(found[task, query], alone)
