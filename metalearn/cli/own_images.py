"""`metalearn data check PATH`: a look at somebody's own images before they are trained on."""

from __future__ import annotations

import contextlib
from pathlib import Path

from metalearn.cli.arguments import with_quoted_home
from metalearn.errors import RunFailed, UserError

CHOICE = "folder"  # the data set that reads such images


def is_path(word: str) -> bool:
    """Whether the word names files rather than a data set, whose names are known before."""
    return "/" in word or "\\" in word or word.startswith((".", "~")) or Path(word).exists()


def check_settings(action: str, overrides: list[str]) -> None:
    """Raises UserError where one of them is no setting of the data set."""
    for override in overrides:
        if not override.lstrip("+~").startswith("dataset."):
            raise UserError(f"data {action} takes settings of the data set (dataset.key=value), '{override}' was given")


def check_path(root: str, overrides: list[str], sheet: str | None, config_dir: str | None) -> None:
    """Prints what is at `root`, what is wrong and which tasks fit, and writes a contact sheet.

    Args:
        root: a folder, an archive or a CSV file.
        overrides: settings of the data set, `dataset.key=value`.
        sheet: the contact sheet's file; "none": no sheet; None: beside nothing, in the current folder, under the name of the images.
        config_dir: as for the other commands.

    Raises:
        UserError: there is nothing that could be checked, or a setting is wrong.
        RunFailed: something is wrong with the images; it was printed.
    """
    from metalearn.compose.composer import composer, explained
    from metalearn.data.own.check import Asked, check_images
    from metalearn.data.own.layout import checked_root, short_name
    from metalearn.report import terminal
    from metalearn.report.progress import TaskProgress

    check_settings("check", overrides)
    place = checked_root(root, "PATH")
    asked = [f"dataset={CHOICE}", *map(with_quoted_home, overrides)]
    with explained(asked, config_dir, None), composer(config_dir) as composing:
        settings = composing.job(asked, 0)[0]["dataset"]
    file = Path(sheet or f"{short_name(place)}-sheet.png")
    if sheet is not None and file.suffix.lower() != ".png" and sheet != "none":
        raise UserError(f"--sheet={sheet} is not allowed (a file that ends in .png, or none)")
    with contextlib.ExitStack() as stack:
        bars: list[TaskProgress] = []

        def progress(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(TaskProgress(total, "check", unit="images")))
            bars[0].update(done)

        wanted = Asked(**{key: settings[key] for key in Asked._fields})
        report = check_images(root, wanted, None if sheet == "none" else file, progress)
    for line in report.text.splitlines():
        terminal.say(line)
    if report.faults:
        raise RunFailed(f"{len(report.faults)} faults were found")
