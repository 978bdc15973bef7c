"""Examples of several tasks through one backbone: together where none depends on another, task by task elsewhere, to the same features."""

from __future__ import annotations

import pytest
import torch

from metalearn.backbones import MLP, Backbone, Pixels, embed_tasks


def made(name: str) -> Backbone:
    torch.manual_seed(0)
    if name == "pixels":
        return Pixels((3,))
    return MLP((3,), [8, 5], name, True)


@pytest.mark.parametrize("name", ["none", "batch", "pixels"])
def test_tasks_get_in_training_the_features_that_they_get_alone(name: str) -> None:
    backbone, x = made(name), torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    assert backbone.by_itself is (name != "batch")
    together = embed_tasks(backbone, x, training=True)
    alone = torch.cat([embed_tasks(backbone, task[None], training=True) for task in x])
    torch.testing.assert_close(together, alone)
    if not backbone.by_itself:  # else nothing would forbid to embed them together
        assert not torch.allclose(together, backbone(x.flatten(0, 1)).view(4, 6, -1), atol=1e-3)


@pytest.mark.parametrize("name", ["none", "batch", "pixels"])
def test_padding_becomes_zeros_and_reaches_no_gradient(name: str) -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    x = torch.randn(2, 3, 3).masked_fill(~mask.unsqueeze(-1), torch.nan)
    backbone = made(name)
    features = embed_tasks(backbone, x, training=True, mask=mask)
    assert not features[1, 2].any()
    for task, there, found in zip(x, mask, features, strict=True):
        torch.testing.assert_close(found[there], embed_tasks(made(name), task[there][None], training=True)[0])
    if list(backbone.parameters()):
        features.square().sum().backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in backbone.parameters())
