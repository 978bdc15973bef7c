"""Writes what `metalearn reproduce` came to into README.md, docs/reproductions.md and the headers of conf/experiment.

    python scripts/reproduction_table.py [--check]

benchmarks/reproduction holds runs' reproduction.json, one file for each experiment and seed, named <experiment>-seed<k>.json with `_` for `/`,
or <experiment>-seed<k>-<what>.json, say -random, where a run changed the protocol and there is one that did not.

One seed is shown as `98.20 ± 0.20/0.45`: half the widths of its 95 % intervals over test tasks and over classes (docs/statistics.md). Several are
shown as `98.31 ± 0.12 (3 seeds)`: mean and standard deviation. Errors have three digits, and their score's name before them: `mse 0.690`.

The papers' numbers and the bands come from conf/reference, ours from those files. --check writes nothing and exits with 1 where a file is out
of date.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from metalearn.compose.composer import composer
from metalearn.config.files import choices
from metalearn.config.moved import present_experiment
from metalearn.intervals import interval95
from metalearn.kinds import REGRESSION
from metalearn.report import published
from metalearn.runs.directory import write_text
from metalearn.runs.environment import machine_text
from metalearn.runs.reference import Reference, Row, read_reference
from metalearn.runs.reproduce import changed_settings

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- reproduction:begin -->", "<!-- reproduction:end -->"
MEASURED = "#   Measured:"
NOT_MEASURED = "not measured"
CELLS = ((5, 1), (5, 5), (20, 1), (20, 5))
COMPACT = "omniglot"  # the data set of the README's table
FIRST = ("maml", "reptile", "protonet", "matching", "mann")  # its first rows: the algorithms that most readers look for

Record = dict[str, Any]  # a run's reproduction.json


class Experiment(NamedTuple):
    name: str
    config: dict[str, Any]
    reference: Reference

    @property
    def algorithm(self) -> str:
        return str(self.config["names"]["algorithm"])

    @property
    def dataset(self) -> str:
        return str(self.config["names"]["dataset"])

    @property
    def cell(self) -> tuple[int, int]:
        """(ways, shots) of the test."""
        return self.config["task"]["ways"], self.config["task"]["shots"]

    @property
    def is_short(self) -> bool:
        """Whether this is a short schedule; the other experiments lie in a folder named after their paper."""
        return self.name.startswith("short/")


class Measurement(NamedTuple):
    """One number of one experiment, over one or more seeds."""

    experiment: Experiment
    row: Row
    records: list[Record]  # by seed; empty: not measured
    changes: str  # what the runs changed in the protocol, "" for nothing

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for record in self.records for row in record["rows"] if row["name"] == self.row.name]

    @property
    def ours(self) -> float | None:
        return statistics.mean(self.values) if self.values else None

    @property
    def over_classes(self) -> float | None:
        """Half the width of the interval over classes, which the seeds share: the mean over seeds. None: the records are older than it."""
        known = [row["ci95_classes"] for row in self.rows if row.get("ci95_classes") is not None]
        return statistics.mean(known) if known else None

    @property
    def half_width(self) -> float:
        """Half the width of the interval over all that is known to vary: classes and tasks, and seeds where there are several."""
        of_tests = self.over_classes or statistics.mean(row["ci95"] for row in self.rows)
        return math.hypot(of_tests, interval95(self.values)) if len(self.values) > 1 else of_tests

    @property
    def values(self) -> list[float]:
        return [row["ours"] for row in self.rows if row["ours"] is not None]

    @property
    def percent(self) -> bool:
        """Whether the number is an accuracy, in percent."""
        return published.unit(self.rows[0]) != "" if self.rows else self.row.score != REGRESSION.score

    @property
    def score(self) -> str:
        """What stands before a number that is not in percent: `mse `."""
        return "" if self.percent else f"{self.row.score} "

    def number(self, value: float) -> str:
        """`98.20`, or `0.690`."""
        return published.number({"unit": "percent" if self.percent else None}, value)

    @property
    def text(self) -> str:
        """The mean with its spread: over seeds the standard deviation, of one seed the 95 % intervals over tasks and over classes."""
        if self.ours is None:
            return NOT_MEASURED
        if len(self.values) > 1:
            return f"{self.number(self.ours)} ± {self.number(statistics.stdev(self.values))} ({len(self.values)} seeds)"
        classes = "" if self.over_classes is None else f"/{self.number(self.over_classes)}"
        return f"{self.number(self.ours)} ± {self.number(self.rows[0]['ci95'])}{classes}"

    @property
    def verdict(self) -> str:
        if not self.values or self.changes:
            return ""
        higher = self.rows[0].get("higher_is_better", True)  # records of earlier versions are of accuracies
        return self.row.verdict(self.ours, self.half_width, higher_is_better=higher)

    @property
    def changes_tasks_alone(self) -> bool:
        """Whether the number of test tasks is all that was changed: another interval of the same quantity."""
        return re.fullmatch(r"eval\.tasks=\d+", self.changes) is not None

    @property
    def time(self) -> str:
        """Of training, the mean over seeds."""
        minutes = statistics.mean(record["results"]["train"]["seconds"] for record in self.records) / 60
        return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"

    @property
    def machine(self) -> str:
        found = [record["results"]["environment"] for record in self.records]
        return ", ".join(dict.fromkeys(e["device"] if e["cuda"] else machine_text(e) for e in found))


def read_records(folder: Path) -> list[Record]:
    records = []
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        expected = f"{record['experiment'].replace('/', '_')}-seed{record['seed']}"
        if not f"{file.stem}-".startswith(f"{expected}-"):
            sys.exit(
                f"{file}: holds {record['experiment']}, seed {record['seed']}, so it should be called {expected}.json"
            )
        records.append(record | {"experiment": present_experiment(record["experiment"])})
    return sorted(records, key=lambda record: (record["experiment"], record["seed"]))


def read_experiments() -> list[Experiment]:
    experiments = []
    with composer() as composing:
        for name in choices("experiment"):
            config, _ = composing.job([f"experiment={name}"], 0)
            experiments.append(Experiment(name, config, read_reference(config)))
    return sorted(experiments, key=_order)


def _order(experiment: Experiment) -> tuple[bool, str, tuple[int, int]]:
    """Papers by name, then the short schedules by algorithm; of each, the cells in the order of CELLS."""
    folder = experiment.name.partition("/")[0]
    return experiment.is_short, experiment.algorithm if experiment.is_short else folder, experiment.cell


def measurements(experiments: list[Experiment], records: list[Record]) -> list[Measurement]:
    """Every row of every experiment, measured or not; runs with a changed protocol by themselves, after the others."""
    strangers = {record["experiment"] for record in records} - {experiment.name for experiment in experiments}
    if strangers:
        sys.exit(f"benchmarks/reproduction: no experiment named {', '.join(sorted(strangers))}")
    found = []
    for experiment in experiments:
        by_changes: dict[str, list[Record]] = defaultdict(list, {"": []})
        for record in records:
            if record["experiment"] == experiment.name:
                # Not record["changed"]: the experiment's file may have been edited since.
                changed = changed_settings(experiment.config, record["config"])
                if experiment.reference.starts_from is not None and "train.init" not in record["changed"]:
                    changed.pop("train.init", None)  # a run of the right experiment, wherever it lay
                by_changes[", ".join(f"{key}={value['run']}" for key, value in changed.items())].append(record)
        for changes, group in by_changes.items():
            found += [Measurement(experiment, row, group, changes) for row in experiment.reference.rows]
    return found


# --- what is written --------------------------------------------------------------------------------------------------


def algorithm_pages(folder: Path) -> dict[str, str]:
    """Algorithm -> the name of the page that has it in its title or in the title of a section."""
    pages = {}
    for page in sorted(folder.glob("*.md")):
        for heading in re.findall(r"^##? (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            pages |= dict.fromkeys(re.findall(r"`(\w+)`", heading), page.name)
    return pages


def compact_table(found: list[Measurement], pages: dict[str, str]) -> str:
    """Algorithms of which a cell is measured by cells, one number each, on the data set of `COMPACT`; `pages`: theirs in docs/algorithms.

    Below those of `FIRST` come the others, most measured cells first.
    """
    found = [m for m in found if m.experiment.dataset == COMPACT]
    shown = [m for m in found if not m.changes or (m.changes_tasks_alone and m.ours is not None)]
    cells_of: dict[str, set[tuple[int, int]]] = {}
    for m in shown:
        if m.ours is not None:
            cells_of.setdefault(m.experiment.algorithm, set()).add(m.experiment.cell)
    places = {name: place for place, name in enumerate(FIRST)}
    lines = [
        "| | " + " | ".join(f"{ways}-way {shots}-shot" for ways, shots in CELLS) + " |",
        "|---|" + "---|" * len(CELLS),
    ]
    for algorithm in sorted(cells_of, key=lambda name: (places.get(name, len(FIRST)), -len(cells_of[name]), name)):
        own = [m for m in shown if m.experiment.algorithm == algorithm]
        by_cell = [[m for m in own if m.experiment.cell == cell] for cell in CELLS]
        cells = [_compact_cell(min(of_cell, key=_preference)) if of_cell else "" for of_cell in by_cell]
        lines.append(f"| [`{algorithm}`](docs/algorithms/{pages[algorithm]}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _preference(m: Measurement) -> tuple[bool, bool, bool, bool]:
    """Smallest for what the compact table shows: measured, on as many test tasks as stated, by the paper's own protocol, with a number in the paper;
    else the first row."""
    return m.ours is None, m.changes_tasks_alone, m.experiment.is_short, m.row.reported is None


def _compact_cell(m: Measurement) -> str:
    place = f"conf/experiment/{m.experiment.name}.yaml"
    ours = NOT_MEASURED if m.ours is None else f"[{m.text}]({place}){'ˢ' if m.experiment.is_short else ''}"
    ours += f", {m.rows[0]['tasks']:,} tasks" if m.changes_tasks_alone else ""
    paper = _number(m.row.reported) + ("ᵗ" if m.row.reported is not None and _transductive(m) == "yes" else "")
    return f"{ours} ({paper}{'' if m.row.score == 'accuracy' else f', {m.row.name}'})"


def full_table(found: list[Measurement]) -> str:
    lines = [
        "| experiment | evaluated | paper, % or mse | ours, ± tasks/classes or ± deviation | seeds | tasks | transductive | verdict | training, on |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for m in found:
        name = f"[`{m.experiment.name}`](../conf/experiment/{m.experiment.name}.yaml)"
        name += f" with {m.changes}" if m.changes else ""
        paper = _number(m.row.reported) + (f" ± {m.row.interval:g}" if m.row.interval is not None else "")
        ours = m.text + (_over_classes(m) if len(m.values) > 1 else "")
        cells = [name, m.row.name, m.score + paper, ours if m.ours is None else m.score + ours]
        if m.records:
            tasks = ", ".join(dict.fromkeys(f"{row['tasks']:,}" for row in m.rows))
            cells += [_seeds(m), tasks, _transductive(m), m.verdict, f"{m.time}, {m.machine}"]
        else:
            cells += [""] * 5
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measured_lines(of_experiment: Iterable[Measurement]) -> list[str]:
    """For the header of an experiment's file."""
    lines = []
    for m in of_experiment:
        if m.ours is None:
            continue
        with_changes = f" with {m.changes}" if m.changes else ""
        verdict = f", {m.verdict}" if m.verdict else ""
        lines.append(f"{MEASURED} {m.row.name} {_in_words(m)}{with_changes}{verdict}; training {m.time}, {m.machine}.")
    return lines or [f"{MEASURED} not yet."]


