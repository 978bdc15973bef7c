"""`metalearn list` and `metalearn copy`: which choices there are, and a copy of one to edit."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from metalearn.cli.arguments import parsed
from metalearn.config.offer import KINDS, listed
from metalearn.config.offer import copy_choice as write_copy
from metalearn.errors import UserError, nearest


def list_choices(argv: list[str]) -> None:
    """Prints a line for each choice of a group, or of all groups."""
    args = _arguments(argv)
    if len(args.words) > 1:
        raise UserError(f"list takes one of {', '.join(KINDS)}, '{' '.join(args.words)}' was given")
    asked = args.words[0] if args.words else None
    if asked is not None and asked not in KINDS and f"{asked}s" not in KINDS:
        raise UserError(f"nothing to list named '{asked}'{nearest(asked, KINDS)} (available: {', '.join(KINDS)})")
    kinds = list(KINDS) if asked is None else [asked if asked in KINDS else f"{asked}s"]
    found = {kind: listed(KINDS[kind], args.config_dir) for kind in kinds}
    if args.json:
        print(json.dumps(found if asked is None else found[kinds[0]], indent=2))
        return
    for number, (kind, rows) in enumerate(found.items()):
        if asked is None:
            print(f"{chr(10) if number else ''}{kind} ({KINDS[kind]}=NAME)")
        indent = "  " if asked is None else ""
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            print(f"{indent}{row['name']:{width}}  {row['summary']}".rstrip())


def copy_choice(argv: list[str]) -> None:
    """Writes a copy of a choice's YAML file, and says how to use it."""
    args = _arguments(argv)
    if args.config_dir is not None:
        raise UserError("copy takes no --config-dir: it copies what is shipped, and what plug-ins bring")
    if len(args.words) != 2:
        raise UserError("copy needs a choice and a file: metalearn copy experiment/NAME FILE")
    source, target = args.words
    file = Path(target)
    group = write_copy(source, file)
    usable = file.parent.name == group
    command = ["metalearn", "train", "--config-dir", str(file.parent.parent), f"{group}={file.stem}"]
    if args.json:
        print(json.dumps({"file": str(file), "command": shlex.join(command) if usable else None}))
    elif usable:
        print(f"wrote {file}; it is used by: {shlex.join(command)}")
    else:
        print(
            f"wrote {file}; to be found it must lie in DIR/{group}/: metalearn train --config-dir DIR {group}={file.stem}"
        )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config-dir")
    parser.add_argument("words", nargs="*")
    return parsed(parser, argv)
