"""Rows of a comparison: runs that differ in their seed alone, together; and the settings that tell the rows apart."""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalearn.config.identity import SAME_PROTOCOL, compared, kind_of
from metalearn.intervals import interval95
from metalearn.kinds import Scale
from metalearn.runs.found import Found

NAMES = ("algorithm", "backbone", "dataset")
# Groups whose choice an evaluation may name; the task shows in its settings, the data set in its name.
_GROUP_CHOICES = ("task", "dataset")


@dataclass(frozen=True, eq=False)
class Row:
    """Runs of one configuration, or evaluations of such runs under the same conditions.

    Attributes:
        identity: the settings that make it one, by dotted path.
        runs: all of them, also those without a score.
        scored: those that count, one for each seed.
        repeated: those that have a score, and the seed of a later one.
    """

    identity: dict[str, Any]
    runs: list[Found]
    scored: list[Found]
    repeated: list[Found]

    @property
    def first(self) -> Found:
        """The run that says what all of them share, one with a score where there is one."""
        return (self.scored or self.runs)[0]

    @property
    def kind(self) -> Scale:
        """How its scores are read."""
        return self.first.kind

    @functools.cached_property
    def scores(self) -> list[float]:
        """The mean score of each run that counts."""
        return [run.score for run in self.scored if run.score is not None]

    @functools.cached_property
    def score(self) -> float | None:
        """The mean over seeds; None where no run has a score."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else None

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds; None of a single one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def interval(self) -> tuple[float | None, str | None]:
        """(half the width of the 95 % interval, over what): over seeds where there are several, else over tasks."""
        if len(self.scores) > 1:
            return interval95(self.scores), "seeds"
        half_width = self.first.test.get("ci95") if self.scores else None
        return (half_width, "tasks") if half_width is not None else (None, None)

    @property
    def task(self) -> dict[str, Any]:
        """The shape of its test tasks."""
        shape = self.first.results.get("task") or self.first.config.get("task") or {}
        return {key: value for key, value in shape.items() if key != "train"}

    @functools.cached_property
    def family(self) -> str:
        """Rows with equal ones were asked the same question: kind of score, data set, shape of test tasks but for the number of queries."""
        shape = sorted((key, str(value)) for key, value in self.task.items() if key != "queries")
        return _text([self.kind.record(), self.first.name_of("dataset"), shape])

    @functools.cached_property
    def label(self) -> str | None:
        """What `metalearn runs mark` called its runs, where they agree."""
        labels = {run.label for run in self.runs}
        return labels.pop() if len(labels) == 1 else None

    def value(self, key: str) -> Any:
        """A setting, or the name of an algorithm, backbone or data set; None where it has none."""
        return self.first.name_of(key) if key in NAMES else self.identity.get(key)

    def has(self, key: str) -> bool:
        """Whether it has such a setting."""
        return key in NAMES or key in self.identity

    def better(self, than: Row) -> bool:
        """Whether its mean score is strictly the better one; any score is better than none."""
        if self.score is None or than.score is None:
            return self.score is not None
        return self.kind.better(self.score, than.score)


def grouped(runs: Sequence[Found]) -> list[Row]:
    """The rows, in the order of their first run."""
    groups: dict[str, tuple[dict[str, Any], list[Found]]] = {}
    for run, identity in zip(runs, _identities(runs), strict=True):
        groups.setdefault(_text(identity) if identity else str(run.file), (identity, []))[1].append(run)
    rows = []
    for identity, members in groups.values():
        counting: dict[Any, Found] = {}
        for run in members:
            if run.score is not None and (run.seed not in counting or _rather(run, counting[run.seed])):
                counting[run.seed] = run
        counted = list(counting.values())
        repeated = [run for run in members if run.score is not None and counting[run.seed] is not run]
        rows.append(Row(identity, members, counted, repeated))
    return rows


def _rather(later: Found, earlier: Found) -> bool:
    """Whether of two results of one seed the later one counts: not with less to compare by, nor an evaluation that repeats the own test."""

    def quality(run: Found) -> tuple[bool, bool]:
        return run.tasks_file.exists(), run.evaluation is None

    return quality(later) >= quality(earlier)


_TRANSDUCTIVE = "eval.transductive"


def _identities(runs: Sequence[Found]) -> list[dict[str, Any]]:
    """Of each run, what makes its number what it is; `eval.transductive` as its test was, for null means another thing for each network.

    A run without a test is taken for what runs with the same settings turned out to be, so that it stays in their row.
    """
    said = [_identity(run) for run in runs]
    known = [run.test.get("transductive") for run in runs]
    of_others = {_text(identity): found for identity, found in zip(said, known, strict=True) if isinstance(found, bool)}
    meant = [
        found if isinstance(found, bool) else of_others.get(_text(identity))
        for identity, found in zip(said, known, strict=True)
    ]
    return [
        identity if found is None or not identity else identity | {_TRANSDUCTIVE: found}
        for identity, found in zip(said, meant, strict=True)
    ]


def _identity(run: Found) -> dict[str, Any]:
    """All that makes the number what it is, but the seed; an evaluation's own conditions in place of the run's."""
    if not run.config:
        return {}
    found = compared(run.config, SAME_PROTOCOL)
    if run.evaluation is None:
        return found
    shape = {f"task.{key}": value for key, value in (run.results.get("task") or {}).items() if key != "train"}
    changed = {
        key: value for key, value in run.changes.items() if key not in _GROUP_CHOICES and kind_of(key) in SAME_PROTOCOL
    }
    other = run.name_of("dataset")
    return found | shape | changed | ({"tested on": other} if other != _named(run, "dataset") else {})


def _named(run: Found, what: str) -> Any:
    return (run.config.get("names") or {}).get(what)


def differing(rows: Sequence[Row]) -> dict[str, str]:
    """Dotted path -> short name of the settings that tell the rows apart: names first, then in the order of the configuration.

    A setting that some rows lack counts where it differs among those that have it, and where nothing else tells two rows apart.
    """
    rows = [row for row in rows if row.identity] or rows  # of the others, whose files cannot be read, nothing is known
    names = [name for name in NAMES if len({row.value(name) for row in rows} - {None}) > 1]
    keys = list(dict.fromkeys(key for row in rows for key in row.identity))
    texts = {key: [_text(row.identity[key]) if key in row.identity else None for row in rows] for key in keys}
    chosen = [key for key in keys if len(set(texts[key]) - {None}) > 1 and not _follows(key, texts, names)]
    shown = [*names, *chosen]
    cells = [tuple(str(row.value(key)) for key in shown) for row in rows]
    if len(set(cells)) < len(rows):
        twice = [place for place, cell in enumerate(cells) if cells.count(cell) > 1]
        shown += [
            key
            for key in keys
            if key not in shown and len({texts[key][place] for place in twice}) > 1 and not _follows(key, texts, names)
        ]
    return short_names(shown)


def _follows(key: str, texts: Mapping[str, list[str | None]], names: Sequence[str]) -> bool:
    """Whether something else says it already: the name of a part, or the shape of test tasks that training tasks share."""
    part, _, rest = key.partition(".")
    if rest == "_target_" and part in names:
        return True
    return key.startswith("task.train.") and texts[key] == texts.get(key.replace("task.train.", "task."))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted path with as few of its last parts as tell it from the others."""
    found = {}
    for key in keys:
        parts = key.split(".")
        for n in range(2 if key.startswith(("task.train.", "eval.")) else 1, len(parts) + 1):
            name = ".".join(parts[-n:])
            if not any(other != key and f".{other}".endswith(f".{name}") for other in keys):
                break
        found[key] = name
    return found


