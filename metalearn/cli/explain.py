"""`metalearn explain KEY`: what a setting means, what it may be, its value here, and who set it."""

from __future__ import annotations

import argparse
import json

from metalearn.cli.arguments import parsed, with_quoted_home
from metalearn.compose.composer import composer, explained
from metalearn.compose.explain import Setting, explain
from metalearn.config.comments import summary
from metalearn.config.files import choices
from metalearn.errors import UserError


def explain_command(argv: list[str]) -> None:
    """Prints a paragraph for a setting, or a line for each of a group of settings."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config-dir")
    parser.add_argument("words", nargs="*")
    args = parsed(parser, argv)
    keys = [word for word in args.words if "=" not in word]
    overrides = [with_quoted_home(word) for word in args.words if "=" in word]
    if len(keys) != 1:
        raise UserError("explain needs one setting: metalearn explain KEY [key=value ...], as explain train.lr")
    with explained(overrides, args.config_dir, None), composer(args.config_dir) as composing:
        found = explain(composing, keys[0], overrides)
    if args.json:
        print(json.dumps([setting.as_json() for setting in found], indent=2))
    elif len(found) == 1 and found[0].key == keys[0]:
        print("\n".join(_paragraph(found[0])))
    else:
        _overview(keys[0], found)


def value_text(value: object) -> str:
    """The value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _paragraph(setting: Setting) -> list[str]:
    lines = [f"{setting.key} = {value_text(setting.value)}"]
    if setting.meaning:
        lines.append(f"  meaning  {setting.meaning}")
    if setting.allowed:
        lines.append(f"  allowed  {setting.allowed}")
    if setting.setters:
        default, *others = setting.setters
        lines.append(f"  default  {value_text(default.value)}   {default.place}")
        lines += [f"  set to   {value_text(one.value)}   {one.place}" for one in others]
    if setting.interpolation and setting.interpolation != value_text(setting.setters[-1].value):
        lines.append(f"  written  {setting.interpolation}")
    return lines


def _overview(key: str, found: list[Setting]) -> None:
    width = max(len(setting.key) for setting in found)
    values = max(min(len(value_text(setting.value)), 24) for setting in found)
    chosen = next(
        (one.choice for setting in found for one in setting.setters if one.choice.startswith(f"{key}=")), None
    )
    if chosen:
        print(f"{chosen}: {summary(*chosen.split('=', 1)) if chosen.split('=', 1)[1] in choices(key) else ''}")
    for setting in found:
        print(f"{setting.key:{width}}  {value_text(setting.value):{values}}  {setting.meaning}".rstrip())
