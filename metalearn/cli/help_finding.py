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


def explain_help(argv: list[str]) -> str:
    """`metalearn explain --help`."""
    return """\
usage: metalearn explain KEY [key=value ...] [--json]

Says what a setting means, what it may be, its default, and every file, preference and override that sets it; the last
of them counts. Other words choose the composition, as for metalearn train. For a group of settings: a line for each.

  metalearn explain train.lr
  metalearn explain train.meta_batch_size algorithm=maml
  metalearn explain algorithm algorithm=reptile

flags:
  --json                a list of settings with key, value, meaning, allowed, default, setters
  --config-dir DIR      your own YAML files, as for metalearn train"""
