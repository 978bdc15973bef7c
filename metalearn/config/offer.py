"""The choices of each group with a line each, and copies of them to edit."""

from __future__ import annotations

import re
from pathlib import Path

from metalearn.config.comments import summary, summary_of
from metalearn.config.files import choice_file, choices, own_choices
from metalearn.errors import UserError, nearest

# What the command line calls them -> the group.
KINDS = {
    "algorithms": "algorithm",
    "datasets": "dataset",
    "backbones": "backbone",
    "tasks": "task",
    "experiments": "experiment",
    "sweeps": "sweep",
}
_OF_THE_ORIGINAL = re.compile(r"#   (metalearn |Measured:)")  # lines of an experiment that are not true of a copy


def listed(group: str, folder: str | None = None) -> list[dict[str, str]]:
    """Name and summary of every choice of a group, plug-ins' included, and those in a folder of the user's own.

    Raises:
        UserError: the folder is no directory.
    """
    own = own_choices(group, folder)
    names = sorted({*choices(group), *own})
    return [{"name": name, "summary": summary_of(own[name]) if name in own else summary(group, name)} for name in names]


def copy_text(group: str, name: str) -> str:
    """The file with a line that says what it is a copy of, without what is only true of the original."""
    lines = choice_file(group, name).read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not _OF_THE_ORIGINAL.match(line)]
    note = f"# A copy of {group}/{name}."
    return "\n".join([*lines[:1], note, *lines[1:]]) + "\n"  # the first line may be `# @package`


def copy_choice(source: str, file: Path) -> str:
    """Writes a copy of the choice `GROUP/NAME`; returns the group.

    Raises:
        UserError: there is no such choice, or the file does not end in .yaml, is there already or cannot be written.
    """
    group, _, name = source.partition("/")
    if group not in KINDS.values() or not name:
        raise UserError(
            f"copy: '{source}' is no choice; write GROUP/NAME, GROUP being one of {', '.join(KINDS.values())}"
        )
    known = choices(group)
    if name not in known:
        raise UserError(f"no {group} named '{name}'{nearest(name, known)} (metalearn list {group}s shows all)")
    if file.suffix != ".yaml":
        raise UserError(f"copy: '{file}' must end in .yaml")
    write_new(file, copy_text(group, name))
    return group


def write_new(file: Path, text: str) -> None:
    """Writes `file` and the folders that it lies in; UserError where the file is there already or cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        if not file.exists():  # one of the folders is a file
            raise UserError(f"'{file}' cannot be written: {error.strerror}") from error
        raise UserError(f"'{file}' is there already") from None
    except OSError as error:
        raise UserError(f"'{file}' cannot be written: {error.strerror}") from error
