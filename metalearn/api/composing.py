"""Settings composed as the command line composes them, for the functions that take overrides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from metalearn.compose.composer import Composer, composer, explained
from metalearn.compose.wishes import with_origins
from metalearn.config.plugins import trust
from metalearn.errors import UserError, one_line


@contextlib.contextmanager
def settings_composer(overrides: list[str], config_dir: str | None, plugins: tuple[str, ...]) -> Iterator[Composer]:
    """A Composer of the caller's files; mistakes in the overrides become UserError.

    Args:
        overrides: those that are composed later, for the hints of a message.
        config_dir: a folder with YAML files of the user's own.
        plugins: packages of the user's own to trust.
    """
    if plugins:
        trust(plugins)
    with errors_name_wishes(), explained(overrides, config_dir, None), composer(config_dir) as composing:
        yield composing


@contextlib.contextmanager
def errors_name_wishes() -> Iterator[None]:
    """A UserError says which file or override set the value that it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(with_origins(one_line(error))) from error


def written(settings: dict[str, Any], varied: bool = False) -> list[str]:
    """Keyword arguments as overrides; with `varied`, a list or tuple is several values of a sweep, else one value."""
    from metalearn.sweeps.choices import override_text

    texts = []
    for key, value in settings.items():
        if varied and isinstance(value, list | tuple):
            texts.append(f"{key}=" + ",".join(override_text(key, one).partition("=")[2] for one in value))
        else:
            texts.append(override_text(key, list(value) if isinstance(value, tuple) else value))
    return texts
