"""`metalearn doctor`: what the program needs of this machine, and the command that mends what is wrong."""

from __future__ import annotations

import argparse
import json

from metalearn.cli.arguments import parsed
from metalearn.errors import RunFailed, UserError
from metalearn.runs.doctor import checks


def doctor(argv: list[str]) -> None:
    """Prints a line for each check; RunFailed, so exit code 1, where one found a fault."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("words", nargs="*")
    args = parsed(parser, argv)
    if args.words:
        raise UserError(f"doctor takes no argument, '{args.words[0]}' was given")
    found = checks()
    if args.json:
        print(json.dumps([check._asdict() for check in found], indent=2))
    else:
        # Not rich's table: it may be what is missing.
        width = max(len(check.name) for check in found)
        for check in found:
            print(f"{check.state:8} {check.name:{width}}  {check.found}")
            if check.mend:
                print(f"{'':8} {'':{width}}  -> {check.mend}")
    if any(check.state == "fault" for check in found):
        raise RunFailed
