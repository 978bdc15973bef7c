"""The data that pre-trained weights come from, as far as their classes are known."""

from __future__ import annotations

import functools
from pathlib import Path

from metalearn.backbones.base import PretrainedOn

UNKNOWN = PretrainedOn("data that nobody stated")


@functools.cache
def imagenet1k() -> PretrainedOn:
    """The 1,000 classes of ILSVRC 2012 by their WordNet identities; names are those of WordNet (https://wordnet.princeton.edu)."""
    lines = Path(__file__).with_name("imagenet1k.txt").read_text(encoding="utf-8").splitlines()
    named = dict(line.split("\t") for line in lines)
    return PretrainedOn(
        "ImageNet-1k", "imagenet", {identity: tuple(names.split(", ")) for identity, names in named.items()}
    )


def stated(pretrained_on: str, found: PretrainedOn | None) -> PretrainedOn | None:
    """What `backbone.pretrained_on` says; "auto": what is known of the weights themselves."""
    return {"auto": found, "imagenet1k": imagenet1k(), "nothing": None, "unknown": UNKNOWN}[pretrained_on]
