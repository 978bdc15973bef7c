"""The network of Siamese networks for one-shot recognition (Koch, Zemel and Salakhutdinov 2015)."""

from __future__ import annotations

from torch import Tensor, nn

from metalearn.backbones.base import Backbone, feature_dim
from metalearn.errors import UserError
from metalearn.nn.convolution import Conv2d


class Koch(Backbone):
    """The Omniglot network of Koch, Zemel and Salakhutdinov 2015: four convolutions without padding or normalisation, each followed by ReLU and the
    first three by 2x2 max-pooling, then a fully connected layer of sigmoid units.

    Initialised as in He et al. 2015 (https://arxiv.org/abs/1502.01852): as drawn in the paper, with convolutions of standard deviation 0.01
    and biases of 0.5, the features of two images differ by only 0.002 at first.

    Args:
        image_shape: (channels, height, width); height and width at least 65, the paper's are 105.
        units: of the fully connected layer.
    """

    uses_batch_statistics = False

    def __init__(self, image_shape: tuple[int, int, int], units: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 65:
            raise UserError(
                f"backbone=koch is made for images of 105x105 pixels: {height}x{width} are too few (at least 65x65; see dataset.size)"
            )
        convolutions = nn.Sequential(
            *(Conv2d(channels, 64, 10), nn.ReLU(), nn.MaxPool2d(2)),
            *(Conv2d(64, 128, 7), nn.ReLU(), nn.MaxPool2d(2)),
            *(Conv2d(128, 128, 4), nn.ReLU(), nn.MaxPool2d(2)),
            *(Conv2d(128, 256, 4), nn.ReLU(), nn.Flatten()),
        )
        flat = feature_dim(convolutions, image_shape)
        self.blocks = nn.Sequential(convolutions, nn.Linear(flat, units), nn.Sigmoid())
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)
        self.feature_dim = units

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x)
        return features