def _in_words(m: Measurement) -> str:
    tasks, unit = f"{m.rows[0]['tasks']:,} tasks", " %" if m.percent else ""
    if len(m.values) > 1:
        spread = f"mean and standard deviation of seeds {_seeds(m)}{_over_classes(m)}"
        return f"{m.score}{m.text.partition(' (')[0]}{unit} ({spread}; {tasks})"
    assert m.ours is not None
    over_tasks = f"± {m.number(m.rows[0]['ci95'])} over {tasks}"
    return f"{m.score}{m.number(m.ours)}{unit} ({over_tasks}{_over_classes(m)}; seed {_seeds(m)})"


def _over_classes(m: Measurement) -> str:
    """Behind the deviation of seeds as well: it does not know that they share their test classes."""
    return "" if m.over_classes is None else f", ± {m.number(m.over_classes)} over classes"


def _seeds(m: Measurement) -> str:
    return ", ".join(str(record["seed"]) for record in m.records)


def _transductive(m: Measurement) -> str:
    known = [row["transductive"] for row in m.rows] or [m.row.transductive]
    return {True: "yes", False: "no", None: ""}[known[0]]


def _number(value: float | None) -> str:
    """As papers print percentages, 96.0 rather than 96."""
    return "none" if value is None else str(float(value))


