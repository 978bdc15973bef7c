"""Help texts of the commands that tell about the program: doctor, explain, config, list, copy."""

from __future__ import annotations


def doctor_help(argv: list[str]) -> str:
    """`metalearn doctor --help`."""
    return """\
usage: metalearn doctor [--json]

Checks Python, torch, the GPU, learn2learn, the versions of all packages and of the optional ones, other packages called
metalearn, environment variables, and the directories for outputs, cache and data. Each line is ok, a warning or a
fault; below it stands the command that mends it. Takes as long as the import of torch does.

The exit code is 1 where there is a fault, else 0.

flags:
  --json                a list of {"name", "state", "found", "mend"}"""
