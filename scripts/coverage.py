"""Counts how often the 95 % intervals of metalearn/intervals.py hold the mean that they are about: the table of docs/statistics.md.

    python scripts/coverage.py [--draws N] [--only WORLD] [--check]

A draw takes C test classes from a population of classes, then T tasks of N of them, scores the tasks, and asks whether either interval holds the
population's mean score. Hence the table shows what happens when the same trained network is tested on other classes. The worlds:

    alike     classes differ little in how hard they are
    typical   somewhat more than ProtoNet's on Omniglot: with 423 classes, 5 ways and 1,000 tasks the interval over classes is twice that over tasks
    extreme   a few classes, and a few pairs of classes, make most of the mistakes
    pixels    no model but real tasks: the nearest support image by raw pixels, for characters of Omniglot that are drawn from all 1,623 of them.
              It needs the images at $METALEARN_DATA.

In the first three, a query of class c is taken for class d of its task at a rate that is the product of the effects of c, of d, of the pair, and of
the support image; all are lognormal. Writes benchmarks/results/coverage.json and the table; --check only compares the table with that file.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metalearn.data.source import distinct
from metalearn.intervals import interval95, interval95_of_classes
from metalearn.report.text import markdown_table
from metalearn.runs.directory import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "coverage.json", ROOT / "docs" / "statistics.md"
BEGIN, END = "<!-- coverage:begin -->", "<!-- coverage:end -->"
QUERIES = 15
CLASSES, WAYS, TASKS = (20, 40, 100, 423), (5, 20), (100, 1000, 10000)
# A quarter of these with 20 ways, a fifth with 10,000 tasks.
DRAWS = {"alike": 1000, "typical": 1000, "extreme": 400, "pixels": 160}
SEED = 0

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


class Drawn(NamedTuple):
    """The test of one draw of classes."""

    scores: Floats  # [T]
    classes: Numbers  # [T, N]


class World(NamedTuple):
    """Classes whose mistakes are drawn: standard deviations of the logarithms of the effects."""

    of_class: float
    of_pair: float
    of_support: float = 0.7

    def drawn(self, rng: np.random.Generator, classes: int, ways: int, tasks: int) -> Drawn:
        effects = self.of_class * rng.standard_normal(classes)
        pairs = self.of_pair * _symmetric(rng.standard_normal((classes, classes)))
        chosen = choose(rng, classes, ways, tasks)
        parts = np.array_split(chosen, max(1, tasks * ways * ways // 400_000))
        scores = [self._scores(rng, effects[part], pairs[part[:, :, None], part[:, None, :]]) for part in parts]
        return Drawn(np.concatenate(scores), chosen)

    def mean(self, ways: int, tasks: int) -> float:
        """Of the population: each task has classes of its own."""
        rng, total = np.random.default_rng([SEED, ways]), 0.0
        for _ in range(tasks // 1000):
            effects = self.of_class * rng.standard_normal((1000, ways))
            pairs = self.of_pair * _symmetric(rng.standard_normal((1000, ways, ways)))
            total += float(self._scores(rng, effects, pairs).mean())
        return total / (tasks // 1000)

    def _scores(self, rng: np.random.Generator, effects: Floats, pairs: Floats) -> Floats:
        """effects [T, N], pairs [T, N, N] -> [T]."""
        tasks, ways = effects.shape
        # 6 % of queries go wrong in an average task of either size.
        logarithm = math.log(0.06 / (ways - 1)) - self.of_class**2 - (self.of_pair**2 + self.of_support**2) / 2
        luck = self.of_support * rng.standard_normal((tasks, 1, ways))
        rates = np.exp(logarithm + effects[:, :, None] + effects[:, None, :] + pairs + luck)
        rates[:, np.arange(ways), np.arange(ways)] = 0
        return rng.binomial(QUERIES, np.exp(-rates.sum(2))).mean(1) / QUERIES


WORLDS = {"alike": World(0.2, 0.3), "typical": World(0.45, 1.0), "extreme": World(0.7, 1.5)}


def _symmetric(values: Floats) -> Floats:
    upper = np.triu(values, 1)
    return upper + upper.swapaxes(-1, -2)


def choose(rng: np.random.Generator, classes: int, ways: int, tasks: int) -> Numbers:
    """Tasks of N different ones of C classes, [T, N]."""
    return distinct(rng.random((tasks, ways)), np.full(tasks, classes))


class Pixels:
    """The nearest support image among N, 1-shot, by 14x14 pixels of characters; no class is turned."""

    def __init__(self) -> None:
        from metalearn.data.sets import omniglot

        whole = omniglot.load(None, False, "random", 0, 14, "antialias", dict.fromkeys(("train", "val", "test"), 1))
        images = whole.images.images.reshape(len(whole.class_names), 20, -1).astype(np.float32) / 255
        self._images = images  # [1623, 20, 14 * 14]
        self._squares = np.square(images).sum(-1)

    def drawn(self, rng: np.random.Generator, classes: int, ways: int, tasks: int) -> Drawn:
        population = rng.choice(len(self._images), classes, replace=False)
        chosen = choose(rng, classes, ways, tasks)
        return Drawn(self._scores(rng, population[chosen]), chosen)

    def mean(self, ways: int, tasks: int) -> float:
        """Of tasks of all characters."""
        rng = np.random.default_rng([SEED, ways])
        return float(self._scores(rng, choose(rng, len(self._images), ways, tasks)).mean())

    def _scores(self, rng: np.random.Generator, classes: Numbers) -> Floats:
        """classes [T, N] -> [T]."""
        tasks, ways = classes.shape
        parts = np.array_split(classes, max(1, tasks * ways // 500))
        return np.concatenate([self._of_part(rng, part) for part in parts])

    def _of_part(self, rng: np.random.Generator, classes: Numbers) -> Floats:
        tasks, ways = classes.shape
        order = rng.random((tasks, ways, 20)).argsort(2)[:, :, : 1 + QUERIES]
        x, squares = (of[classes[:, :, None], order] for of in (self._images, self._squares))  # [T, N, 1 + Q, ...]
        products = x[:, :, 1:].reshape(tasks, ways * QUERIES, -1) @ x[:, :, 0].swapaxes(1, 2)  # [T, N * Q, N]
        nearest = (squares[:, None, :, 0] - 2 * products).argmin(2)  # the queries' own squares make no difference
        return (nearest == np.repeat(np.arange(ways), QUERIES)).mean(1)


class Row(NamedTuple):
    """What many draws came to. Half widths and standard deviations are fractions of 1."""

    world: str
    classes: int
    ways: int
    tasks: int
    draws: int
    mean: float  # of the population
    deviation: float  # of the draws' means: 1.96 times that is what half a width should be
    over_tasks: float  # the median of half the width over tasks
    over_classes: float | None  # and of that over classes; None: there is none
    tasks_hold: float  # the share of draws whose interval over tasks holds the population's mean
    classes_hold: float | None


def row(name: str, world: World | Pixels, classes: int, ways: int, tasks: int, draws: int, truth: float) -> Row:
    """Counts over so many draws; the same ones every time."""
    rng = np.random.default_rng([SEED, classes, ways, tasks])
    means, over_tasks, over_classes = np.array(
        [_measured(world.drawn(rng, classes, ways, tasks)) for _ in range(draws)]
    ).T
    errors = np.abs(means - truth)
    none = bool(np.isnan(over_classes).any())
    return Row(
        *(name, classes, ways, tasks, draws, truth),
        float(means.std(ddof=1)),
        float(np.median(over_tasks)),
        None if none else float(np.median(over_classes)),
        float((errors <= over_tasks).mean()),
        None if none else float((errors <= over_classes).mean()),
    )


def _measured(drawn: Drawn) -> tuple[float, float, float]:
    return (
        float(drawn.scores.mean()),
        interval95(drawn.scores),
        interval95_of_classes(drawn.scores, drawn.classes),
    )


def rows(draws: int | None, only: str | None) -> Iterator[Row]:
    """Of every world and size; long ones with fewer draws. None: those of DRAWS."""
    makers: dict[str, Callable[[], World | Pixels]] = {name: lambda of=of: of for name, of in WORLDS.items()}
    for name, make in (makers | {"pixels": Pixels}).items():
        if only not in (None, name):
            continue
        world = make()
        for ways in WAYS:
            truth = world.mean(ways, 50_000 if name == "pixels" else 200_000)
            for classes in CLASSES:
                for tasks in TASKS:
                    fewer = (5 if tasks == 10000 else 1) * (4 if ways > 10 else 1)
                    if classes < 2 * ways or (name == "pixels" and tasks * ways > 5000):
                        continue
                    yield row(name, world, classes, ways, tasks, max((draws or DRAWS[name]) // fewer, 20), truth)


def table(found: list[dict[str, Any]]) -> str:
    def points(width: float | None) -> str:
        return "none" if width is None else f"{100 * width:.2f}"

    def share(held: float | None) -> str:
        return "" if held is None else f"{100 * held:.0f} %"

    head = ["world", "ways", "classes", "tasks", "draws", "needed", "over tasks", "holds", "over classes", "holds"]
    cells = [
        [
            *(one["world"], str(one["ways"]), str(one["classes"]), f"{one['tasks']:,}", str(one["draws"])),
            *(f"± {points(1.96 * one['deviation'])}", f"± {points(one['over_tasks'])}", share(one["tasks_hold"])),
            *(("" if one["over_classes"] is None else "± ") + points(one["over_classes"]), share(one["classes_hold"])),
        ]
        for one in found
    ]
    return "\n".join(markdown_table(head, cells))


def with_table(page: str, found: list[dict[str, Any]]) -> str:
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"no {BEGIN} ... {END}"
    return f"{before}{BEGIN}\n{table(found)}\n{END}{after}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, help="fewer or more than DRAWS in this file")
    parser.add_argument("--only", choices=[*WORLDS, "pixels"], help="measure one world anew, keep the others")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args(arguments)
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if asked.check or asked.only else []
    if asked.check:
        page = PAGE.read_text(encoding="utf-8")
        if with_table(page, known) != page:
            sys.exit(
                f"{PAGE.relative_to(ROOT)} does not show benchmarks/results/coverage.json (python scripts/coverage.py)"
            )
        return
    found = []
    for one in rows(asked.draws, asked.only):
        print(one, flush=True)
        found.append(one._asdict())
    order = [*WORLDS, "pixels"]
    found = sorted(
        [*(one for one in known if one["world"] != asked.only), *found], key=lambda one: order.index(one["world"])
    )
    write_json(RESULTS, {"seed": SEED, "numpy": np.__version__, "python": platform.python_version(), "rows": found})
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), found))


if __name__ == "__main__":
    main()