def between_markers(text: str, table: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"no {BEGIN} ... {END}"
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def with_measured_lines(text: str, lines: list[str]) -> str:
    """The experiment's file with `lines` in place of the block of `Measured:` lines in its header."""
    new, count = re.subn(rf"(^{re.escape(MEASURED)}.*\n)+", lambda _: "\n".join(lines) + "\n", text, flags=re.MULTILINE)
    assert count == 1, f"{count} blocks of '{MEASURED}' lines"
    return new


def updated(root: Path) -> dict[Path, str]:
    """Every file with generated parts -> its content as it should be."""
    found = measurements(read_experiments(), read_records(root / "benchmarks" / "reproduction"))
    texts = {}
    for file, table in (
        (root / "README.md", compact_table(found, algorithm_pages(root / "docs" / "algorithms"))),
        (root / "docs" / "reproductions.md", full_table(found)),
    ):
        texts[file] = between_markers(file.read_text(encoding="utf-8"), table)
    for name in dict.fromkeys(m.experiment.name for m in found):
        file = root / "conf" / "experiment" / f"{name}.yaml"
        lines = measured_lines(m for m in found if m.experiment.name == name)
        texts[file] = with_measured_lines(file.read_text(encoding="utf-8"), lines)
    return texts


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    stale = {file: text for file, text in updated(root).items() if text != file.read_text(encoding="utf-8")}
    if check and stale:
        names = ", ".join(str(file.relative_to(root)) for file in stale)
        sys.exit(f"out of date: {names} (python scripts/reproduction_table.py writes them)")
    for file, text in stale.items():
        write_text(file, text)
        print(file.relative_to(root))


if __name__ == "__main__":
    main()
