"""learn2learn by parts: the same modules without the rest of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

from metalearn.errors import UserError
from metalearn.nn.l2l import learn2learn_module

CODE = """
import inspect, sys
from metalearn.nn.l2l import learn2learn, learn2learn_module
maml, sgd, utils = (learn2learn_module(name) for name in ("algorithms.maml", "algorithms.meta_sgd", "utils"))
assert not {"gym", "scipy", "torchvision", "learn2learn"} & set(sys.modules), "more than a module was imported"
assert maml is learn2learn_module("algorithms.maml")
whole = learn2learn()
assert not {"torch._dynamo", "sympy"} & set(sys.modules), "torch's compiler was imported too"
assert inspect.getsource(whole.algorithms.MAML) == inspect.getsource(maml.MAML)
assert inspect.getsource(whole.algorithms.MetaSGD) == inspect.getsource(sgd.MetaSGD)
assert whole.utils.update_module and whole.vision.models and whole.optim.ParameterUpdate
import learn2learn.algorithms.maml as usual
assert usual.MAML is whole.algorithms.MAML
"""


@pytest.mark.thorough
def test_a_module_comes_alone_and_leaves_the_package_as_it_is() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)


def test_without_learn2learn_a_module_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    learn2learn_module("algorithms.maml")
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(UserError, match="needs learn2learn"):
        learn2learn_module("algorithms.maml")
