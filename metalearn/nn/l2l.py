"""The one door to learn2learn: imported late (all of it takes a second), with gym's notice silenced, and with a helpful word where it is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from metalearn.errors import UserError
from metalearn.nn.late_compiler import without_compiler

INSTALL = (
    "pip install '.[l2l]' && "
    "pip install --use-pep517 --no-deps --config-settings=--build-option=build_ext learn2learn==0.2.0"
)


def learn2learn() -> ModuleType:
    """The whole learn2learn package, with its environments, texts and images: more than a second.

    Raises:
        UserError: it is not installed; the message holds the command that installs it on today's Python.
    """
    try:
        notices = importlib.import_module("gym_notices.notices").notices
        notices.pop("0.26.2", None)  # gym, which learn2learn imports, prints a notice about its successor
    except ImportError:
        pass
    try:
        with without_compiler():  # torchvision would import it
            return importlib.import_module(_PACKAGE)
    except ImportError as error:
        raise _missing(error) from error


def learn2learn_module(name: str) -> ModuleType:
    """One module of learn2learn that needs only torch, such as `algorithms.maml`, without the rest of the package: milliseconds.

    Whoever imports learn2learn afterwards gets the package as it is.

    Args:
        name: dotted, below the package.

    Raises:
        UserError: learn2learn is not installed.
    """
    try:
        if _PACKAGE in sys.modules:
            importlib.import_module(_PACKAGE)  # raises where its place is held by None: no import is allowed
            return importlib.import_module(f"{_PACKAGE}.{name}")
        return _alone(name)
    except ImportError as error:
        raise _missing(error) from error


@functools.cache
def _alone(name: str) -> ModuleType:
    with _without_contents(*name.split(".")[:-1]):
        return importlib.import_module(f"{_PACKAGE}.{name}")


_PACKAGE = "learn2learn"


@contextmanager
def _without_contents(*below: str) -> Iterator[None]:
    """While it lasts, learn2learn and its packages `below` are empty: their modules can be imported, and nothing that the packages import is."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"No module named '{_PACKAGE}'")
    name, places = _PACKAGE, list(spec.submodule_search_locations)
    try:
        for part in ("", *below):
            if part:
                name, places = f"{name}.{part}", [f"{place}/{part}" for place in places]
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = places
        yield
    finally:
        for imported in [one for one in sys.modules if one.partition(".")[0] == _PACKAGE]:
            del sys.modules[imported]


def _missing(error: ImportError) -> UserError:
    return UserError(
        f"this algorithm or backbone needs learn2learn ({error}); install it with, in the checkout: {INSTALL}"
    )
