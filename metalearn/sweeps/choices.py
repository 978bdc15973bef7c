"""What tells the jobs of a sweep apart: settings with values, how the command line writes them, and the names of jobs made of them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.override_parser.types import Override, Quote, QuotedString

from metalearn.compose.overrides import text
from metalearn.config.files import slug
from metalearn.errors import UserError

if TYPE_CHECKING:
    from metalearn.compose.composer import Composer

_PLAIN = re.compile(r"[A-Za-z_][\w./:@-]*")
_NOT_TEXT = ("null", "true", "false", "nan", "inf")


class Choice(NamedTuple):
    key: str
    value: Any
    override: str


def job_name(choices: list[Choice]) -> str:
    """A directory's name that says what varies: `algorithm=maml-seed=0`; long or strange ones end in a hash."""
    return slug("-".join(f"{choice.key}={_shown(choice.value)}" for choice in choices))


def override_text(key: str, value: Any) -> str:
    """`key=value` as the command line takes it."""
    return f"{key}={_written(value)}"


def choice_of(key: str, value: Any) -> Choice:
    return Choice(key.lstrip("+"), value, override_text(key, value))


def choices_of(composing: Composer, override: Override) -> list[Choice]:
    """The values of `key=a,b`, or the one of `key=a`."""
    if not override.is_sweep_override():
        return [Choice(override.key_or_group, override.value(), text(override))]
    if not override.is_discrete_sweep():
        raise UserError(f"'{text(override)}': a sweep takes a list of values, choice(...) or range(...)")
    texts = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    if not texts:
        raise UserError(f"'{text(override)}' matches no choice")
    singles = composing.parse(texts)
    return [Choice(override.key_or_group, single.value(), one) for single, one in zip(singles, texts, strict=True)]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def _written(value: Any) -> str:
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
            return value
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_written(item)}' for key, item in value.items())}}}"
    return json.dumps(value)
