"""The parts that a sweep is the product of, from its file. A part is a list of alternatives, an alternative a list of choices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from metalearn.errors import UserError
from metalearn.sweeps.choices import Choice, choice_of, choices_of

if TYPE_CHECKING:
    from metalearn.compose.composer import Composer


def parts_of_file(plain: dict[str, Any]) -> Iterator[list[list[Choice]]]:
    """Yields the parts of a sweep's file, each a list of alternatives, each a list of choices."""
    if plain["list"]:
        if not isinstance(plain["list"], list) or not all(isinstance(one, dict) and one for one in plain["list"]):
            raise UserError("sweep.list is a list of combinations, each of them a mapping from settings to values")
        yield [[choice_of(key, value) for key, value in one.items()] for one in plain["list"]]
    for name in ("zip", "grid"):
        for key, values in _axes(plain, name).items():
            if not isinstance(values, list) or not values:
                raise UserError(f"sweep.{name}: {key} needs a list of values")
    if zipped := _axes(plain, "zip"):
        lengths = {key: len(values) for key, values in zipped.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise UserError(f"sweep.zip pairs lists of one length, but {counts}")
        rows = zip(*zipped.values(), strict=True)
        yield [[choice_of(key, value) for key, value in zip(zipped, row, strict=True)] for row in rows]
    for key, values in _axes(plain, "grid").items():
        yield [[choice_of(key, value)] for value in values]


def _axes(plain: dict[str, Any], name: str) -> dict[str, Any]:
    axes = plain[name] or {}
    if not isinstance(axes, dict):
        raise UserError(f"sweep.{name} is a mapping from settings to lists of values")
    return axes


def parts_of_params(composing: Composer, base: DictConfig, given: dict[str, str]) -> Iterator[list[list[Choice]]]:
    """Yields the parts in hydra.sweeper.params, Hydra's own way to put a sweep into a file; the command line wins."""
    params = [f"{key}={value}" for key, value in (base.hydra.sweeper.get("params") or {}).items() if key not in given]
    for override in composing.parse(params):
        yield [[choice] for choice in choices_of(composing, override)]


def parts_of_seeds(seeds: Any) -> Iterator[list[list[Choice]]]:
    """Innermost, so that the seeds of one setting are run one after the other."""
    if isinstance(seeds, int | list):  # anything else is refused with the jobs' other settings
        yield [[choice_of("seed", seed)] for seed in (range(seeds) if isinstance(seeds, int) else seeds)]


def refuse_twice(parts: list[list[list[Choice]]], fixed: set[str]) -> None:
    seen: set[str] = set()
    for part in parts:
        keys = {choice.key for alternative in part for choice in alternative}
        if again := sorted(keys & seen):
            raise UserError(f"{again[0]} is varied twice in this sweep")
        if again := sorted(keys & fixed):
            raise UserError(f"{again[0]} is varied by the sweep and set on the command line as well")
        seen |= keys
