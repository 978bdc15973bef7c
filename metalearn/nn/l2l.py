"""The one door to learn2learn: imported late (it takes seconds), with gym's notice silenced, and with a helpful word where it is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from metalearn.errors import UserError

INSTALL = (
    "pip install '.[l2l]' && "
    "pip install --use-pep517 --no-deps --config-settings=--build-option=build_ext learn2learn==0.2.0"
)


def learn2learn() -> ModuleType:
    """The learn2learn package.

    Raises:
        UserError: it is not installed; the message holds the command that installs it on today's Python.
    """
    try:
        notices = importlib.import_module("gym_notices.notices").notices
        notices.pop("0.26.2", None)  # gym, which learn2learn imports, prints a notice about its successor
    except ImportError:
        pass
    try:
        return importlib.import_module("learn2learn")
    except ImportError as error:
        raise UserError(
            f"this algorithm or backbone needs learn2learn ({error}); install it with, in the checkout: {INSTALL}"
        ) from error
