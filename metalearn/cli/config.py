"""`metalearn config`: the composed configuration with the origin of each value, the difference of two, and a schema of all settings."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from metalearn.cli.arguments import parsed, with_quoted_home
from metalearn.compose.composer import Composer, composer, explained
from metalearn.compose.explain import Setting, every_setting
from metalearn.compose.mistakes import GROUPS
from metalearn.config.identity import Kind, differences, kind_of
from metalearn.config.schema import schema
from metalearn.config.tree import without_limits
from metalearn.errors import UserError


def config(argv: list[str]) -> None:
    """Prints one of the three."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config-dir")
    parser.add_argument("--schema", action="store_true")
    parser.add_argument("--diff", nargs=2)
    parser.add_argument("overrides", nargs="*")
    args = parsed(parser, argv)
    overrides = [with_quoted_home(word) for word in args.overrides]
    if (args.schema or args.diff) and (overrides or (args.schema and args.diff)):
        raise UserError("config takes settings, or --diff A B, or --schema")
    if strange := [word for word in overrides if "=" not in word]:
        raise UserError(f"config takes key=value, '{strange[0]}' was given; two runs are compared by --diff A B")
    if args.schema:
        print(json.dumps(schema(GROUPS), indent=2))
    elif args.diff:
        _diff(args.diff, args.config_dir, args.json)
    else:
        with explained(overrides, args.config_dir, None), composer(args.config_dir) as composing:
            found = every_setting(composing, overrides)
        print(json.dumps([one.as_json() for one in found], indent=2) if args.json else "\n".join(_lines(found)))


def _lines(found: list[Setting]) -> list[str]:
    """YAML, each value with a comment that says who set it."""
    written: list[tuple[str, str]] = []
    above: list[str] = []
    for setting in found:
        *nodes, last = setting.key.split(".")
        shared = next(
            (n for n, (a, b) in enumerate(zip(above, nodes, strict=False)) if a != b), min(len(above), len(nodes))
        )
        written += [(f"{'  ' * depth}{nodes[depth]}:", "") for depth in range(shared, len(nodes))]
        value = yaml.safe_dump(setting.value, default_flow_style=True, width=1000, allow_unicode=True)
        place = setting.setters[-1].place if setting.setters else ""
        if setting.interpolation and setting.interpolation.startswith("${"):
            place = f"{place}: {setting.interpolation}" if place else setting.interpolation
        written.append((f"{'  ' * len(nodes)}{last}: {value.removesuffix(chr(10)).removesuffix('...').strip()}", place))
        above = nodes
    width = min(max(len(text) for text, place in written if place), 50)
    return [f"{text:{width}}  # {place}" if place else text for text, place in written]


def diff(composing: Composer, first: str, second: str) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> both values of every setting that differs; each side is a run directory or overrides.

    Raises:
        UserError: a side is neither, or cannot be composed.
    """
    return differences(_side(composing, first), _side(composing, second), frozenset(Kind))


def _side(composing: Composer, text: str) -> dict[str, Any]:
    if text and Path(text).is_dir():
        from metalearn.runs.directory import saved_config

        return without_limits(saved_config(Path(text)))
    overrides = [with_quoted_home(word) for word in shlex.split(text)]
    if strange := [word for word in overrides if "=" not in word]:
        raise UserError(f"--diff: '{strange[0]}' is neither a run directory nor key=value")
    return composing.job(overrides, 0)[0]


def _diff(sides: list[str], config_dir: str | None, as_json: bool) -> None:
    with explained([], config_dir, None), composer(config_dir) as composing:
        found = diff(composing, *sides)
    if as_json:
        rows = [{"key": key, "a": a, "b": b, "kind": kind_of(key).name.lower()} for key, (a, b) in found.items()]
        print(json.dumps(rows, indent=2))
        return
    if not found:
        print("the two configurations are equal")
        return
    from metalearn.report.terminal import table

    shown = [[key, _text(a), _text(b), kind_of(key).name.lower()] for key, (a, b) in found.items()]
    table(["setting", sides[0] or "defaults", sides[1] or "defaults", "kind"], shown)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
