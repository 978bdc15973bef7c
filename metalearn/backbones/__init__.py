"""Backbones: one file per network. The classes are found here too, since configurations name them as `metalearn.backbones.NAME`."""

from __future__ import annotations

from metalearn.backbones.base import Backbone, embed_tasks
from metalearn.backbones.conv4 import Conv4
from metalearn.backbones.koch import Koch
from metalearn.backbones.l2l import Learn2LearnConv4
from metalearn.backbones.mlp import MLP
from metalearn.backbones.pixels import Pixels
from metalearn.backbones.resnet12 import ResNet12

__all__ = ["MLP", "Backbone", "Conv4", "Koch", "Learn2LearnConv4", "Pixels", "ResNet12", "embed_tasks"]