def value_text(value: Any) -> str:
    """A setting's value as a table shows it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def task_text(task: Mapping[str, Any], kind: Scale) -> str:
    """`5-way 1-shot`, or `10-shot`."""
    if not task:
        return "unknown tasks"
    # A run that did not come to its test does not say its kind; classes come in twos.
    ways = f"{task.get('ways')}-way " if kind.chance(2) is not None and task.get("ways") != 1 else ""
    return f"{ways}{task.get('shots')}-shot"


def named(rows: Sequence[Row], columns: Mapping[str, str]) -> list[str]:
    """A name for each row: its label, or what tells it apart; each name once."""
    plain = [[_word(row, key, short) for key, short in columns.items() if key in NAMES] for row in rows]
    for key, short in columns.items():  # only as many settings as tell rows apart that are alike so far
        if key in NAMES:
            continue
        words = [_word(row, key, short) for row in rows]
        alike: dict[str, list[int]] = {}
        for place, said in enumerate(plain):
            alike.setdefault(" ".join(filter(None, said)), []).append(place)
        for places in alike.values():
            if len({words[place] for place in places}) > 1:
                for place in places:
                    plain[place].append(words[place])
    names: list[str] = []
    for row, said in zip(rows, plain, strict=True):
        text = " ".join(filter(None, said)) or str(row.first.name_of("algorithm") or row.first.path.name)
        name = text if row.label is None else row.label if row.label not in names else f"{row.label} {text}"
        unique = next(one for n in range(1, len(rows) + 2) if (one := name if n == 1 else f"{name} #{n}") not in names)
        names.append(unique)
    return names


def _word(row: Row, key: str, short: str) -> str:
    value = row.value(key)
    if key in NAMES:
        return "" if value is None else str(value)
    return f"{short}={value_text(value)}" if row.has(key) else ""


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
