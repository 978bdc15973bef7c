"""`metalearn data list|fetch|check`: which data sets there are, their files, and whether what lies here is intact.

`list` composes no configuration and imports no torch, so that it answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metalearn.cli.arguments import parsed, with_quoted_home
from metalearn.cli.own_images import CHOICE, check_path, check_settings, is_path
from metalearn.data.files.published import (
    About,
    PublishedFile,
    folder_of,
    found,
    is_unpacked,
    missing_text,
    total_text,
    verify,
)
from metalearn.errors import RunFailed, UserError, nearest, one_line
from metalearn.sizes import bytes_text, count_text


def data(argv: list[str]) -> None:
    """Runs one of the three."""
    args = parsed(_parser(), argv)
    action, *rest = args.words or [""]
    if action not in ACTIONS:
        raise UserError(f"data needs one of {', '.join(ACTIONS)}{nearest(action, ACTIONS)}: metalearn data --help")
    if args.sheet is not None and not (action == "check" and rest and _own_images(rest)):
        raise UserError("--sheet goes with metalearn data check PATH")
    with _log_on_console():
        if action == "check" and rest and (own := _own_images(rest)):
            check_path(*own, args.sheet, args.config_dir)
        else:
            ACTIONS[action](rest, args.config_dir)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir")
    parser.add_argument("--sheet")
    parser.add_argument("words", nargs="*")
    return parser


def _own_images(words: list[str]) -> tuple[str, list[str]] | None:
    """The path and the settings where images of the user's own are to be checked, None where a data set is named."""
    from metalearn.config.files import choices

    first, *settings = words
    if first == CHOICE:  # its root is the path
        root = next((word.partition("=")[2] for word in settings if word.startswith("dataset.root=")), None)
        return (root, [word for word in settings if not word.startswith("dataset.root=")]) if root else None
    return (first, settings) if first not in choices("dataset") and is_path(first) else None


class _Chosen(NamedTuple):
    """A data set with the settings that the command line asks for."""

    name: str
    config: dict[str, Any]
    about: About
    folder: Path

    @property
    def module(self) -> str:
        return str(self.config["dataset"]["_target_"]).rpartition(".")[0]

    @property
    def cache(self) -> str:
        """The name of its cache entries: data sets of the same images share them."""
        return self.about.cache or self.name

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """Those that the settings need."""
        return self.about.choose(self.config["dataset"], self.about.files)

    def located(self) -> list[tuple[PublishedFile, Path | None]]:
        """Each of them, and where it lies; UserError where the data set finds its files in a way of its own and does not."""
        if self.about.place is None:
            return [(file, found(self.folder, file)) for file in self.files]
        place = self.about.place(self.config["dataset"].get("root"))
        return [(next((file for file in self.files if file.name == place.name), PublishedFile(place.name)), place)]


def _list(words: list[str], config_dir: str | None) -> None:
    if words:
        raise UserError(f"data list takes no argument, '{words[0]}' was given")
    from metalearn.config.files import choice_file, choices, target_of
    from metalearn.config.yaml_text import from_yaml
    from metalearn.data.cache import entries, size_of
    from metalearn.data.files.catalogue import about_of
    from metalearn.report.terminal import table

    rows = []
    for name in choices("dataset"):
        text = choice_file("dataset", name).read_text(encoding="utf-8")
        about = about_of(target_of("dataset", name).rpartition(".")[0]) or About(_first_sentence(text), "", "")
        sizes = [
            size
            for entry in sorted(entries(about.cache or name), key=_changed, reverse=True)
            if (size := size_of(entry))
        ]
        classes, images = map(str, sizes[0]) if sizes else ("", "")
        rows.append([name, about.title, classes, images, _state(name, about, from_yaml(text)), about.licence])
    table(
        ["name", "what", "classes", "images", "files", "licence"],
        rows,
        lambda column, cell: "yellow" if column == 4 and "missing" in cell else "",
    )


def _changed(entry: Path) -> float:
    return entry.stat().st_mtime


def _first_sentence(text: str) -> str:
    """What the first line of a choice's file says, for a data set that declares nothing."""
    line = text.partition("\n")[0]
    return line.lstrip("# ").partition(". ")[0].rstrip(".") if line.startswith("#") else ""


def _state(name: str, about: About, settings: Mapping[str, Any]) -> str:
    """Whether the files that the default settings need lie where they are looked for."""
    files = about.choose(settings, about.files)
    if about.place is not None:
        try:
            about.place(settings.get("root"))
        except UserError:
            return f"missing ({total_text(files)})" if files else "missing"
        return "here"
    if not files:
        return "by hand" if about.by_hand else "none needed"
    folder = folder_of(name, about, settings.get("root"))
    missing = [file for file in files if found(folder, file) is None]
    if not missing:
        return "here"
    some = f"{len(missing)} of {len(files)} " if len(missing) < len(files) else ""
    return f"{some}missing ({total_text(missing)})"


