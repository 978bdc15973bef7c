"""Classes by their descriptions, as in section 2.7 of Snell, Swersky and Zemel 2017 (https://arxiv.org/abs/1703.05175).

T tasks, N ways, K shots, D features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from metalearn.backbones import Backbone, embed_tasks
from metalearn.errors import UserError
from metalearn.tasks import Examples

Describe = Callable[[Tensor], Tensor]  # descriptions of classes [n, ...] -> [n, E]


class ClassEncoder(nn.Module):
    """g of section 2.7: the descriptions of classes -> the space of embedded examples.

    Args:
        network: [n, ...] -> [n, E]; None: it is the backbone of the examples, or descriptions are numbers [n, E], which no network has to read.
        width: E.
        dim: D; a trainable linear map leads to it from E. None: E is D, and there is no such map.
        shared: whether descriptions pass the backbone of the examples.
    """

    def __init__(self, network: Backbone | None, width: int, dim: int | None, shared: bool = False) -> None:
        super().__init__()
        self.network, self.shared = network, shared
        self.linear = None if dim is None else nn.Linear(width, dim)

    def forward(self, descriptions: Tensor, backbone: Backbone) -> Tensor:
        """[T, N, ...] -> [T, N, D]; `backbone` is that of the examples."""
        network = backbone if self.shared else self.network
        embedded = descriptions if network is None else embed_tasks(network, descriptions, self.training)
        return embedded if self.linear is None else self.linear(embedded)

    def apart(self, backbone: Backbone) -> tuple[Describe | None, ClassEncoder]:
        """The part that outer steps leave as it is, for each class once, and what is left to do; `backbone` is that of the examples.

        None where descriptions have to pass the whole of it in every task.
        """
        network = backbone if self.shared else self.network
        # The network takes what its stem made of the descriptions in their place.
        if network is not None and network.stem is not None:
            return network.stem.embed, self
        if self.shared or network is None or not network.frozen:
            return None, self
        rest = copy.copy(self)
        rest._modules = {**self._modules, "network": None}

        def describe(descriptions: Tensor) -> Tensor:
            return embed_tasks(network, descriptions.unsqueeze(0), False).squeeze(0)

        return describe, rest


def described(encoder: ClassEncoder | None, weight: float, support: Examples, backbone: Backbone) -> Tensor | None:
    """The embedded descriptions of the classes, [T, N, D]; None where the support examples alone decide.

    Args:
        encoder: None: there is none.
        weight: how many support examples a description counts as; without examples, it decides whatever its weight.

    Raises:
        UserError: there are no examples, and no descriptions or no encoder of them.
    """
    if support.zero_shot:
        if encoder is None or support.descriptions is None:
            what = "descriptions of the classes" if support.descriptions is None else "a class encoder"
            raise UserError(f"a task without support examples needs {what}: there are none")
    elif encoder is None or not weight or support.descriptions is None:
        return None
    made: Tensor = encoder(support.descriptions, backbone)
    return made
