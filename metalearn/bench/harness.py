"""What all benchmarks share: turns, medians, ratios, tables, and the settings of one call of `metalearn bench`."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from metalearn.places import cache_dir
from metalearn.runs.environment import machine_text
from metalearn.sizes import count_text

Config = dict[str, Any]
Record = dict[str, Any]

_TURN_SECONDS = 0.1  # an action that takes less is repeated within its turn
_WARM_UPS = 2
_DIGITS = (*"-0123456789",)


@dataclass(frozen=True)
class Bench:
    """One call of `metalearn bench`."""

    compose: Callable[..., Config]  # overrides -> a checked configuration
    rounds: int
    quick: bool  # few cases on drawn images: for regressions
    device: torch.device
    runs: tuple[Path, ...] = ()
    train: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()  # of record: none for those from 0 on, `rounds` of them
    cases: tuple[str, ...] = ()  # parts of labels; empty: all rows

    def chosen(self, labels: Sequence[str]) -> list[str]:
        """Those that were asked for; a case that is a whole label means this one alone, whatever other labels it is a part of."""
        exact, parts = ([case for case in self.cases if (case in labels) == whole] for whole in (True, False))
        return [label for label in labels if not self.cases or label in exact or any(part in label for part in parts)]

    def config(self, *overrides: str) -> Config:
        """As `metalearn train` would have it, on this bench's device."""
        return self.compose(*overrides, f"device={self.device.type}")

    def say(self, text: str) -> None:
        """On stderr: what is going on."""
        Console(stderr=True, highlight=False).print(Text(text, style="dim"), soft_wrap=True)


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]  # the first one names the row
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def rich(self) -> RichTable:
        shown = RichTable(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for column, numbers in zip(self.columns, self._of_numbers(), strict=True):
            shown.add_column(column, justify="right" if numbers else "left")
        for row in self.rows:
            shown.add_row(*map(Text, row))
        return shown

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", _markdown_row(self.columns)]
        lines.append(_markdown_row(["---:" if numbers else "---" for numbers in self._of_numbers()]))
        lines += [_markdown_row(row) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def _of_numbers(self) -> list[bool]:
        """Of each column, whether its cells begin with digits: those are set to the right."""
        return [
            bool(self.rows) and all(row[number][:1] in _DIGITS for row in self.rows)
            for number in range(len(self.columns))
        ]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def conditions(record: Record) -> str:
    """When and on what a record was measured, in a line."""
    environment = record["environment"]
    return (
        f"{record['date']}: {machine_text(environment)}, torch {environment['torch']}, learn2learn {environment['learn2learn']}; "
        f"{count_text(record['rounds'], 'round')}{', --quick' if record['quick'] else ''}"
    )


def interleave(actions: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of one call of each action in each round: in every round each has its turn, and the one that begins moves on.

    What slows the machine down for a while, and what the caches hold, then meets all of them alike.
    """
    repeats = {}
    for name, action in actions.items():
        warm_ups = [_timed(action, 1, device) for _ in range(_WARM_UPS)]
        repeats[name] = max(1, math.ceil(_TURN_SECONDS / max(warm_ups[-1], 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(_timed(actions[name], repeats[name], device))
    return seconds


def _timed(action: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds per call."""
    wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        action()
    wait(device)
    return (time.perf_counter() - started) / repeats


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": median, "lower": lower, "upper": upper}


def compared(ours: Sequence[float], theirs: Sequence[float]) -> Record:
    """Both sides' seconds, and how many times as long theirs take: the spread of the ratios of each round."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {"ours": spread(ours), "theirs": spread(theirs), "ratio": spread(ratios), "rounds": len(ratios)}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """b of the power law a * size**b that fits best: least squares between logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    return statistics.linear_regression(x, y).slope


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}" if seconds < 1 else f"{1000 * seconds:,.0f}"


def with_spread(values: dict[str, float], shown: Callable[[float], str]) -> str:
    return f"{shown(values['median'])} ({shown(values['lower'])} to {shown(values['upper'])})"


def times(values: dict[str, float]) -> str:
    """A ratio."""
    digits = 1 if values["median"] < 100 else 0
    return f"{with_spread(values, lambda value: f'{value:,.{digits}f}')}"


@contextmanager
def fresh_choices() -> Iterator[None]:
    """A cache directory with the datasets of the user's own and none of its measured choices, so that each is measured anew, in this call."""
    before, own = os.environ.get("METALEARN_CACHE"), cache_dir()
    with tempfile.TemporaryDirectory(prefix="metalearn-bench-") as folder:
        for entry in own.glob("*-*") if own.is_dir() else ():  # datasets: <name>-<key>
            (Path(folder) / entry.name).symlink_to(entry.resolve())
        os.environ["METALEARN_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["METALEARN_CACHE"]
            else:
                os.environ["METALEARN_CACHE"] = before