def _fetch(words: list[str], config_dir: str | None) -> None:
    chosen = _chosen("fetch", words, config_dir)
    from metalearn.data.files.download import fetch
    from metalearn.report import terminal
    from metalearn.report.progress import BytesProgress

    located = chosen.located()
    if not located:
        by_hand = chosen.about.by_hand
        terminal.say(f"{chosen.name}: {by_hand} ({chosen.folder})" if by_hand else f"{chosen.name} needs no file")
        return
    failed = 0
    for file, place in located:
        if place:
            terminal.say(f"{place} is there{_of_another_size(place, file)}")
            continue
        try:
            if not file.urls:
                raise UserError(missing_text(chosen.name, chosen.about, chosen.folder, [file]))
            with BytesProgress(file.name) as progress:
                fetched = fetch(file, chosen.folder, progress.update)
        except UserError as error:  # the others may be there all the same
            terminal.error_line(f"metalearn: error: {one_line(error)}")
            failed += 1
        else:
            terminal.say(f"{fetched} is fetched and checked")
    if failed:
        raise RunFailed(f"{count_text(failed, 'file')} could not be fetched")


def _of_another_size(place: Path, file: PublishedFile) -> str:
    """What to say of a file that cannot be the published one; nothing where it may be."""
    sizes = {file.size, *(size for size, _ in file.repacked)}
    if file.size is None or not place.is_file() or is_unpacked(place, file) or place.stat().st_size in sizes:
        return ""
    return f", but has {place.stat().st_size} bytes, {file.size} are published: to fetch it again, remove it first"


def _check(words: list[str], config_dir: str | None) -> None:
    chosen = _chosen("check", words, config_dir)
    from metalearn.report import terminal

    faults, missing = 0, []
    for file, place in chosen.located():
        if place is None:
            missing.append(file)
            terminal.say(f"missing: {file}")
            continue
        fault, text = _verified(place, file)
        faults += fault
        terminal.say(f"{place}: {text}")
    if missing:
        terminal.error_line(f"metalearn: error: {missing_text(chosen.name, chosen.about, chosen.folder, missing)}")
        raise RunFailed("files are missing")
    faults += _check_images(chosen)
    if faults:
        raise RunFailed(f"{faults} faults were found")


def _verified(place: Path, file: PublishedFile) -> tuple[bool, str]:
    """(whether it is not the published file, what to say of it)."""
    from metalearn.report.progress import BytesProgress

    if is_unpacked(place, file):
        return False, "unpacked: the checksum is that of the packed file" if file.checksum else "a folder"
    size = place.stat().st_size
    with BytesProgress(place.name) as progress:
        fault = verify(place, file, lambda done: progress.update(done, size))
    if fault:
        return True, f"not the published file: {fault}"
    if size in (length for length, _ in file.repacked):
        return False, f"{bytes_text(size)}, the published content in another packing"
    if file.checksum is None:
        return False, f"{bytes_text(size)}; no checksum is published"
    return False, f"{bytes_text(size)}, {file.checksum[0]} as published"


def _check_images(chosen: _Chosen) -> int:
    """Loads the data set, checks all of its cache entries and says what is in it; the number of faults."""
    from metalearn.data.cache import damage, entries
    from metalearn.data.overview import overview
    from metalearn.engine.build import build_dataset
    from metalearn.report import terminal

    faults = 0
    before = entries(chosen.cache)
    for entry in before:  # before it is loaded, which makes a damaged one again
        if fault := damage(entry):
            faults += 1
            terminal.say(f"{entry}: damaged ({fault}): the next use makes it again")
    dataset = build_dataset(chosen.config)
    if intact := [entry for entry in entries(chosen.cache) if damage(entry) is None]:
        more = f" and {len(intact) - 1} more cache entries of {chosen.name}" if intact[1:] else ""
        terminal.say(f"{max(intact, key=_changed)}{more}: intact")
    for line in overview(dataset):
        terminal.say(line)
    credits: Callable[[Any], Any] | None = getattr(importlib.import_module(chosen.module), "credits", None)
    for credit in credits(chosen.config["dataset"].get("root")) if credits else ():
        terminal.say(str(credit))
    return faults


def _chosen(action: str, words: list[str], config_dir: str | None) -> _Chosen:
    """The data set that is named, under its composed and checked settings."""
    from metalearn.compose.composer import composer, explained
    from metalearn.config.files import choices
    from metalearn.data.files.catalogue import about_of

    if not words or "=" in words[0]:
        raise UserError(f"data {action} needs a data set: metalearn data {action} NAME [dataset.key=value ...]")
    name, overrides = words[0], [with_quoted_home(word) for word in words[1:]]
    if config_dir is None and name not in (known := choices("dataset")):
        own = "" if action != "check" else f"; images of your own are checked by their path, and there is no './{name}'"
        raise UserError(f"no data set named '{name}'{nearest(name, known)} (available: {', '.join(known)}){own}")
    check_settings(action, overrides)
    asked = [f"dataset={name}", *overrides]
    with explained(asked, config_dir, None), composer(config_dir) as composing:
        config, _ = composing.job(asked, 0)
    about = about_of(str(config["dataset"]["_target_"]).rpartition(".")[0]) or About(name, "", "")
    return _Chosen(name, config, about, folder_of(name, about, config["dataset"].get("root")))


@contextlib.contextmanager
def _log_on_console() -> Iterator[None]:
    """Shows what the program logs, such as a mirror that failed."""
    from metalearn.report.terminal import handler, log

    shown, level = handler(), log.level
    log.addHandler(shown)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(shown)
        log.setLevel(level)


ACTIONS: dict[str, Callable[[list[str], str | None], None]] = {"list": _list, "fetch": _fetch, "check": _check}
