"""Shell completion: `metalearn -sc install=SHELL`, and what the shell asks at every Tab."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from metalearn.errors import UserError


def shell_completion(arguments: list[str], commands: list[str]) -> None:
    """`query=SHELL` is what the shell runs at every Tab, the line so far in COMP_LINE; `install=` prints its script."""
    request, _, shell = (arguments or [""])[0].partition("=")
    if request not in ("install", "uninstall", "query") or shell not in ("bash", "zsh", "fish"):
        raise UserError("-sc takes install=SHELL or uninstall=SHELL, SHELL being bash, zsh or fish")
    if request != "query":
        return _call_hydra(["-sc", *arguments])
    line = os.environ.get("COMP_LINE", "")
    words = line.split() if line.endswith(" ") else line.split()[:-1]
    current = "" if line.endswith(" ") else (line.split() or [""])[-1]
    if len(words) < 2:
        # The word before the cursor is the program itself in `metalearn` without a blank: offer the commands.
        return print("\n".join(name for name in commands if not words or name.startswith(current)))
    command, given = words[1], words[2:]
    if command == "predict" and given and not current.startswith("-"):
        return print("\n".join(f"{path}{'/' if path.is_dir() else ''}" for path in sorted(Path().glob(f"{current}*"))))
    if command == "export" and given[-1:] in (["--support"], ["--adapted"], ["--out"]):
        return print("\n".join(f"{path}{'/' if path.is_dir() else ''}" for path in sorted(Path().glob(f"{current}*"))))
    if (command in ("eval", "export", "predict") and not given) or given[-1:] == [
        {"reproduce": "--run", "train": "--resume"}.get(command)
    ]:
        return print("\n".join(f"{path}/" for path in sorted(Path().glob(f"{current}*")) if path.is_dir()))
    if command not in commands or command == "doctor" or current.startswith("-"):
        return None
    if command in ("compare", "runs", "status", "tensorboard"):
        words = [word for word in ("rm", "mark") if command == "runs" and not given and word.startswith(current)]
        return print("\n".join([*words, *(f"{path}/" for path in sorted(Path().glob(f"{current}*")) if path.is_dir())]))
    if command == "bench":
        from metalearn.bench import BENCHMARKS

        return print("\n".join(name for name in BENCHMARKS if name.startswith(current)))
    if command == "explain" and not given:
        return _complete_keys(current)
    if command in ("list", "copy"):
        return _complete_choices(command, given, current)
    if command == "data":
        return _complete_data(given, current, arguments)
    if command == "reproduce":
        if not given:
            from metalearn.config.files import choices

            return print("\n".join(name for name in choices("experiment") if name.startswith(current)))
        given = [f"experiment={given[0]}", *(word for word in given[1:] if "=" in word)]
    if command == "eval":  # further runs may follow the first one
        given = [word for word in given[1:] if "=" in word]
        if (
            current
            and "=" not in current
            and (runs := [path for path in sorted(Path().glob(f"{current}*")) if path.is_dir()])
        ):
            return print("\n".join(f"{path}/" for path in runs))
    return _complete_settings([*(given[1:] if command in ("explain", "export") else given), current], arguments)


def _complete_choices(command: str, given: list[str], current: str) -> None:
    """What `metalearn list` lists; what `metalearn copy` copies, then a file."""
    from metalearn.config.files import choices
    from metalearn.config.offer import KINDS

    if given:
        return None if command == "list" else print("\n".join(f"{path}" for path in sorted(Path().glob(f"{current}*"))))
    names = list(KINDS) if command == "list" else [f"{kind}/{one}" for kind in KINDS.values() for one in choices(kind)]
    return print("\n".join(name for name in names if name.startswith(current)))


def _complete_keys(current: str) -> None:
    """The settings of the default composition."""
    from metalearn.compose.composer import composer

    with composer() as composing:
        known = [key for key in composing.known_keys([]) if not key.startswith("hydra")]
    print("\n".join(key for key in known if key.startswith(current)))


def _complete_data(given: list[str], current: str, arguments: list[str]) -> None:
    """What follows `metalearn data`: an action, a data set, its settings."""
    from metalearn.cli.data import ACTIONS
    from metalearn.config.files import choices

    if not given:
        return print("\n".join(name for name in ACTIONS if name.startswith(current)))
    if given[0] not in ("fetch", "check"):
        return None
    if len(given) == 1:
        return print("\n".join(name for name in choices("dataset") if name.startswith(current)))
    settings = [f"dataset={given[1]}", *(word for word in given[2:] if "=" in word)]
    return _complete_settings([*settings, current or "dataset."], arguments)


def _complete_settings(words: list[str], arguments: list[str]) -> None:
    """Lets Hydra complete the last of the overrides."""
    from metalearn.compose.mistakes import MISTAKES

    os.environ["COMP_LINE"] = " ".join(["metalearn", *words])
    with contextlib.suppress(*MISTAKES):  # a line that cannot be read yet has no completions
        return _call_hydra(["-sc", *arguments])


def _call_hydra(argv: list[str]) -> None:
    from metalearn.cli.application import call_hydra

    call_hydra(argv)
